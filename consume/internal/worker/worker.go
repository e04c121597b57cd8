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
	// leaving is what a call may take once the worker was told to stop: machines that are taken away give half a minute for all of it.
	leaving = 5 * time.Second
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
	// Refused tells whether an error of Store or Blobs stays until somebody changes something; nil: none does.
	Refused func(error) bool

	mode  atomic.Int32
	woken chan struct{}
	gone  atomic.Bool
	// asking lives while new tasks are wanted: a store that does not answer must not keep the worker from ending its programs.
	asking     context.Context
	stopAsking context.CancelFunc
	// unstopped lives until what runs is to be ended, for the same reason.
	unstopped context.Context
	stopAll   context.CancelFunc
	// failed is why it ends though nobody told it to; unrecorded why ends could not be recorded, while they cannot; left: claims stay with its row.
	failed     error
	unrecorded error
	left       bool

	plans    map[string]*attempt.Plan
	queue    []wire.Claim
	running  map[string]*task
	finishes []wire.Finish
	ends     map[string]*task // of finishes, by token
	commitAt time.Time
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
	stored bool
	// refused is what Cloud Storage will not do for it until somebody changes something.
	refused error
	pieces  atomic.Bool
	log     *slog.Logger
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
	w.unstopped, w.stopAll = context.WithCancel(context.Background())
	w.ends = map[string]*task{}
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
	if w.current() == Stopping {
		w.stopAll()
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

// Run serves until it is over. The error is why it ended though nobody told it to; claims that it could not give back are left for others to find.
// While programs run, a store that cannot be reached is no such error: those that ran for hours are not to suffer for it.
func (w *Worker) Run(ctx context.Context) error {
	if err := os.MkdirAll(w.Work, 0o700); err != nil {
		return fmt.Errorf("make the folder for scratch directories: %w", err)
	}
	if err := w.Store.EnterWorker(w.asking, w.Worker); err != nil {
		if w.current() != Serving {
			return nil // a row that was written all the same is found without its process
		}
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
	if w.failed == nil && w.gone.Load() {
		return ErrGone
	}
	err = w.leave(ctx)
	if w.failed != nil || err != nil && w.current() == Stopping {
		if err != nil {
			w.Log.Warn("claims are left for others to find", "error", err)
		}
		return w.failed
	}
	return err
}

// giveUp ends the serving for an error that stays until somebody changes something: with Drain what runs is finished, with Stop it is ended.
func (w *Worker) giveUp(err error, how func()) {
	if w.failed == nil {
		w.failed = err
		w.Log.Error("no more tasks are taken", "error", err)
	}
	how()
}

func (w *Worker) stays(err error) bool { return Hopeless(err) || w.Refused != nil && w.Refused(err) }

func (w *Worker) serve(ctx context.Context) error {
	poll := leastPoll
	var nextClaim, nextLook, nextHeal, idleSince time.Time
	nextHeal = time.Now().Add(w.Lease/2 + rand.N(w.Lease))
	nextLook = time.Now().Add(w.Look)
	for {
		now := time.Now()
		if len(w.finishes) > 0 && (!now.Before(w.commitAt) || w.unrecorded == nil && len(w.running)+len(w.queue) == 0) {
			if err := w.commit(ctx); err != nil {
				return err
			}
		}
		if len(w.started) > 0 && !now.Before(w.tellAt) {
			w.tellStarted()
		}
		switch w.current() {
		case Serving:
			if w.unrecorded == nil {
				w.startQueued(ctx)
			}
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
				if err != nil && w.stays(err) {
					w.giveUp(err, w.Drain)
					continue
				}
				if err != nil && len(w.running)+len(w.finishes) == 0 {
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
			if w.current() == Stopping {
				for _, t := range w.running {
					w.end(t, wire.FailurePreempted, errPreempted)
				}
			}
			w.giveBack(ctx)
			if len(w.running) == 0 && len(w.finishes) == 0 {
				return nil
			}
		}
		if len(w.running)+len(w.queue) > 0 && !now.Before(nextLook) && w.current() != Stopping {
			w.look()
			nextLook = time.Now().Add(w.Look)
		}
		if !now.Before(nextHeal) && w.current() == Serving {
			w.heal()
			nextHeal = time.Now().Add(w.Lease/2 + rand.N(w.Lease))
		}
		until := time.Now().Add(w.Lease)
		if len(w.running)+len(w.queue) > 0 && w.current() != Stopping {
			until = earliest(until, nextLook)
		}
		if w.current() == Serving {
			until = earliest(until, nextHeal)
			if w.wanted() > 0 {
				until = earliest(until, nextClaim)
			}
		}
		if len(w.finishes) > 0 {
			until = earliest(until, w.commitAt)
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
				w.commitAt = time.Now().Add(commitAfter)
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

// wanted is how many tasks to claim now: what could start, and some ahead; none while what ended cannot be recorded.
func (w *Worker) wanted() int {
	if w.unrecorded != nil {
		return 0
	}
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
		plan, err := w.plan(claim)
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

func (w *Worker) plan(claim wire.Claim) (*attempt.Plan, error) {
	job := claim.Ref.Job
	if plan, known := w.plans[job]; known {
		return plan, nil
	}
	document, err := w.Store.Job(w.asking, job)
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

// limited is the context for a call that ends what was begun: it is cut short when the worker is told to stop, and has little time afterwards.
func (w *Worker) limited(ctx context.Context) (context.Context, context.CancelFunc) {
	if w.current() == Stopping {
		return context.WithTimeout(ctx, leaving)
	}
	return w.unstopped, func() {}
}

// giveBack releases what was not started.
func (w *Worker) giveBack(ctx context.Context) {
	if len(w.queue) == 0 {
		return
	}
	stopping := w.current() == Stopping
	limited, done := w.limited(ctx)
	defer done()
	if _, err := w.Store.Release(limited, w.queue); err != nil {
		if !stopping && w.current() == Stopping {
			return // once more
		}
		w.Log.Warn("release", "error", err)
	}
	w.queue = nil
}

// look ends what was taken away.
func (w *Worker) look() {
	claims := append([]wire.Claim{}, w.queue...)
	for _, t := range w.running {
		claims = append(claims, t.claim)
	}
	held, err := w.Store.HeldTokens(w.unstopped, claims)
	if err != nil {
		if w.current() == Stopping {
			return
		}
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
func (w *Worker) heal() {
	healed, err := w.Store.HealDead(w.asking, w.Lease, time.Now().UnixMilli())
	if err != nil && w.current() == Serving {
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
	if t.refused != nil {
		w.giveUp(t.refused, w.Stop)
	}
	w.ends[t.claim.Token] = t
	w.finishes = append(w.finishes, retry.Conclude(t.record, t.claim, &t.folder.Plan.Spec, t.record.EndedAtMS))
}

// commit records ends. Where the store does not take them now they are kept: programs that ran for hours are not to suffer for it. The error is
// why they cannot be recorded, where nothing is left to do but that.
func (w *Worker) commit(ctx context.Context) error {
	stopping := w.current() == Stopping
	limited, done := w.limited(ctx)
	if w.unrecorded != nil && !stopping {
		// Its patience was over once: who is told to leave does not wait as long once more.
		if limited = w.asking; w.current() != Serving {
			limited, done = context.WithTimeout(w.unstopped, leaving)
		}
	}
	defer done()
	err := w.record(limited)
	switch {
	case err == nil:
		w.unrecorded = nil
		return nil
	case w.stays(err):
		w.giveUp(fmt.Errorf("finish: %w", err), w.Stop)
		w.abandon(ctx)
		return nil
	case stopping:
		w.Log.Warn("finish", "error", err)
		w.abandon(ctx)
		return nil
	case w.current() == Stopping:
		w.commitAt = time.Now() // once more, with what is ended now
		return nil
	}
	if w.unrecorded == nil || w.current() == Serving {
		w.unrecorded = fmt.Errorf("finish: %w", err)
	}
	if w.current() == Draining && len(w.running) == 0 {
		return w.unrecorded
	}
	w.Log.Warn("finish", "error", err)
	w.commitAt = time.Now().Add(retryAfter)
	return nil
}

// record writes the ends into the queue.
func (w *Worker) record(ctx context.Context) error {
	accepted, err := w.Store.Finish(ctx, w.finishes, w.started)
	if err != nil {
		return err
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
	clear(w.ends)
	return nil
}

// abandon is what becomes of ends that cannot be recorded by a worker that is to leave. Where the record is in the bucket the claim stays with this
// worker's row: whoever finds it dead takes the record for it. Nobody would ever know of the others: they are given back.
func (w *Worker) abandon(ctx context.Context) {
	kept := w.finishes[:0]
	for _, finish := range w.finishes {
		attempt := finish.Attempt
		if w.ends[attempt.Token].stored {
			w.left = true
			w.logOf(attempt.Ref).Warn("ended; its record is left for others to find")
			continue
		}
		if attempt.Failure != wire.FailurePreempted {
			attempt.Failure, attempt.Reason = wire.FailurePreempted, "its worker had to end before the task's end could be stored"
			attempt.Results, attempt.Outputs = nil, nil
			claim := w.ends[attempt.Token].claim
			finish = retry.Conclude(attempt, claim, nil, attempt.EndedAtMS)
		}
		kept = append(kept, finish)
	}
	w.finishes, w.started = kept, nil
	if len(kept) == 0 {
		return
	}
	limited, done := context.WithTimeout(context.WithoutCancel(ctx), leaving)
	defer done()
	if err := w.record(limited); err != nil {
		w.Log.Warn("give back", "error", err)
		w.left = true
		w.finishes = nil
	}
}

// tellStarted marks as started what still runs: people see it, and an attempt that takes its machine with it counts.
func (w *Worker) tellStarted() {
	w.started = slices.DeleteFunc(w.started, func(claim wire.Claim) bool { return w.running[claim.Token] == nil })
	if len(w.started) == 0 || w.current() == Stopping {
		w.started = nil
		return
	}
	if _, err := w.Store.Finish(w.unstopped, nil, w.started); err != nil {
		if w.current() != Stopping {
			w.Log.Warn("mark as started", "error", err)
		}
		w.tellAt = time.Now().Add(retryAfter)
		return
	}
	w.started = nil
}

// leave removes the row; claims that it does not know of, since an answer was lost, are released first.
func (w *Worker) leave(ctx context.Context) error {
	if w.left {
		return nil
	}
	if w.current() == Stopping {
		limited, done := context.WithTimeout(ctx, 2*leaving) // it reads every open shard
		defer done()
		ctx = limited
	}
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
