package attempt

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"sparkles.dev/consume/internal/runner"
	"sparkles.dev/consume/internal/wire"
)

// fullBelow: a write of a megabyte is refused with less, and a program that failed for that may have left this much when it was ended.
const fullBelow = 1 << 20

const (
	tailLines = 20
	tailBytes = 8192
	// secretFrom: a shorter value says nothing, and what it says would be in every other word.
	secretFrom = 4
)

func duration(seconds float64) time.Duration {
	return time.Duration(math.Min(seconds*float64(time.Second), math.MaxInt64/2))
}

// Judge gives the class and the sentence for how a program ended; no class where it exited with 0 by itself.
func Judge(ended runner.Ended, spec wire.JobSpec, memory int64) (wire.FailureClass, string) {
	var peak int64
	if ended.PeakMemoryBytes != nil {
		peak = *ended.PeakMemoryBytes
	}
	switch ended.Cause {
	case runner.Timeout:
		return wire.FailureTimeout, fmt.Sprintf("ran longer than its time limit of %s s and was ended", short(*spec.TimeoutS))
	case runner.Memory:
		return wire.FailureOOM, fmt.Sprintf("used %s of memory where %s were asked for, and was ended", Size(peak), Size(memory))
	case runner.KernelOOM:
		why := ranOut(ended.LimitBytes, memory, peak)
		if code := ended.ExitCode; code != nil && *code != 128+int(syscall.SIGKILL) {
			return wire.FailureOOM, fmt.Sprintf("exited with code %d after the kernel ended one of its processes because %s", *code, why)
		}
		return wire.FailureOOM, "ended by the kernel because " + why
	}
	if ended.ExitCode == nil {
		name := ""
		if found := unix.SignalName(syscall.Signal(ended.Signal)); found != "" {
			name = " (" + found + ")"
		}
		return wire.FailureExit, fmt.Sprintf("ended by signal %d%s", ended.Signal, name)
	}
	code := *ended.ExitCode
	hint := ""
	switch {
	case code == 0:
		return wire.NoFailure, ""
	case code == 127:
		hint = " (127 from a shell: a command was not found)"
	case code == 126:
		hint = " (126 from a shell: a command could not be executed)"
	case code > 128 && code <= 128+64:
		hint = fmt.Sprintf(" (128 + %d from a shell: a command was ended by signal %d)", code-128, code-128)
	}
	return wire.FailureExit, fmt.Sprintf("exited with code %d%s", code, hint)
}

// ranOut says which memory ran out, and what the task had asked for and used.
func ranOut(limit, asked, peak int64) string {
	which, wanted, used := "the machine's memory", "none was asked for", ""
	if limit > 0 {
		which = "the " + Size(limit) + " of memory of its container or control group"
	}
	if asked > 0 {
		wanted = Size(asked) + " were asked for"
	}
	if peak > 0 {
		used = "; it had used " + Size(peak)
	}
	return fmt.Sprintf("%s ran out (%s%s)", which, wanted, used)
}

// short is a number as %g gives it in Python: at most six digits, without what is not needed.
func short(value float64) string { return strconv.FormatFloat(value, 'g', 6, 64) }

// Size is bytes for people: 1.5 GiB, 300 MiB, 12 B.
func Size(count int64) string {
	value := float64(count)
	for _, unit := range []string{"B", "KiB", "MiB", "GiB"} {
		if value < 1024 {
			return strconv.FormatFloat(roundTo4(value), 'g', -1, 64) + " " + unit
		}
		value /= 1024
	}
	return strconv.FormatFloat(roundTo4(value), 'g', -1, 64) + " TiB"
}

func roundTo4(value float64) float64 {
	rounded, _ := strconv.ParseFloat(strconv.FormatFloat(value, 'g', 4, 64), 64)
	return rounded
}

// TooLarge is the sentence that says why a task can never run on this machine, or "".
func TooLarge(cpu float64, memory int64, gpu int, totalCPU float64, totalMemory int64) string {
	switch {
	case gpu > 0:
		return fmt.Sprintf("the task asks for %d GPU and this worker offers none", gpu)
	case cpu > totalCPU+1e-9:
		return fmt.Sprintf("the task asks for %s cpu and this machine offers %s", short(cpu), short(totalCPU))
	case memory > totalMemory:
		return fmt.Sprintf("the task asks for %s of memory and this machine offers %s", Size(memory), Size(totalMemory))
	}
	return ""
}

func saidFull(tail string) bool {
	return strings.Contains(tail, "No space left on device") || strings.Contains(tail, "Disk quota exceeded")
}

// DiskFull tells whether the file system of a folder has next to no space left.
func DiskFull(folder string) bool {
	var facts unix.Statfs_t
	if unix.Statfs(folder, &facts) != nil {
		return false
	}
	return int64(facts.Bavail)*facts.Bsize < fullBelow
}

var (
	escapeCodes = regexp.MustCompile(`\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])`)
	controls    = regexp.MustCompile(`[\x00-\x08\x0b-\x1f\x7f-\x{9f}]`)
)

// TailText gives at most the last 20 lines and 8 kB of data: undecodable bytes replaced, terminal escapes and control characters gone. What a
// carriage return overwrote (progress bars) is left out, as a terminal would show it.
func TailText(data []byte) string {
	text := escapeCodes.ReplaceAllString(strings.ToValidUTF8(string(data), "\ufffd"), "")
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	for i, line := range lines {
		line = strings.TrimRight(line, "\r")
		if at := strings.LastIndexByte(line, '\r'); at >= 0 {
			line = line[at+1:]
		}
		lines[i] = controls.ReplaceAllString(line, "")
	}
	if len(lines) > tailLines {
		lines = lines[len(lines)-tailLines:]
	}
	kept := strings.Join(lines, "\n")
	if len(kept) > tailBytes {
		kept = strings.ToValidUTF8(kept[len(kept)-tailBytes:], "")
	}
	return kept
}
