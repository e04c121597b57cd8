package runner_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"sparkles.dev/consume/internal/runner"
	"sparkles.dev/consume/internal/runner/cgrouptest"
)

const (
	limit  = 256 << 20
	hungry = "exec python3 -c \"import time; x = str(1) * (400 << 20); time.sleep(30)\""
)

func shell(t *testing.T, script string) runner.Launch {
	t.Helper()
	folder := t.TempDir()
	log, err := os.Create(filepath.Join(folder, "output.log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	token := fmt.Sprintf("token-%d", time.Now().UnixNano())
	env := []string{"PATH=" + os.Getenv("PATH"), runner.TokenVariable + "=" + token}
	return runner.Launch{Argv: []string{"/bin/sh", "-c", script}, Env: env, Dir: folder, Log: log, Token: token}
}

// TestTheKernelsKillsAreToldApart has the kernel kill where a control group can be made (as root, with the memory controller's file system
// writable); elsewhere what is left is that nothing else counts as the kernel's. Memory is looked at every minute, so that all is its doing.
func TestTheKernelsKillsAreToldApart(t *testing.T) {
	limited := cgrouptest.Limit(t, limit)
	r := runner.New(time.Second, time.Minute)
	defer r.Close()
	run := func(script string) runner.Ended {
		ended, err := r.Run(context.Background(), shell(t, script))
		if err != nil {
			t.Fatal(err)
		}
		return ended
	}
	byKernel := map[string]string{
		"a child, whose shell says so":                               "sh -c '" + hungry + "'; exit $?",
		"a child that left the group, and a failure of another kind": "setsid -w sh -c '" + hungry + "' || exit 1",
	}
	byOthers := map[string]string{"a kill by somebody else": "kill -KILL $$", "a plain failure": "exit 1"}
	if limited {
		byOthers["a child is lost, and the program goes well all the same"] = "(" + hungry + ") & wait $! || true"
	} else {
		t.Log("no control group can be made here: the kernel is not made to kill")
		clear(byKernel)
	}
	for name, script := range byKernel {
		ended := run(script)
		if ended.Cause != runner.KernelOOM || ended.LimitBytes != limit {
			t.Errorf("%s: got cause %q, limit %d: %+v", name, ended.Cause, ended.LimitBytes, ended)
		}
		if ended.PeakMemoryBytes == nil {
			t.Errorf("%s: no peak", name)
		} else if *ended.PeakMemoryBytes < limit/2 || *ended.PeakMemoryBytes > limit+limit/4 { // shared pages are not all its group's
			t.Errorf("%s: peak: got %v", name, *ended.PeakMemoryBytes)
		}
	}
	for name, script := range byOthers {
		if ended := run(script); ended.Cause != runner.Self || ended.LimitBytes != 0 {
			t.Errorf("%s: got %+v", name, ended)
		}
	}
	if !limited {
		return
	}

	// Beside another program: what was killed was the greedy one, and the other, which fails by itself, is not excused.
	var both sync.WaitGroup
	var other runner.Ended
	both.Go(func() { other = run("sleep 3; exit 1") })
	time.Sleep(100 * time.Millisecond)
	if ended := run(hungry); ended.Cause != runner.KernelOOM {
		t.Errorf("the greedy one: got %+v", ended)
	}
	both.Wait()
	if other.Cause != runner.Self {
		t.Errorf("the other: got %+v", other)
	}
}
