"""A run's steps as its session sees them: keys, occurrences, write-ahead rows. May import ports and below.

A key is (strand label, kind, digest of canonical arguments, occurrence): the n-th time that a strand asks for the same thing in
this execution is answered by the n-th recorded. Nothing is keyed on position, white space, time or host.
"""

from __future__ import annotations

import msgspec

from sparkles import digest
from sparkles.engine import keys
from sparkles.engine.commands import Command, Done, Raised, StepError
from sparkles.engine.replay import Reuse, decide
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
        self.recorded_steps = self._sequence
        """How many steps were recorded when the run was opened, at most."""
        self._parked: list[str] = []
        self._unpassed: dict[str, list[_Unpassed]] = {}
        self.asked = 0
        self.performed = 0

    def ask_for(self, strand: str, command: Command, *, begun: bool = False) -> Asking:
        """`ask` for a command that is keyed on its own arguments."""
        return self.ask(strand, *keys.of(command), command.position, begun=begun)

    def ask(self, strand: str, kind: str, arguments: Json, position: str, *, begun: bool = False) -> Asking:
        """Looks up what is recorded for the strand's next asking of this kind and these arguments.

        Raises Parked where the strand is parked and no outcome is recorded (`begun`: not even a beginning): the same asking may be made
        again later.
        """
        parts = digest.canonical(arguments)
        if len(parts) <= 64:
            of_parts = self._digests.get(parts)
            if of_parts is None:
                of_parts = self._digests[parts] = digest.of_bytes(parts.encode())
        else:
            of_parts = digest.of_bytes(parts.encode())
        count = self._occurrences.get((strand, kind, of_parts), 0) + 1
        key = StepKey(strand, kind, of_parts, count)
        recorded = self._look(key)
        missing = recorded is None or (recorded.state is StepState.STARTED and not begun)
        if missing and self._is_parked(strand):
            raise Parked
        self._occurrences[(strand, kind, of_parts)] = count
        self.asked += 1
        return Asking(key, parts, position, recorded)

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

    def _is_parked(self, strand: str) -> bool:
        return any(strand == label or strand.startswith(label + "/") for label in self._parked)

    def replayed(self, asking: Asking) -> Done | Raised | None:
        """The recorded outcome, where the general rule (`replay.decide`) lets it stand; None where the step has to be performed."""
        recorded = asking.recorded
        if recorded is None or recorded.value is None:
            return None
        if not self.stands(recorded):
            return None
        value = digest.parse(recorded.value)
        return Raised(StepError.of_record(value), reused=True) if recorded.error else Done(value, reused=True)

    def stands(self, step: Step) -> bool:
        """Whether the general rule answers from this step. What a parked strand has seen fail it sees fail again, passed or not: it
        comes no further than it had come."""
        passed = step.error and (self.passed(step) or self._is_parked(step.key.strand))
        return isinstance(decide(step, passed), Reuse)

    def passed(self, step: Step) -> bool:
        """Whether the script went on past this error in an earlier execution."""
        return step.error and step.value is not None and digest.parse(step.value).get("passed") is True

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

    def start(self, asking: Asking, value: Json = None) -> None:
        """Records that the step's effect is about to happen; `value` is what a resumed execution needs to know of it."""
        self._started_at_ms[asking.key] = self._clock.now_ms()
        self._put(asking, StepState.STARTED, value, False, None)

    def finish(self, asking: Asking, value: Json, *, error: bool = False) -> None:
        """Records the step's outcome."""
        self.performed += 1
        step = self._put(asking, StepState.DONE, value, error, self._clock.now_ms())
        if error:
            self._unpassed.setdefault(asking.key.strand, []).append(_Unpassed(step, value))

    def steps(self, kinds: tuple[str, ...]) -> list[Step]:
        """The recorded steps of these kinds, in the order in which they were first asked for."""
        return self._store.list_steps(self._run, kinds=kinds)

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
