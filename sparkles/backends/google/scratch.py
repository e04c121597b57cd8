"""Scratch directories that cloud workers of this state folder left when they were killed. May import local.fleet, local.process and
engine.attempt.

A worker removes its own at its end, and no other worker's: only who knows the state folder can tell which are left.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

from sparkles.backends.local import process
from sparkles.backends.local.fleet import STARTING_S, present
from sparkles.engine.attempt import remove_tree
from sparkles.ports import JobStore


class Scratch:
    """The folder in which each worker has one of its own, called by its id."""

    def __init__(self, folder: Path, jobs: JobStore) -> None:
        self.folder, self._jobs = folder, jobs

    def after(self, recover: Callable[[], list[str]]) -> Callable[[], list[str]]:
        """`recover`, which puts in order what dead workers left, and then theirs of these directories. It says of each what that was."""

        def recovered() -> list[str]:
            told = recover()
            if told:
                self._remove({name for name in self._names() if any(f"worker {name} " in each for each in told)})
            return told

        return recovered

    def remove(self) -> int:
        """Removes the directories of all workers that are gone; the bytes freed."""
        before = present(self.folder) - STARTING_S
        old = set()
        for name in self._names():
            with suppress(OSError):
                # One that is just starting has no row yet. On this machine it is a process; on another one its folder is young.
                if os.lstat(self.folder / name).st_mtime < before:
                    old.add(name)
        return self._remove(old)

    def _names(self) -> list[str]:
        """Of directories below the folder; links are none."""
        with suppress(OSError), os.scandir(self.folder) as entries:
            return [each.name for each in entries if each.name.startswith("w-") and each.is_dir(follow_symlinks=False)]
        return []

    def _remove(self, names: Collection[str]) -> int:
        """Removes those that nobody uses; the bytes freed."""
        if not names:
            return 0
        known = {str(worker.id) for worker in self._jobs.list_workers()}
        freed = 0
        for name in sorted(set(names) - known):
            if not _is_used(name):
                size = _bytes_below(self.folder / name)
                with suppress(OSError):
                    remove_tree(str(self.folder / name))
                    freed += size
        return freed


def _is_used(worker: str) -> bool:
    """Whether a process of this machine is that worker, maybe of another installation, or was started by it."""
    wanted = f"\0{worker}\0".encode()
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if wanted in line.read_bytes():
                return True
    return bool(process.marked("SPARKLES_WORKER", worker))


def _bytes_below(top: Path) -> int:
    """Of the files, as far as they can be read; links are not followed."""
    size = 0
    for folder, _, files in os.walk(top):
        for name in files:
            with suppress(OSError):
                size += os.lstat(os.path.join(folder, name)).st_size
    return size
