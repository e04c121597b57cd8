"""Clocks: the machine's, and one that only moves when it is told to (tests). Imports nothing of sparkles but the port."""

from __future__ import annotations

import time

from sparkles.ports import Clock


class SystemClock:
    """The machine's clocks."""

    def now_ms(self) -> int:
        """See Clock."""
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        """See Clock."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """See Clock."""
        time.sleep(seconds)


class ManualClock:
    """Stands still; `sleep` and `advance` move it. `set_back` moves the wall clock alone, as an administrator may."""

    def __init__(self, now_ms: int = 1_700_000_000_000) -> None:
        self._now_ms = float(now_ms)
        self._monotonic = 1000.0

    def now_ms(self) -> int:
        """See Clock."""
        return round(self._now_ms)

    def monotonic(self) -> float:
        """See Clock."""
        return self._monotonic

    def sleep(self, seconds: float) -> None:
        """See Clock: passes at once."""
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        """Lets time pass."""
        self._now_ms += seconds * 1000
        self._monotonic += seconds

    def set_back(self, seconds: float) -> None:
        """The wall clock jumps backwards."""
        self._now_ms -= seconds * 1000


def _conforms(system: SystemClock, manual: ManualClock) -> tuple[Clock, Clock]:
    return system, manual
