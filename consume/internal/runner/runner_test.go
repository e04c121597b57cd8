package runner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func launch(t *testing.T, argv ...string) Launch {
	t.Helper()
	folder := t.TempDir()
	log, err := os.OpenFile(filepath.Join(folder, "output.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o666)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	token := fmt.Sprintf("token-%d", time.Now().UnixNano())
	env := []string{"PATH=" + os.Getenv("PATH"), TokenVariable + "=" + token}
	return Launch{Argv: argv, Env: env, Dir: folder, Log: log, Token: token}
}

func run(t *testing.T, l Launch) (Ended, error) {
	t.Helper()
	r := New(200*time.Millisecond, 20*time.Millisecond)
	defer r.Close()
	return r.Run(context.Background(), l)
}

func logOf(t *testing.T, l Launch) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(l.Dir, "output.log"))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestExitCodesAndSignals(t *testing.T) {
	for script, want := range map[string]struct{ code, signal int }{"exit 0": {0, 0}, "exit 3": {3, 0}, "kill -SEGV $$": {-1, 11}} {
		ended, err := run(t, launch(t, "/bin/sh", "-c", script))
		if err != nil {
			t.Fatal(err)
		}
		if want.code >= 0 && (ended.ExitCode == nil || *ended.ExitCode != want.code) || ended.Signal != want.signal {
			t.Errorf("%s: got %v and signal %d", script, ended.ExitCode, ended.Signal)
		}
	}
}

func TestBothStreamsGoToOneFileInOrder(t *testing.T) {
	l := launch(t, "/bin/sh", "-c", "echo a; echo b >&2; echo c; cat")
	if _, err := run(t, l); err != nil {
		t.Fatal(err)
	}
	if got := logOf(t, l); got != "a\nb\nc\n" {
		t.Errorf("got %q", got)
	}
}

func TestWhatCannotBeStarted(t *testing.T) {
	for name, want := range map[string]StartError{
		"no-such-program":  {127, "no-such-program was not found in PATH"},
		"./no-such-file":   {127, "./no-such-file was not found"},
		"/etc/passwd":      {126, "/etc/passwd could not be executed: Permission denied"},
		"./bad-interprete": {127, "./bad-interprete could not be started: the interpreter that its first line names does not exist"},
	} {
		l := launch(t, name)
		if err := os.WriteFile(filepath.Join(l.Dir, "bad-interprete"), []byte("#!/no/such\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		_, err := run(t, l)
		var failed *StartError
		if !errors.As(err, &failed) || *failed != want {
			t.Errorf("%s: got %v, want %v", name, err, want)
		}
	}
}

func TestTimeout(t *testing.T) {
	for script, signal := range map[string]int{"sleep 30": 15, "trap '' TERM; sleep 30; sleep 30": 9} {
		l := launch(t, "/bin/sh", "-c", script)
		l.Timeout = 100 * time.Millisecond
		ended, err := run(t, l)
		if err != nil || ended.Cause != Timeout || ended.Signal != signal {
			t.Errorf("%s: got %+v, %v", script, ended, err)
		}
		if ended.Seconds > 5 {
			t.Errorf("%s: took %g s", script, ended.Seconds)
		}
	}
}

func TestMemoryAboveTheRequest(t *testing.T) {
	l := launch(t, "/bin/sh", "-c", "{ head -c 300000000 /dev/zero; sleep 30; } | tail -n 1")
	l.MemoryBytes = 64 << 20
	ended, err := run(t, l)
	if err != nil || ended.Cause != Memory || ended.Signal != 9 {
		t.Fatalf("got %+v, %v", ended, err)
	}
	if ended.PeakMemoryBytes == nil || *ended.PeakMemoryBytes < 64<<20 {
		t.Errorf("peak: got %v", ended.PeakMemoryBytes)
	}
}

func TestCancelledProgramsEnd(t *testing.T) {
	r := New(time.Second, time.Second)
	defer r.Close()
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(100*time.Millisecond, cancel)
	ended, err := r.Run(ctx, launch(t, "sleep", "30"))
	if err != nil || ended.Cause != Asked || ended.Signal != 15 {
		t.Errorf("got %+v, %v", ended, err)
	}
}

func TestNothingIsLeftBehind(t *testing.T) {
	// A child in the group, one that called setsid, and one that holds the log open: all are gone when Run returns, and it does not wait for them.
	l := launch(t, "/bin/sh", "-c", "sleep 60 & echo $! > a; setsid sleep 60 & echo $! > b; setsid sh -c 'setsid sleep 60 & echo $! > c; wait' & sleep 0.3")
	started := time.Now()
	if _, err := run(t, l); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(started); took > 5*time.Second {
		t.Errorf("took %v", took)
	}
	for _, name := range []string{"a", "b", "c"} {
		data, err := os.ReadFile(filepath.Join(l.Dir, name))
		if err != nil {
			t.Fatal(err)
		}
		var pid int
		if _, err := fmt.Sscan(strings.TrimSpace(string(data)), &pid); err != nil {
			t.Fatal(err)
		}
		if syscall.Kill(pid, 0) == nil {
			t.Errorf("%s: process %d is left", name, pid)
		}
	}
}

// A look at a process between two programs says whose it is all the same: what it misses would be left behind.
func TestTheTokenOfAProcessThatIsStartingAnother(t *testing.T) {
	l := launch(t, "/bin/sh", "again")
	if err := os.WriteFile(filepath.Join(l.Dir, "again"), []byte("exec /bin/sh again\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	r := New(time.Second, time.Second)
	defer r.Close()
	p, err := r.start(l)
	if err != nil {
		t.Fatal(err)
	}
	for range 5000 {
		if got := tokenOf(p.pid); got != l.Token {
			t.Errorf("got %q", got)
			break
		}
	}
	r.terminate(p, Asked)
	r.wait(p)
}

func TestOnlyTheOwnDescendantsAreSwept(t *testing.T) {
	r := New(time.Second, time.Second)
	defer r.Close()
	other := launch(t, "/bin/sh", "-c", "setsid sleep 1 & wait $!; echo whole")
	result := make(chan Ended, 1)
	go func() {
		ended, _ := r.Run(context.Background(), other)
		result <- ended
	}()
	time.Sleep(200 * time.Millisecond)
	for range 20 {
		if _, err := r.Run(context.Background(), launch(t, "true")); err != nil {
			t.Fatal(err)
		}
	}
	if ended := <-result; ended.ExitCode == nil || *ended.ExitCode != 0 || logOf(t, other) != "whole\n" {
		t.Errorf("the other program was disturbed: %+v, log %q", ended, logOf(t, other))
	}
}

func TestAPlainKillIsNoLackOfMemory(t *testing.T) {
	ended, err := run(t, launch(t, "/bin/sh", "-c", "kill -KILL $$"))
	if err != nil || ended.Cause != Self || ended.Signal != 9 {
		t.Errorf("got %+v, %v", ended, err)
	}
}

// A program that runs for long does not fill the table of processes with what it left to this one and has ended since.
func TestOrphansThatEndedAreReapedWhileTheProgramRuns(t *testing.T) {
	l := launch(t, "/bin/sh", "-c", "for i in 1 2 3 4 5 6 7 8; do (sleep 0.1 & exec true); done; sleep 0.3; echo ready; exec sleep 100")
	r := New(200*time.Millisecond, 20*time.Millisecond)
	defer r.Close()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = r.Run(ctx, l)
	}()
	for logOf(t, l) == "" {
		time.Sleep(10 * time.Millisecond)
	}
	zombies := func() (count int) {
		for _, pid := range children() {
			if fields := stat(pid); len(fields) > 0 && fields[0] == "Z" {
				count++
			}
		}
		return count
	}
	deadline := time.Now().Add(10 * time.Second)
	for zombies() > 0 && time.Now().Before(deadline) {
		time.Sleep(10 * time.Millisecond)
	}
	if left := zombies(); left > 0 {
		t.Errorf("%d ended processes are not waited for", left)
	}
	cancel()
	<-done
}
