"""What Ctrl-C and signals mean while a command waits. May import engine and below.

A Lua pattern can keep the main thread inside C for ever, and Python runs signal handlers in the main thread only. So a thread of its
own learns of each signal (through a pipe that Python's C handler writes to), says what will happen, and asks the main thread for an
answer. Surprise: the handlers of the main thread do nothing but answer.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn, Protocol

from sparkles.engine.drive import Interrupts

AGAIN_S = 1.0
"""How long after a second signal a main thread that hangs may take to answer; people count it as "at once"."""

FIRST_S = 5.0
"""The same after a first SIGTERM or SIGHUP. Whoever sends one often sends SIGKILL 10 s later, and a store may be busy for a while."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PROBE = signal.SIGURG
"""Ignored where nobody handles it, so a probe that comes too late does no harm."""


_Handler = Callable[[int, FrameType | None], Any]


class Speaker(Protocol):
    """Who tells the user; both are called from another thread."""

    def interrupted(self, text: str) -> None:
        """Says a line now, or where something is being drawn with the next line."""

    def last_words(self, text: str) -> None:
        """Says a line now: the process ends with it."""


@contextmanager
def interrupts_from_signals(speaker: Speaker, first: str, second: str, last: str) -> Iterator[Interrupts]:
    """Turns SIGINT, SIGTERM and SIGHUP into Interrupts: Ctrl-C once stops taking up work, twice ends what runs, thrice ends this process
    at once; SIGTERM is like twice; SIGHUP leaves running tasks to the worker. Where the main thread hangs inside C, the second signal
    ends the process, and a SIGTERM or SIGHUP that comes alone does so after FIRST_S: all state is durable.

    Args:
        first, second: Said at Ctrl-C.
        last: How to come back, said where the process ends here.
    """
    watch = _Watch(speaker, first, second, f", its worker finishes what runs; {last}")
    with watch.watching(dict.fromkeys(_SIGNALS, _nothing)):
        yield watch.interrupts


@contextmanager
def second_interrupt_ends(speaker: Speaker) -> Iterator[None]:
    """For commands that run scripts without effects: Ctrl-C is Python's own, and ends the process where the main thread hangs inside C."""
    with _Watch(speaker, "", "", "").watching({signal.SIGINT: signal.default_int_handler}):
        yield


def _nothing(_number: int, _frame: FrameType | None) -> None:
    """The thread has been told already."""


class _Watch:
    """The thread that learns of signals."""

    def __init__(self, speaker: Speaker, first: str, second: str, last: str) -> None:
        self.interrupts = Interrupts()
        self._speaker, self._first, self._second, self._last = speaker, first, second, last
        self._outlet, self._inlet = os.pipe()
        os.set_blocking(self._inlet, False)
        self._main = threading.get_ident()
        self._answered = threading.Event()
        self._hangs = False
        self._deadline: float | None = None
        self._thread = threading.Thread(target=self._run, name="signals", daemon=True)

    @contextmanager
    def watching(self, handlers: Mapping[int, _Handler]) -> Iterator[None]:
        """The thread runs, and signals have these handlers; earlier ones are put back at the end."""
        before = {number: signal.signal(number, handler) for number, handler in {**handlers, _PROBE: self._answer}.items()}
        wakeup = signal.set_wakeup_fd(self._inlet, warn_on_full_buffer=False)
        self._thread.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup)
            os.write(self._inlet, b"\0")
            self._thread.join()
            os.close(self._inlet)
            os.close(self._outlet)
            for number, handler in before.items():
                signal.signal(number, handler)

    def _answer(self, _number: int, _frame: FrameType | None) -> None:
        """The handler of the probe: the main thread can still do something."""
        self._answered.set()

    def _run(self) -> None:
        while True:
            patience = None if self._deadline is None else max(self._deadline - time.monotonic(), 0.0)
            if select.select([self._outlet], [], [], patience)[0]:
                for number in os.read(self._outlet, 64):
                    if number == 0:
                        return
                    if number in _SIGNALS:
                        self._take(number)
            elif self._answered.is_set():
                self._deadline, self._hangs = None, False
            else:
                self._deadline, self._hangs = None, True
                if self.interrupts.level > 1 or self.interrupts.signal != signal.SIGINT:
                    self._end()
                self._speaker.interrupted("the script hangs inside one call; Ctrl-C again ends this process")

    def _take(self, number: int) -> None:
        interrupts = self.interrupts
        again, level = interrupts.level > 0, interrupts.level
        if number == signal.SIGINT:
            interrupts.raise_to(level + 1, number)
            if level >= 2:
                self._end()
            if not self._still_hangs() and (text := self._second if level else self._first):
                self._speaker.interrupted(text)
        else:
            interrupts.raise_to(2 if number == signal.SIGTERM else 1, number)
        if again and self._still_hangs():
            self._end()
        self._answered.clear()
        self._deadline = time.monotonic() + (AGAIN_S if again or number == signal.SIGINT else FIRST_S)
        signal.pthread_kill(self._main, _PROBE)

    def _still_hangs(self) -> bool:
        return self._hangs and not self._answered.is_set()

    def _end(self) -> NoReturn:
        self._speaker.last_words(f"this process ends here{self._last}")
        os._exit(128 + self.interrupts.signal)
