package worker

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sparkles.dev/consume/internal/blobs"
	"sparkles.dev/consume/internal/blobs/dir"
	"sparkles.dev/consume/internal/jobstore"
	"sparkles.dev/consume/internal/jobstore/memory"
	"sparkles.dev/consume/internal/runner"
	"sparkles.dev/consume/internal/wire"
)

// site is a store and blobs for tests, and the jobs that were put into them.
type site struct {
	t     *testing.T
	store *memory.Store
	blobs *dir.Store
	count int
}

func newSite(t *testing.T) *site {
	t.Helper()
	objects, err := dir.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return &site{t: t, store: memory.New(objects), blobs: objects}
}

// add makes a job of one shard from JSON: what its tasks have in common, and each task.
func (s *site) add(spec map[string]any, tasks ...map[string]any) string {
	s.t.Helper()
	s.count++
	id := fmt.Sprintf("job%d-00000000", s.count)
	whole := map[string]any{"name": fmt.Sprintf("job%d", s.count)}
	for name, value := range spec {
		whole[name] = value
	}
	var lines bytes.Buffer
	packed := gzip.NewWriter(&lines)
	for _, task := range tasks {
		row, err := json.Marshal(map[string]any{"spec": task, "fingerprint": strings.Repeat("0", 64)})
		if err != nil {
			s.t.Fatal(err)
		}
		fmt.Fprintf(packed, "%s\n", row)
	}
	if err := packed.Close(); err != nil {
		s.t.Fatal(err)
	}
	sum := sha256.Sum256(lines.Bytes())
	document, err := json.Marshal(map[string]any{
		"schema": 1, "shard_size": len(tasks),
		"job":      map[string]any{"id": id, "spec": whole, "count": len(tasks), "pool": "p", "sequence": s.count},
		"manifest": map[string]any{"part_tasks": 1000, "parts": []any{map[string]any{"offset": 0, "size_bytes": lines.Len(), "digest": hex.EncodeToString(sum[:])}}},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	job, err := wire.Decode[wire.JobDocument](document, id)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := s.blobs.PutObject(context.Background(), jobstore.ManifestName(id, job.Manifest), lines.Bytes()); err != nil {
		s.t.Fatal(err)
	}
	rows := make([]wire.TaskRow, len(tasks))
	for i := range rows {
		rows[i] = wire.NewTaskRow()
	}
	s.store.Put(job, []wire.ShardDocument{{Schema: 1, Job: id, First: 1, Tasks: rows, Pool: "p", Sequence: int64(s.count)}})
	return id
}

func (s *site) task(job string, index int) wire.TaskRow { return s.store.Shards(job)[0].Tasks[index-1] }

// worker is one that leaves when nothing is pending.
func (s *site) worker(change ...func(*Worker)) *Worker {
	s.t.Helper()
	programs := runner.New(300*time.Millisecond, 50*time.Millisecond)
	s.t.Cleanup(programs.Close)
	w := &Worker{
		Config: Config{
			Worker: wire.Worker{ID: "w-1", Pool: "p", Process: runner.ThisProcess("here")},
			CPU:    4, Memory: 8 << 30, Work: s.t.TempDir(), UntilEmpty: true,
			Beat: 50 * time.Millisecond, Look: 50 * time.Millisecond, Lease: time.Minute,
		},
		Store: s.store, Blobs: s.blobs, Runner: programs, Log: slog.New(slog.DiscardHandler), Environ: os.Environ(),
	}
	for _, each := range change {
		each(w)
	}
	w.Init()
	return w
}

func (s *site) serve(change ...func(*Worker)) {
	s.t.Helper()
	if err := s.worker(change...).Run(context.Background()); err != nil {
		s.t.Fatal(err)
	}
}

func TestWhatATaskFinds(t *testing.T) {
	s := newSite(t)
	path := filepath.Join(t.TempDir(), "tool")
	if err := os.WriteFile(path, []byte("#!/bin/sh\necho from the input\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	input, err := s.blobs.Collect(context.Background(), path, "tool")
	if err != nil {
		t.Fatal(err)
	}
	job := s.add(map[string]any{"env": map[string]string{"EXTRA": "job", "SPARKLES_TOKEN": "forged"}, "outputs": []any{map[string]any{"pattern": "out/*"}}},
		map[string]any{
			"command": `echo "$SPARKLES_JOB $SPARKLES_TASK $SPARKLES_ATTEMPT $SPARKLES_WORKER $EXTRA"; test "$SPARKLES_TOKEN" != forged && bin/tool; cat "$SPARKLES_PARAMS"; read line || echo no input; mkdir out; echo hi > out/a; echo '{"x":1.0}' > "$SPARKLES_RESULTS"`,
			"params":  json.RawMessage(`{"alpha":1.0,"big":9007199254740993}`),
			"files":   []any{map[string]any{"dst": "bin/tool", "digest": input.Digest, "size_bytes": input.SizeBytes, "executable": true}},
			"env":     map[string]string{"EXTRA": "task"},
		})
	s.serve()
	record := s.task(job, 1).Records[0]
	log, err := s.blobs.ReadAll(context.Background(), blobs.Attempt(record.Ref, "output.log"))
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("%s 1 1 w-1 task\nfrom the input\n{\"alpha\":1.0,\"big\":9007199254740993}no input\n", job)
	if string(log) != want {
		t.Errorf("log: got %q, want %q", log, want)
	}
	if record.Results == nil || *record.Results != "{\"x\":1.0}\n" || len(record.Outputs) != 1 || record.Outputs[0].Name != "out/a" {
		t.Errorf("record: got %+v", record)
	}
	stored, err := s.blobs.ReadAll(context.Background(), jobstore.ResultName(record.Ref))
	if err != nil {
		t.Fatal(err)
	}
	if found, err := wire.DecodePlain[wire.Attempt](stored, "result.json"); err != nil || found.Token != record.Token {
		t.Errorf("result.json: got %v, %v", found, err)
	}
}

func TestAKilledTaskIsEnded(t *testing.T) {
	s := newSite(t)
	marker := filepath.Join(t.TempDir(), "started")
	job := s.add(nil, map[string]any{"command": "touch " + marker + "; sleep 60"}, map[string]any{"command": "true"})
	done := make(chan error, 1)
	w := s.worker()
	go func() { done <- w.Run(context.Background()) }()
	until(t, func() bool { _, err := os.Stat(marker); return err == nil })
	s.store.Change(job, func(document wire.ShardDocument) wire.ShardDocument {
		document.Tasks[0].State, document.Tasks[0].Token, document.Tasks[0].Started = wire.Cancelled, "", false
		document.Seq++
		return document
	})
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if task := s.task(job, 1); task.State != wire.Cancelled || len(task.Records) != 0 {
		t.Errorf("got %+v", task)
	}
	if s.task(job, 2).State != wire.Succeeded {
		t.Errorf("the other task: %+v", s.task(job, 2))
	}
}

func TestAStoppedWorkerGivesItsTasksBack(t *testing.T) {
	s := newSite(t)
	folder := t.TempDir()
	job := s.add(nil, map[string]any{"command": "trap 'touch " + folder + "/told; exit 1' TERM; touch " + folder + "/started; sleep 60 & wait"}, map[string]any{"command": "sleep 60"}, map[string]any{"command": "sleep 60"})
	w := s.worker(func(w *Worker) { w.CPU = 2 })
	done := make(chan error, 1)
	go func() { done <- w.Run(context.Background()) }()
	until(t, func() bool { _, err := os.Stat(folder + "/started"); return err == nil })
	w.Stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(folder + "/told"); err != nil {
		t.Error("the program was not asked to end")
	}
	for index := 1; index <= 3; index++ {
		if task := s.task(job, index); task.State != wire.Pending || task.Tries != 0 || task.Losses != 0 {
			t.Errorf("task %d: got %+v", index, task)
		}
	}
	if workers, _ := s.store.ListWorkers(context.Background()); len(workers) != 0 {
		t.Errorf("rows are left: %v", workers)
	}
}

func TestADrainedWorkerFinishesWhatRuns(t *testing.T) {
	s := newSite(t)
	marker := filepath.Join(t.TempDir(), "started")
	job := s.add(nil, map[string]any{"command": "touch " + marker + "; sleep 0.5"}, map[string]any{"command": "true"})
	w := s.worker(func(w *Worker) { w.CPU = 1 })
	done := make(chan error, 1)
	go func() { done <- w.Run(context.Background()) }()
	until(t, func() bool { _, err := os.Stat(marker); return err == nil })
	w.Drain()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if first, second := s.task(job, 1), s.task(job, 2); first.State != wire.Succeeded || second.State != wire.Pending || second.Attempt != 0 {
		t.Errorf("got %+v and %+v", first, second)
	}
}

func TestALongTaskIsSaidToRunWhileOthersEndOrNot(t *testing.T) {
	s := newSite(t)
	release := filepath.Join(t.TempDir(), "release")
	job := s.add(nil, map[string]any{"command": "while ! test -e " + release + "; do sleep 0.05; done"})
	done := make(chan error, 1)
	w := s.worker()
	go func() { done <- w.Run(context.Background()) }()
	until(t, func() bool { return s.task(job, 1).Started })
	if err := os.WriteFile(release, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if task := s.task(job, 1); task.State != wire.Succeeded || task.Started {
		t.Errorf("got %+v", task)
	}
}

func TestAGrowingLogCanBeRead(t *testing.T) {
	s := newSite(t)
	release := filepath.Join(t.TempDir(), "release")
	job := s.add(nil, map[string]any{"command": "head -c 600000 /dev/zero; while ! test -e " + release + "; do sleep 0.05; done; echo end"})
	done := make(chan error, 1)
	w := s.worker()
	go func() { done <- w.Run(context.Background()) }()
	ref := wire.AttemptRef{Job: job, Index: 1, Attempt: 1}
	until(t, func() bool {
		piece, err := s.blobs.ReadAll(context.Background(), blobs.LogPiece(ref, 0))
		return err == nil && len(piece) > 0
	})
	if err := os.WriteFile(release, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	log, err := s.blobs.ReadAll(context.Background(), blobs.Attempt(ref, "output.log"))
	if err != nil || len(log) != 600004 {
		t.Errorf("the whole log: %d bytes, %v", len(log), err)
	}
	if _, err := s.blobs.ReadAll(context.Background(), blobs.LogPiece(ref, 0)); err == nil {
		t.Error("the pieces are left")
	}
}

func until(t *testing.T, true func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !true(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("waited for 20 s")
		}
	}
}

// away is a store that stops answering after its first claim.
type away struct {
	*memory.Store
	claims atomic.Int32
	err    error // nil: claims wait as long as they are let
}

func (a *away) Claim(ctx context.Context, worker, pool string, most int, nowMS int64) ([]wire.Claim, error) {
	switch {
	case a.claims.Add(1) == 1:
		return a.Store.Claim(ctx, worker, pool, most, nowMS)
	case a.err != nil:
		return nil, a.err
	}
	<-ctx.Done()
	return nil, ctx.Err()
}

// TestAStoreThatIsAwayEndsNoProgram: what runs is finished and recorded; an idle worker gives up, with an error.
func TestAStoreThatIsAwayEndsNoProgram(t *testing.T) {
	s := newSite(t)
	job := s.add(nil, map[string]any{"command": "sleep 1; echo whole > done"})
	gone := errors.New("cannot be reached")
	w := s.worker(func(w *Worker) { w.Store = &away{Store: s.store, err: gone} })
	if err := w.Run(t.Context()); !errors.Is(err, gone) {
		t.Errorf("got %v", err)
	}
	if task := s.task(job, 1); task.State != wire.Succeeded {
		t.Errorf("got %+v", task)
	}
}

// hearing is a store that keeps what heartbeats say of trouble, each text once in a row.
type hearing struct {
	*memory.Store
	mutex sync.Mutex
	heard []string
}

func (h *hearing) Beat(ctx context.Context, worker string, waiting bool, trouble string) (bool, error) {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	if len(h.heard) == 0 || h.heard[len(h.heard)-1] != trouble {
		h.heard = append(h.heard, trouble)
	}
	return h.Store.Beat(ctx, worker, waiting, trouble)
}

// TestTroubleIsSaidSoon: not only with the next heartbeat that the lease needs, and so is its end.
func TestTroubleIsSaidSoon(t *testing.T) {
	s := newSite(t)
	s.add(nil, map[string]any{"command": "sleep 4"})
	store := &hearing{Store: s.store}
	began := time.Now()
	s.serve(func(w *Worker) {
		w.Store, w.Beat = store, time.Minute
		w.Trouble = func() string {
			if time.Since(began) < 2*time.Second {
				return "the bucket is away"
			}
			return ""
		}
	})
	if want := []string{"the bucket is away", ""}; !slices.Equal(store.heard, want) {
		t.Errorf("heard %q, want %q", store.heard, want)
	}
}

// TestAStoreThatDoesNotAnswerDelaysNoStop: programs are ended at once though a claim is still being asked for.
func TestAStoreThatDoesNotAnswerDelaysNoStop(t *testing.T) {
	s := newSite(t)
	job := s.add(nil, map[string]any{"command": "sleep 60"})
	store := &away{Store: s.store}
	w := s.worker(func(w *Worker) { w.Store = store })
	began := time.Now()
	go func() {
		for store.claims.Load() < 2 {
			time.Sleep(10 * time.Millisecond)
		}
		w.Stop()
	}()
	if err := w.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if task := s.task(job, 1); task.State != wire.Pending || time.Since(began) > 20*time.Second {
		t.Errorf("after %s: %+v", time.Since(began), task)
	}
}

// TestAWorkerThatWasTakenForDeadDoesNotEndWell: whoever started it for as long as there is work is to start another.
func TestAWorkerThatWasTakenForDeadDoesNotEndWell(t *testing.T) {
	s := newSite(t)
	w := s.worker(func(w *Worker) { w.UntilEmpty = false })
	go func() {
		for {
			if workers, err := s.store.ListWorkers(t.Context()); err != nil || len(workers) > 0 {
				_ = s.store.Leave(t.Context(), "w-1")
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	if err := w.Run(t.Context()); !errors.Is(err, ErrGone) {
		t.Errorf("got %v", err)
	}
}
