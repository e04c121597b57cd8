"""A control group with little memory, for what happens when the kernel ends a program. May import nothing of sparkles.

It is made below this process's own, so that whatever counts that one counts what is in this one too.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def limited_memory(size_bytes: int) -> Iterator[bool]:
    """Runs this process, and what it starts meanwhile, in a control group of that much memory. Gives False where none can be made
    here; then nothing is limited."""
    home = _own()
    group = home / f"sparkles-test-{os.getpid()}" if home else None
    if home is None or group is None or not _enter(home, group, size_bytes):
        yield False
        return
    try:
        yield True
    finally:
        (home / "cgroup.procs").write_text(str(os.getpid()))
        deadline = time.monotonic() + 10
        while True:
            try:
                group.rmdir()  # refused until what was killed in it is gone
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)


def _enter(home: Path, group: Path, size_bytes: int) -> bool:
    try:
        group.mkdir()
    except OSError:
        return False
    try:
        limit = next(name for name in ("memory.limit_in_bytes", "memory.max") if (group / name).exists())
        (group / limit).write_text(str(size_bytes))
        if (group / "memory.swap.max").exists():
            (group / "memory.swap.max").write_text("0")
        (group / "cgroup.procs").write_text(str(os.getpid()))
    except (OSError, StopIteration):
        group.rmdir()
        return False
    return True


def _own() -> Path | None:
    """The folder of this process's memory control group: version 1 where it has the memory controller, else 2."""
    try:
        lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
        mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    except OSError:
        return None
    for kind, controller in (("cgroup", "memory"), ("cgroup2", "")):
        for _, controllers, path in lines:
            if controller not in controllers.split(","):
                continue
            for fields in mounts:
                after = fields.index("-")
                if fields[after + 1] == kind and (not controller or controller in fields[after + 3].split(",")):
                    return Path(fields[4]) / os.path.relpath(path, fields[3])
    return None
