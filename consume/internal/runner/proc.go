package runner

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"sparkles.dev/consume/internal/wire"
)

// execWait is how long to wait for a process that is in the middle of an exec; the kernel may have to read the program from a disk.
const execWait = 500 * time.Millisecond

type usage struct {
	memory int64
	cpu    float64
}

const clockTick = 100 // sysconf(_SC_CLK_TCK): 100 on every Linux port that Go runs on

// groupUsage gives resident memory and CPU seconds (children that were waited for included) of process groups, by one scan for all.
func groupUsage[V any](groups map[int]V) map[int]usage {
	found := map[int]usage{}
	page := int64(os.Getpagesize())
	for _, pid := range pids() {
		fields := stat(pid)
		if len(fields) < 22 || fields[0] == "Z" || fields[0] == "X" {
			continue
		}
		group, _ := strconv.Atoi(fields[2])
		if _, wanted := groups[group]; !wanted {
			continue
		}
		used := found[group]
		pages, _ := strconv.ParseInt(fields[21], 10, 64)
		used.memory += pages * page
		for _, field := range fields[11:15] {
			ticks, _ := strconv.ParseInt(field, 10, 64)
			used.cpu += float64(ticks) / clockTick
		}
		found[group] = used
	}
	return found
}

// groupShare gives resident memory of a process group, what its processes have in common counted once; false where the system does not say.
// Reading it takes the kernel about 1 ms for each gigabyte, so it is for what groupUsage finds too much.
func groupShare(group int) (int64, bool) {
	var total int64
	for _, pid := range pids() {
		fields := stat(pid)
		if len(fields) < 22 || fields[0] == "Z" || fields[0] == "X" || fields[2] != strconv.Itoa(group) {
			continue
		}
		share, found := counter(fmt.Sprintf("/proc/%d/smaps_rollup", pid), "Pss:")
		if fields = stat(pid); !found && len(fields) > 21 && fields[21] != "0" {
			return 0, false // it has memory, which may not be looked at: what is ending has none
		}
		total += share * 1024
	}
	return total, true
}

func pids() []int {
	names, err := readNames("/proc")
	if err != nil {
		return nil
	}
	var found []int
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			found = append(found, pid)
		}
	}
	return found
}

func readNames(folder string) ([]string, error) {
	file, err := os.Open(folder)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return file.Readdirnames(-1)
}

// stat gives the fields of /proc/PID/stat from the third on (state is 0, ppid 1, pgrp 2; proc_pid_stat(5)); nil where the process is gone.
// The second, the program's name, may hold spaces and brackets: all is counted from its last bracket.
func stat(pid int) []string {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	at := bytes.LastIndexByte(data, ')')
	return strings.Fields(string(data[at+1:]))
}

// children lists this process's children, zombies included.
func children() []int {
	threads, err := filepath.Glob("/proc/self/task/*/children")
	if err == nil && len(threads) > 0 {
		var found []int
		for _, path := range threads {
			data, err := os.ReadFile(path)
			if err != nil {
				continue
			}
			for _, field := range strings.Fields(string(data)) {
				if pid, err := strconv.Atoi(field); err == nil {
					found = append(found, pid)
				}
			}
		}
		return found
	}
	// Kernels without CONFIG_PROC_CHILDREN have no such file.
	own := strconv.Itoa(os.Getpid())
	var found []int
	for _, pid := range pids() {
		if fields := stat(pid); len(fields) > 1 && fields[1] == own {
			found = append(found, pid)
		}
	}
	return found
}

// tokenOf gives the claim token in a process's environment, or "". While one program takes the place of another the kernel shows no environment:
// proc_pid_stat(5) says 0 for where it ends, or that it ends where it begins, as it does of a program that was given none. What waits for
// something is none of the first; the others are looked at again.
func tokenOf(pid int) string {
	for deadline := time.Now().Add(execWait); ; time.Sleep(time.Millisecond) {
		environ, err := environment(pid)
		if err != nil {
			return ""
		}
		if len(environ) > 0 {
			return valueIn(environ, TokenVariable)
		}
		fields := stat(pid)
		if len(fields) < 49 || fields[0] == "Z" || fields[0] == "X" || time.Now().After(deadline) {
			return ""
		}
		if begin, end := fields[47], fields[48]; begin == end && end != "0" && strings.Contains("STt", fields[0]) {
			return ""
		}
	}
}

// environment gives what one read shows of a process's environment: two may be of two programs, or the second of none.
func environment(pid int) ([]byte, error) {
	for size := 1 << 16; ; size *= 8 {
		file, err := os.Open(fmt.Sprintf("/proc/%d/environ", pid))
		if err != nil {
			return nil, err
		}
		data := make([]byte, size)
		count, err := file.Read(data)
		file.Close()
		if count < size {
			if errors.Is(err, io.EOF) || errors.Is(err, syscall.EIO) {
				err = nil
			}
			return data[:count], err
		}
	}
}

// valueIn gives a variable's value in NAME=value entries that end with a zero byte each; "" where there is none.
func valueIn(environ []byte, name string) string {
	_, rest, found := bytes.Cut(append([]byte{0}, environ...), []byte("\x00"+name+"="))
	if !found {
		return ""
	}
	value, _, _ := bytes.Cut(rest, []byte{0})
	return string(value)
}

// ownPeak is this process's greatest resident memory, in kilobytes.
func ownPeak() int64 {
	var used syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &used) != nil {
		return 0
	}
	return used.Maxrss
}

// oomKills counts processes that the kernel ended for want of memory: in this process's own group where that says so, else on the machine.
func (r *Runner) oomKills() int64 {
	if r.group != nil {
		if count, found := r.group.OOMKills(); found {
			return count
		}
	}
	count, _ := counter("/proc/vmstat", "oom_kill")
	return count
}

// counter reads the number after a name in a file of such lines; kB after it is left to the caller.
func counter(path, name string) (int64, bool) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, false
	}
	for line := range strings.SplitSeq(string(data), "\n") {
		if rest, found := strings.CutPrefix(line, name+" "); found {
			count, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return count, err == nil
		}
	}
	return 0, false
}

// ThisProcess is this process as it can be recognised for certain (sparkles/backends/local/process.py): pid, start time, boot.
func ThisProcess(host string) wire.ProcessID {
	process := wire.ProcessID{Host: host, PID: os.Getpid()}
	if data, err := os.ReadFile("/proc/sys/kernel/random/boot_id"); err == nil {
		process.BootID = strings.TrimSpace(string(data))
	}
	if fields := stat(process.PID); len(fields) > 19 {
		process.Ticks, _ = strconv.ParseInt(fields[19], 10, 64)
	}
	if booted, found := counter("/proc/stat", "btime"); found {
		process.Started = float64(booted) + float64(process.Ticks)/clockTick
	}
	return process
}
