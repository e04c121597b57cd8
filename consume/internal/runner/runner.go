// Package runner starts programs in process groups of their own, with limits, and says how they ended. It is the twin of
// sparkles/backends/local/runner.py.
//
// The order at a program's end matters: first its group is killed while the leader is still a zombie, so that the group's number cannot
// mean another group by now; only then is the leader waited for. A descendant that called setsid is in no group of ours: this process is
// a subreaper, so it becomes our child when its parent ends, and its environment tells whose it was.
package runner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Cause is why a program ended, where it did not end by itself.
type Cause string

// The causes.
const (
	Self      Cause = ""
	Timeout   Cause = "timeout"
	Memory    Cause = "memory"
	KernelOOM Cause = "kernel_oom"
	Asked     Cause = "asked"
)

// TokenVariable is in every task's environment; by it what left a program's group is found.
const TokenVariable = "SPARKLES_TOKEN"

const leftWait = 5 * time.Second

// Launch is a program to start. Env holds NAME=value entries, no name twice, and Token as SPARKLES_TOKEN. Log gets stdout and stderr and
// stays the caller's. Timeout and MemoryBytes are limits; 0: none.
type Launch struct {
	Argv        []string
	Env         []string
	Dir         string
	Log         *os.File
	Token       string
	Timeout     time.Duration
	MemoryBytes int64
}

// Ended is how a program ended. ExitCode is nil where Signal ended it; PeakMemoryBytes is nil where it ended too soon to be measured.
// LimitBytes is what the control group of this process may use, where Cause is KernelOOM; 0: no limit, so that the machine's memory ran out.
type Ended struct {
	ExitCode        *int
	Signal          int
	Cause           Cause
	Seconds         float64
	CPUS            float64
	PeakMemoryBytes *int64
	LimitBytes      int64
}

// Runner runs programs; it is safe for use by many goroutines.
type Runner struct {
	grace, sample time.Duration
	group         *Cgroup

	mu       sync.Mutex // held while a child is made or looked for, so that no look takes the end of one that is not known yet
	programs map[int]*program
	stop     chan struct{}
	done     chan struct{}
}

type program struct {
	pid         int
	token       string
	started     time.Time
	memoryLimit int64
	ooms        int64
	shared      bool // others ran at the same time; under the runner's lock

	mu     sync.Mutex
	cause  Cause
	peak   int64
	cpu    float64
	ended  bool
	killAt *time.Timer
}

// New makes this process a subreaper. grace is between SIGTERM and SIGKILL; sample is how often memory is looked at.
func New(grace, sample time.Duration) *Runner {
	_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
	r := &Runner{grace: grace, sample: sample, group: OwnCgroup(), programs: map[int]*program{}, stop: make(chan struct{}), done: make(chan struct{})}
	go r.watch()
	return r
}

// Close ends the looking after memory; programs must have ended.
func (r *Runner) Close() {
	close(r.stop)
	<-r.done
}

// Run starts a program and waits for its end; its group is gone then, and so is what it left behind elsewhere. When ctx is over the program is
// asked to end, and after the grace ended. The error is a *StartError.
func (r *Runner) Run(ctx context.Context, launch Launch) (Ended, error) {
	p, err := r.start(launch)
	if err != nil {
		return Ended{}, err
	}
	finished := make(chan struct{})
	go func() {
		var limit <-chan time.Time
		if launch.Timeout > 0 {
			timer := time.NewTimer(launch.Timeout)
			defer timer.Stop()
			limit = timer.C
		}
		select {
		case <-finished:
		case <-ctx.Done():
			r.terminate(p, Asked)
		case <-limit:
			r.terminate(p, Timeout)
		}
	}()
	ended := r.wait(p)
	close(finished)
	r.sweep(p.token)
	return ended, nil
}

func (r *Runner) start(launch Launch) (*program, error) {
	if len(launch.Argv) == 0 {
		return nil, &StartError{Code: 126, Reason: "the command cannot be executed: it is empty"}
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, &StartError{Reason: fmt.Sprintf("the program could not be started: %v", err)}
	}
	defer null.Close()
	attr := &syscall.ProcAttr{
		Dir:   launch.Dir,
		Env:   launch.Env,
		Files: []uintptr{null.Fd(), launch.Log.Fd(), launch.Log.Fd()},
		Sys:   &syscall.SysProcAttr{Setpgid: true},
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var failed error = syscall.ENOENT
	for _, path := range candidates(launch) {
		pid, err := syscall.ForkExec(path, launch.Argv, attr)
		if err == nil {
			p := &program{pid: pid, token: launch.Token, started: time.Now(), memoryLimit: launch.MemoryBytes, ooms: r.oomKills(), shared: len(r.programs) > 0}
			for _, other := range r.programs {
				other.shared = true
			}
			r.programs[pid] = p
			return p, nil
		}
		// As execvpe: a file that may not be executed is remembered, and the next folder is tried.
		if !errors.Is(err, syscall.ENOENT) && !errors.Is(err, syscall.ENOTDIR) {
			failed = err
			if !errors.Is(err, syscall.EACCES) {
				break
			}
		}
	}
	return nil, startError(launch, failed)
}

func (r *Runner) wait(p *program) Ended {
	for {
		var info unix.Siginfo
		err := unix.Waitid(unix.P_PID, p.pid, &info, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	killGroup(p.pid, syscall.SIGKILL)
	var status syscall.WaitStatus
	var usage syscall.Rusage
	r.mu.Lock()
	for {
		if _, err := syscall.Wait4(p.pid, &status, 0, &usage); !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	delete(r.programs, p.pid)
	alone := !p.shared
	r.mu.Unlock()

	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	if p.killAt != nil {
		p.killAt.Stop()
	}
	ended := Ended{Cause: p.cause, Seconds: time.Since(p.started).Seconds()}
	ended.CPUS = max(p.cpu, seconds(usage.Utime)+seconds(usage.Stime))
	peak := p.peak
	if usage.Maxrss > ownPeak() {
		// Until it calls exec a child has this process's memory: a lesser number says nothing about the program.
		peak = max(peak, usage.Maxrss*1024)
	}
	if peak > 0 {
		ended.PeakMemoryBytes = &peak
	}
	failed, killed := true, false
	if status.Signaled() {
		ended.Signal = int(status.Signal())
		killed = status.Signal() == syscall.SIGKILL
	} else {
		code := status.ExitStatus()
		ended.ExitCode = &code
		failed, killed = code != 0, code == 128+int(syscall.SIGKILL)
	}
	// A process that the kernel ended need not be the program itself: that may then fail in its own way. Which program's it was is known where
	// none ran beside it.
	if ended.Cause == Self && (killed || failed && alone) && r.oomKills() > p.ooms {
		ended.Cause = KernelOOM
		r.blame(&ended, alone)
	}
	return ended
}

// blame adds what the control group knows. Its peak counts the page cache as well, of which the kernel has given up what it could before it
// ends a process: only then does it say what a program needs.
func (r *Runner) blame(ended *Ended, alone bool) {
	if r.group == nil {
		return
	}
	ended.LimitBytes = r.group.Limit()
	if used := r.group.Peak() - max(0, r.group.current()); ended.LimitBytes > 0 && alone && used > 0 {
		if ended.PeakMemoryBytes == nil || used > *ended.PeakMemoryBytes {
			ended.PeakMemoryBytes = &used
		}
	}
}

func seconds(t syscall.Timeval) float64 { return float64(t.Sec) + float64(t.Usec)/1e6 }

// terminate sends SIGTERM (and SIGCONT for the stopped), and SIGKILL after the grace.
func (r *Runner) terminate(p *program, cause Cause) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended || p.cause != Self {
		return
	}
	p.cause = cause
	killGroup(p.pid, syscall.SIGTERM)
	killGroup(p.pid, syscall.SIGCONT)
	p.killAt = time.AfterFunc(r.grace, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if !p.ended {
			killGroup(p.pid, syscall.SIGKILL)
		}
	})
}

// watch looks at the memory of programs that have run for a while; one above its request is ended at once: the machine's memory is not its
// own.
func (r *Runner) watch() {
	defer close(r.done)
	ticker := time.NewTicker(r.sample)
	defer ticker.Stop()
	for {
		select {
		case <-r.stop:
			return
		case <-ticker.C:
			r.look()
			r.reap()
		}
	}
}

func (r *Runner) look() {
	r.mu.Lock()
	running := map[int]*program{}
	for pid, p := range r.programs {
		if time.Since(p.started) >= r.sample/2 {
			running[pid] = p
		}
	}
	r.mu.Unlock()
	if len(running) == 0 {
		return
	}
	for pid, used := range groupUsage(running) {
		p := running[pid]
		// A program that forks has one copy of what its processes share, and each of them is said to have all of it. They are looked at one
		// after the other: one look while they come and go finds too much.
		for look := 0; look < 2 && p.memoryLimit > 0 && used.memory > p.memoryLimit; look++ {
			if share, found := groupShare(pid); found {
				used.memory = min(used.memory, share)
			}
		}
		p.mu.Lock()
		p.peak = max(p.peak, used.memory)
		p.cpu = max(p.cpu, used.cpu)
		if p.memoryLimit > 0 && used.memory > p.memoryLimit && p.cause == Self && !p.ended {
			p.cause = Memory
			killGroup(pid, syscall.SIGKILL)
		}
		p.mu.Unlock()
	}
}

// reap waits for what running programs left behind and has ended by itself: a program that runs for days may leave more than there can be
// processes. What is in this process's own group was started by a library, which waits for it.
func (r *Runner) reap() {
	r.mu.Lock()
	defer r.mu.Unlock()
	own := strconv.Itoa(syscall.Getpgrp())
	for _, pid := range children() {
		if _, ours := r.programs[pid]; ours {
			continue
		}
		if fields := stat(pid); len(fields) > 2 && fields[0] == "Z" && fields[2] != own {
			_, _ = syscall.Wait4(pid, nil, syscall.WNOHANG, nil)
		}
	}
}

// sweep ends what the program of this token left behind outside its group; on return it is gone, or has outlived SIGKILL for 5 s.
func (r *Runner) sweep(token string) {
	deadline := time.Now().Add(leftWait)
	pause := 500 * time.Microsecond
	for {
		left := r.leftBehind(token)
		if len(left) == 0 || time.Now().After(deadline) {
			return
		}
		for _, pid := range left {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		// What a killed one had started becomes our child when it is gone: the next look finds it.
		time.Sleep(pause)
		pause = min(2*pause, 50*time.Millisecond)
	}
}

// leftBehind lists living children that are no program of ours and belong to the token; ended ones are waited for on the way.
func (r *Runner) leftBehind(token string) []int {
	r.mu.Lock()
	defer r.mu.Unlock()
	var left []int
	for _, pid := range children() {
		if _, ours := r.programs[pid]; ours {
			continue
		}
		if done, _ := syscall.Wait4(pid, nil, syscall.WNOHANG, nil); done == pid {
			continue
		}
		if tokenOf(pid) == token {
			left = append(left, pid)
		}
	}
	return left
}

func killGroup(pgid int, number syscall.Signal) { _ = syscall.Kill(-pgid, number) }
