"""A pipe that a process waits on: hints are written to it as zero bytes, and signals as their numbers. Imports nothing of
sparkles.

Signals come by signal.set_wakeup_fd. They must: select() is restarted after a signal whose handler returns (PEP 475), so a
driver that only notes SIGTERM would go on waiting. Surprise: that is one setting for the whole process, so the first pipe
made in the main thread has it, unless somebody else (an asyncio loop) has it already.
"""

from __future__ import annotations

import os
import select
import signal
import threading

HINT = b"\0"
"""No signal has the number 0."""


class WakeupPipe:
    """Owns both ends of a pipe, named or not; the writing end is kept open, or select() would report end of file for ever."""

    def __init__(self, reader: int, writer: int) -> None:
        self.reader = reader
        self._writer = writer
        self._open = True
        os.set_blocking(reader, False)
        os.set_blocking(writer, False)
        self._signals = self._take_signals()

    def hint(self) -> None:
        """Writes a hint; never blocks."""
        try:
            os.write(self._writer, HINT)
        except OSError:
            return  # full: a hint is there already; or closed

    def wait(self, timeout_s: float) -> bool | None:
        """Empties the pipe once something is in it: True where a hint was, False where only signals were, None after the
        time."""
        if not select.select([self.reader], [], [], max(timeout_s, 0.0))[0]:
            return None
        hint = False
        try:
            while data := os.read(self.reader, 65536):
                hint = hint or HINT in data
                if len(data) < 65536:
                    break
        except BlockingIOError:
            pass  # another thread was quicker
        return hint

    def close(self) -> None:
        """Gives the signals back; harmless when repeated."""
        if not self._open:
            return
        self._open = False
        os.close(self.reader)
        if self._signals:
            if threading.current_thread() is not threading.main_thread():
                return  # signals go on being written to this descriptor: closed, its number would come to mean another file
            now = signal.set_wakeup_fd(-1)
            if now != self._writer:
                signal.set_wakeup_fd(now)
        os.close(self._writer)

    def _take_signals(self) -> bool:
        if threading.current_thread() is not threading.main_thread():
            return False
        before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        if before != -1:
            signal.set_wakeup_fd(before)
        return before == -1
