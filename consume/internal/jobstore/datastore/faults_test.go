package datastore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sparkles.dev/consume/internal/jobstore"
	"sparkles.dev/consume/internal/jobstore/jobstoretest"
	"sparkles.dev/consume/internal/jobstore/memory"
	"sparkles.dev/consume/internal/wire"
)

// fault is what the network does to a call that goes to a real emulator.
type fault func(ctx context.Context, method string, send func() error) error

func faulty(hook fault) grpc.DialOption {
	return grpc.WithUnaryInterceptor(func(
		ctx context.Context, method string, request, answer any, connection *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption,
	) error {
		return hook(ctx, method, func() error { return invoke(ctx, method, request, answer, connection, options...) })
	})
}

// first lets act happen to the first commits, and nothing to other calls.
func first(times int32, act func(send func() error) error) fault {
	var seen atomic.Int32
	return func(_ context.Context, method string, send func() error) error {
		if strings.HasSuffix(method, "/Commit") && seen.Add(1) <= times {
			return act(send)
		}
		return send()
	}
}

// before refuses a call that never arrives.
func before(code codes.Code) func(func() error) error {
	return func(func() error) error { return status.Error(code, "injected") }
}

// after loses the answer of a call that was carried out.
func after(code codes.Code, then func()) func(func() error) error {
	return func(send func() error) error {
		if err := send(); err != nil {
			return err
		}
		if then != nil {
			then()
		}
		return status.Error(code, "injected")
	}
}

type scene struct {
	*testing.T
	options Options
	objects *memory.Objects
	driver  driver
}

// newScene has a job j of tasks in shards of size, and the workers w and w2.
func newScene(t *testing.T, tasks, size int, change ...func(*jobstoretest.Draft)) *scene {
	options, objects := emulated(t), memory.NewObjects()
	s := &scene{t, options, objects, driver{t, open(t, options, objects)}}
	draft := jobstoretest.Draft{ID: "j", Pool: "p", Sequence: 1, MaxFailures: -1, ShardSize: size}
	for number := range tasks {
		draft.Commands = append(draft.Commands, fmt.Sprintf("c%d", number+1))
	}
	for _, each := range change {
		each(&draft)
	}
	made := draft.Make()
	objects.Put(made.ManifestName, made.Manifest)
	s.driver.put(made)
	for _, id := range []string{"w", "w2"} {
		if err := s.driver.EnterWorker(t.Context(), wire.Worker{ID: id, Pool: "p"}); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func (s *scene) tasks() map[int]wire.TaskRow {
	found := make(map[int]wire.TaskRow)
	for _, document := range s.driver.documents("j") {
		for place, task := range document.Tasks {
			found[document.First+place] = task
		}
	}
	return found
}

// held checks that the claims are exactly what the shards say that the worker holds.
func (s *scene) held(worker string, claims []wire.Claim) {
	s.Helper()
	known := make(map[string]bool)
	for _, claim := range claims {
		known[claim.Token] = true
	}
	count := 0
	for index, task := range s.tasks() {
		if task.State == wire.Claimed && task.Worker == worker {
			count++
			if !known[task.Token] {
				s.Errorf("task %d is claimed for %s, which does not know of it", index, worker)
			}
		}
	}
	if count != len(claims) {
		s.Errorf("%s knows of %d claims, and holds %d", worker, len(claims), count)
	}
}

// TestAClaimSurvivesTheNetwork: whatever becomes of a commit and its answer, a worker knows exactly the claims that it holds.
func TestAClaimSurvivesTheNetwork(t *testing.T) {
	for name, act := range map[string]func(other func()) func(func() error) error{
		"refused as aborted":             func(func()) func(func() error) error { return before(codes.Aborted) },
		"never arrived":                  func(func()) func(func() error) error { return before(codes.Unavailable) },
		"timed out before it arrived":    func(func()) func(func() error) error { return before(codes.DeadlineExceeded) },
		"quota":                          func(func()) func(func() error) error { return before(codes.ResourceExhausted) },
		"answer lost":                    func(func()) func(func() error) error { return after(codes.Unavailable, nil) },
		"answer late":                    func(func()) func(func() error) error { return after(codes.DeadlineExceeded, nil) },
		"answer lost, another came next": func(other func()) func(func() error) error { return after(codes.Unavailable, other) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t, 6, 6)
			var theirs []wire.Claim
			other := func() {
				got, err := s.driver.Claim(context.Background(), "w2", "p", 1, 0)
				if err != nil {
					t.Error(err)
				}
				theirs = append(theirs, got...)
			}
			store := open(t, s.options, s.objects, faulty(first(1, act(other))))
			claims, err := store.Claim(t.Context(), "w", "p", 3, 0)
			if err != nil || len(claims) != 3 {
				t.Fatalf("got %d claims, %v", len(claims), err)
			}
			s.held("w", claims)
			s.held("w2", theirs)
		})
	}
}

// TestAFinishSurvivesTheNetwork: what was recorded is said to be recorded, once, also where somebody else wrote to the shard meanwhile.
func TestAFinishSurvivesTheNetwork(t *testing.T) {
	for _, meanwhile := range []bool{false, true} {
		t.Run(fmt.Sprintf("another came next: %v", meanwhile), func(t *testing.T) {
			s := newScene(t, 4, 4)
			claims, err := s.driver.Claim(t.Context(), "w", "p", 2, 0)
			if err != nil {
				t.Fatal(err)
			}
			store := open(t, s.options, s.objects, faulty(first(2, after(codes.DeadlineExceeded, func() {
				if meanwhile {
					if _, err := s.driver.Claim(context.Background(), "w2", "p", 1, 0); err != nil {
						t.Error(err)
					}
				}
			}))))
			var finishes []wire.Finish
			for _, claim := range claims {
				finishes = append(finishes, wire.Finish{Attempt: wire.Attempt{Ref: claim.Ref, Token: claim.Token, Worker: "w"}, State: wire.Succeeded, Tries: 1})
			}
			stale := finishes[0]
			stale.Attempt.Token = "stale"
			accepted, err := store.Finish(t.Context(), append(finishes, stale), nil)
			if err != nil || fmt.Sprint(accepted) != "[true true false]" {
				t.Fatalf("got %v, %v", accepted, err)
			}
			for _, claim := range claims {
				if task := s.tasks()[claim.Ref.Index]; task.State != wire.Succeeded || len(task.Records) != 1 {
					t.Errorf("task %d: %+v", claim.Ref.Index, task)
				}
			}
		})
	}
}

// TestReleaseAndBeatSurviveTheNetwork: a lost answer is neither an error nor a second effect.
func TestReleaseAndBeatSurviveTheNetwork(t *testing.T) {
	s := newScene(t, 3, 3)
	claims, err := s.driver.Claim(t.Context(), "w", "p", 3, 0)
	if err != nil {
		t.Fatal(err)
	}
	store := open(t, s.options, s.objects, faulty(first(1, after(codes.Unavailable, nil))))
	if count, err := store.Release(t.Context(), claims[:2]); err != nil || count != 2 {
		t.Errorf("released %d, %v", count, err)
	}
	s.held("w", claims[2:])
	if attempt := s.tasks()[claims[0].Ref.Index].Attempt; attempt != 0 {
		t.Errorf("the attempt's number is %d", attempt)
	}
	store = open(t, s.options, s.objects, faulty(first(1, after(codes.Unavailable, nil))))
	if ok, err := store.Beat(t.Context(), "w", false, ""); err != nil || !ok {
		t.Errorf("beat: %v, %v", ok, err)
	}
	workers, err := s.driver.ListWorkers(t.Context())
	if err != nil || len(workers) != 2 || workers[0].Beat != 1 {
		t.Errorf("got %+v, %v", workers, err)
	}
}

// TestAClaimerThatIsStoppedGivesBack: asked to leave while its commit is under way, it holds nothing afterwards.
func TestAClaimerThatIsStoppedGivesBack(t *testing.T) {
	s := newScene(t, 3, 3)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	store := open(t, s.options, s.objects, faulty(first(1, after(codes.Canceled, stop))))
	claims, err := store.Claim(ctx, "w", "p", 2, 0)
	if len(claims) != 0 || err == nil {
		t.Fatalf("got %v, %v", claims, err)
	}
	s.held("w", nil)
	for index, task := range s.tasks() {
		if task.State != wire.Pending || task.Attempt != 0 {
			t.Errorf("task %d: %+v", index, task)
		}
	}
}

// TestAClaimerThatDiesInTheMiddleLosesNothing: its commit was carried out and it never knew; its lease ends the claim.
func TestAClaimerThatDiesInTheMiddleLosesNothing(t *testing.T) {
	s := newScene(t, 2, 2)
	dead := make(chan struct{})
	var once sync.Once
	ctx, stop := context.WithCancel(t.Context())
	store := open(t, s.options, s.objects, faulty(func(ctx context.Context, method string, send func() error) error {
		if strings.HasSuffix(method, "/Commit") {
			err := send()
			once.Do(func() { close(dead) })
			if err == nil {
				<-ctx.Done() // it never does anything again
			}
			return status.Error(codes.Canceled, "dead")
		}
		select {
		case <-dead:
			return status.Error(codes.PermissionDenied, "dead")
		default:
			return send()
		}
	}))
	go func() { <-dead; stop() }()
	if claims, err := store.Claim(ctx, "w", "p", 2, 0); err == nil {
		t.Fatalf("got %v", claims)
	}
	claims, err := s.driver.ListClaims(t.Context(), "w")
	if err != nil || len(claims) != 2 {
		t.Fatalf("got %v, %v", claims, err)
	}
	if err := s.driver.Leave(t.Context(), "w"); !errors.As(err, new(*jobstore.HoldsClaims)) {
		t.Errorf("leave: %v", err)
	}
	if _, err := s.driver.HealDead(t.Context(), time.Hour, 0); err != nil {
		t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond)
	if ok, err := s.driver.Beat(t.Context(), "w2", false, ""); err != nil || !ok {
		t.Fatal(ok, err)
	}
	healed, err := s.driver.HealDead(t.Context(), 200*time.Millisecond, 9)
	if err != nil || len(healed) != 1 || healed[0].Worker != "w" || healed[0].Lost != 2 {
		t.Fatalf("got %v, %v", healed, err)
	}
	if claims, err := s.driver.Claim(t.Context(), "w2", "p", 9, 0); err != nil || len(claims) != 2 || claims[0].Ref.Attempt != 2 || claims[0].Losses != 1 {
		t.Errorf("got %+v, %v", claims, err)
	}
}

// TestNobodyIsDeadBeforeTheServiceHasAnsweredForALease: while it was away no heartbeat could reach it.
func TestNobodyIsDeadBeforeTheServiceHasAnsweredForALease(t *testing.T) {
	s := newScene(t, 1, 1)
	var away atomic.Bool
	s.options.Gap = 400 * time.Millisecond
	store := open(t, s.options, s.objects, faulty(func(_ context.Context, _ string, send func() error) error {
		if away.Swap(false) {
			time.Sleep(500 * time.Millisecond)
		}
		return send()
	}))
	const lease = time.Second
	if _, err := store.HealDead(t.Context(), time.Hour, 0); err != nil {
		t.Fatal(err)
	}
	time.Sleep(lease)
	away.Store(true)
	if healed, err := store.HealDead(t.Context(), lease, 0); err != nil || len(healed) != 0 {
		t.Fatalf("got %v, %v", healed, err)
	}
	if rows, err := store.rows(t.Context()); err != nil || len(rows) != 2 {
		t.Fatalf("got %v, %v", rows, err)
	}
	time.Sleep(lease)
	if _, err := store.HealDead(t.Context(), lease, 0); err != nil {
		t.Fatal(err)
	}
	if rows, err := store.rows(t.Context()); err != nil || len(rows) != 0 {
		t.Errorf("got %v, %v", rows, err)
	}
}

// TestAnErrorThatCannotPassIsToldAtOnce and says what was asked for.
func TestAnErrorThatCannotPassIsToldAtOnce(t *testing.T) {
	s := newScene(t, 1, 1)
	store := open(t, s.options, s.objects, faulty(func(_ context.Context, _ string, _ func() error) error {
		return status.Error(codes.PermissionDenied, "missing permission")
	}))
	began := time.Now()
	_, err := store.Claim(t.Context(), "w", "p", 1, 0)
	if status.Code(err) != codes.PermissionDenied || !strings.HasPrefix(err.Error(), "claim task: look up SparklesWorker: ") || time.Since(began) > 5*time.Second {
		t.Errorf("after %s: %v", time.Since(began), err)
	}
}

// TestAnythingCanGoWrongAtAnyTime: six workers do 120 tasks while one call in five fails before or after it was carried out.
func TestAnythingCanGoWrongAtAnyTime(t *testing.T) {
	s := newScene(t, 120, 8)
	random := rand.New(rand.NewPCG(1, 2))
	var mutex sync.Mutex
	storm := func(_ context.Context, _ string, send func() error) error {
		mutex.Lock()
		roll := random.IntN(10)
		mutex.Unlock()
		code := []codes.Code{codes.Aborted, codes.Unavailable, codes.DeadlineExceeded, codes.Internal}[roll%4]
		switch roll {
		case 0:
			return status.Error(code, "injected before")
		case 1:
			if err := send(); err != nil {
				return err
			}
			return status.Error(codes.Unavailable, "injected after")
		}
		return send()
	}
	var accepted, runs atomic.Int32
	var group sync.WaitGroup
	for number := range 6 {
		id := fmt.Sprintf("s%d", number)
		if err := s.driver.EnterWorker(t.Context(), wire.Worker{ID: id, Pool: "p"}); err != nil {
			t.Fatal(err)
		}
		store := open(t, s.options, s.objects, faulty(storm))
		group.Go(func() {
			for {
				claims, err := store.Claim(t.Context(), id, "p", 5, 0)
				if err != nil {
					t.Error(err)
					return
				}
				if len(claims) == 0 {
					if _, found, err := store.NextDue(t.Context(), "p"); err != nil || !found {
						return
					}
					continue
				}
				var finishes []wire.Finish
				for _, claim := range claims {
					runs.Add(1)
					finishes = append(finishes, wire.Finish{Attempt: wire.Attempt{Ref: claim.Ref, Token: claim.Token, Worker: id}, State: wire.Succeeded, Tries: 1})
				}
				done, err := store.Finish(t.Context(), finishes, nil)
				if err != nil {
					t.Error(err)
					return
				}
				for _, each := range done {
					if each {
						accepted.Add(1)
					}
				}
			}
		})
	}
	group.Wait()
	for index, task := range s.tasks() {
		if task.State != wire.Succeeded || task.Attempt != 1 || len(task.Records) != 1 {
			t.Errorf("task %d: %+v", index, task)
		}
	}
	if accepted.Load() != 120 || runs.Load() != 120 {
		t.Errorf("%d programs ran and %d results were accepted, of 120 tasks", runs.Load(), accepted.Load())
	}
}

// TestADatastoreThatDoesNotAnswerIsToldOnce, and so is that it answers again, however many calls wait for it: one that fails, and one that stands still.
func TestADatastoreThatDoesNotAnswerIsToldOnce(t *testing.T) {
	for name, act := range map[string]func(ctx context.Context) error{
		"fails": func(context.Context) error { return status.Error(codes.Unavailable, "injected") },
		"stands still": func(ctx context.Context) error {
			limited, done := context.WithTimeout(ctx, time.Second)
			defer done()
			<-limited.Done()
			return status.Error(codes.DeadlineExceeded, "injected")
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t, 1, 1)
			var log bytes.Buffer
			s.options.Log, s.options.ToldAfter = slog.New(slog.NewTextHandler(&log, nil)), 1500*time.Millisecond // more than a busy emulator takes
			began := time.Now()
			store := open(t, s.options, s.objects, faulty(func(ctx context.Context, _ string, send func() error) error {
				if time.Since(began) < 3*time.Second {
					return act(ctx)
				}
				return send()
			}))
			var group sync.WaitGroup
			for range 3 {
				group.Go(func() {
					if _, err := store.Beat(t.Context(), "w", false, ""); err != nil {
						t.Error(err)
					}
				})
			}
			group.Wait()
			for _, line := range []string{"Datastore does not answer", "Datastore answers again"} {
				if count := strings.Count(log.String(), line); count != 1 {
					t.Errorf("%q: %d times in\n%s", line, count, log.String())
				}
			}
		})
	}
}

// TestWhatSomebodyHasToChangeIsSaid: after one call, with what to do; a login's service that is away is tried again.
func TestWhatSomebodyHasToChangeIsSaid(t *testing.T) {
	const creds = "transport: per-RPC creds failed due to error: auth: cannot fetch token: "
	for _, each := range []struct {
		err  error
		said string
	}{
		{status.Error(codes.Unauthenticated, creds+`400 {"error": "invalid_grant"}`), "the login is over; run `gcloud auth application-default login` again"},
		{status.Error(codes.FailedPrecondition, "not available for Firestore in Native Mode database x"), "expected Datastore mode"},
		{status.Error(codes.Unauthenticated, creds+"503"), ""},
	} {
		calls := 0
		made, err := dial(t.Context(), Options{Project: "p", EmulatorHost: "127.0.0.1:1", Patience: 100 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		err = made.trying(t.Context(), "look", func(context.Context) error { calls++; return each.err })
		if refused := each.said != ""; refused != (calls == 1) || refused != IsConfiguration(err) || !strings.Contains(err.Error(), each.said) {
			t.Errorf("%d calls, %v", calls, err)
		}
		_ = made.connection.Close()
	}
}

// TestAPreemptedTaskGoesBackWithoutTheBucket: its record is tried once for all, and left out; that of a task that ended is not.
func TestAPreemptedTaskGoesBackWithoutTheBucket(t *testing.T) {
	s := newScene(t, 4, 1)
	store := open(t, s.options, &noBucket{s.objects})
	claims, err := store.Claim(t.Context(), "w", "p", 4, 0)
	if err != nil || len(claims) != 4 {
		t.Fatal(claims, err)
	}
	var finishes []wire.Finish
	for _, claim := range claims {
		finishes = append(finishes, wire.Finish{Attempt: wire.Attempt{Ref: claim.Ref, Token: claim.Token, Worker: "w", Failure: wire.FailurePreempted}, State: wire.Pending})
	}
	began := time.Now()
	accepted, err := store.Finish(t.Context(), finishes[1:], nil)
	if err != nil || slices.Contains(accepted, false) || time.Since(began) > 2*spareTime {
		t.Errorf("after %s: %v, %v", time.Since(began), accepted, err)
	}
	finishes[0].Attempt.Failure, finishes[0].State = wire.NoFailure, wire.Succeeded
	ctx, done := context.WithTimeout(t.Context(), time.Second)
	defer done()
	if _, err := store.Finish(ctx, finishes[:1], nil); err == nil {
		t.Error("a task succeeded without its record")
	}
	s.held("w", claims[:1])
}

// noBucket answers no write.
type noBucket struct{ *memory.Objects }

func (*noBucket) WriteNew(ctx context.Context, _ string, _ []byte) (bool, error) {
	<-ctx.Done()
	return false, ctx.Err()
}
