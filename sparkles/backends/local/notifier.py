"""Hints between the processes of one machine: a named pipe for each listener, in `notify/` of the state folder. May import
model and errors.

notify() writes a byte to every pipe; wait() reads its own. A pipe's name says which process made it, so what a killed process
left is recognised and removed.
"""

from __future__ import annotations

import errno
import itertools
import os
import re
import stat
import time
from pathlib import Path

from sparkles.backends.local.process import liveness, this_process
from sparkles.backends.wakeup import HINT, WakeupPipe
from sparkles.errors import UsageError
from sparkles.model import ProcessId
from sparkles.ports import Notifier

_LIST_EVERY_S = 0.2
"""The folder's mtime shows a new listener at once, except within one tick of the file system's clock (4 ms)."""
_POLL_S = 0.025
_TICKS = "ticks"
_LABEL = re.compile(r"[A-Za-z0-9._:-]{1,80}")
_COUNT = itertools.count()


class FifoNotifier:
    """The Notifier of one process. `process` is a word for people who look into the folder ("driver", a worker's id).

    Where the file system has no named pipes (`pipes=False` asks for the same), a file's mtime is watched instead, every 25 ms,
    and `fileno` is -1. Where the folder cannot be written at all, no hint comes and nothing fails.
    """

    def __init__(self, state: Path, process: str, *, pipes: bool = True) -> None:
        if not _LABEL.fullmatch(process):
            raise UsageError(f"notifier: {process!r} cannot be part of a file name: expected 1 to 80 of A-Z a-z 0-9 . _ : -")
        self._folder = os.path.join(os.path.abspath(state), "notify")
        self._ticks = os.path.join(self._folder, _TICKS)
        self._name = ""
        self._pipes: list[str] = []
        self._watched = False
        self._listed_at = -1.0
        self._listed_mtime = -1
        self._closed = False
        self._seen = 0
        named = self._open_pipe(process) if pipes else None
        self._named = named is not None
        if named is None:
            self._start_ticks()
        # Without a name, its own hints and signals come through a pipe all the same.
        self._own = named or WakeupPipe(*os.pipe())

    def notify(self) -> None:
        """Wakes every listener, this one too; one that is not listening yet is not waited for."""
        try:
            self._list()
        except OSError:
            self._pipes, self._watched = [], False
        for name in self._pipes:
            self._send(name)
        if not self._named:
            self._own.hint()
        if self._watched:
            try:
                os.utime(self._ticks, ns=(now := time.time_ns(), now))
            except OSError:
                self._listed_at = -1.0

    def wait(self, timeout_s: float) -> bool:
        """Ends early for a hint (True) or a signal (False)."""
        if self._closed:
            time.sleep(max(timeout_s, 0.0))
            return False
        if self._named:
            return self._own.wait(timeout_s) or False
        deadline = time.monotonic() + timeout_s
        while True:
            left = deadline - time.monotonic()
            found = self._own.wait(min(left, _POLL_S))
            if self._ticked() or found:
                return True
            if found is not None or left <= 0:
                return False

    def fileno(self) -> int:
        """The pipe's reading end, also readable after a signal; `wait(0)` empties it. -1 where there is no named pipe."""
        return self._own.reader if self._named and not self._closed else -1

    def close(self) -> None:
        """Removes the pipe."""
        if self._closed:
            return
        self._closed = True
        if self._name:
            _remove(os.path.join(self._folder, self._name))
        self._own.close()

    def _open_pipe(self, label: str) -> WakeupPipe | None:
        me = this_process()
        name = f"{me.pid},{me.ticks},{me.started!r},{me.boot_id},{next(_COUNT)},{me.host},{label}"
        path = os.path.join(self._folder, name)
        try:
            os.makedirs(self._folder, exist_ok=True)
            os.mkfifo(path, 0o600)
            reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            return None
        self._name = name
        return WakeupPipe(reader, os.open(path, os.O_WRONLY | os.O_NONBLOCK))

    def _start_ticks(self) -> None:
        try:
            os.makedirs(self._folder, exist_ok=True)
            with open(self._ticks, "ab"):
                self._seen = os.stat(self._ticks).st_mtime_ns
        except OSError:
            self._seen = 0

    def _ticked(self) -> bool:
        try:
            mtime = os.stat(self._ticks).st_mtime_ns
        except OSError:
            return False
        changed, self._seen = mtime != self._seen, mtime
        return changed

    def _list(self) -> None:
        mtime = os.stat(self._folder).st_mtime_ns
        now = time.monotonic()
        if mtime == self._listed_mtime and 0 <= now - self._listed_at < _LIST_EVERY_S and self._listed_at >= 0:
            return
        names = os.listdir(self._folder)
        self._pipes = [name for name in names if "," in name]
        self._watched = _TICKS in names
        self._listed_mtime, self._listed_at = mtime, now

    def _send(self, name: str) -> None:
        if name == self._name:
            self._own.hint()
            return
        path = os.path.join(self._folder, name)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        except OSError as error:
            if error.errno == errno.ENXIO:
                self._bury(path, name)
            return
        try:
            if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
                os.write(descriptor, HINT)
        except OSError:
            pass  # full: a hint is there already; or its reader left just now
        finally:
            os.close(descriptor)

    def _bury(self, path: str, name: str) -> None:
        """Removes a pipe that nobody reads, if the process that made it is gone; else that process is just about to open it."""
        try:
            pid, ticks, started, boot, _, rest = name.split(",", 5)
            host = rest.rsplit(",", 1)[0]
            owner = ProcessId(host=host, pid=int(pid), started=float(started), boot_id=boot, ticks=int(ticks))
        except ValueError:
            return  # not a name that this class gives
        if liveness(owner) == "dead":
            _remove(path)
            self._listed_at = -1.0


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass


def _conforms(notifier: FifoNotifier) -> Notifier:
    return notifier
