"""A run's steps as its session sees them: keys, occurrences, write-ahead rows. May import ports and below.

A key is (strand label, kind, digest of canonical arguments, occurrence): the n-th time that a strand asks for the same thing in
this execution is answered by the n-th recorded. Nothing is keyed on position, white space, time or host.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from sparkles import digest
from sparkles.engine import keys
from sparkles.engine.commands import Command, Done, Raised, StepError
from sparkles.engine.replay import Reuse, decide
from sparkles.errors import NotFound
from sparkles.model import Digest, Json, RunId, Step, StepKey, StepState
from sparkles.ports import Clock, RunStore


class Asking(msgspec.Struct, frozen=True):
    """A step that the script asks for now: its key, its arguments, where it stands, and what is recorded under the key."""

    key: StepKey
    parts: str
    position: str
    recorded: Step | None


class _Unpassed:
    """An error outcome that was recorded and that the script has not gone on past so far."""

    __slots__ = ("passed", "step", "value")

    def __init__(self, step: Step, value: Json) -> None:
        self.step = step
        self.value = value
        self.passed = False


_ACCEPTING = ("wait", "shell")
"""The kinds of steps that give a failure to the script as a value where it asks for that (allowFailures, allowFailure)."""

_OWN = ("ScriptError", "Failed", "Cancelled")
"""The kinds of errors that are no step's: a script's `error` and `fail`, and what awaiting a cancelled strand raises."""


def _is_done(step: Step | None) -> bool:
    return step is not None and step.state is StepState.DONE


READ_ALONG = 200
"""Steps that are read with the one that was asked for: a query for each would cost twice as much."""


class Parked(Exception):
    """A strand of a parked subtree asked for something that is not recorded: it may not go on yet."""


class Journal:
    """The one writer of a run's steps."""

    def __init__(self, store: RunStore, run: RunId, clock: Clock) -> None:
        self._store = store
        self._run = run
        self._clock = clock
        self._sequence = store.last_sequence(run)
        self._occurrences: dict[tuple[str, str, str], int] = {}
        self._digests: dict[str, Digest] = {}
        self._started_at_ms: dict[StepKey, int] = {}
        self._ahead: dict[str, dict[StepKey, Step]] = {}
        self._reached: dict[str, int] = {}
        self.recorded_steps = self._sequence
        """How many steps were recorded when the run was opened, at most."""
        self._parked: list[str] = []
        self._other_labels: dict[str, str] = {}
        self._unpassed: dict[str, list[_Unpassed]] = {}
        self._raised: list[StepKey] = []
        self._failures: dict[StepKey, None] = {}
        self._moved: dict[StepKey, str] = {}
        self.performed = 0
        """How many steps were carried out to their end."""
        self.reused = 0
        """How many were answered from the record."""

    def ask_for(self, strand: str, command: Command, *, begun: bool = False) -> Asking:
        """`ask` for a command that is keyed on its own arguments."""
        return self.ask(strand, *keys.of(command), command.position, begun=begun)

    def ask(self, strand: str, kind: str, arguments: Json, position: str, *, begun: bool = False) -> Asking:
        """Looks up what is recorded for the strand's next asking of this kind and these arguments.

        Raises Parked where the strand is parked and no outcome is recorded (`begun`: not even a beginning): the same asking may be made
        again later.
        """
        parts, of_parts = self._identified(arguments)
        count = self._occurrences.get((strand, kind, of_parts), 0) + 1
        key = StepKey(strand, kind, of_parts, count)
        recorded = self._look(key)
        missing = recorded is None or (recorded.state is StepState.STARTED and not begun)
        if missing and self._is_parked(strand):
            raise Parked
        self._occurrences[(strand, kind, of_parts)] = count
        self.reused += _is_done(recorded)
        if recorded is not None:
            self._reached[strand] = max(recorded.sequence, self._reached.get(strand, 0))
            if recorded.position != position:
                self._moved[key] = position
        return Asking(key, parts, position, recorded)

    def reached(self, strand: str) -> int:
        """The greatest sequence of a recorded step that the strand, or one above it, has asked for in this execution; 0 before."""
        found = 0
        while strand:
            found = max(found, self._reached.get(strand, 0))
            strand = strand.rpartition("/")[0]
        return found

    def _identified(self, arguments: Json) -> tuple[str, Digest]:
        """Arguments in canonical form, and the digest of that."""
        parts = digest.canonical(arguments)
        if len(parts) > 64:
            return parts, digest.of_bytes(parts.encode())
        of_parts = self._digests.get(parts)
        if of_parts is None:
            of_parts = self._digests[parts] = digest.of_bytes(parts.encode())
        return parts, of_parts

    def has_next(self, strand: str, kind: str, arguments: Json) -> bool:
        """Whether anything is recorded for the strand's next asking of this kind and these arguments, begun or done. Asks for nothing."""
        _, of_parts = self._identified(arguments)
        key = StepKey(strand, kind, of_parts, self._occurrences.get((strand, kind, of_parts), 0) + 1)
        found = self._look(key)
        if found is not None:
            self._ahead.setdefault(strand, {})[key] = found
        return found is not None

    def strands(self) -> list[str]:
        """The labels of the strands that have recorded anything, in the order in which they first did."""
        return self._store.list_strands(self._run)

    def _look(self, key: StepKey) -> Step | None:
        """What is recorded under a key. A replay mostly asks in the order of the record, so the strand's next steps are read along."""
        ahead = self._ahead.get(key.strand)
        if ahead:
            found = ahead.pop(key, None)
            if found is not None:
                return found
        if not self.recorded_steps:
            return None
        found = self._store.get_step(self._run, key)
        if found is not None:
            following = self._store.list_strand(self._run, key.strand, after=found.sequence, limit=READ_ALONG)
            self._ahead[key.strand] = {step.key: step for step in following}
        return found

    def park(self, label: str) -> None:
        """From now on the strand of that label, and those below it, are answered from the record only."""
        self._parked.append(label)

    def unpark(self, label: str) -> None:
        """Ends `park`."""
        self._parked.remove(label)

    def also_park(self, label: str, other: str) -> None:
        """The strand of that label is recorded under another: it is parked with it."""
        self._other_labels[label] = other

    def _is_parked(self, strand: str) -> bool:
        labels = (self._other_labels.get(label, label) for label in self._parked)
        return any(strand == label or strand.startswith(label + "/") for label in labels)

    def replayed(self, asking: Asking) -> Done | Raised | None:
        """The recorded outcome, where the general rule (`replay.decide`) lets it stand; None where the step has to be performed."""
        recorded = asking.recorded
        if recorded is None or recorded.value is None:
            return None
        if not self.stands(recorded):
            return None
        value = digest.parse(recorded.value)
        if recorded.error:
            return self._raise(asking.key, StepError.of_record(value), reused=True)
        if asking.key.kind in _ACCEPTING:
            value.pop("passed", None)
        return Done(value, reused=True)

    def stands(self, step: Step) -> bool:
        """Whether the general rule answers from this step. What a parked strand has seen fail it sees fail again, passed or not: it
        comes no further than it had come."""
        return isinstance(decide(step, self.passed(step) or self._is_parked(step.key.strand)), Reuse)

    def passed(self, step: Step) -> bool:
        """Whether the step did not fail, or failed and the run goes on from that: the script went on past the error in an earlier
        execution, or had asked for the failure as a value, and that execution did not end with it."""
        if step.value is None:
            return not step.error
        if step.error:
            return digest.parse(step.value).get("passed") is True
        # Most values are as long as their output: only one that may have the mark is taken apart.
        marked = step.key.kind in _ACCEPTING and '"passed":false' in step.value
        return not (marked and digest.parse(step.value).get("passed") is False)

    def went_on(self, strand: str) -> None:
        """The strand asks for its next step, or ended well: what it saw fail was caught, and replays as it was."""
        for each in self._unpassed.pop(strand, ()):
            if not each.passed:
                each.passed = True
                passed = msgspec.structs.replace(each.step, value=digest.canonical({**each.value, "passed": True}))
                self._store.put_step(self._run, passed)

    def hand_over(self, strand: str, other: str) -> None:
        """The error that ended a strand is raised in another one: that one goes on past it or does not."""
        handed = self._unpassed.get(strand)
        if handed:
            self._unpassed.setdefault(other, []).extend(handed)

    def fail(self, asking: Asking, error: StepError, **more: Json) -> Raised:
        """Records the error as the step's outcome, with what else is to be known of it, and gives the strand its answer."""
        self.finish(asking, {**more, **error.to_record()}, error=True)
        return self._raise(asking.key, error)

    def _raise(self, key: StepKey, error: StepError, *, reused: bool = False) -> Raised:
        self.failed(key)
        self._raised.append(key)
        return Raised(msgspec.structs.replace(error, step=len(self._raised)), reused=reused)

    def failed(self, key: StepKey) -> None:
        """In this execution the script saw that step fail: by an error, or by a value that it had asked for."""
        self._failures[key] = None

    def ended(self, error: StepError) -> None:
        """The script has ended with that error. What it rests on is tried again by the next execution, whether or not it was caught on the
        way: the step whose error it is, with the joins through which it came; or, where the script itself found that it failed, every
        failure that it saw, since nobody can tell on which of them that rests. After a mistake of the script, which is mended by an
        edit, and after what is never recorded, everything stands.
        """
        if error.step:
            key = self._raised[error.step - 1]
            keys = [key, *(each for each in self._failures if each.kind == "join" and self._has_ended(each, key.strand))]
        else:
            keys = list(self._failures) if error.kind in _OWN and not error.usage else []
        for key in keys:
            step = self._store.get_step(self._run, key)
            if step is not None and step.value is not None and self.passed(step):
                value = {**digest.parse(step.value), "passed": False}
                self._store.put_step(self._run, msgspec.structs.replace(step, value=digest.canonical(value)))

    def _has_ended(self, join: StepKey, strand: str) -> bool:
        """Whether a join that failed ended that strand, as the one that decided it or as one that it cancelled."""
        step = self._store.get_step(self._run, join)
        value = digest.parse(step.value) if step is not None and step.value is not None else {}
        labels = [value.get("decided"), *value.get("cancelled", ())]
        known = [self._other_labels.get(label, label) for label in labels if label is not None]
        return any(strand == label or strand.startswith(label + "/") for label in known)

    def start(self, asking: Asking, value: Json = None) -> None:
        """Records that the step's effect is about to happen; `value` is what a resumed execution needs to know of it."""
        self._started_at_ms[asking.key] = self._clock.now_ms()
        self._put(asking, StepState.STARTED, value, False, None)

    def finish(self, asking: Asking, value: Json, *, error: bool = False) -> None:
        """Records the step's outcome."""
        self.performed += 1
        self.reused -= _is_done(asking.recorded)
        step = self._put(asking, StepState.DONE, value, error, self._clock.now_ms())
        if error:
            self._unpassed.setdefault(asking.key.strand, []).append(_Unpassed(step, value))

    def move(self) -> None:
        """Records where the script asked for the steps that it moved: at once, since an edit of one line moves every step below it."""
        if self._moved:
            self._store.move_steps(self._run, self._moved)
            self._moved = {}

    def steps(self, kinds: tuple[str, ...]) -> list[Step]:
        """The recorded steps of these kinds, in the order in which they were first asked for."""
        return self._store.list_steps(self._run, kinds=kinds)

    def inherited(self, kinds: tuple[str, ...]) -> list[Step]:
        """As `steps`, those of the run that this one was forked from, which were not copied; none where it is gone."""
        try:
            source = self._store.get_run(self._run).forked_from
        except NotFound:
            return []
        return self._store.list_steps(RunId(source), kinds=kinds) if source else []

    def of_other_runs(self, kinds: tuple[str, ...]) -> Iterator[tuple[RunId, list[Step]]]:
        """What other runs recorded of these kinds, the newest run first."""
        for run in self._store.list_runs():
            if run.id != self._run:
                yield run.id, self._store.list_steps(run.id, kinds=kinds)

    def _put(self, asking: Asking, state: StepState, value: Json, error: bool, ended_at_ms: int | None) -> Step:
        started = self._started_at_ms.get(asking.key)
        if started is None or ended_at_ms is None:
            self._sequence += asking.recorded is None  # a step keeps the sequence that it has
            started = started if started is not None else ended_at_ms or 0
        if ended_at_ms is not None:
            self._started_at_ms.pop(asking.key, None)
        step = Step(
            key=asking.key,
            state=state,
            sequence=self._sequence,
            parts=asking.parts,
            position=asking.position,
            value=digest.canonical(value),
            error=error,
            started_at_ms=started,
            ended_at_ms=ended_at_ms,
        )
        self._ahead.get(asking.key.strand, {}).pop(asking.key, None)
        self._store.put_step(self._run, step)
        return step
