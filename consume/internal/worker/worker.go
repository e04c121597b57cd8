// Package worker is the loop of a cloud worker: claim, run, heartbeat, finish. It is the twin of sparkles/engine/worker.py: same words, same
// outcomes.
//
// One goroutine decides; each task has one of its own that stages, runs and stores; heartbeats have another, so that a slow store does not make
// the worker look dead. Everything it knows is in the store or is found again there: killed at any moment, it leaves claims with tokens,
// from which others decide (jobstore.HealDead).
package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"sparkles.dev/consume/internal/attempt"
	"sparkles.dev/consume/internal/blobs"
	"sparkles.dev/consume/internal/jobstore"
	"sparkles.dev/consume/internal/retry"
	"sparkles.dev/consume/internal/runner"
	"sparkles.dev/consume/internal/wire"
)

// Mode is what the worker is about.
type Mode int32

// Serving, then Draining (no new tasks, what runs is finished), then Stopping (what runs is ended and goes back to pending).
const (
	Serving Mode = iota
	Draining
	Stopping
)

const (
	// batchTasks is the most that is claimed at once: a shard has no more.
	batchTasks = 64
	// ahead is how much work is claimed beyond what can start now: enough to make a claim's round trip small, little enough to leave the tail of a
	// job to others.
	ahead       = 2 * time.Second
	commitAfter = 100 * time.Millisecond
	// tellAfter is how long a program runs before the store hears of it, if it does not hear of ends before: a short one costs one write.
	tellAfter  = time.Second
	leastPoll  = 200 * time.Millisecond
	mostPoll   = 5 * time.Second
	retryAfter = time.Second
	// troubleEvery is how soon others hear of what keeps a worker from going on, and that it is over.
	troubleEvery = time.Second
)

// Config is what a worker is told. CPU and Memory (bytes) are what its tasks may use together. Work is a folder for scratch directories. Linger: how long it
// stays with nothing to do; 0: until it is told to leave. UntilEmpty: it leaves as soon as nothing is pending.
type Config struct {
	Worker     wire.Worker
	CPU        float64
	Memory     int64
	Work       string
	Linger     time.Duration
	UntilEmpty bool
	Beat       time.Duration
	Look       time.Duration
	Lease      time.Duration
}

// Worker serves one pool. All fields are set by who makes it.
type Worker struct {
	Config
	Store   jobstore.Store
	Blobs   blobs.Blobs
	Runner  *runner.Runner
	Log     *slog.Logger
	Environ []string
	// Trouble says in a few words for people what keeps it from going on; "": nothing does. nil: nothing ever does.
	Trouble func() string

	mode  atomic.Int32
	woken chan struct{}
	gone  atomic.Bool
	// asking lives while new tasks are wanted: a store that does not answer must not keep the worker from ending its programs.
	asking     context.Context
	stopAsking context.CancelFunc

	plans    map[string]*attempt.Plan
	queue    []wire.Claim
	running  map[string]*task
	finishes []wire.Finish
	started  []wire.Claim
	tellAt   time.Time
	ended    chan *task
	usedCPU  float64
	usedMem  int64
	mean     time.Duration
	typical  float64
}

// task is a claim in hand. why is preempted or cancelled once this worker has decided to end it.
type task struct {
	claim  wire.Claim
	folder *attempt.Folder
	cpu    float64
	memory int64
	cancel context.CancelCauseFunc
	why    wire.FailureClass
	record wire.Attempt
	took   time.Duration
	ran    bool
	pieces atomic.Bool
	log    *slog.Logger
}

var (
	errPreempted = errors.New("the worker was told to stop")
	errCancelled = errors.New("the claim was taken away")

	// ErrGone is what Run ends with when its worker's row is gone; its tasks are with others.
	ErrGone = errors.New("this worker's row is gone: another process took it for dead, and its programs were ended")
)

// Init makes it ready; to be called once, before anything else.
func (w *Worker) Init() {
	w.woken = make(chan struct{}, 1)
	w.asking, w.stopAsking = context.WithCancel(context.Background())
	w.ended = make(chan *task, batchTasks)
	w.plans = map[string]*attempt.Plan{}
	w.running = map[string]*task{}
	w.typical = 1
}

// Drain: no new tasks; what runs is finished and recorded; then Run returns.
func (w *Worker) Drain() { w.raise(Draining) }

// Stop: running programs are ended, their tasks go back to pending; then Run returns.
func (w *Worker) Stop() { w.raise(Stopping) }

// Interrupt is Ctrl-C: the first drains, the second stops.
func (w *Worker) Interrupt() {
	if !w.mode.CompareAndSwap(int32(Serving), int32(Draining)) {
		w.Stop()
	}
	w.wake()
}

func (w *Worker) raise(mode Mode) {
	for {
		now := w.mode.Load()
		if now >= int32(mode) || w.mode.CompareAndSwap(now, int32(mode)) {
			break
		}
	}
	w.wake()
}

func (w *Worker) wake() {
	if w.current() != Serving {
		w.stopAsking()
	}
	select {
	case w.woken <- struct{}{}:
	default:
	}
}

// logOf is the log for what happens to one attempt: every line names it. What a task or its environment holds is in no line.
func (w *Worker) logOf(ref wire.AttemptRef) *slog.Logger {
	return w.Log.With("job", ref.Job, "task", ref.Index, "attempt", ref.Attempt)
}

func (w *Worker) current() Mode { return Mode(w.mode.Load()) }

// Run serves until it is over. The error is one for which trying again soon does not help; claims are left for others to find then. While
// programs run, a store that cannot be reached is no such error: those that ran for hours are not to suffer for it.
func (w *Worker) Run(ctx context.Context) error {
	if err := os.MkdirAll(w.Work, 0o700); err != nil {
		return fmt.Errorf("make the folder for scratch directories: %w", err)
	}
	if err := w.Store.EnterWorker(ctx, w.Worker); err != nil {
		return fmt.Errorf("enter: %w", err)
	}
	w.Log.Info("serving", "pool", w.Worker.Pool, "cpu", w.CPU, "memory", attempt.Size(w.Memory))
	beating, stopBeating := context.WithCancel(ctx)
	defer stopBeating()
	go w.beat(beating)
	err := w.serve(ctx)
	if err != nil {
		// What runs is ended: whoever finds this worker dead records it as lost.
		for _, t := range w.running {
			t.cancel(errPreempted)
		}
		for len(w.running) > 0 {
			t := <-w.ended
			delete(w.running, t.claim.Token)
		}
		return err
	}
	if w.gone.Load() {
		return ErrGone
	}
	return w.leave(ctx)
}

func (w *Worker) serve(ctx context.Context) error {
	poll := leastPoll
	var nextClaim, nextLook, nextHeal, commitAt, idleSince time.Time
	nextHeal = time.Now().Add(w.Lease/2 + rand.N(w.Lease))
	nextLook = time.Now().Add(w.Look)
	for {
		now := time.Now()
		if len(w.finishes) > 0 && (!now.Before(commitAt) || len(w.running) == 0 && len(w.queue) == 0) {
			if err := w.commit(ctx); err != nil {
				return err
			}
		}
		if len(w.started) > 0 && !now.Before(w.tellAt) {
			w.tellStarted(ctx)
		}
		switch w.current() {
		case Serving:
			w.startQueued(ctx)
			if w.wanted() > 0 && !now.Before(nextClaim) {
				got, err := w.claim(ctx)
				if got > 0 {
					poll, idleSince = leastPoll, time.Time{}
					continue
				}
				var wait time.Duration
				var pending bool
				if err == nil {
					wait, pending, err = w.due()
				}
				if w.current() != Serving {
					continue
				}
				if err != nil && (len(w.running)+len(w.finishes) == 0 || Hopeless(err)) {
					return err
				}
				if err != nil {
					w.Log.Warn("look for tasks", "error", err)
					wait, pending = 0, true
				}
				idle := len(w.running) == 0 && len(w.queue) == 0 && len(w.finishes) == 0
				if idle && !pending && w.UntilEmpty {
					return nil
				}
				if idle && idleSince.IsZero() {
					idleSince = now
				}
				if idle && !pending && w.Linger > 0 && now.Sub(idleSince) >= w.Linger {
					w.Log.Info("nothing to do", "lingered", w.Linger)
					return nil
				}
				poll = min(poll*5/4, mostPoll)
				nextClaim = time.Now().Add(poll)
				if wait > 0 && wait < poll {
					nextClaim = time.Now().Add(wait)
				}
			}
		case Draining, Stopping:
			w.giveBack(ctx)
			if w.current() == Stopping {
				for _, t := range w.running {
					w.end(t, wire.FailurePreempted, errPreempted)
				}
			}
			if len(w.running) == 0 && len(w.finishes) == 0 {
				return nil
			}
		}
		if len(w.running)+len(w.queue) > 0 && !now.Before(nextLook) && !w.gone.Load() {
			w.look(ctx)
			nextLook = time.Now().Add(w.Look)
		}
		if !now.Before(nextHeal) && w.current() == Serving {
			w.heal(ctx)
			nextHeal = time.Now().Add(w.Lease/2 + rand.N(w.Lease))
		}
		until := earliest(nextLook, nextHeal)
		if w.current() == Serving && w.wanted() > 0 {
			until = earliest(until, nextClaim)
		}
		if len(w.finishes) > 0 {
			until = earliest(until, commitAt)
		}
		if len(w.started) > 0 {
			until = earliest(until, w.tellAt)
		}
		timer := time.NewTimer(max(0, time.Until(until)))
		select {
		case t := <-w.ended:
			before := len(w.finishes)
			w.taskEnded(t)
			for more := true; more; {
				select {
				case t := <-w.ended:
					w.taskEnded(t)
				default:
					more = false
				}
			}
			if before == 0 && len(w.finishes) > 0 {
				commitAt = time.Now().Add(commitAfter)
			}
		case <-w.woken:
		case <-timer.C:
		case <-ctx.Done():
			w.Stop()
			ctx = context.WithoutCancel(ctx)
		}
		timer.Stop()
	}
}

func earliest(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// beat keeps the lease, and tells soon what keeps the worker from going on and when that is over. A row that is gone was taken for dead by
// another: its tasks are given to others, so the programs are ended.
func (w *Worker) beat(ctx context.Context) {
	pause := min(w.Beat, troubleEvery)
	ticker := time.NewTicker(pause)
	defer ticker.Stop()
	told := ""
	for next := time.Now().Add(w.Beat); ; {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		trouble := ""
		if w.Trouble != nil {
			trouble = w.Trouble()
		}
		if trouble == told && time.Until(next) > pause/2 {
			continue
		}
		next = time.Now().Add(w.Beat)
		alive, err := w.Store.Beat(ctx, w.Worker.ID, false, trouble)
		if err != nil {
			if ctx.Err() == nil {
				w.Log.Warn("heartbeat", "error", err)
			}
			continue
		}
		if !alive {
			w.gone.Store(true)
			w.Stop()
			return
		}
		told = trouble
	}
}

// Claims

func (w *Worker) slots() int {
	if w.typical <= 0 {
		return batchTasks
	}
	return max(1, int((w.CPU+1e-9)/w.typical))
}

// wanted is how many tasks to claim now: what could start, and some ahead.
func (w *Worker) wanted() int {
	slots := w.slots()
	more := 0
	if w.mean > 0 {
		more = int(min(float64(batchTasks), float64(slots)*float64(ahead)/float64(w.mean)))
	}
	target := max(0, slots-len(w.running)) + more
	if 2*len(w.queue) >= target {
		return 0
	}
	return min(target-len(w.queue), batchTasks)
}

func (w *Worker) claim(ctx context.Context) (int, error) {
	claims, err := w.Store.Claim(w.asking, w.Worker.ID, w.Worker.Pool, w.wanted(), time.Now().UnixMilli())
	if err != nil {
		return 0, fmt.Errorf("claim: %w", err)
	}
	w.queue = append(w.queue, claims...)
	w.startQueued(ctx)
	return len(claims), nil
}

// due says when the next task of the pool may be claimed, and whether any is pending.
func (w *Worker) due() (time.Duration, bool, error) {
	at, pending, err := w.Store.NextDue(w.asking, w.Worker.Pool)
	if err != nil {
		return 0, false, fmt.Errorf("look for the next task: %w", err)
	}
	return time.Duration(at-time.Now().UnixMilli()+1) * time.Millisecond, pending, nil
}

// startQueued starts claims in order while they fit. One that does not fit is not overtaken: a large task would wait for ever.
func (w *Worker) startQueued(ctx context.Context) {
	for len(w.queue) > 0 && w.current() == Serving {
		claim := w.queue[0]
		plan, err := w.plan(ctx, claim)
		if err != nil {
			if errors.Is(err, jobstore.ErrNotFound) {
				w.queue = w.queue[1:] // its job was deleted
				continue
			}
			w.logOf(claim.Ref).Warn("read a job", "error", err)
			return
		}
		resources := plan.Spec.Resources
		if claim.Spec.Resources != nil {
			resources = *claim.Spec.Resources
		}
		t := &task{claim: claim, cpu: resources.CPU, log: w.logOf(claim.Ref)}
		if memory := resources.MemoryBytes; memory != nil {
			t.memory = *memory
		}
		if claim.MemoryBytes != nil {
			t.memory = *claim.MemoryBytes
		}
		problem := plan.Problem
		if problem == "" {
			problem = attempt.TooLarge(t.cpu, t.memory, resources.GPU, w.CPU, w.Memory)
		}
		if problem == "" && len(w.running) > 0 && (w.usedCPU+t.cpu > w.CPU+1e-9 || w.usedMem+t.memory > w.Memory) {
			return
		}
		w.queue = w.queue[1:]
		name := fmt.Sprintf("%s-%d-a%d", claim.Ref.Job, claim.Ref.Index, claim.Ref.Attempt)
		t.folder = &attempt.Folder{Path: filepath.Join(w.Work, name), Plan: plan, Claim: claim}
		w.running[claim.Token] = t
		w.usedCPU += t.cpu
		w.usedMem += t.memory
		if problem == "" {
			w.typical = t.cpu
			if len(w.started) == 0 {
				w.tellAt = time.Now().Add(tellAfter)
			}
			w.started = append(w.started, claim)
			t.log.Info("started", "cpu", t.cpu, "memory", attempt.Size(t.memory))
		}
		taskCtx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
		t.cancel = cancel
		go w.perform(taskCtx, t, problem)
	}
}

func (w *Worker) plan(ctx context.Context, claim wire.Claim) (*attempt.Plan, error) {
	job := claim.Ref.Job
	if plan, known := w.plans[job]; known {
		return plan, nil
	}
	document, err := w.Store.Job(ctx, job)
	if err != nil {
		return nil, err
	}
	if len(w.plans) >= batchTasks {
		clear(w.plans)
	}
	plan := attempt.NewPlan(document.Job.Spec, job, w.Worker.ID, w.Environ)
	w.plans[job] = plan
	return plan, nil
}

// giveBack releases what was not started.
func (w *Worker) giveBack(ctx context.Context) {
	if len(w.queue) == 0 {
		return
	}
	if _, err := w.Store.Release(ctx, w.queue); err != nil {
		w.Log.Warn("release", "error", err)
	}
	w.queue = nil
}

// look ends what was taken away.
func (w *Worker) look(ctx context.Context) {
	claims := append([]wire.Claim{}, w.queue...)
	for _, t := range w.running {
		claims = append(claims, t.claim)
	}
	held, err := w.Store.HeldTokens(ctx, claims)
	if err != nil {
		w.Log.Warn("look at claims", "error", err)
		return
	}
	for token, t := range w.running {
		if !held[token] {
			w.end(t, wire.FailureCancelled, errCancelled)
		}
	}
	kept := w.queue[:0]
	for _, claim := range w.queue {
		if held[claim.Token] {
			kept = append(kept, claim)
		}
	}
	w.queue = kept
}

func (w *Worker) end(t *task, why wire.FailureClass, cause error) {
	if t.why == wire.NoFailure {
		t.why = why
		t.cancel(cause)
	}
}

// heal ends the claims of workers that died.
func (w *Worker) heal(ctx context.Context) {
	healed, err := w.Store.HealDead(ctx, w.Lease, time.Now().UnixMilli())
	if err != nil {
		w.Log.Warn("look for dead workers", "error", err)
	}
	for _, each := range healed {
		w.Log.Info(each.String())
	}
}

// Ends

// taskEnded decides what becomes of a task, for the next commit.
func (w *Worker) taskEnded(t *task) {
	delete(w.running, t.claim.Token)
	w.usedCPU -= t.cpu
	w.usedMem -= t.memory
	if len(w.running) == 0 {
		w.usedCPU, w.usedMem = 0, 0
	}
	if t.ran {
		if w.mean == 0 {
			w.mean = t.took
		} else {
			w.mean = (4*w.mean + t.took) / 5
		}
		w.mean = max(w.mean, time.Millisecond)
	}
	if t.why == wire.FailureCancelled {
		t.log.Info("taken away, ended") // nobody waits for its record
		return
	}
	w.finishes = append(w.finishes, retry.Conclude(t.record, t.claim, &t.folder.Plan.Spec, t.record.EndedAtMS))
}

// commit records ends. Where the store does not take them now they are kept: programs that ran for hours are not to suffer for it.
func (w *Worker) commit(ctx context.Context) error {
	for len(w.finishes) > 0 {
		accepted, err := w.Store.Finish(ctx, w.finishes, w.started)
		if err != nil {
			if Hopeless(err) || w.current() == Stopping {
				return fmt.Errorf("finish: %w", err)
			}
			w.Log.Warn("finish", "error", err)
			time.Sleep(retryAfter)
			continue
		}
		for at, done := range accepted {
			record := w.finishes[at].Attempt
			level := slog.LevelInfo
			if !done {
				level = slog.LevelWarn
			}
			w.logOf(record.Ref).Log(ctx, level, "ended", "class", string(record.Failure), "reason", record.Reason,
				"seconds", float64(record.EndedAtMS-record.StartedAtMS)/1000, "recorded", done)
		}
		w.finishes, w.started = nil, nil
	}
	return nil
}

// tellStarted marks as started what still runs: people see it, and an attempt that takes its machine with it counts.
func (w *Worker) tellStarted(ctx context.Context) {
	w.started = slices.DeleteFunc(w.started, func(claim wire.Claim) bool { return w.running[claim.Token] == nil })
	if len(w.started) == 0 {
		return
	}
	if _, err := w.Store.Finish(ctx, nil, w.started); err != nil {
		w.Log.Warn("mark as started", "error", err)
		w.tellAt = time.Now().Add(retryAfter)
		return
	}
	w.started = nil
}

// leave removes the row; claims that it does not know of, since an answer was lost, are released first.
func (w *Worker) leave(ctx context.Context) error {
	err := w.Store.Leave(ctx, w.Worker.ID)
	var holds *jobstore.HoldsClaims
	if errors.As(err, &holds) {
		claims, listed := w.Store.ListClaims(ctx, w.Worker.ID)
		if listed != nil {
			return fmt.Errorf("leave: %w", listed)
		}
		if _, err := w.Store.Release(ctx, claims); err != nil {
			return fmt.Errorf("leave: %w", err)
		}
		err = w.Store.Leave(ctx, w.Worker.ID)
	}
	if err != nil {
		return fmt.Errorf("leave: %w", err)
	}
	w.Log.Info("left")
	return nil
}

// Hopeless tells whether an error will not go away by itself: what was written by a newer sparkles, or was changed by somebody.
func Hopeless(err error) bool {
	var newer *wire.SchemaTooNew
	var damaged *wire.Damaged
	return errors.As(err, &newer) || errors.As(err, &damaged)
}
