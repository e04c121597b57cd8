"""Where files come to be before they are renamed to their place in a user's folder. Imports nothing of sparkles.

A folder of its own below the destination, so that one look finds what a killed process left there and removes it. Surprise: whether its
maker lives is told by a lock on the folder, not by a pid: the destination may be shared by several machines.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import shutil
import tempfile
import threading
from pathlib import Path
from types import TracebackType

PREFIX = ".fetching-"


class Landing:
    """The files that one process brings to a folder; for any number of threads. Nothing is made before the first file."""

    def __init__(self, dest: Path) -> None:
        self._dest = dest
        self._count = itertools.count(1)
        self._mutex = threading.Lock()
        self._folder: Path | None = None
        self._lock = -1

    def __enter__(self) -> Landing:
        """Removes what killed processes left."""
        for folder in self._dest.glob(f"{PREFIX}*"):
            _remove_if_left(folder)
        return self

    def place(self) -> Path:
        """Where the next file is to be written."""
        with self._mutex:
            while self._folder is None:
                self._make()
            return self._folder / str(next(self._count))

    def _make(self) -> None:
        self._dest.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=self._dest))
        try:
            lock = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:
            return  # another process took it for left, before it was locked
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():
            self._folder, self._lock = folder, lock
        else:
            os.close(lock)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            os.close(self._lock)


def _remove_if_left(folder: Path) -> None:
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except OSError:
        return  # its maker lives
    finally:
        os.close(lock)
