package worker

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"sparkles.dev/consume/internal/blobs"
	"sparkles.dev/consume/internal/jobstore"
	"sparkles.dev/consume/internal/wire"
)

// together is a command that says how many of its kind run at the time, in a folder that they share.
func together(folder string) string {
	return "mkdir " + folder + "/$SPARKLES_JOB.$SPARKLES_TASK; ls " + folder + " | wc -l; sleep 0.1; rmdir " + folder + "/$SPARKLES_JOB.$SPARKLES_TASK"
}

// most is the greatest number that tasks of such a command said.
func (s *site) most(job string, count int) int {
	s.t.Helper()
	greatest := 0
	for index := 1; index <= count; index++ {
		task := s.task(job, index)
		if task.State != wire.Succeeded {
			s.t.Fatalf("task %d: %+v", index, task)
		}
		log, err := s.blobs.ReadAll(context.Background(), blobs.Attempt(task.Records[0].Ref, blobs.Log))
		if err != nil {
			s.t.Fatal(err)
		}
		number, err := strconv.Atoi(strings.TrimSpace(string(log)))
		if err != nil {
			s.t.Fatal(err)
		}
		greatest = max(greatest, number)
	}
	return greatest
}

func TestTasksShareTheWorkersCPUAndMemory(t *testing.T) {
	for name, each := range map[string]struct {
		resources map[string]any
		want      int
	}{
		"cpu":                    {map[string]any{"cpu": 1.5}, 2},
		"memory":                 {map[string]any{"cpu": 0.1, "memory_bytes": 3 << 30}, 2},
		"all of the memory":      {map[string]any{"cpu": 0.1, "memory_bytes": 8 << 30}, 1},
		"all of the cpu":         {map[string]any{"cpu": 4}, 1},
		"as many as there is of": {map[string]any{"cpu": 1, "memory_bytes": 2 << 30}, 4},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			folder := t.TempDir()
			var tasks []map[string]any
			for range 8 {
				tasks = append(tasks, map[string]any{"command": together(folder)})
			}
			job := s.add(map[string]any{"resources": each.resources}, tasks...)
			s.serve() // 4 cores, 8 GiB
			if most := s.most(job, len(tasks)); most != each.want {
				t.Errorf("%d at a time, want %d", most, each.want)
			}
		})
	}
}

func TestALargeTaskIsNotOvertaken(t *testing.T) {
	s := newSite(t)
	order := filepath.Join(t.TempDir(), "order")
	task := func(cpu float64) map[string]any {
		return map[string]any{"command": "echo $SPARKLES_TASK >> " + order + "; sleep 0.2", "resources": map[string]any{"cpu": cpu}}
	}
	// The second does not fit beside the first; the third and fourth would.
	s.add(nil, task(2), task(4), task(1), task(1))
	s.serve()
	data, err := os.ReadFile(order)
	if err != nil || !strings.HasPrefix(string(data), "1\n2\n") {
		t.Errorf("got %q, %v", data, err)
	}
}

func TestAWorkerLingers(t *testing.T) {
	const linger = 400 * time.Millisecond
	s := newSite(t)
	first := s.add(nil, map[string]any{"command": "true"})
	began := time.Now()
	w := s.worker(func(w *Worker) { w.UntilEmpty, w.Linger = false, linger })
	done := make(chan error, 1)
	go func() { done <- w.Run(context.Background()) }()
	until(t, func() bool { return s.task(first, 1).State == wire.Succeeded })
	time.Sleep(linger / 2)
	// What comes meanwhile is done, and it stays for as long again; a task that waits for its back-off is not nothing to do.
	second := s.add(map[string]any{"retry": map[string]any{"attempts": 2, "backoff_s": 1.0}}, map[string]any{"command": `test "$SPARKLES_ATTEMPT" = 2`})
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if task := s.task(second, 1); task.State != wire.Succeeded {
		t.Errorf("it left before the back-off was over: %+v", task)
	}
	if stayed := time.Since(began); stayed < linger/2+time.Second+linger {
		t.Errorf("it stayed for %v only", stayed)
	}
	if rows, _ := s.store.ListWorkers(context.Background()); len(rows) != 0 {
		t.Errorf("its row is left: %v", rows)
	}
}

func TestAWorkerWithoutLingerStaysUntilItIsTold(t *testing.T) {
	s := newSite(t)
	w := s.worker(func(w *Worker) { w.UntilEmpty = false })
	done := make(chan error, 1)
	go func() { done <- w.Run(context.Background()) }()
	select {
	case err := <-done:
		t.Fatalf("it left by itself: %v", err)
	case <-time.After(time.Second):
	}
	w.Stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestWhatIgnoresTheStopIsEndedWithinTheGrace(t *testing.T) {
	s := newSite(t)
	folder := t.TempDir()
	stubborn := "trap '' TERM; touch " + folder + "/$SPARKLES_TASK; while :; do sleep 0.05; done"
	job := s.add(nil, map[string]any{"command": stubborn}, map[string]any{"command": stubborn}, map[string]any{"command": "true"})
	w := s.worker(func(w *Worker) { w.CPU = 2 }) // a grace of 0.3 s
	done := make(chan error, 1)
	go func() { done <- w.Run(context.Background()) }()
	until(t, func() bool { found, _ := os.ReadDir(folder); return len(found) == 2 })
	began := time.Now()
	w.Stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("took %v", took)
	}
	for index := 1; index <= 3; index++ {
		if task := s.task(job, index); task.State != wire.Pending || task.Tries != 0 || task.Losses != 0 {
			t.Errorf("task %d: got %+v", index, task)
		}
	}
	for index := 1; index <= 2; index++ {
		ref := wire.AttemptRef{Job: job, Index: index, Attempt: 1}
		data, err := s.blobs.ReadAll(context.Background(), jobstore.ResultName(ref))
		if err != nil {
			t.Fatal(err)
		}
		record, err := wire.DecodePlain[wire.Attempt](data, "result.json")
		if err != nil || record.Failure != wire.FailurePreempted || record.Signal != 9 || record.Reason != "ended because its worker was stopped" {
			t.Errorf("%s: got %+v, %v", ref, record, err)
		}
		if left := marked(record.Token); len(left) != 0 {
			t.Errorf("%s: processes are left: %v", ref, left)
		}
	}
}
