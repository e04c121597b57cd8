"""Tells people what keeps the workers of a pool from going on, once, and once that it is over. May import ports.

A worker says it with its heartbeat: the driver may not use the service in question at all while tasks run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sparkles.ports import Clock

LOOK_S = 2.0


class Troubles:
    """What was told so far, by pool."""

    def __init__(self, troubles_of: Callable[[str], Mapping[str, str]], clock: Clock, say: Callable[[str], None]) -> None:
        """`troubles_of` gives what is in the way of a pool's workers, by worker."""
        self._troubles_of, self._clock, self._say = troubles_of, clock, say
        self._told: dict[str, set[str]] = {}
        self._next: dict[str, float] = {}

    def look(self, pool: str) -> None:
        """To be called often; looks now and then."""
        now = self._clock.monotonic()
        if now < self._next.get(pool, now):
            return
        self._next[pool] = now + LOOK_S
        found: dict[str, list[str]] = {}
        for worker, trouble in sorted(self._troubles_of(pool).items()):
            found.setdefault(trouble, []).append(worker)
        told = self._told.get(pool, set())
        for trouble, (worker, *others) in found.items():
            if trouble not in told:
                who = f"worker {worker} and {len(others)} more say" if others else f"worker {worker} says"
                self._say(f"{who}: {trouble}. It is tried again; nothing is lost meanwhile.")
        for trouble in sorted(told - found.keys()):
            self._say(f"workers go on, after: {trouble}")
        self._told[pool] = set(found)
