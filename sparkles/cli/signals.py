"""What Ctrl-C and signals mean while a command waits. May import engine and below."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from sparkles.engine.drive import Interrupts


@contextmanager
def interrupts_from_signals(on_first: Callable[[], None], on_second: Callable[[], None]) -> Iterator[Interrupts]:
    """Turns SIGINT, SIGTERM and SIGHUP into Interrupts: Ctrl-C once stops taking up work, twice ends what runs, thrice ends this process
    at once; SIGTERM is like twice; SIGHUP leaves running tasks to the worker. Earlier handlers are put back at the end."""
    interrupts = Interrupts()

    def handle(number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT:
            if interrupts.level >= 2:
                # All state is durable: a third Ctrl-C may end the process wherever it is, a pattern stuck inside C included.
                os._exit(128 + number)
            interrupts.raise_to(interrupts.level + 1, number)
            (on_first if interrupts.level == 1 else on_second)()
        else:
            interrupts.raise_to(2 if number == signal.SIGTERM else 1, number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield interrupts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
