"""The join of `parallel` and `map`: which children run, which one's error decides. May import ports and below.

A join is a step: it records which child's error ended it, and how far each strand that was cancelled had come. So a caught error replays
as the same error, whichever sibling happens to be first the next time: until the deciding child has failed again, its siblings are
parked. They are answered from the record, as far as they had come, and do nothing that they had not done.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import msgspec

from sparkles import digest
from sparkles.engine.commands import Done, Ended, Parallel, Raised
from sparkles.engine.journal import Journal
from sparkles.model import Json


class Join:
    """One call of `parallel` or `map`, open until its last child has ended or one has failed."""

    def __init__(self, journal: Journal, parent: int, label: str, depth: int, command: Parallel) -> None:
        """`depth` is that of the parent. Raises Parked where the parent is parked and this join is not recorded."""
        self.parent = parent
        self.depth = depth
        self._journal = journal
        self._limit = command.limit
        texts = [child.text for child in command.children if child.text]
        self._shown: dict[str, Json] = {"items": texts} if texts else {}
        self._asking = journal.ask_for(label, command, begun=True)
        self._decided: str | None = None
        self.came: Mapping[str, int] = {}
        """Where a decision is replayed: the strands that it cancelled, and the number of the step that each stood at (0: not begun)."""
        recorded = self._asking.recorded
        # An error that ended the run is tried again: then nobody decides beforehand.
        if recorded is not None and recorded.error and recorded.value is not None and journal.stands(recorded):
            value = digest.parse(recorded.value)
            self._decided, self.came = value["decided"], value["cancelled"]
        self._queued: deque[tuple[int, str]] = deque()
        self._running: dict[int, str] = {}
        self._failed: list[tuple[str, Ended]] = []
        self._parked: list[str] = []

    def add(self, strand: int, label: str) -> None:
        """A child, in the order of the call."""
        self._queued.append((strand, label))

    def begin(self) -> None:
        """All children are there: parks the siblings of the one that decided earlier, if that one is still among them."""
        labels = [label for _, label in self._queued]
        if self._decided not in labels:
            self._decided, self.came = None, {}
        if self._decided is not None:
            self._parked = [label for label in labels if label != self._decided]
            for label in self._parked:
                self._journal.park(label)
        if self._asking.recorded is None:
            self._journal.start(self._asking, self._shown or None)

    def next_to_start(self) -> list[int]:
        """The children that may start now: as the limit lets them, or those that had started before the recorded decision."""
        if self._decided is not None:
            ready = [each for each in self._queued if self.came.get(each[1]) != 0]
            self._queued = deque(each for each in self._queued if self.came.get(each[1]) == 0)
        else:
            room = len(self._queued) if self._limit is None else max(self._limit - len(self._running), 0)
            ready = [self._queued.popleft() for _ in range(min(room, len(self._queued)))]
        self._running.update(ready)
        return [strand for strand, _ in ready]

    def ended(self, label: str, ended: Ended) -> tuple[str, Ended] | None:
        """A child's end. Returns the label and the end that decide the join as failed, or None while it goes on."""
        self._running.pop(ended.strand, None)
        if ended.error is not None:
            self._failed.append((label, ended))
        if self._decided is None:
            return self._failed[0] if self._failed else None
        if label != self._decided:
            return None
        if ended.error is not None:
            return label, ended
        self.give_up()  # it ends well now: the script or the world has changed
        return self._failed[0] if self._failed else None

    def give_up(self) -> None:
        """Nobody decides beforehand any more."""
        self._unpark()
        self._decided, self.came = None, {}

    def _unpark(self) -> None:
        for label in self._parked:
            self._journal.unpark(label)
        self._parked = []

    @property
    def replaying(self) -> bool:
        """Whether a recorded decision is being replayed: then its siblings come as far as they had come before it is raised again."""
        return self._decided is not None

    def open(self) -> list[int]:
        """The children that have not ended."""
        return [*self._running, *(strand for strand, _ in self._queued)]

    def done(self) -> bool:
        """Whether every child has ended well."""
        return not self._running and not self._queued and not self._failed

    def finish(self) -> Done:
        """Records that every child ended well, and answers the parent."""
        recorded = self._asking.recorded
        if recorded is None or recorded.value is None or recorded.error or recorded.ended_at_ms is None:
            self._journal.finish(self._asking, {"decided": None, **self._shown})
        return Done()

    def fail(self, label: str, cancelled: Mapping[str, int]) -> None:
        """Records which child decided and whom that cancelled, where this is not a replay of it."""
        self._unpark()
        self._journal.failed(self._asking.key)
        if self._decided is None:
            self._journal.finish(self._asking, {"decided": label, "cancelled": dict(cancelled), **self._shown}, error=True)


def outcome(ended: Ended) -> Done | Raised:
    """What a parent sees of a child's end: the error keeps the line that raised it."""
    error = ended.error
    if error is None:
        return Done()
    if ended.position and "position" not in error.fields:
        error = msgspec.structs.replace(error, fields={**error.fields, "position": ended.position})
    return Raised(error, strand=ended.strand)
