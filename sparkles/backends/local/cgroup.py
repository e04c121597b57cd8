"""The control group that accounts for the memory of this process and of what it starts, on Linux. Imports nothing of sparkles.

In a container it is the container's. The twin of consume/internal/runner/cgroup.go. Surprise: where both versions of control groups are
mounted, the one that has the memory controller counts.
"""

from __future__ import annotations

import os
import re

_NO_LIMIT = 1 << 62
"""From here on a limit is none: version 1 gives the greatest number of pages."""


class MemoryGroup:
    """`version` is 1 or 2; `folder` holds the group's files, `mount` is where its hierarchy is mounted."""

    def __init__(self, version: int, folder: str, mount: str) -> None:
        self.version, self.folder, self.mount = version, folder, mount

    def open_kills(self) -> int:
        """A descriptor for `read_kills`; -1 where the group does not count."""
        name = "memory.oom_control" if self.version == 1 else "memory.events"
        try:
            return os.open(f"{self.folder}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return -1

    def limit(self) -> int:
        """The least number of bytes that the group and those above it may use, as far as they are visible; 0: no limit."""
        limits = []
        if self.version == 1:
            limits.append(_named(_read(f"{self.folder}/memory.stat"), "hierarchical_memory_limit"))
            limits.append(_number(_read(f"{self.folder}/memory.limit_in_bytes")))
        else:
            folder = self.folder
            while len(folder) >= len(self.mount):
                limits.append(_number(_read(f"{folder}/memory.max")))
                folder = os.path.dirname(folder)
        return min((limit for limit in limits if 0 <= limit < _NO_LIMIT), default=0)


def read_kills(descriptor: int) -> int:
    """How many processes of the group the kernel ended for want of memory; 0 where it does not say."""
    try:
        return max(0, _named(os.pread(descriptor, 4096, 0).decode("ascii", "replace"), "oom_kill"))
    except OSError:
        return 0


def own_group(root: str = "") -> MemoryGroup | None:
    """This process's group, None where memory is not accounted for; /proc and the mounts are looked for below `root` (cgroups(7),
    proc_pid_mountinfo(5))."""
    mounts = _read(f"{root}/proc/self/mountinfo")
    unified = None
    for line in _read(f"{root}/proc/self/cgroup").splitlines():
        # HIERARCHY:CONTROLLERS:PATH; version 2 is 0::PATH.
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if "memory" in controllers.split(","):
            found = _mounted(root, mounts, 1, path)
            if found is not None:
                return found
        elif number == "0" and not controllers and path:
            unified = _mounted(root, mounts, 2, path)
    return unified


def _mounted(root: str, mounts: str, version: int, path: str) -> MemoryGroup | None:
    for line in mounts.splitlines():
        # ID PARENT DEVICE ROOT POINT OPTIONS [TAGS...] - TYPE SOURCE OPTIONS
        before, _, after = line.partition(" - ")
        left, right = before.split(), after.split()
        if len(left) < 6 or len(right) < 3:
            continue
        if version == 2 and right[0] != "cgroup2":
            continue
        if version == 1 and (right[0] != "cgroup" or "memory" not in right[2].split(",")):
            continue
        point = root + _unescape(left[4])
        below = os.path.relpath(path, _unescape(left[3]))
        folder = os.path.normpath(f"{point}/{below}")
        # A container without a namespace of its own sees the path on the host, and its own group as the mount.
        if below.split("/")[0] == ".." or not os.path.isdir(folder):
            folder = point
        return MemoryGroup(version, folder, point)
    return None


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), text)


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""


def _number(text: str) -> int:
    return int(text) if text.strip().isdigit() else -1


def _named(text: str, name: str) -> int:
    """The number after a name, in lines of both; -1 where it is not there."""
    for line in text.splitlines():
        first, _, rest = line.partition(" ")
        if first == name:
            return _number(rest)
    return -1
