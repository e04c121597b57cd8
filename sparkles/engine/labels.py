"""What strands are called, and which records an edited script's strands take up. May import ports and below.

A child is labelled by its parent's label and its key; the n-th of the same key is told apart by `~n`, in the order in which the script
starts them. That order is what an edit changes: a `map` inserted before another over the same items, a function whose text is known
by another digest now. So a strand whose first step is not recorded under the label that it was given takes up a recorded label of the
same kind that nobody has, under which that step is. A script that was not edited finds its first steps where it left them.

Surprise: nothing says on record who took up what. A later execution decides the same again, because what a strand did stands under
the label that it had.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from sparkles.engine.commands import Command, Spawn
from sparkles.engine.joins import Join
from sparkles.engine.journal import Journal
from sparkles.model import Json

Keyed = Callable[[str, Command], tuple[str, Json] | None]
"""The kind and arguments that a command is keyed on, asked by a strand of that label; None where they cannot be told."""

_SPAWN = "spawn:"


class Strand:
    """One line of control: its label, who started it (0: nobody), how many steps it asked for, and which strands are cancelled with it.

    `given` is the label that it was started with, by which joins know it; `label`, of its records, is known from its first step on.
    """

    __slots__ = ("asked", "children", "depth", "given", "join", "label", "number", "parent", "settled")

    def __init__(self, number: int, label: str, parent: int, depth: int, join: Join | None) -> None:
        self.number = number
        self.given = label
        self.settled = not parent
        self.label = label if self.settled else f"{label}?"
        self.parent = parent
        self.depth = depth
        self.join = join
        self.children: dict[int, None] = {}
        self.asked = 0


class Labels:
    """The labels of one execution."""

    def __init__(self, journal: Journal, keyed: Keyed, holds: Callable[[str], bool]) -> None:
        """`holds`: whether a function of the script, as it is now, is known by a spawned child's key."""
        self._journal = journal
        self._keyed = keyed
        self._holds = holds
        self._counts: Counter[str] = Counter()
        self._known_by: dict[str, str] = {}
        self._at_rest: dict[str, bool] = {}
        self._recorded: _Recorded | None = None

    def give(self, parent: str, key: str) -> str:
        """The label of the next child of that key."""
        label = f"{parent}/{_escaped(key)}"
        self._counts[label] += 1
        return label if self._counts[label] == 1 else f"{label}~{self._counts[label]}"

    def known_by(self, given: str) -> str:
        """The label under which the strand that was given this one is recorded."""
        return self._known_by.get(given, given)

    def settle(self, given: str, command: Command, *, sure: bool) -> str | None:
        """The label under which a strand is recorded from its first step on, which is this one.

        None where that is better said once others have found theirs, which may be the one that it was given; not where it has to be `sure`.
        """
        if not self._journal.recorded_steps:
            return given
        label = self._settled(given, command, sure)
        if label is not None:
            self._at_rest[label] = False
            if label != given:
                self._known_by[given] = label
                self._journal.also_park(given, label)
        return label

    def ended(self, label: str, *, well: bool) -> None:
        """What ended well has left its label at rest: another one can go on under it, and disturb nothing."""
        if label in self._at_rest:
            self._at_rest[label] = well

    def _settled(self, given: str, command: Command, sure: bool) -> str | None:
        def matches(label: str) -> bool:
            if not self._is_free(label):
                return False
            if isinstance(command, Spawn):  # which is no step: what it starts is recorded below it
                return f"{label}/{_escaped(command.child.key)}" in self._records().labels
            keyed = self._keyed(label, command)  # what a job's files held depends on where in the record its strand is
            return keyed is not None and self._journal.has_next(label, *keyed)

        if matches(given):
            return given
        records = self._records()
        alike = records.alike(given)
        others = self._of_other_texts(given) if given not in records.labels else []
        untaken = [label for label in (*alike, *others) if label not in self._at_rest]
        for label in (*untaken, *alike, *others):
            if matches(label):
                return label
        if not sure and (given in records.labels or untaken):
            return None
        if others and untaken:
            return untaken[0]  # its first step was edited with its text
        # Not where another had it: what runs side by side now may come in another order the next time.
        return given if given not in self._at_rest else self._fresh(given)

    def _of_other_texts(self, given: str) -> list[str]:
        """The recorded strands that the same parent spawned, whose functions the script does not have any more."""
        parent, _, key = given.rpartition("/")
        if not key.startswith(_SPAWN):
            return []
        return [label for label in self._records().spawned(parent) if not self._holds(_key_of(label))]

    def _is_free(self, label: str) -> bool:
        return self._at_rest.get(label, True)

    def _fresh(self, given: str) -> str:
        """A label that nobody has, where somebody else has the one that was given."""
        base = _base(given)
        number = self._counts[base] + 1
        while (label := f"{base}~{number}") in self._at_rest or label in self._records().labels:
            number += 1
        return label

    def _records(self) -> _Recorded:
        if self._recorded is None:
            self._recorded = _Recorded(self._journal.strands())
        return self._recorded


class _Recorded:
    """The labels on record, in the order in which their strands were first heard of."""

    def __init__(self, strands: Iterable[str]) -> None:
        self.labels: dict[str, None] = {}
        self._alike: dict[str, list[str]] = {}
        self._spawned: dict[str, list[str]] = {}
        for strand in strands:
            at = strand.find("/")
            while at >= 0:  # one that only started others is known by those
                at = strand.find("/", at + 1)
                self._add(strand if at < 0 else strand[:at])

    def _add(self, label: str) -> None:
        if label in self.labels:
            return
        self.labels[label] = None
        self._alike.setdefault(_base(label), []).append(label)
        parent, _, key = label.rpartition("/")
        if key.startswith(_SPAWN):
            self._spawned.setdefault(parent, []).append(label)

    def alike(self, label: str) -> list[str]:
        """Those of the same parent and key."""
        return self._alike.get(_base(label), [])

    def spawned(self, parent: str) -> list[str]:
        """Those that the strand of that label spawned."""
        return self._spawned.get(parent, [])


def _base(label: str) -> str:
    """A label without the number that tells it from others of the same key. A key's own "~" is escaped."""
    parent, slash, key = label.rpartition("/")
    return parent + slash + key.partition("~")[0]


def _key_of(label: str) -> str:
    return _base(label).rpartition("/")[2]


def _escaped(key: str) -> str:
    """A key as a part of a label, in which "/" and "~" have a meaning."""
    return key.replace("%", "%25").replace("/", "%2F").replace("~", "%7E") if any(each in key for each in "%/~") else key
