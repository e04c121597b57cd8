package runner

import (
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Cgroup is the control group that accounts for the memory of this process and of what it starts: the container's, in a container. Version
// is 1 or 2; Folder holds its files. Surprise: where both versions are mounted, the one that has the memory controller counts.
type Cgroup struct {
	Version int
	Folder  string
	mount   string
}

// OwnCgroup finds it; nil where memory is not accounted for.
func OwnCgroup() *Cgroup { return findCgroup("/") }

// findCgroup reads /proc and the mounts below root (cgroups(7), proc_pid_mountinfo(5)).
func findCgroup(root string) *Cgroup {
	memberships, err := os.ReadFile(filepath.Join(root, "proc/self/cgroup"))
	if err != nil {
		return nil
	}
	mounts, err := os.ReadFile(filepath.Join(root, "proc/self/mountinfo"))
	if err != nil {
		return nil
	}
	var unified *Cgroup
	for line := range strings.SplitSeq(string(memberships), "\n") {
		// HIERARCHY:CONTROLLERS:PATH; version 2 is 0::PATH.
		fields := strings.SplitN(line, ":", 3)
		if len(fields) < 3 {
			continue
		}
		if slices.Contains(strings.Split(fields[1], ","), "memory") {
			if found := mounted(root, string(mounts), 1, fields[2]); found != nil {
				return found
			}
		} else if fields[0] == "0" && fields[1] == "" {
			unified = mounted(root, string(mounts), 2, fields[2])
		}
	}
	return unified
}

// mounted finds the folder of a group by where its hierarchy is mounted.
func mounted(root, mounts string, version int, path string) *Cgroup {
	for line := range strings.SplitSeq(mounts, "\n") {
		// ID PARENT DEVICE ROOT POINT OPTIONS [TAGS...] - TYPE SOURCE OPTIONS
		before, after, found := strings.Cut(line, " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !found || len(left) < 6 || len(right) < 3 {
			continue
		}
		if version == 2 && right[0] != "cgroup2" ||
			version == 1 && (right[0] != "cgroup" || !slices.Contains(strings.Split(right[2], ","), "memory")) {
			continue
		}
		point := filepath.Join(root, unescape(left[4]))
		below, err := filepath.Rel(unescape(left[3]), path)
		if err != nil || below == ".." || strings.HasPrefix(below, "../") {
			below = "." // a container without a namespace of its own sees the path on the host, and its own group as the mount
		}
		group := &Cgroup{Version: version, Folder: filepath.Join(point, below), mount: point}
		if _, err := os.Stat(group.Folder); err != nil {
			group.Folder = point
		}
		return group
	}
	return nil
}

// unescape undoes what mountinfo does to spaces and backslashes: \040.
func unescape(text string) string {
	var out strings.Builder
	for at := 0; at < len(text); at++ {
		if text[at] == '\\' && at+3 < len(text) {
			if code, err := strconv.ParseUint(text[at+1:at+4], 8, 8); err == nil {
				out.WriteByte(byte(code))
				at += 3
				continue
			}
		}
		out.WriteByte(text[at])
	}
	return out.String()
}

// OOMKills counts processes of the group that the kernel ended for want of memory; false where it does not say. With version 1 those of groups
// below are not in it.
func (c *Cgroup) OOMKills() (int64, bool) {
	if c.Version == 1 {
		return counter(filepath.Join(c.Folder, "memory.oom_control"), "oom_kill")
	}
	return counter(filepath.Join(c.Folder, "memory.events"), "oom_kill")
}

// Limit is the least of what the group and those above it may use, as far as they are visible; 0: no limit.
func (c *Cgroup) Limit() int64 {
	least := int64(math.MaxInt64)
	if c.Version == 1 {
		if limit, found := counter(filepath.Join(c.Folder, "memory.stat"), "hierarchical_memory_limit"); found {
			least = limit
		}
		if limit := c.number(c.Folder, "memory.limit_in_bytes"); limit >= 0 {
			least = min(least, limit)
		}
	} else {
		for folder := c.Folder; ; folder = filepath.Dir(folder) {
			if limit := c.number(folder, "memory.max"); limit >= 0 {
				least = min(least, limit)
			}
			if folder == c.mount || len(folder) <= len(c.mount) {
				break
			}
		}
	}
	if least >= math.MaxInt64/2 { // version 1 says so of no limit: the greatest number of pages
		return 0
	}
	return least
}

// Peak is the most that the group has used, page cache included; 0 where it is not known (memory.peak is there from Linux 5.19 on).
func (c *Cgroup) Peak() int64 {
	if c.Version == 1 {
		return max(0, c.number(c.Folder, "memory.max_usage_in_bytes"))
	}
	return max(0, c.number(c.Folder, "memory.peak"))
}

// current is what the group uses now; -1 where it is not known.
func (c *Cgroup) current() int64 {
	if c.Version == 1 {
		return c.number(c.Folder, "memory.usage_in_bytes")
	}
	return c.number(c.Folder, "memory.current")
}

// number reads a file of one number; -1 where there is none ("max" is none).
func (c *Cgroup) number(folder, name string) int64 {
	data, err := os.ReadFile(filepath.Join(folder, name))
	if err != nil {
		return -1
	}
	value, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
	if err != nil {
		return -1
	}
	return value
}

// MachineMemory is what this machine has, or the container that this process is in, where that is less.
func MachineMemory() int64 {
	memory := int64(1) << 40
	if total, found := counter("/proc/meminfo", "MemTotal:"); found {
		memory = total * 1024
	}
	if group := OwnCgroup(); group != nil {
		if limit := group.Limit(); limit > 0 {
			memory = min(memory, limit)
		}
	}
	return memory
}
