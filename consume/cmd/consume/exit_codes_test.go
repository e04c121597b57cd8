//go:build linux

package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sparkles.dev/consume/internal/blobs/gcs"
	"sparkles.dev/consume/internal/image/imagetest"
	"sparkles.dev/consume/internal/wire"
	"sparkles.dev/consume/internal/worker"
)

// right is a call of `consume run` that nothing is wrong with, except that there are no services at these addresses.
func right(t *testing.T, more ...string) []string {
	t.Helper()
	return append([]string{"run", "-project", "p", "-bucket", "b", "-pool", "pool", "-id", "w-1", "-work", t.TempDir(), "-text"}, more...)
}

// Mistakes in the call end it at once, with a sentence and the code that says whether trying again helps.
func TestExitCodesOfMistakes(t *testing.T) {
	for _, each := range []struct {
		arguments []string
		code      int
		said      string
	}{
		{nil, 2, "consume run FLAGS..."},
		{[]string{"rnu"}, 2, `consume: unknown command "rnu"`},
		{right(t, "-no-such-flag"), 2, "flag provided but not defined: -no-such-flag"},
		{right(t, "-cpu", "two"), 2, `invalid value "two" for flag -cpu`},
		{right(t, "-lease", "60"), 2, `invalid value "60" for flag -lease`},
		{right(t, "and", "more"), 2, `consume run: unexpected argument "and"`},
		{[]string{"install"}, 2, "consume install: expected one folder"},
		{[]string{"image"}, 2, "consume image push REF"},
		{[]string{"image", "pull", "localhost/x"}, 2, `expected push or build, found "pull"`},
		{[]string{"image", "push"}, 2, "consume image push: expected one REF after the flags, found 0 arguments"},
		{[]string{"image", "build", "localhost/x", "-o", "y"}, 2, "consume image build: expected one REF after the flags, found 3 arguments"},
		{[]string{"image", "push", "consume:1"}, 2, `consume image push: "consume:1": expected REGISTRY/REPOSITORY[:TAG]`},

		{[]string{"run"}, 78, "consume run: needs -bucket (or SPARKLES_BUCKET), -id (or SPARKLES_ID), -pool"},
		{right(t, "-project", ""), 78, "consume run: needs -project (or SPARKLES_PROJECT)\n"},
		{right(t, "-id", "../w"), 78, `-id: expected letters, digits, '.', '_' and '-', found "../w"`},
		{right(t, "-cpu", "-1"), 78, "-cpu: expected a number of cores above 0, or 0 for this machine's, found -1"},
		{right(t, "-cpu", "NaN"), 78, "found NaN"},
		{right(t, "-memory", "-5"), 78, "-memory: expected bytes above 0"},
		{right(t, "-lease", "0s"), 78, "-lease: expected 100ms or more, found 0s"},
		{right(t, "-beat", "-1s"), 78, "-beat: expected 0s (a sixth of the lease) or more, found -1s"},
		{right(t, "-look", "0s"), 78, "-look: expected more than 0s"},
		{right(t, "-linger", "-1s"), 78, "-linger: expected 0s"},
		{right(t, "-grace", "-1s"), 78, "-grace: expected 0s or more"},
		{[]string{"install", "/nowhere/at/all"}, 78, "consume install: open /nowhere/at/all/consume.part: no such file or directory"},
		{[]string{"image", "build", "-o", "/nowhere/x.tar", "localhost/x"}, 78, "consume image build: open /nowhere/x.tar.part: no such file or directory"},

		{[]string{"run", "-h"}, 0, "-until-empty"},
		{[]string{"help"}, 0, "consume install FOLDER"},
		{[]string{"image", "--help"}, 0, "consume image build [-o FILE] REF"},
		{[]string{"image", "push", "-h"}, 0, "consume image build [-o FILE] REF"},
	} {
		code, said := consume(t, nil, each.arguments...)
		if code != each.code || !strings.Contains(said, each.said) {
			t.Errorf("%q: expected exit code %d and %q, found %d and:\n%s", each.arguments, each.code, each.said, code, said)
		}
		if strings.Contains(said, "goroutine") {
			t.Errorf("%q: it shows a stack:\n%s", each.arguments, said)
		}
	}
}

// A value comes from the flag, else from the variable.
func TestVariables(t *testing.T) {
	for _, name := range []string{"PROJECT", "BUCKET", "POOL", "ID", "WORK"} {
		environ := []string{"SPARKLES_PROJECT=p", "SPARKLES_BUCKET=b", "SPARKLES_POOL=x", "SPARKLES_ID=w-1", "SPARKLES_WORK=/nowhere", "SPARKLES_" + name + "="}
		code, said := consume(t, environ, "run")
		if expected := fmt.Sprintf("consume run: needs -%s (or SPARKLES_%s)\n", strings.ToLower(name), name); code != 78 || said != expected {
			t.Errorf("%s: found %d, %s", name, code, said)
		}
		code, said = consume(t, environ, "run", "-"+strings.ToLower(name), "../x", "-cpu", "-1")
		if code != 78 || strings.Contains(said, "needs") {
			t.Errorf("%s: found %d, %s", name, code, said)
		}
	}
}

// begin starts a worker whose services are not there: it tries for minutes.
func begin(t *testing.T) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	command := exec.Command(program(t, "consume"), right(t)...)
	command.Env = []string{"DATASTORE_EMULATOR_HOST=127.0.0.1:1", "STORAGE_EMULATOR_HOST=http://127.0.0.1:1", "PUBSUB_EMULATOR_HOST=127.0.0.1:1"}
	var said bytes.Buffer
	command.Stdout, command.Stderr = &said, &said
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = command.Process.Kill() })
	return command, &said
}

// child waits for the worker itself, which the process that was started looks after.
func child(t *testing.T, parent int) int {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		paths, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", parent))
		for _, path := range paths {
			data, _ := os.ReadFile(path)
			var pid int
			if _, err := fmt.Sscan(string(data), &pid); err == nil {
				// It is the worker once it has run far enough to have its own idea of signals.
				if threads, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid)); len(threads) > 3 {
					return pid
				}
			}
		}
	}
	t.Fatal("there is no worker")
	return 0
}

// How a worker that is ended from outside is seen by whoever started it.
func TestExitCodesOfSignals(t *testing.T) {
	for _, each := range []struct {
		what   string
		signal syscall.Signal
		worker bool // sent to the worker itself; else to the process that was started, which forwards it
		code   int
		said   string
	}{
		{"told to leave", syscall.SIGTERM, false, 143, ""},
		{"killed", syscall.SIGKILL, true, 137, ""},
		// Go ends by SIGQUIT as by a panic: stacks, and exit code 2.
		{"a bug", syscall.SIGQUIT, false, 70, "goroutine 1"},
	} {
		command, said := begin(t)
		pid := child(t, command.Process.Pid)
		if !each.worker {
			pid = command.Process.Pid
		}
		if err := syscall.Kill(pid, each.signal); err != nil {
			t.Fatal(err)
		}
		_ = command.Wait()
		if code := command.ProcessState.ExitCode(); code != each.code || !strings.Contains(said.String(), each.said) {
			t.Errorf("%s: expected exit code %d, found %d:\n%s", each.what, each.code, code, said)
		}
	}
}

// The exit code of a push that failed says whether trying again helps.
func TestExitCodesOfPush(t *testing.T) {
	nobody := imagetest.FreeAddress(t, "127.0.0.1")
	if code, said := consume(t, nil, "image", "push", nobody+"/consume"); code != 75 || said != "consume image push: no registry answers at "+nobody+" (connection refused)\n" {
		t.Errorf("no registry: exit code %d: %s", code, said)
	}
	closed := imagetest.Start(t, imagetest.Kind{Closed: true})
	if code, said := consume(t, nil, "image", "push", closed+"/consume"); code != 78 || !strings.Contains(said, "log in: docker login "+closed) {
		t.Errorf("nobody logged in: exit code %d: %s", code, said)
	}
}

// What the end of a worker means for whoever started it: 78 where somebody has to change something, 75 where time may.
func TestExitCodesOfErrors(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	for err, expected := range map[error]int{
		status.Error(codes.Unavailable, "no connection"): 75,
		status.Error(codes.ResourceExhausted, "quota"):   75,
		worker.ErrGone: 75,
		&fs.PathError{Op: "mkdir", Path: "/x", Err: syscall.ENOSPC}: 75,
		&fs.PathError{Op: "mkdir", Path: "/x", Err: syscall.EACCES}: 78,
		status.Error(codes.NotFound, "no database"):                 78,
		status.Error(codes.PermissionDenied, "no"):                  78,
		status.Error(codes.Unauthenticated, "no login"):             78,
		// As gRPC says it where the login's own service refuses, or is away.
		status.Error(codes.Unauthenticated, "transport: per-RPC creds failed due to error: auth: cannot fetch token: 400\nResponse: {}"): 78,
		status.Error(codes.Unauthenticated, "transport: per-RPC creds failed due to error: auth: cannot fetch token: 503\nResponse: {}"): 75,
		status.Error(codes.FailedPrecondition, "The Cloud Datastore API is not available for Firestore in Native Mode database x."):      78,
		status.Error(codes.FailedPrecondition, "something else"):                                                                         75,
		&gcs.Refused{}:       78,
		&wire.SchemaTooNew{}: 78,
		&wire.Damaged{}:      78,
	} {
		if code := fail(log, fmt.Errorf("claim: %w", err)); code != expected {
			t.Errorf("%v: expected %d, found %d", err, expected, code)
		}
	}
}
