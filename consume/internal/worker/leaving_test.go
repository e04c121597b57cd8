package worker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"sparkles.dev/consume/internal/blobs"
	"sparkles.dev/consume/internal/blobs/dir"
	"sparkles.dev/consume/internal/jobstore/memory"
	"sparkles.dev/consume/internal/wire"
)

var errRefused = errors.New("not allowed")

// bucket is blobs that refuse, or do not answer, every write from some moment on.
type bucket struct {
	*dir.Store
	refuses, away atomic.Bool
}

func (b *bucket) trouble(ctx context.Context) error {
	if b.refuses.Load() {
		return fmt.Errorf("gs://b/x: %w", errRefused)
	}
	if b.away.Load() {
		<-ctx.Done()
		return ctx.Err()
	}
	return nil
}

func (b *bucket) Collect(ctx context.Context, path, name string) (wire.Artifact, error) {
	if err := b.trouble(ctx); err != nil {
		return wire.Artifact{}, err
	}
	return b.Store.Collect(ctx, path, name)
}

func (b *bucket) PutFile(ctx context.Context, name, path string) error {
	if err := b.trouble(ctx); err != nil {
		return err
	}
	return b.Store.PutFile(ctx, name, path)
}

func (b *bucket) PutRecord(ctx context.Context, ref wire.AttemptRef, record wire.Attempt) error {
	if err := b.trouble(ctx); err != nil {
		return err
	}
	return b.Store.PutRecord(ctx, ref, record)
}

func (b *bucket) WriteNew(ctx context.Context, name string, data []byte) (bool, error) {
	if err := b.trouble(ctx); err != nil {
		return false, err
	}
	return b.Store.WriteNew(ctx, name, data)
}

// withBucket is a site whose store and workers write to such a bucket.
func withBucket(t *testing.T) (*site, *bucket) {
	s := newSite(t)
	made := &bucket{Store: s.blobs}
	s.store = memory.New(made)
	return s, made
}

// begin runs a worker until the file marker is there.
func (s *site) begin(w *Worker, marker string) chan error {
	s.t.Helper()
	done := make(chan error, 1)
	go func() { done <- w.Run(context.Background()) }()
	until(s.t, func() bool { _, err := os.Stat(marker); return err == nil })
	return done
}

// given checks that a task went back at no cost.
func (s *site) given(job string, index int) {
	s.t.Helper()
	if task := s.task(job, index); task.State != wire.Pending || task.Tries != 0 || task.Losses != 0 {
		s.t.Errorf("task %d: got %+v", index, task)
	}
}

func (s *site) noRows() {
	s.t.Helper()
	if rows, _ := s.store.ListWorkers(context.Background()); len(rows) != 0 {
		s.t.Errorf("rows are left: %v", rows)
	}
}

func refusing(b blobs.Blobs) func(*Worker) {
	return func(w *Worker) {
		w.Blobs, w.Refused = b, func(err error) bool { return errors.Is(err, errRefused) }
	}
}

// TestARefusalEndsTheWorkerAndNoTask: what runs is ended, all goes back at no cost, and the error says why; without and with outputs.
func TestARefusalEndsTheWorkerAndNoTask(t *testing.T) {
	for name, spec := range map[string]map[string]any{"record": nil, "output": {"outputs": []any{map[string]any{"pattern": "out"}}}} {
		t.Run(name, func(t *testing.T) {
			s, b := withBucket(t)
			folder := t.TempDir()
			job := s.add(spec, map[string]any{"command": "echo x > out; touch " + folder + "/started; while ! test -e " + folder + "/go; do sleep 0.05; done"}, map[string]any{"command": "sleep 60"}, map[string]any{"command": "sleep 60"})
			done := s.begin(s.worker(refusing(b), func(w *Worker) { w.CPU = 2 }), folder+"/started")
			b.refuses.Store(true)
			if err := os.WriteFile(folder+"/go", nil, 0o666); err != nil {
				t.Fatal(err)
			}
			if err := <-done; !errors.Is(err, errRefused) {
				t.Errorf("got %v", err)
			}
			for index := range 3 {
				s.given(job, index+1)
			}
			s.noRows()
		})
	}
}

// TestAnInputThatIsRefusedIsNoFailureOfItsTask: the task goes back.
func TestAnInputThatIsRefusedIsNoFailureOfItsTask(t *testing.T) {
	s, _ := withBucket(t)
	path := filepath.Join(t.TempDir(), "in")
	if err := os.WriteFile(path, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	input, err := s.blobs.Collect(t.Context(), path, "in")
	if err != nil {
		t.Fatal(err)
	}
	job := s.add(nil, map[string]any{"command": "true", "files": []any{map[string]any{"dst": "in", "digest": input.Digest, "size_bytes": input.SizeBytes}}})
	if err := s.worker(refusing(&noInputs{s.blobs})).Run(t.Context()); !errors.Is(err, errRefused) {
		t.Errorf("got %v", err)
	}
	s.given(job, 1)
}

type noInputs struct{ *dir.Store }

func (*noInputs) Place(context.Context, string, string, bool, bool) error { return errRefused }

// TestADamagedJobEndsNoOthersProgram: it is finished and recorded, nothing new is taken, and then the worker ends with the error.
func TestADamagedJobEndsNoOthersProgram(t *testing.T) {
	s := newSite(t)
	job := s.add(nil, map[string]any{"command": "sleep 1"})
	err := s.worker(func(w *Worker) {
		w.Store, w.UntilEmpty = &away{Store: s.store, err: &wire.Damaged{Where: "manifest", What: "was changed"}}, false
	}).Run(t.Context())
	if !errors.As(err, new(*wire.Damaged)) {
		t.Errorf("got %v", err)
	}
	if task := s.task(job, 1); task.State != wire.Succeeded {
		t.Errorf("got %+v", task)
	}
	s.noRows()
}

// TestAStopNeedsNoBucket: the log of what was ended, or the outputs of what ended by itself, are not waited for.
func TestAStopNeedsNoBucket(t *testing.T) {
	for name, command := range map[string]string{"runs": "sleep 60", "is stored": "true"} {
		t.Run(name, func(t *testing.T) {
			s, b := withBucket(t)
			folder := t.TempDir()
			job := s.add(map[string]any{"outputs": []any{map[string]any{"pattern": "out"}}}, map[string]any{"command": "echo x | tee out; touch " + folder + "/started; " + command})
			w := s.worker(refusing(b))
			b.away.Store(true)
			done := s.begin(w, folder+"/started")
			time.Sleep(300 * time.Millisecond)
			began := time.Now()
			w.Stop()
			if err := <-done; err != nil {
				t.Error(err)
			}
			if took := time.Since(began); took > 3*leaving {
				t.Errorf("took %v", took)
			}
			s.given(job, 1)
		})
	}
}

// silent is a store that answers some calls no more from some moment on.
type silent struct {
	*memory.Store
	away          atomic.Bool
	looks, enters bool
	finishes      bool
	fails         error // of finishes; nil: they wait
	once          bool  // only the first fails, the others wait
	asked         atomic.Int32
}

func (s *silent) wait(ctx context.Context) error {
	s.asked.Add(1)
	<-ctx.Done()
	return ctx.Err()
}

func (s *silent) HeldTokens(ctx context.Context, claims []wire.Claim) (map[string]bool, error) {
	if s.looks && s.away.Load() {
		return nil, s.wait(ctx)
	}
	return s.Store.HeldTokens(ctx, claims)
}

func (s *silent) EnterWorker(ctx context.Context, worker wire.Worker) error {
	if s.enters {
		return s.wait(ctx)
	}
	return s.Store.EnterWorker(ctx, worker)
}

func (s *silent) Finish(ctx context.Context, finishes []wire.Finish, started []wire.Claim) ([]bool, error) {
	if s.finishes && s.away.Load() && len(finishes) > 0 {
		if s.fails != nil && (!s.once || s.asked.Load() == 0) {
			s.asked.Add(1)
			return nil, s.fails
		}
		return nil, s.wait(ctx)
	}
	return s.Store.Finish(ctx, finishes, started)
}

// TestAStopIsHeardWhileTheStoreIsAway: by what runs, at once, whatever the worker asks for just then.
func TestAStopIsHeardWhileTheStoreIsAway(t *testing.T) {
	for name, store := range map[string]*silent{"looks": {looks: true}, "finishes": {finishes: true}} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			store.Store = s.store
			folder := t.TempDir()
			job := s.add(nil, map[string]any{"command": "trap 'touch " + folder + "/told; exit 1' TERM; touch " + folder + "/started; sleep 60 & wait"}, map[string]any{"command": "sleep 1"})
			w := s.worker(func(w *Worker) { w.Store, w.CPU = store, 2 })
			done := s.begin(w, folder+"/started")
			store.away.Store(true)
			until(t, func() bool { return store.asked.Load() > 0 })
			began := time.Now()
			w.Stop()
			until(t, func() bool { _, err := os.Stat(folder + "/told"); return err == nil })
			if took := time.Since(began); took > 2*time.Second {
				t.Errorf("told after %v", took)
			}
			if err := <-done; err != nil {
				t.Error(err)
			}
			if took := time.Since(began); took > 3*leaving {
				t.Errorf("took %v", took)
			}
			if name == "looks" {
				s.given(job, 1)
			}
		})
	}
}

// TestAStopIsHeardBeforeTheWorkerHasARow: its store is away from the beginning.
func TestAStopIsHeardBeforeTheWorkerHasARow(t *testing.T) {
	s := newSite(t)
	store := &silent{Store: s.store, enters: true}
	w := s.worker(func(w *Worker) { w.Store = store })
	done := make(chan error, 1)
	go func() { done <- w.Run(context.Background()) }()
	until(t, func() bool { return store.asked.Load() > 0 })
	w.Stop()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(2 * time.Second):
		t.Fatal("it is still there")
	}
}

// TestEndsThatCannotBeRecordedKeepNoWorkerThatIsToLeave: while it serves it tries on; once its driver is gone it ends, with the reason. The record
// stands in the bucket for whoever finds it dead.
func TestEndsThatCannotBeRecordedKeepNoWorkerThatIsToLeave(t *testing.T) {
	for name, early := range map[string]bool{"between two calls": true, "during the second": false} {
		t.Run(name, func(t *testing.T) { endsThatCannotBeRecorded(t, early) })
	}
}

func endsThatCannotBeRecorded(t *testing.T, early bool) {
	s := newSite(t)
	store := &silent{Store: s.store, finishes: true, fails: errors.New("cannot be reached"), once: true}
	store.away.Store(true)
	job := s.add(nil, map[string]any{"command": "true"}, map[string]any{"command": "true"})
	w := s.worker(func(w *Worker) { w.Store, w.CPU = store, 1 })
	done := make(chan error, 1)
	go func() { done <- w.Run(context.Background()) }()
	until(t, func() bool { return store.asked.Load() > 1 || early && store.asked.Load() > 0 })
	select {
	case err := <-done:
		t.Fatalf("it ended by itself: %v", err)
	default:
	}
	w.Drain()
	select {
	case err := <-done:
		if !errors.Is(err, store.fails) {
			t.Errorf("got %v", err)
		}
	case <-time.After(2 * leaving):
		t.Fatal("it is still there")
	}
	if healed, err := s.store.HealDead(t.Context(), -time.Second, 0); err != nil || len(healed) != 1 || healed[0].Recorded == 0 {
		t.Errorf("got %+v, %v", healed, err)
	}
	if task := s.task(job, 1); task.State != wire.Succeeded {
		t.Errorf("got %+v", task)
	}
}
