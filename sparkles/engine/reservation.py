"""A worker's part of its host, kept in step with the JobStore's. May import ports and model; decisions are capacity.py's.

The worker asks `room` before each start and calls `settle` now and then. Two transactions serve thousands of tasks: one to reserve,
one to give back.
"""

from __future__ import annotations

from collections.abc import Iterable

from sparkles.engine import capacity
from sparkles.engine.capacity import Amount
from sparkles.model import WorkerId
from sparkles.ports import JobStore

NOTHING = Amount()


class Reservation:
    """What one worker holds and uses. `freed` is True after something was given back: others should be told, and it set to False."""

    def __init__(self, jobs: JobStore, worker: WorkerId, total: Amount, *, retry_s: float, turn_s: float) -> None:
        """`retry_s`: how long to leave it after a refusal, without a hint; `turn_s`: how long a turn takes where there are more workers
        than cores."""
        self._jobs, self._worker = jobs, worker
        self._retry_s, self._turn_s = retry_s, turn_s
        self.total = total
        self.held = NOTHING
        self.used = NOTHING
        self.waiting = False
        self.freed = False
        self.retry_at = 0.0
        self._turn_ends = 0.0
        self._share: Amount | None = None

    def look(self) -> None:
        """Learns whether other workers of this host wait."""
        self._share = capacity.fair_share(self.total, self._jobs.list_workers(), self._worker)

    def take(self, need: Amount) -> None:
        self.used = self.used.plus(need)

    def give(self, need: Amount) -> None:
        self.used = self.used.minus(need)

    def room(self, need: Amount, demand: Iterable[Amount], now: float) -> bool:
        """Whether a task that takes `need` may start now; reserves more where that may be, with a view to `demand`."""
        after = self.used.plus(need)
        if self._share is not None and not after.within(self._share):
            if self.used != NOTHING:
                return False  # above the fair share while others wait; its own tasks have to end first
            if self.held != NOTHING and now >= self._turn_ends:
                # A task needs more than the share: workers take turns.
                self._set(NOTHING)
                self.waiting = True
                self.retry_at = now + 2 * self._retry_s
                return False
        if after.within(self.held):
            return True
        if not after.within(self.total) or now < self.retry_at:
            return False
        target = capacity.wanted(self.used, demand, self.total, self._share)
        if not after.within(target):
            target = after
        if self._set(target) or (target != after and self._set(after)):
            self.waiting = False
            self._turn_ends = now + self._turn_s
            return True
        if self.used == NOTHING and self.held != NOTHING:
            self._set(NOTHING)  # two workers that each hold half would wait for the other's half for ever
        self.retry_at = now + self._retry_s
        self.waiting = True
        return False

    def settle(self, queued: bool, idle: bool) -> None:
        """Gives back what others wait for, and all where this worker has nothing to do. `queued`: it has tasks that could start."""
        if not queued:
            self.waiting = False
        if self.held == self.used:
            return
        if self._share is not None:
            target = self.held.lesser(self._share if queued else NOTHING).greater(self.used)
        elif idle:
            target = self.used
        else:
            return
        if target != self.held:
            self._set(target)

    def _set(self, amount: Amount) -> bool:
        done = self._jobs.reserve(
            self._worker,
            cpu=amount.cpu,
            memory_bytes=amount.memory,
            total_cpu=self.total.cpu,
            total_memory_bytes=self.total.memory,
        )
        if done:
            self.freed = self.freed or amount.cpu < self.held.cpu or amount.memory < self.held.memory
            self.held = amount
        return done
