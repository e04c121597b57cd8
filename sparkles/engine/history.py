"""What a run's record says of the files that the run itself wrote or fetched: what had happened to a path at a point of the replay.

Pure; may import model and below. Surprise: a script may have been edited. A recorded write that its strand has gone past without asking
for it is one that the script dropped, and what is on the disk then counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path

import msgspec

from sparkles.model import Digest, StepKey

TABLE = "tasks.csv"
"""What a fetch calls the table of the tasks."""

_NEW = 1 << 60
"""Sequences and times from here on are of writes that this execution performed: they come after all that is recorded."""


class Point(msgspec.Struct, frozen=True):
    """Where in the order of the record a strand stands: it asks for what was recorded with `sequence` (`exact`), or for something that
    is not recorded, after `sequence`."""

    strand: str = ""
    sequence: int = 0
    exact: bool = False


class _Write(msgspec.Struct):
    """A write of one path, last performed at `at_ms`: content before (None: no file) and after. `reached`: this execution has asked for
    it."""

    key: StepKey
    sequence: int
    at_ms: int
    before: Digest | None
    after: Digest
    reached: bool = False


class _Fetch(msgspec.Struct):
    """A recorded fetch. `there`: the names in its folder that were there before it."""

    key: StepKey
    sequence: int
    dest: Path
    there: frozenset[str]
    reached: bool = False

    def made(self, path: Path) -> bool:
        """Whether a file below its folder came to be by it: it makes a table, and a folder for each task."""
        first = path.relative_to(self.dest).parts[0]
        return (first.isdecimal() or path == self.dest / TABLE) and first not in self.there


class _Writes:
    """The writes of one path, by key: those that this execution has reached come last, in its order."""

    def __init__(self) -> None:
        self.by_key: dict[StepKey, _Write] = {}
        self.strands: set[str] = set()
        self.later: Counter[Digest] = Counter()
        self.reached_at_ms: dict[Digest, int] = {}

    def add(self, write: _Write) -> None:
        self.by_key[write.key] = write
        self.strands.add(write.key.strand)
        if write.reached:
            self.reached_at_ms[write.after] = max(write.at_ms, self.reached_at_ms.get(write.after, 0))
        else:
            self.later[write.after] += 1

    def take(self, key: StepKey) -> _Write | None:
        write = self.by_key.pop(key, None)
        if write is not None and not write.reached:
            self.later[write.after] -= 1
        return write

    def came_later(self, content: Digest, point: Point) -> tuple[bool, _Write | None]:
        """Whether a write that had not happened at that point put this there, and the latest one that had."""
        if self.strands == {point.strand}:
            # A loop that rewrites its own file: nothing may be looked at write by write, each time.
            write = next(reversed(self.by_key.values()))
            return self.later[content] > 0, write if write.reached else None
        pending = any(each.after == content and not _happened(each, point) for each in self.by_key.values())
        return pending, _last(self.by_key.values(), point)


class History:
    """The writes and fetches of one run, those of this execution included."""

    def __init__(self) -> None:
        self._writes: dict[Path, _Writes] = {}
        self._fetches: dict[Path, list[_Fetch]] = {}
        self._new = count(_NEW)

    def __bool__(self) -> bool:
        return bool(self._writes or self._fetches)

    def add_write(self, path: Path, key: StepKey, sequence: int, at_ms: int, before: Digest | None, after: Digest) -> None:
        """Takes in a recorded write, in the order of the record."""
        self._writes.setdefault(path, _Writes()).add(_Write(key, sequence, at_ms, before, after))

    def add_fetch(self, dest: Path, key: StepKey, sequence: int, there: frozenset[str]) -> None:
        """Takes in a recorded fetch."""
        self._fetches.setdefault(dest, []).append(_Fetch(key, sequence, dest, there))

    def reached_write(self, path: Path, key: StepKey) -> None:
        """The replay has reached a recorded write: the last in its strand so far."""
        writes = self._writes.setdefault(path, _Writes())
        write = writes.take(key)
        if write is not None:
            writes.add(msgspec.structs.replace(write, reached=True))

    def performed(self, path: Path, key: StepKey, before: Digest | None, after: Digest) -> None:
        """This execution has written the file."""
        writes = self._writes.setdefault(path, _Writes())
        known = writes.take(key)
        new = next(self._new)
        writes.add(_Write(key, known.sequence if known is not None else new, new, before, after, reached=True))

    def reached_fetch(self, strand: str, dest: Path) -> None:
        """The replay has reached a fetch to `dest`."""
        for fetch in self._fetches.get(dest, ()):
            if fetch.key.strand == strand:
                fetch.reached = True

    def knows(self, path: Path) -> bool:
        """Whether something of it is recorded: else the path is what is on the disk."""
        return path in self._writes or bool(self._fetched(path))

    def has_below(self, folder: Path) -> bool:
        """Whether something is recorded of what is in a folder."""
        return any(path.is_relative_to(folder) for path in self._writes) or any(
            dest.is_relative_to(folder) or folder.is_relative_to(dest) for dest in self._fetches
        )

    def content(self, path: Path, now: Digest | None, point: Point) -> Digest | None:
        """What the path held at a point of the run, where `now` is on the disk: that, unless the record says that it came later."""
        if now is None:
            return None
        writes = self._writes.get(path)
        later, last = writes.came_later(now, point) if writes is not None and writes.by_key else (False, None)
        if writes is not None and later:
            if last is not None:
                return last.after
            dropped, ahead = _split(writes.by_key.values(), point)
            return ahead[0].before if ahead and not any(each.after == now for each in dropped) else now
        return None if last is None and self._fetched_later(path, point) else now

    def _fetched(self, path: Path) -> list[_Fetch]:
        """The fetches that made a file."""
        if not self._fetches:
            return []
        return [fetch for folder in path.parents for fetch in self._fetches.get(folder, ()) if fetch.made(path)]

    def _fetched_later(self, path: Path, point: Point) -> bool:
        made = self._fetched(path)
        return bool(made) and all(not _happened(each, point) and each.sequence > point.sequence for each in made)

    def later(self, path: Path, content: Digest) -> bool:
        """Whether a recorded write that the replay has not reached put this at `path`."""
        writes = self._writes.get(path)
        return writes is not None and writes.later[content] > 0

    def overwrote(self, path: Path, key: StepKey, content: Digest) -> bool:
        """Whether a write that the script asked for before the recorded write `key` put this there after it: in this execution, or in
        one that ended in between."""
        writes = self._writes.get(path)
        write = writes.by_key.get(key) if writes is not None else None
        return writes is not None and write is not None and writes.reached_at_ms.get(content, -1) > write.at_ms

    def mixed(self) -> Iterator[Path]:
        """The paths that the script has written and that other recorded writes, which it has not asked for, wrote as well."""
        for path, writes in self._writes.items():
            if writes.reached_at_ms and writes.later.total():
                yield path


def _happened(step: _Write | _Fetch, point: Point) -> bool:
    """A strand's own steps, and at the end of the record those of the strands around it, come in the order of the script; those of
    others as they are recorded, all of them before something that is not recorded."""
    strand = step.key.strand
    if strand == point.strand:
        return step.reached
    if point.exact:
        return step.sequence <= point.sequence
    return step.reached or not (_is_below(strand, point.strand) or _is_below(point.strand, strand))


def _is_below(strand: str, other: str) -> bool:
    return not other or strand.startswith(other + "/")


def _last(writes: Iterable[_Write], point: Point) -> _Write | None:
    """The latest write that had happened: of the asking strand the one it asked for last, whatever the order of the record."""
    happened = [each for each in writes if _happened(each, point)]
    own = [each for each in happened if each.key.strand == point.strand]
    others = [each for each in happened if each.key.strand != point.strand]
    return max([*own[-1:], *others], key=lambda each: each.sequence, default=None)


def _split(writes: Iterable[_Write], point: Point) -> tuple[list[_Write], list[_Write]]:
    """What had not happened, in the order of the record: writes that the strand has left behind, and those that are still to come."""
    pending = [each for each in writes if not _happened(each, point)]
    passed = [each for each in pending if each.sequence <= point.sequence]
    return passed, [each for each in pending if each.sequence > point.sequence]
