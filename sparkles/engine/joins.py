"""The join of `parallel` and `map`: which children run, which one's error decides. May import ports and below.

A join is a step: it records which child's error ended it. So a caught error replays as the same error, whichever sibling happens to be
first the next time. Until the deciding child has ended again, its siblings are parked: they are answered from the record and do
nothing that they had not done.
"""

from __future__ import annotations

from collections import deque

from sparkles import digest
from sparkles.engine.commands import Done, Ended, Parallel, Raised
from sparkles.engine.journal import Journal
from sparkles.engine.replay import Reuse, decide


class Join:
    """One call of `parallel` or `map`, open until its last child has ended or one has failed."""

    def __init__(self, journal: Journal, parent: int, label: str, command: Parallel) -> None:
        """Raises Parked where the parent is parked and this join is not recorded."""
        self.parent = parent
        self._journal = journal
        self._limit = command.limit
        self._asking = journal.ask_for(label, command)
        self._decided: str | None = None
        recorded = self._asking.recorded
        if recorded is not None and recorded.error and recorded.value is not None:
            decision = decide(recorded, journal.followed(recorded))
            # An error that ended the run is tried again: then nobody decides beforehand.
            self._decided = digest.parse(recorded.value)["decided"] if isinstance(decision, Reuse) else None
        self._queued: deque[int] = deque()
        self._running: set[int] = set()
        self._failed: list[tuple[str, Ended]] = []
        self._parked: list[str] = []

    def add(self, strand: int, label: str) -> None:
        """A child, in the order of the call."""
        if label == self._decided:
            self._queued.appendleft(strand)
        else:
            self._queued.append(strand)

    def park_others(self, labels: list[str]) -> None:
        """Parks the siblings of the child that decided earlier, if it is still among the children."""
        if self._decided not in labels:
            self._decided = None
        if self._decided is not None:
            self._parked = [label for label in labels if label != self._decided]
            for label in self._parked:
                self._journal.park(label)
        if self._asking.recorded is None:
            self._journal.start(self._asking)

    def next_to_start(self) -> list[int]:
        """The children that may start now, as the limit lets them."""
        found = []
        while self._queued and (self._limit is None or len(self._running) < self._limit):
            strand = self._queued.popleft()
            self._running.add(strand)
            found.append(strand)
        return found

    def ended(self, strand: int, label: str, ended: Ended) -> tuple[str, Ended] | None:
        """A child's end. Returns the label and the end that decide the join as failed, or None while it goes on."""
        self._running.discard(strand)
        if ended.error is not None:
            self._failed.append((label, ended))
        if self._decided is None:
            return self._failed[0] if self._failed else None
        if label != self._decided:
            return None
        if ended.error is not None:
            return label, ended
        self.give_up_parking()  # it ends well now: the script or the world has changed
        return self._failed[0] if self._failed else None

    def give_up_parking(self) -> None:
        """Nobody decides beforehand any more."""
        for label in self._parked:
            self._journal.unpark(label)
        self._parked = []
        self._decided = None

    def open(self) -> list[int]:
        """The children that have not ended."""
        return [*self._running, *self._queued]

    def done(self) -> bool:
        """Whether every child has ended."""
        return not self._running and not self._queued

    def finish(self) -> Done:
        """Records that every child ended well, and answers the parent."""
        recorded = self._asking.recorded
        if recorded is None or recorded.value is None or recorded.error or recorded.ended_at_ms is None:
            self._journal.finish(self._asking, {"decided": None})
        return Done()

    def fail(self, label: str, outcome: Done | Raised) -> Done | Raised:
        """Records which child decided, and answers the parent with its error."""
        for each in self._parked:
            self._journal.unpark(each)
        self._parked = []
        self._journal.finish(self._asking, {"decided": label}, error=True)
        return outcome
