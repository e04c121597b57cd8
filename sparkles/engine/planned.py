"""What a plan says of a script's steps, and what it compares them with. May import ports and below; nothing here has an effect."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import msgspec

from sparkles import digest
from sparkles.engine.differences import Difference, of_parts
from sparkles.engine.journal import Asking, Journal, Parked
from sparkles.model import Json, Run, RunId, Step, StepKey, StepState
from sparkles.ports import Clock, RunStore

REUSED, RUNS, UNKNOWN = "reused", "would run", "unknown"

_NAMED_BY = {"step": "name", "read": "path", "write": "path", "fetch": "dest"}
"""The argument that a kind of step is called by: where it is the same, it is the same step, edited."""

_LIKE = 0.5
"""Steps without a name are taken for edits of each other where this much of what differs is alike."""

_COMPARED = 200
_COMPARED_CHARACTERS = 2000


class Reason(msgspec.Struct, frozen=True):
    """Why `count` tasks of a sweep are new; `example` is the index of the first, `differences` are that one's."""

    why: str
    count: int
    example: int
    differences: tuple[Difference, ...] = ()


class Planned(msgspec.Struct, frozen=True):
    """One step of a plan. `verdict` is reused, would run or unknown; `what` names it; `why` is a sentence where it is not reused. The
    plan goes on with what run `as_in` recorded for it; "" where it does not have to, or cannot."""

    verdict: str
    kind: str
    what: str
    position: str
    strand: str
    why: str = ""
    differences: tuple[Difference, ...] = ()
    tasks_reused: int = 0
    tasks_new: int = 0
    reasons: tuple[Reason, ...] = ()
    as_in: str = ""


class Unplannable(Parked):
    """The strand needs an answer that only an effect can give."""


class PlanJournal(Journal):
    """A run's journal that is only read; remembers what was asked for."""

    def __init__(self, store: RunStore, run: RunId, clock: Clock, *, as_recorded: bool) -> None:
        """`as_recorded`: every recorded error stands, that which ended the run too."""
        super().__init__(store, run, clock)
        self._as_recorded = as_recorded
        self.answered: set[StepKey] = set()
        """The recorded steps that the script asked for."""

    def ask(self, strand: str, kind: str, arguments: Json, position: str, *, begun: bool = False) -> Asking:
        """See Journal."""
        asking = super().ask(strand, kind, arguments, position, begun=begun)
        if asking.recorded is not None:
            self.answered.add(asking.key)
        return asking

    def passed(self, step: Step) -> bool:
        """See Journal."""
        return self._as_recorded or super().passed(step)

    def start(self, asking: Asking, value: Json = None) -> None:
        """Does nothing."""

    def finish(self, asking: Asking, value: Json, *, error: bool = False) -> None:
        """Does nothing."""


class Earlier:
    """What a run recorded, to compare with and to borrow from."""

    def __init__(self, run: Run, steps: Sequence[Step]) -> None:
        self.run = run.id
        self._by_key = {step.key: step for step in steps}
        self._by_kind: dict[tuple[str, str], list[Step]] = {}
        for step in steps:
            self._by_kind.setdefault((step.key.strand, step.key.kind), []).append(step)

    def step(self, key: StepKey) -> Step | None:
        """What it recorded under the same key."""
        return self._by_key.get(key)

    def value(self, key: StepKey) -> Step | None:
        """As `step`, where that ended well: its value can stand in for one that is not known yet."""
        step = self._by_key.get(key)
        return step if step is not None and step.state is StepState.DONE and step.value is not None and not step.error else None

    def alike(self, key: StepKey) -> list[Step]:
        """Its steps of the same strand and kind, in order."""
        return self._by_kind.get((key.strand, key.kind), [])


def nearest(asking: Asking, steps: Iterable[Step]) -> tuple[Step, tuple[Difference, ...]] | None:
    """The recorded step that `asking` is most likely an edit of, and what differs; None where none is like it."""
    parts = digest.parse(asking.parts)
    if not isinstance(parts, dict):
        return None
    kind = asking.key.kind
    name = _name(kind, parts)
    best: tuple[tuple[bool, int, float, bool], Step, tuple[Difference, ...]] | None = None
    for count, step in enumerate(steps):
        if count >= _COMPARED:
            break
        before = digest.parse(step.parts)
        found = tuple(of_parts(kind, before, parts))
        named = name is not None and _name(kind, before) == name
        alike = _likeness(found)
        if not named and (name is not None or alike < _LIKE):
            continue
        found = _told(kind, found)
        score = (not named, len(found), -alike, step.position != asking.position)
        if best is None or score < best[0]:
            best = (score, step, found)
    return best[1:] if best is not None else None


def why_new(
    asking: Asking, left: Sequence[Step], others: Sequence[Step], *, name_one: bool
) -> tuple[str, tuple[Difference, ...]]:
    """Why a step that is not recorded is none of those that are, and how it differs from the one that is most like it.

    Args:
        left: Recorded steps of its kind that the script has not asked for so far.
        others: Those of an earlier run.
        name_one: Name the first that is left, with what differs, where none is like it.
    """
    found = nearest(asking, chain(left, others))
    if found is not None:
        return f"it differs from the one at {found[0].position}", found[1]
    if not left or not name_one:
        return "it never ran", ()
    kind, before = asking.key.kind, left[0]
    differences = of_parts(kind, digest.parse(before.parts), digest.parse(asking.parts))
    return f"it never ran, and the {kind} at {before.position} is not asked for so far", _told(kind, differences)


def _told(kind: str, found: Sequence[Difference]) -> tuple[Difference, ...]:
    """Without what tells people nothing: the digest of a sweep's tasks."""
    return tuple(each for each in found if each.part != f"{kind} tasks")


def _name(kind: str, parts: Any) -> Any:
    if not isinstance(parts, dict):
        return None
    if kind == "submit":
        return parts["spec"]["name"]
    return parts.get(_NAMED_BY.get(kind, ""))


def _likeness(found: Sequence[Difference]) -> float:
    """How much of what differs is the same, from 0 to 1."""
    before = "\n".join(each.before for each in found)[:_COMPARED_CHARACTERS]
    after = "\n".join(each.after for each in found)[:_COMPARED_CHARACTERS]
    return difflib.SequenceMatcher(None, before, after, autojunk=False).ratio()
