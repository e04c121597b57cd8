// Package cgrouptest runs a test with little memory, for what happens when the kernel ends a program. It imports runner.
package cgrouptest

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"sparkles.dev/consume/internal/runner"
)

// Limit moves this process into a control group of that much memory, below its own, for the rest of the test. False: none can be made here.
func Limit(t *testing.T, size int64) bool {
	t.Helper()
	home := runner.OwnCgroup()
	if home == nil {
		return false
	}
	group := filepath.Join(home.Folder, fmt.Sprintf("sparkles-test-%d", os.Getpid()))
	if os.Mkdir(group, 0o755) != nil {
		return false
	}
	remove := func() {
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			err := os.Remove(group) // refused until what was killed in it is gone
			if err == nil {
				return
			}
			if time.Now().After(deadline) {
				t.Errorf("a control group is left: %v", err)
				return
			}
		}
	}
	write := func(folder, name, value string) error {
		return os.WriteFile(filepath.Join(folder, name), []byte(value), 0o644)
	}
	limit := "memory.max"
	if home.Version == 1 {
		limit = "memory.limit_in_bytes"
	}
	err := write(group, limit, strconv.FormatInt(size, 10))
	if _, missing := os.Stat(filepath.Join(group, "memory.swap.max")); err == nil && missing == nil {
		err = write(group, "memory.swap.max", "0")
	}
	if err == nil {
		err = write(group, "cgroup.procs", strconv.Itoa(os.Getpid()))
	}
	if err != nil {
		remove()
		return false
	}
	t.Cleanup(func() {
		if err := write(home.Folder, "cgroup.procs", strconv.Itoa(os.Getpid())); err != nil {
			t.Error(err)
		}
		remove()
	})
	return true
}
