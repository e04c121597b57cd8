package worker

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"sparkles.dev/consume/internal/blobs"
	"sparkles.dev/consume/internal/wire"
)

// lines keeps what is logged, from many goroutines.
type lines struct {
	mu   sync.Mutex
	data bytes.Buffer
}

func (l *lines) Write(data []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.data.Write(data)
}

func TestEveryEventIsOneLineThatNamesItsAttempt(t *testing.T) {
	s := newSite(t)
	job := s.add(map[string]any{"retry": map[string]any{"attempts": 2, "backoff_s": 0.01}}, map[string]any{"command": "true"}, map[string]any{"command": "echo 'two\nlines'; exit 3"})
	var log lines
	s.serve(func(w *Worker) { w.Log = slog.New(slog.NewJSONHandler(&log, nil)) })
	var got []string
	for line := range strings.SplitSeq(strings.TrimSpace(log.data.String()), "\n") {
		var event struct {
			Time, Level, Msg, Job, Class string
			Task, Attempt                int
		}
		if err := json.Unmarshal([]byte(line), &event); err != nil || event.Time == "" || event.Level == "" {
			t.Fatalf("%q is no event: %v", line, err)
		}
		if event.Msg == "started" || event.Msg == "ended" {
			ref := wire.AttemptRef{Job: event.Job, Index: event.Task, Attempt: event.Attempt}
			got = append(got, event.Msg+" "+ref.String()+" "+event.Class)
		}
	}
	for _, want := range []wire.AttemptRef{{Job: job, Index: 1, Attempt: 1}, {Job: job, Index: 2, Attempt: 1}, {Job: job, Index: 2, Attempt: 2}} {
		class := ""
		if want.Index == 2 {
			class = "exit"
		}
		for _, line := range []string{"started " + want.String() + " ", "ended " + want.String() + " " + class} {
			if count := strings.Count(strings.Join(got, "\n")+"\n", line+"\n"); count != 1 {
				t.Errorf("%q: %d times in %q", line, count, got)
			}
		}
	}
}

func TestASecretIsNowhereButInTheTasksOwnLog(t *testing.T) {
	const secret = "s3cret-value-of-24-bytes"
	s := newSite(t)
	spec := map[string]any{"secret_env": map[string]string{"TOKEN": "env:MY_TOKEN"}, "outputs": []any{map[string]any{"pattern": "*.txt"}}}
	job := s.add(spec,
		map[string]any{"command": `test "$TOKEN" = s3cret-value-"of"-24-bytes && echo fine > a.txt`},
		map[string]any{"command": `echo "$TOKEN"; "./$TOKEN"; exit 3`},
		map[string]any{"command": []string{"no-such-program"}},
	)
	var log lines
	var folder string
	s.serve(func(w *Worker) {
		w.Log = slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		w.Environ = append(os.Environ(), "MY_TOKEN="+secret)
		folder = w.Work
	})
	if state := s.task(job, 1).State; state != wire.Succeeded {
		t.Fatalf("the secret did not reach its task: %+v", s.task(job, 1))
	}
	if strings.Contains(log.data.String(), secret) {
		t.Errorf("the worker's log: %s", log.data.String())
	}
	for _, shard := range s.store.Shards(job) {
		if strings.Contains(string(wire.Encode(shard)), secret) {
			t.Errorf("the queue: %+v", shard)
		}
	}
	own := s.blobs.Path(blobs.Attempt(wire.AttemptRef{Job: job, Index: 2, Attempt: 1}, blobs.Log))
	found := 0
	for _, top := range []string{s.blobs.Path("."), folder} {
		_ = filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			data, err := os.ReadFile(path)
			if err != nil {
				t.Error(err)
			}
			if strings.Contains(string(data), secret) {
				found++
				if path != own {
					t.Errorf("%s holds the secret", path)
				}
			}
			return nil
		})
	}
	if found != 1 {
		t.Errorf("found %d times, want it in the task's own log", found)
	}
	if s.task(job, 2).Records[0].Tail == "" {
		t.Error("nothing of the log is kept")
	}
}
