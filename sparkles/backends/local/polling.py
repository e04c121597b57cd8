"""One wait for processes to end and for descriptors to become readable: epoll with a pidfd for each process on Linux, kqueue elsewhere.
Imports nothing of sparkles.
"""

from __future__ import annotations

import os
import select
from typing import Any


class Poller:
    """Waits for processes to end and for descriptors."""

    def add_process(self, pid: int) -> int:
        raise NotImplementedError

    def remove_process(self, pid: int, key: int) -> None:
        raise NotImplementedError

    def add(self, fd: int) -> bool:
        raise NotImplementedError

    def remove(self, fd: int) -> None:
        raise NotImplementedError

    def wait(self, timeout_s: float) -> tuple[list[int], list[int]]:
        """The processes that ended, and the readable descriptors."""
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


class _Epoll(Poller):
    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._pids: dict[int, int] = {}

    def add_process(self, pid: int) -> int:
        pidfd = os.pidfd_open(pid)
        self._pids[pidfd] = pid
        self._epoll.register(pidfd, select.EPOLLIN)
        return pidfd

    def remove_process(self, pid: int, key: int) -> None:
        del self._pids[key]
        # Closing alone is not enough: a child between fork and exec may hold a copy, and epoll goes by what is open, not by numbers.
        self._epoll.unregister(key)
        os.close(key)

    def add(self, fd: int) -> bool:
        try:
            self._epoll.register(fd, select.EPOLLIN)
        except PermissionError:
            return False
        return True

    def remove(self, fd: int) -> None:
        self._epoll.unregister(fd)

    def wait(self, timeout_s: float) -> tuple[list[int], list[int]]:
        # epoll counts in whole milliseconds: rounded up, or the last one would be spent spinning.
        events = self._epoll.poll(timeout_s + 0.0009 if timeout_s else 0.0)
        pids: list[int] = []
        ready: list[int] = []
        known = self._pids
        for fd, _ in events:
            if fd in known:
                pids.append(known[fd])
            else:
                ready.append(fd)
        return pids, ready

    def close(self) -> None:
        self._epoll.close()


class _Kqueue(Poller):
    def __init__(self) -> None:
        self._select: Any = select
        self._queue = self._select.kqueue()
        self._early: list[int] = []

    def add_process(self, pid: int) -> int:
        try:
            self._change(
                pid, self._select.KQ_FILTER_PROC, self._select.KQ_EV_ADD | self._select.KQ_EV_ONESHOT, self._select.KQ_NOTE_EXIT
            )
        except ProcessLookupError:
            self._early.append(pid)  # already a zombie: macOS reports no event for it
        return -1

    def remove_process(self, pid: int, key: int) -> None:
        return  # the event was delivered once, and with it went its registration

    def add(self, fd: int) -> bool:
        try:
            self._change(fd, self._select.KQ_FILTER_READ, self._select.KQ_EV_ADD)
        except OSError:
            return False
        return True

    def remove(self, fd: int) -> None:
        self._change(fd, self._select.KQ_FILTER_READ, self._select.KQ_EV_DELETE)

    def wait(self, timeout_s: float) -> tuple[list[int], list[int]]:
        pids, self._early = self._early, []
        ready: list[int] = []
        for event in self._queue.control(None, 64, 0.0 if pids else timeout_s):
            (pids if event.filter == self._select.KQ_FILTER_PROC else ready).append(event.ident)
        return pids, ready

    def close(self) -> None:
        self._queue.close()

    def _change(self, ident: int, kind: int, flags: int, fflags: int = 0) -> None:
        self._queue.control([self._select.kevent(ident, kind, flags, fflags)], 0)


def make_poller() -> Poller:
    """The one that this system has."""
    return _Epoll() if hasattr(select, "epoll") and hasattr(os, "pidfd_open") else _Kqueue()
