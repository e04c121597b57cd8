package supervise

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestMain is the program that is supervised as well: it does what its first argument says.
func TestMain(m *testing.M) {
	if len(os.Args) < 2 || !strings.HasPrefix(os.Args[1], "do-") {
		os.Exit(m.Run())
	}
	if !Supervised() {
		os.Exit(Run(os.Args[1:]))
	}
	folder := os.Args[2]
	note := func(name string) {
		_ = os.WriteFile(filepath.Join(folder, name), []byte(strconv.Itoa(os.Getpid())), 0o666)
	}
	switch os.Args[1] {
	case "do-exit":
		os.Exit(7)
	case "do-signal":
		signals := make(chan os.Signal, 1)
		signal.Notify(signals, syscall.SIGTERM)
		note("ready")
		<-signals
		os.Exit(43)
	case "do-count":
		signals := make(chan os.Signal, 8)
		signal.Notify(signals, syscall.SIGINT)
		note("ready")
		<-signals
		select {
		case <-signals:
			os.Exit(2)
		case <-time.After(time.Second):
			os.Exit(1)
		}
	case "do-leave":
		// A program of its own, and one that called setsid.
		for _, line := range []string{"sleep 100 & echo $! > a; wait", "setsid sh -c 'echo $$ > b; exec sleep 100' & sleep 100"} {
			command := exec.Command("/bin/sh", "-c", line)
			command.Dir = folder
			if err := command.Start(); err != nil {
				panic(err)
			}
		}
		note("ready")
		time.Sleep(100 * time.Second)
	case "do-watch":
		note("ready")
		WaitForSupervisor()
		note("alone")
	}
	os.Exit(0)
}

func supervise(t *testing.T, what string) (*exec.Cmd, string) {
	t.Helper()
	folder := t.TempDir()
	command := exec.Command(os.Args[0], what, folder)
	command.Stderr = os.Stderr
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = command.Process.Kill() })
	return command, folder
}

// pidIn waits for a file with a pid in it.
func pidIn(t *testing.T, folder, name string) int {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		data, _ := os.ReadFile(filepath.Join(folder, name))
		if pid, err := strconv.Atoi(strings.TrimSpace(string(data))); err == nil {
			return pid
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s was not written", name)
		}
	}
}

func TestTheStatusIsTheChilds(t *testing.T) {
	command, _ := supervise(t, "do-exit")
	_ = command.Wait()
	if code := command.ProcessState.ExitCode(); code != 7 {
		t.Errorf("got exit code %d", code)
	}
}

func TestSignalsAreForwarded(t *testing.T) {
	command, folder := supervise(t, "do-signal")
	pidIn(t, folder, "ready")
	_ = command.Process.Signal(syscall.SIGTERM)
	_ = command.Wait()
	if code := command.ProcessState.ExitCode(); code != 43 {
		t.Errorf("got exit code %d", code)
	}
}

// One Ctrl-C is one: the second would end what runs.
func TestCtrlCOfATerminalArrivesOnce(t *testing.T) {
	command, folder := supervise(t, "do-count")
	pidIn(t, folder, "ready")
	// What is forwarded comes clearly after what the terminal sent: signals that are close to each other become one.
	_ = command.Process.Signal(syscall.SIGSTOP)
	if err := syscall.Kill(-command.Process.Pid, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond)
	_ = command.Process.Signal(syscall.SIGCONT)
	_ = command.Wait()
	if count := command.ProcessState.ExitCode(); count != 1 {
		t.Errorf("it arrived %d times", count)
	}
}

func TestNothingIsLeftOfAKilledChild(t *testing.T) {
	command, folder := supervise(t, "do-leave")
	child, a, b := pidIn(t, folder, "ready"), pidIn(t, folder, "a"), pidIn(t, folder, "b")
	if err := syscall.Kill(child, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = command.Wait()
	if code := command.ProcessState.ExitCode(); code != 128+9 {
		t.Errorf("got exit code %d", code)
	}
	for _, pid := range []int{child, a, b} {
		if syscall.Kill(pid, 0) == nil {
			t.Errorf("process %d is left", pid)
		}
	}
}

func TestTheChildLearnsThatItsSupervisorIsGone(t *testing.T) {
	command, folder := supervise(t, "do-watch")
	pidIn(t, folder, "ready")
	_ = command.Process.Kill()
	_ = command.Wait()
	pidIn(t, folder, "alone")
}

func TestAnInheritedVariableIsNoSupervisor(t *testing.T) {
	t.Setenv(variable, fmt.Sprint(os.Getpid()))
	if Supervised() {
		t.Error("a process whose parent did not start it so is not supervised")
	}
}
