"""A few threads for work on files, so that the worker's loop never stands still while gigabytes are copied. Imports nothing of sparkles.

concurrent.futures would do, but its import costs the worker 10 ms of its start, and its results come by callback rather than by
a descriptor that the loop can wait for.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from typing import Any


class Crew:
    """Runs functions in threads that are started when first needed; results are collected by the loop."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._threads: list[threading.Thread] = []
        self._todo: queue.SimpleQueue[tuple[Any, Callable[[], Any]] | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[tuple[Any, Any, BaseException | None]] = queue.SimpleQueue()
        self._read_fd, self._write_fd = os.pipe()
        os.set_blocking(self._read_fd, False)
        os.set_blocking(self._write_fd, False)
        self.busy = 0

    def fileno(self) -> int:
        """Readable when a result is there."""
        return self._read_fd

    def submit(self, key: Any, work: Callable[[], Any]) -> None:
        """Has `work` done; its result comes out of `finished` with `key`."""
        self.busy += 1
        if len(self._threads) < min(self._size, self.busy):
            thread = threading.Thread(target=self._serve, daemon=True)
            thread.start()
            self._threads.append(thread)
        self._todo.put((key, work))

    def finished(self) -> list[tuple[Any, Any, BaseException | None]]:
        """What was done since the last call: (key, result, error)."""
        try:
            os.read(self._read_fd, 4096)
        except BlockingIOError:
            pass
        found: list[tuple[Any, Any, BaseException | None]] = []
        while not self._done.empty():
            found.append(self._done.get())
        self.busy -= len(found)
        return found

    def close(self) -> None:
        """Lets the threads go when their present work is done; does not wait for it."""
        for _ in self._threads:
            self._todo.put(None)

    def _serve(self) -> None:
        while (item := self._todo.get()) is not None:
            key, work = item
            try:
                self._done.put((key, work(), None))
            except BaseException as error:  # whatever it is, the loop has to hear of it
                self._done.put((key, None, error))
            try:
                os.write(self._write_fd, b"x")
            except BlockingIOError:
                pass  # the pipe is full of such hints
