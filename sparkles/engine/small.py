"""The small steps: now, random, uuid, sleep, log, and `step(name, fn, ...)`. May import ports and below.

Time, chance and ids are recorded when they are drawn and never drawn again; a crash before the record draws again, which nobody can
have seen.
"""

from __future__ import annotations

import random
import uuid

from sparkles import digest
from sparkles.engine.commands import (
    Answer,
    Done,
    Log,
    Now,
    Raised,
    Random,
    Sleep,
    StepBegin,
    StepEnd,
    Unrecorded,
    Uuid,
)
from sparkles.engine.events import Logged, Report
from sparkles.engine.journal import Asking, Journal
from sparkles.errors import InternalError
from sparkles.model import Json, StepState
from sparkles.ports import Clock


def drawn(command: Random) -> float | int:
    """A value by chance, as `random` gives it."""
    chance = random.SystemRandom()
    if command.low is None or command.high is None:
        return chance.random()
    return chance.randint(command.low, command.high)


class SmallSteps:
    """Steps whose whole effect is their record."""

    def __init__(self, journal: Journal, clock: Clock, report: Report) -> None:
        self._journal = journal
        self._clock = clock
        self._report = report
        self._open: dict[str, Asking] = {}

    def now(self, strand: str, command: Now) -> Answer:
        """-> seconds since the epoch."""
        asking = self._journal.ask_for(strand, command)
        return self._journal.replayed(asking) or self._draw(asking, self._clock.now_ms() / 1000.0)

    def random(self, strand: str, command: Random) -> Answer:
        """-> a float in [0, 1) or an integer between the bounds, both included."""
        asking = self._journal.ask_for(strand, command)
        return self._journal.replayed(asking) or self._draw(asking, drawn(command))

    def uuid(self, strand: str, command: Uuid) -> Answer:
        """-> a version 4 UUID as text."""
        asking = self._journal.ask_for(strand, command)
        return self._journal.replayed(asking) or self._draw(asking, str(uuid.uuid4()))

    def log(self, strand: str, command: Log) -> Answer:
        """Shows and stores the text once."""
        asking = self._journal.ask_for(strand, command)
        replayed = self._journal.replayed(asking)
        if replayed is not None:
            return replayed
        self._report(Logged(text=command.text))
        return self._draw(asking, None)

    def sleep(self, strand: str, command: Sleep) -> Answer | SleepWait:
        """Sleeps until the recorded time to wake up, however often the run is interrupted meanwhile."""
        asking = self._journal.ask_for(strand, command)
        recorded = asking.recorded
        if recorded is not None and recorded.state is StepState.DONE:
            return Done(None, reused=True)
        left = command.seconds
        if recorded is not None and recorded.value is not None:
            # A clock that was set back must not make a short sleep a long one.
            left = min(left, (digest.parse(recorded.value) - self._clock.now_ms()) / 1000.0)
        else:
            self._journal.start(asking, self._clock.now_ms() + round(command.seconds * 1000))
        return SleepWait(self._journal, self._clock, asking, self._clock.monotonic() + left)

    def begin_step(self, strand: str, command: StepBegin) -> Answer:
        """The recorded outcome, or Unrecorded: then the function runs and `end_step` follows."""
        asking = self._journal.ask_for(strand, command)
        replayed = self._journal.replayed(asking)
        if replayed is not None:
            return replayed
        self._journal.start(asking)
        self._open[strand] = asking
        return Unrecorded()

    def end_step(self, strand: str, command: StepEnd) -> Answer:
        """Records what the function returned or raised, and gives it back."""
        asking = self._open.pop(strand, None)
        if asking is None:
            raise InternalError("the end of a step that was not begun")
        if command.error is not None:
            error = command.error
            return Raised(error) if error.usage else self._journal.fail(asking, error)
        self._journal.finish(asking, command.value)
        return Done(command.value)

    def _draw(self, asking: Asking, value: Json) -> Done:
        self._journal.finish(asking, value)
        return Done(value)


class SleepWait:
    """A sleep that goes on (commands.Pending)."""

    def __init__(self, journal: Journal, clock: Clock, asking: Asking, until: float) -> None:
        self._journal = journal
        self._clock = clock
        self._asking = asking
        self._until = until

    def poll(self) -> Done | None:
        """Its end."""
        if self._clock.monotonic() < self._until:
            return None
        self._journal.finish(self._asking, None)
        return Done(None)

    def due(self) -> float:
        """When it ends."""
        return self._until
