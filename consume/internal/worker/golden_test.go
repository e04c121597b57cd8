package worker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"sparkles.dev/consume/internal/blobs"
	"sparkles.dev/consume/internal/jobstore"
	"sparkles.dev/consume/internal/runner"
	"sparkles.dev/consume/internal/runner/cgrouptest"
	"sparkles.dev/consume/internal/wire"
)

// row is one of tests/golden/failure_classes.json, which tests/support/failure_classes.py describes.
type row struct {
	Name    string
	Command any
	Spec    map[string]any
	Task    map[string]any
	Inputs  []struct {
		Dst, Src, Text string
		Damaged        *string
	}
	Setup *struct {
		DiskBytes   int64 `json:"disk_bytes"`
		MemoryBytes int64 `json:"memory_bytes"`
	}
	Expected struct {
		State    wire.TaskState
		Failure  *wire.FailureClass
		ExitCode *int `json:"exit_code"`
		Signal   int
		Reason   string
		Attempts int
		Seconds  float64
		LogBytes *int64 `json:"log_bytes"`
		Tail     *string
	}
}

func golden(t *testing.T) []row {
	t.Helper()
	data, err := os.ReadFile("../../../tests/golden/failure_classes.json")
	if err != nil {
		t.Fatal(err)
	}
	var rows []row
	if err := json.Unmarshal(data, &rows); err != nil {
		t.Fatal(err)
	}
	return rows
}

func TestFailureClasses(t *testing.T) {
	var together []row
	for _, each := range golden(t) {
		if each.Setup == nil {
			together = append(together, each)
			continue
		}
		t.Run(each.Name, func(t *testing.T) { playApart(t, each) })
	}
	play(t, t.TempDir(), together)
}

// rowVariable names the row that a process of its own plays, in the folder of folderVariable.
const (
	rowVariable    = "SPARKLES_TEST_ROW"
	folderVariable = "SPARKLES_TEST_FOLDER"
)

// playApart plays a row in a process of its own, so that nothing of its setup is left, however it ends.
func playApart(t *testing.T, each row) {
	t.Helper()
	command := exec.Command(os.Args[0], "-test.run", "^TestRowApart$", "-test.v")
	command.Env = append(os.Environ(), rowVariable+"="+each.Name, folderVariable+"="+t.TempDir())
	if each.Setup.DiskBytes > 0 {
		command.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		}
	}
	output, err := command.CombinedOutput()
	if err != nil || !strings.Contains(string(output), "--- PASS: TestRowApart/") {
		t.Errorf("%v\n%s", err, output)
	}
}

// TestRowApart is what playApart starts; by itself it plays nothing.
func TestRowApart(t *testing.T) {
	name, found := os.LookupEnv(rowVariable)
	if !found {
		return
	}
	folder := os.Getenv(folderVariable)
	for _, each := range golden(t) {
		if each.Name != name {
			continue
		}
		if size := each.Setup.DiskBytes; size > 0 {
			if err := syscall.Mount("tmpfs", folder, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
				t.Fatal(err)
			}
		}
		if size := each.Setup.MemoryBytes; size > 0 && !cgrouptest.Limit(t, size) {
			// No control group can be made here: the worker's own limit is the next best.
			each.Spec = map[string]any{"resources": map[string]any{"memory_bytes": size}}
		}
		play(t, folder, []row{each})
	}
}

// play has one worker run rows, its scratch directories in a folder, and compares.
func play(t *testing.T, work string, rows []row) {
	s := newSite(t)
	jobs := make([]string, len(rows))
	for i, each := range rows {
		task := map[string]any{"command": each.Command}
		for name, value := range each.Task {
			task[name] = value
		}
		var files []any
		for _, file := range each.Inputs {
			sum := sha256.Sum256([]byte(file.Text))
			digest := hex.EncodeToString(sum[:])
			stored := file.Text
			if file.Damaged != nil {
				stored = *file.Damaged
			}
			if err := s.blobs.PutObject(context.Background(), blobs.Content(digest), []byte(stored)); err != nil {
				t.Fatal(err)
			}
			files = append(files, map[string]any{"dst": file.Dst, "src": file.Src, "digest": digest, "size_bytes": len(file.Text)})
		}
		if files != nil {
			task["files"] = files
		}
		jobs[i] = s.add(each.Spec, task)
	}
	s.serve(func(w *Worker) {
		w.Work = filepath.Join(work, "w")
		w.Environ = append(w.Environ, "SPARKLES_TEST_SECRET=s3cret-value-of-24-bytes", "SPARKLES_TEST_PIN=12")
	})
	if left, err := os.ReadDir(filepath.Join(work, "w")); err != nil || len(left) > 0 {
		for _, entry := range left {
			// What a task itself put beside its folder is its worker's to remove at its end.
			if name := entry.Name(); !strings.HasSuffix(name, ".away") && !strings.HasSuffix(name, ".gone") {
				t.Errorf("%s is left", name)
			}
		}
	}
	for i, each := range rows {
		t.Run(each.Name, func(t *testing.T) { compare(t, s, s.task(jobs[i], 1), each) })
	}
}

func compare(t *testing.T, s *site, task wire.TaskRow, each row) {
	t.Helper()
	want := each.Expected
	if task.State != want.State || len(task.Records) != want.Attempts {
		t.Fatalf("got %s after %d attempts: %s", task.State, len(task.Records), task.Reason)
	}
	last := task.Records[len(task.Records)-1]
	class := wire.NoFailure
	if want.Failure != nil {
		class = *want.Failure
	}
	if last.Failure != class {
		t.Errorf("class: got %q (%s), want %q", last.Failure, last.Reason, class)
	}
	if fmt.Sprint(deref(last.ExitCode)) != fmt.Sprint(deref(want.ExitCode)) || last.Signal != want.Signal {
		t.Errorf("got exit code %v and signal %d, want %v and %d", deref(last.ExitCode), last.Signal, deref(want.ExitCode), want.Signal)
	}
	if !strings.Contains(last.Reason, want.Reason) || (last.Reason != "") != (want.State == wire.Failed) {
		t.Errorf("reason: got %q, want %q in it", last.Reason, want.Reason)
	}
	if seconds := float64(last.EndedAtMS-last.StartedAtMS) / 1000; want.Seconds > 0 && seconds > want.Seconds {
		t.Errorf("took %g s, want less than %g", seconds, want.Seconds)
	}
	if want.LogBytes != nil {
		facts, err := os.Stat(s.blobs.Path(blobs.Attempt(last.Ref, blobs.Log)))
		if err != nil || facts.Size() != *want.LogBytes {
			t.Errorf("log: got %v, %v, want %d bytes", facts, err, *want.LogBytes)
		}
	}
	if want.Tail != nil {
		// Of a long record the shard keeps a part; this one is whole.
		data, err := s.blobs.ReadAll(context.Background(), jobstore.ResultName(last.Ref))
		if err != nil {
			t.Fatal(err)
		}
		if whole, err := wire.DecodePlain[wire.Attempt](data, "result.json"); err != nil || whole.Tail != *want.Tail {
			t.Errorf("tail: got %q, %v, want %q", whole.Tail, err, *want.Tail)
		}
	}
	if pids := marked(last.Token); len(pids) > 0 {
		t.Errorf("processes are left: %v", pids)
	}
}

// marked lists processes with a claim's token in their environment.
func marked(token string) []string {
	var found []string
	environs, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, path := range environs {
		if data, err := os.ReadFile(path); err == nil && strings.Contains(string(data), runner.TokenVariable+"="+token) {
			found = append(found, path)
		}
	}
	return found
}

func deref(code *int) any {
	if code == nil {
		return nil
	}
	return *code
}
