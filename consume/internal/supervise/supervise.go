// Package supervise runs this program again as a child and looks after everything that descends from it: it is PID 1 in a container.
//
// It reaps whatever becomes its child, forwards signals, and when the child ends, however it ends, ends every process that is left before it
// leaves itself with the child's status. The child learns by a pipe when its supervisor is gone. Surprise: it is a process of its own because a
// worker that is killed cannot end its programs.
package supervise

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	variable = "SPARKLES_SUPERVISED"
	// pipeFD is the first descriptor after the standard ones.
	pipeFD   = 3
	killWait = 10 * time.Second
)

// Supervised tells whether this process is the child of Run.
func Supervised() bool { return os.Getenv(variable) == strconv.Itoa(os.Getppid()) }

// WaitForSupervisor returns when the supervisor of this process is gone; never where there is none.
func WaitForSupervisor() {
	if !Supervised() {
		select {}
	}
	_, _ = io.Copy(io.Discard, os.NewFile(pipeFD, "supervisor"))
}

// Run starts this program again with args and returns its exit code: 128 + signal where a signal ended it.
func Run(args []string) int {
	_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
	signals := make(chan os.Signal, 64)
	signal.Notify(signals)
	// The Go runtime sends itself SIGURG.
	signal.Reset(syscall.SIGURG, syscall.SIGCHLD, syscall.SIGPIPE, syscall.SIGTTIN, syscall.SIGTTOU)
	child, keep, err := start(args)
	if err != nil {
		fmt.Fprintf(os.Stderr, "consume: cannot run itself: %v\n", err)
		return 70
	}
	defer keep.Close()
	go func() {
		for each := range signals {
			if number, ok := each.(syscall.Signal); ok {
				_ = syscall.Kill(child, number)
			}
		}
	}()
	code := wait(child)
	endAll()
	return code
}

// start gives the child's pid and the end of the pipe that tells it of this process's end.
func start(args []string) (int, *os.File, error) {
	own, err := os.Executable()
	if err != nil {
		return 0, nil, err
	}
	reader, writer, err := os.Pipe()
	if err != nil {
		return 0, nil, err
	}
	defer reader.Close()
	pid, err := syscall.ForkExec(own, append([]string{os.Args[0]}, args...), &syscall.ProcAttr{
		Env:   append(clean(os.Environ()), fmt.Sprintf("%s=%d", variable, os.Getpid())),
		Files: []uintptr{0, 1, 2, reader.Fd()},
		// A terminal sends Ctrl-C to its whole foreground group: in this process's group the child would get it twice, once forwarded.
		Sys: &syscall.SysProcAttr{Setpgid: true},
	})
	return pid, writer, err
}

func clean(environ []string) []string {
	var kept []string
	for _, entry := range environ {
		if !strings.HasPrefix(entry, variable+"=") {
			kept = append(kept, entry)
		}
	}
	return kept
}

// wait reaps until the child has ended.
func wait(child int) int {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return 70 // no child: it was taken away
		case pid == child && status.Signaled():
			return 128 + int(status.Signal())
		case pid == child && status.Exited():
			return status.ExitStatus()
		}
	}
}

// endAll kills whatever is left; what a killed process had started becomes this one's child and is found by the next look.
func endAll() {
	for deadline := time.Now().Add(killWait); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		for _, pid := range children() {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		for {
			pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
			if errors.Is(err, syscall.ECHILD) {
				return
			}
			if err != nil || pid == 0 {
				break
			}
		}
	}
}

func children() []int {
	own := strconv.Itoa(os.Getpid())
	folder, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer folder.Close()
	names, _ := folder.Readdirnames(-1)
	var found []int
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		data, err := os.ReadFile("/proc/" + name + "/stat")
		if err != nil {
			continue
		}
		// The program's name may hold spaces and brackets: all is counted from its last bracket.
		fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
		if len(fields) > 1 && fields[1] == own {
			found = append(found, pid)
		}
	}
	return found
}
