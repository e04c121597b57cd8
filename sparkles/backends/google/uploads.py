"""Uploads in the background: as many at a time as the pool has threads, and no more bytes in memory than there is room for. Pure of I/O.

Surprise: whoever hands in an upload waits where memory is full, and hears there of an earlier one that failed: nobody hashes ten
thousand files for a bucket that takes none.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future

MOST_BYTES = 64 << 20
"""What waits in memory to be sent, or is being sent."""

_MOST_WAITING = 4096
"""Uploads that wait, whatever their size: each is a few hundred bytes more."""


class Uploads:
    """See above. Safe with several threads."""

    def __init__(self, pool: Executor, most_bytes: int = MOST_BYTES) -> None:
        self._pool = pool
        self._most_bytes = most_bytes
        self._bytes = 0
        self._begun: deque[Future[None]] = deque()
        self._changed = threading.Condition()

    def begin(self, act: Callable[[], None], held_bytes: int = 0) -> None:
        """Has `act` called by a thread, soon. Waits first until there is room for the `held_bytes` that it keeps in memory.

        Raises:
            Exception: What kept an earlier upload from being done; then `act` is not called.
        """
        with self._changed:
            while self._bytes and self._bytes + held_bytes > self._most_bytes:
                self._changed.wait()
            self._bytes += held_bytes
        try:
            self._collect(_MOST_WAITING)
            begun = self._pool.submit(self._do, act, held_bytes)
        except BaseException:
            self._give_back(held_bytes)
            raise
        with self._changed:
            self._begun.append(begun)

    def settle(self) -> None:
        """Waits for all that were begun. Raises what kept the first of them from being done."""
        problem: BaseException | None = None
        while True:
            try:
                self._collect(0)
            except Exception as error:
                problem = problem or error
            else:
                break
        if problem is not None:
            raise problem

    def _collect(self, most: int) -> None:
        """Takes note of those that are done, until at most `most` are left. Raises what went wrong with one."""
        while True:
            with self._changed:
                if not self._begun or (len(self._begun) <= most and not self._begun[0].done()):
                    return
                first = self._begun.popleft()
            first.result()

    def _do(self, act: Callable[[], None], held_bytes: int) -> None:
        try:
            act()
        finally:
            self._give_back(held_bytes)

    def _give_back(self, held_bytes: int) -> None:
        with self._changed:
            self._bytes -= held_bytes
            self._changed.notify_all()
