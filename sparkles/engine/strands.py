"""The loop that drives a script's strands: which one runs next, who waits for what. May import ports and below.

Nothing blocks while a script is on the stack. A strand runs to its next command; one that is answered at once goes on, one that has
to wait is polled when a hint came or its time is due. Strands are labelled by content, so the order in which they happened to run
counts in no key and a replay in another order gives the same values.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Protocol

from sparkles.engine.commands import (
    Answer,
    Asked,
    Await,
    Child,
    Command,
    Done,
    Ended,
    Parallel,
    Pending,
    Program,
    Raised,
    Spawn,
    StepEnd,
    StepError,
    Unrecorded,
)
from sparkles.engine.joins import Join, outcome
from sparkles.engine.journal import Journal, Parked
from sparkles.engine.labels import Labels, Strand
from sparkles.engine.pace import sleep_until_due
from sparkles.model import Json
from sparkles.ports import Clock, Notifier

MAIN = "main"

CANCELLED = "Cancelled"
"""The kind of error that awaiting a cancelled strand raises."""

FAILED = "Failed"
"""The kind of `fail`: it ends the run in whichever strand it stands, and nothing catches it."""


class Performer(Protocol):
    """The engine's side of an execution: a Session, or what stands in for one (plan, tests)."""

    @property
    def journal(self) -> Journal:
        """Where joins are recorded."""

    def begin(self, strand: str, command: Command) -> Answer | Pending:
        """Answers a command; raises Parked where the strand may not go on."""

    def keyed(self, strand: str, command: Command) -> tuple[str, Json] | None:
        """The kind and arguments that a strand's command will be keyed on; None where it has none, or they cannot be told."""


class Stuck(Exception):
    """Every strand that is left is parked for good: a planner's answer to what only an effect can tell."""


def run_strands(
    program: Program, session: Performer, notifier: Notifier, clock: Clock, interrupted: Callable[[], None]
) -> Ended:
    """Runs a program to the end of its main strand and of every strand that was spawned.

    Args:
        interrupted: Called between commands and polls; raises RunCancelled to leave the loop.

    Raises:
        Stuck: Nothing can go on because `session` parks what is left.

    Returns:
        How the main strand ended; where it ended well, how the first spawned strand failed that nobody awaited, if one did.
    """
    return _Loop(program, session, notifier, clock, interrupted).run()


class _Loop:
    def __init__(
        self, program: Program, session: Performer, notifier: Notifier, clock: Clock, interrupted: Callable[[], None]
    ) -> None:
        self._program = program
        self._session = session
        self._notifier = notifier
        self._clock = clock
        self._interrupted = interrupted
        self._strands: dict[int, Strand] = {}
        self._ready: deque[tuple[int, Answer | None]] = deque()
        self._waiting: dict[int, Pending] = {}
        self._parked: dict[int, Asked] = {}
        # Strands at their first step whose records may be those of one that others are to take up.
        self._unsettled: OrderedDict[int, Asked] = OrderedDict()
        # The strands that a recorded decision cancelled: the step that each comes to, and no further.
        self._came: dict[str, int] = {}
        self._withheld: dict[int, Answer | None] = {}
        self._failing: list[tuple[Join, str, Ended]] = []
        self._awaited_by: dict[int, list[int]] = {}
        self._spawned: dict[int, tuple[str, Ended | None]] = {}
        self._unseen: dict[int, Ended] = {}
        self._labels = Labels(session.journal, session.keyed, program.holds)

    def run(self) -> Ended:
        main = self._program.start()
        self._strands[main] = Strand(main, MAIN, 0, 0, None)
        self._ready.append((main, None))
        main_ended: Ended | None = None
        while True:
            while self._ready:
                self._interrupted()
                number, answer = self._ready.popleft()
                stopped = self._program.resume(number, answer)
                if isinstance(stopped, Asked):
                    self._stopped(stopped)
                elif stopped.error is not None and (number == main or stopped.error.kind == FAILED):
                    return stopped
                elif number == main:
                    main_ended = stopped
                    self._session.journal.went_on(MAIN)
                else:
                    self._end(stopped)
            if self._unsettled:
                number, asked = self._unsettled.popitem(last=False)
                self._go_on(self._strands[number], asked, sure=True)
                continue
            if main_ended is not None and not any(ended is None for _, ended in self._spawned.values()):
                return next(iter(self._unseen.values()), main_ended)
            if self._raise_decided():
                continue
            if self._waiting:
                self._poll()
            elif not self._wake_parked():
                self._name_deadlock()

    def _poll(self) -> None:
        sleep_until_due(self._waiting.values(), self._notifier, self._clock)
        self._interrupted()
        for number, pending in list(self._waiting.items()):
            polled = pending.poll()
            if polled is not None:
                del self._waiting[number]
                self._answer(number, polled)

    # Commands

    def _stopped(self, asked: Asked) -> None:
        """A strand asks for its next step: it has gone on past what failed before."""
        strand = self._strands[asked.strand]
        # A replayed `step` has no end of its own.
        strand.asked += not isinstance(asked.command, StepEnd)
        self._go_on(strand, asked, sure=False)

    def _go_on(self, strand: Strand, asked: Asked, *, sure: bool) -> None:
        if not strand.settled and not isinstance(asked.command, Await):
            label = self._labels.settle(strand.given, asked.command, sure=sure)
            if label is None:
                self._unsettled[strand.number] = asked
                return
            self._session.journal.hand_over(strand.label, label)
            strand.label, strand.settled = label, True
            if label != strand.given:
                self._program.name(strand.number, label)
        self._session.journal.went_on(strand.label)
        self._begin(asked)

    def _answer(self, number: int, answer: Answer | None) -> None:
        """The strand goes on with that, unless it was cancelled at this place in the execution that is replayed."""
        strand = self._strands[number]
        if strand.asked == self._came.get(strand.given):
            self._withheld[number] = answer
        else:
            self._ready.append((number, answer))

    def _begin(self, asked: Asked) -> None:
        strand = self._strands[asked.strand]
        command = asked.command
        if isinstance(command, Parallel):
            self._fork(strand, asked, command)
        elif isinstance(command, Spawn):
            self._start(strand, command.child, None)
            self._answer(strand.number, Done())
        elif strand.asked == self._came.get(strand.given):
            self._parked[strand.number] = asked
        elif isinstance(command, Await):
            self._await(strand, command)
        else:
            try:
                begun = self._session.begin(strand.label, command)
            except Parked:
                self._parked[strand.number] = asked
                return
            if isinstance(begun, Done | Raised | Unrecorded):
                self._answer(strand.number, begun)
                return
            polled = begun.poll()
            if polled is not None:
                self._answer(strand.number, polled)
            else:
                self._waiting[strand.number] = begun

    def _fork(self, strand: Strand, asked: Asked, command: Parallel) -> None:
        try:
            join = Join(self._session.journal, strand.number, strand.label, strand.depth, command)
        except Parked:
            self._parked[strand.number] = asked
            return
        if not command.children:
            self._answer(strand.number, join.finish())
            return
        for child in command.children:
            self._start(strand, child, join)
        join.begin()
        self._came.update(join.came)
        self._start_next(join)

    def _start_next(self, join: Join) -> None:
        for number in join.next_to_start():
            self._answer(number, None)

    def _start(self, parent: Strand, child: Child, join: Join | None) -> None:
        """Gives a child its label; one that is spawned is ready at once, one that is joined when the limit lets it."""
        label = self._labels.give(parent.label, child.key)
        self._strands[child.strand] = Strand(child.strand, label, parent.number, parent.depth + 1, join)
        parent.children[child.strand] = None
        self._program.name(child.strand, label)
        if join is None:
            self._spawned[child.strand] = (label, None)
            self._answer(child.strand, None)
        else:
            join.add(child.strand, label)

    def _await(self, strand: Strand, command: Await) -> None:
        label, ended = self._spawned[command.strand]
        if ended is None:
            self._awaited_by.setdefault(command.strand, []).append(strand.number)
        else:
            self._tell(strand, label, ended)

    def _tell(self, strand: Strand, label: str, ended: Ended) -> None:
        """A spawned strand's end, to one that awaited it."""
        self._unseen.pop(ended.strand, None)
        self._session.journal.hand_over(label, strand.label)
        self._answer(strand.number, outcome(ended))

    # Ends

    def _end(self, ended: Ended) -> None:
        strand = self._strands.pop(ended.strand)
        self._labels.ended(strand.label, well=ended.error is None)
        if ended.error is None:
            self._session.journal.went_on(strand.label)
        self._leave_to_parent(strand)
        if strand.join is not None:
            self._joined(strand, strand.join, ended)
        else:
            self._spawn_ended(strand, ended)

    def _leave_to_parent(self, strand: Strand) -> None:
        """What it spawned and did not await is cancelled with its parent from now on."""
        parent = self._strands.get(strand.parent)
        if parent is not None:
            del parent.children[strand.number]
            for number in strand.children:
                self._strands[number].parent = parent.number
                parent.children[number] = None

    def _spawn_ended(self, strand: Strand, ended: Ended, *, cancelled: bool = False) -> None:
        """Whoever awaits the strand is told, now or later."""
        self._spawned[strand.number] = (strand.label, ended)
        if ended.error is not None and not cancelled:
            self._unseen[strand.number] = ended
        for number in self._awaited_by.pop(strand.number, ()):
            if number in self._strands:
                self._tell(self._strands[number], strand.label, ended)

    def _joined(self, strand: Strand, join: Join, ended: Ended) -> None:
        replaying = join.replaying
        deciding = join.ended(strand.given, ended)
        if replaying and not join.replaying:
            self._released()
        if deciding is not None:
            self._failing.append((join, *deciding))
            if not join.replaying:
                self._fail(*self._failing.pop())
        elif join.done():
            self._answer(join.parent, join.finish())
        else:
            self._start_next(join)

    def _raise_decided(self) -> bool:
        """Raises one error that decided a join before, the innermost first, once the siblings have come as far as they had come; False
        where there is none."""
        for failing in sorted(self._failing, key=lambda each: -each[0].depth):
            if not any(number in self._waiting for child in failing[0].open() for number in self._below(child)):
                self._failing.remove(failing)
                self._fail(*failing)
                return True
        return False

    def _fail(self, join: Join, label: str, ended: Ended) -> None:
        """Cancels the children that are left, and raises the error in the parent."""
        cancelled: dict[str, int] = {}
        for number in join.open():
            self._cancel(number, cancelled)
        join.fail(label, cancelled)
        for each in join.came:
            self._came.pop(each, None)
        self._session.journal.hand_over(self._labels.known_by(label), self._strands[join.parent].label)
        self._answer(join.parent, outcome(ended))
        self._retry_parked()

    def _below(self, number: int) -> Iterator[int]:
        """A strand, and those that are cancelled with it."""
        yield number
        for child in self._strands[number].children:
            yield from self._below(child)

    def _cancel(self, number: int, cancelled: dict[str, int]) -> None:
        """Stops a strand at its present yield, and those below it. Its jobs go on; a `shell` command of its own is ended."""
        self._strands[self._strands[number].parent].children.pop(number)
        for each in list(self._below(number)):
            strand = self._strands.pop(each)
            cancelled[strand.given] = strand.asked
            self._parked.pop(each, None)
            self._unsettled.pop(each, None)
            self._withheld.pop(each, None)
            pending = self._waiting.pop(each, None)
            stop = getattr(pending, "stop", None)
            if stop is not None:
                stop()
            self._program.cancel(each)
            if strand.join is None:
                message = f"await: strand {strand.given} was cancelled with the strand that spawned it"
                self._spawn_ended(strand, Ended(each, StepError(message, kind=CANCELLED)), cancelled=True)
        gone = {each for each, _ in self._ready if each not in self._strands}
        if gone:
            self._ready = deque(entry for entry in self._ready if entry[0] not in gone)
        self._failing = [failing for failing in self._failing if failing[0].parent in self._strands]

    # Parking

    def _retry_parked(self) -> None:
        """Lets parked strands ask again: one that is still parked parks again."""
        parked, self._parked = self._parked, {}
        for asked in parked.values():
            self._begin(asked)

    def _released(self) -> None:
        """A join's recorded decision was given up: what it held back goes on in earnest."""
        joins = {id(strand.join): strand.join for strand in self._strands.values() if strand.join is not None}
        self._came = {label: number for join in joins.values() for label, number in join.came.items()}
        withheld, self._withheld = self._withheld, {}
        for number, answer in withheld.items():
            self._answer(number, answer)
        self._retry_parked()

    def _wake_parked(self) -> bool:
        """Where there is nothing else to do, the strand whose error decided a join earlier cannot be waited for: the script was edited,
        and the parked ones go on in earnest. False where there are none."""
        if not self._parked and not self._withheld:
            return False
        for strand in list(self._strands.values()):
            if strand.join is not None and strand.join.replaying:
                strand.join.give_up()
                self._start_next(strand.join)
        self._released()
        if not self._ready and not self._waiting:
            raise Stuck
        return True

    def _name_deadlock(self) -> None:
        """Strands that wait for each other for ever: raised in one of them, as a mistake of the script."""
        for awaited, waiting in self._awaited_by.items():
            strand = next((self._strands[number] for number in reversed(waiting) if number in self._strands), None)
            if strand is not None:
                waiting.remove(strand.number)
                other = self._strands[awaited]
                circle = "itself" if other is strand else f"strand {other.given}, which waits for it in turn"
                message = f"await: deadlock: strand {strand.given} waits for {circle}"
                self._ready.append((strand.number, Raised(StepError(message, kind="Usage", usage=True))))
                return
