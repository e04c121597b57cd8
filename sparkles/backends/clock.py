"""Clocks: the machine's, and one that tests turn by hand. May import ports."""

from __future__ import annotations

import threading
import time

from sparkles.ports import Clock


class SystemClock:
    """The machine's clock."""

    def now_ms(self) -> int:
        """See ports.Clock."""
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        """See ports.Clock."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """See ports.Clock."""
        if seconds > 0:
            time.sleep(seconds)


class ManualClock:
    """Stands still until it is advanced. `sleep` advances it and returns at once; `slept` holds what was asked for, in order.

    The wall clock can be set back on its own, as a machine's can; the monotonic one only ever advances.
    """

    def __init__(self, now_ms: int = 1_700_000_000_000) -> None:
        self._lock = threading.Lock()
        self._now_ms = float(now_ms)
        self._monotonic = 0.0
        self.slept: list[float] = []

    def now_ms(self) -> int:
        """See ports.Clock."""
        return int(self._now_ms)

    def monotonic(self) -> float:
        """See ports.Clock."""
        return self._monotonic

    def sleep(self, seconds: float) -> None:
        """See ports.Clock."""
        self.slept.append(seconds)
        self.advance(max(0.0, seconds))

    def advance(self, seconds: float) -> None:
        """Lets time pass on both clocks. Raises ValueError for a negative time."""
        if seconds < 0:
            raise ValueError(f"time cannot pass backwards: {seconds} s; set_back moves the wall clock")
        with self._lock:
            self._now_ms += seconds * 1000.0
            self._monotonic += seconds

    def set_back(self, seconds: float) -> None:
        """Sets the wall clock back, as an administrator or ntpd may; the monotonic clock does not notice."""
        with self._lock:
            self._now_ms -= seconds * 1000.0


_SYSTEM: Clock = SystemClock()
_MANUAL: Clock = ManualClock()
