"""The loop that drives a script's strands: which one runs next, who waits for what. May import ports and below.

Nothing blocks while a script is on the stack. A strand runs to its next command; one that is answered at once goes on, one that has
to wait is polled when a hint came or its time is due. Strands are labelled by content, so the order in which they happened to run
counts in no key and a replay in another order gives the same values.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Protocol

import msgspec

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
    StepError,
    Unrecorded,
)
from sparkles.engine.joins import Join
from sparkles.engine.journal import Journal, Parked
from sparkles.ports import Clock, Notifier

GREATEST_SLEEP_S = 0.5
"""Without any hint the loop looks this often: a lost hint costs no more."""

MAIN = "main"

FAILED = "Failed"
"""The kind of `fail`: it ends the run in whichever strand it stands, and nothing catches it."""


class Performer(Protocol):
    """The engine's side of an execution: a Session, or what stands in for one (plan, tests)."""

    @property
    def journal(self) -> Journal:
        """Where joins are recorded."""

    def begin(self, strand: str, command: Command) -> Answer | Pending:
        """Answers a command; raises Parked where the strand may not go on."""


class Stuck(Exception):
    """Every strand that is left is parked for good: a planner's answer to what only an effect can tell."""


class Strand:
    """One line of control: its label, who started it (0: nobody), and what it stands at."""

    __slots__ = ("children", "command", "join", "label", "number", "parent")

    def __init__(self, number: int, label: str, parent: int, join: Join | None) -> None:
        self.number = number
        self.label = label
        self.parent = parent
        self.join = join
        self.children: list[int] = []
        self.command: Command | None = None


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
        self._awaited_by: dict[int, list[int]] = {}
        self._spawned: dict[int, Ended | None] = {}
        self._unseen: dict[int, Ended] = {}
        self._labels: Counter[str] = Counter()

    def run(self) -> Ended:
        main = self._program.start()
        self._strands[main] = Strand(main, MAIN, 0, None)
        self._ready.append((main, None))
        main_ended: Ended | None = None
        while True:
            while self._ready:
                self._interrupted()
                number, answer = self._ready.popleft()
                stopped = self._program.resume(number, answer)
                if isinstance(stopped, Asked):
                    self._begin(stopped)
                elif stopped.error is not None and (number == main or stopped.error.kind == FAILED):
                    return stopped
                elif number == main:
                    main_ended = stopped
                else:
                    self._end(stopped)
            if main_ended is not None and not any(ended is None for ended in self._spawned.values()):
                return next(iter(self._unseen.values()), main_ended)
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
                self._ready.append((number, polled))

    # Commands

    def _begin(self, asked: Asked) -> None:
        strand = self._strands[asked.strand]
        command = strand.command = asked.command
        if isinstance(command, Parallel):
            self._fork(strand, asked, command)
        elif isinstance(command, Spawn):
            self._spawned[command.child.strand] = None
            self._start(strand, command.child, None)
            self._ready.append((strand.number, Done()))
        elif isinstance(command, Await):
            self._await(strand, command)
        else:
            try:
                begun = self._session.begin(strand.label, command)
            except Parked:
                self._parked[strand.number] = asked
                return
            if isinstance(begun, Done | Raised | Unrecorded):
                self._ready.append((strand.number, begun))
                return
            polled = begun.poll()
            if polled is not None:
                self._ready.append((strand.number, polled))
            else:
                self._waiting[strand.number] = begun

    def _fork(self, strand: Strand, asked: Asked, command: Parallel) -> None:
        try:
            join = Join(self._session.journal, strand.number, strand.label, command)
        except Parked:
            self._parked[strand.number] = asked
            return
        if not command.children:
            self._ready.append((strand.number, join.finish()))
            return
        for child in command.children:
            self._start(strand, child, join)
        join.park_others([self._strands[child.strand].label for child in command.children])
        for number in join.next_to_start():
            self._ready.append((number, None))

    def _start(self, parent: Strand, child: Child, join: Join | None) -> None:
        """Gives a child its label; one that is spawned is ready at once, one that is joined when the limit lets it."""
        label = f"{parent.label}/{child.key}"
        self._labels[label] += 1
        if self._labels[label] > 1:
            label = f"{label}~{self._labels[label]}"
        self._strands[child.strand] = Strand(child.strand, label, parent.number, join)
        parent.children.append(child.strand)
        self._program.name(child.strand, label)
        if join is None:
            self._ready.append((child.strand, None))
        else:
            join.add(child.strand, label)

    def _await(self, strand: Strand, command: Await) -> None:
        ended = self._spawned.get(command.strand)
        if ended is None:
            self._awaited_by.setdefault(command.strand, []).append(strand.number)
        else:
            self._unseen.pop(command.strand, None)
            self._ready.append((strand.number, _outcome(ended)))

    # Ends

    def _end(self, ended: Ended) -> None:
        strand = self._strands.pop(ended.strand)
        if strand.join is not None:
            self._joined(strand, strand.join, ended)
            return
        self._spawned[ended.strand] = ended
        waiting = self._awaited_by.pop(ended.strand, [])
        for number in waiting:
            self._ready.append((number, _outcome(ended)))
        if ended.error is not None and not waiting:
            self._unseen[ended.strand] = ended

    def _joined(self, strand: Strand, join: Join, ended: Ended) -> None:
        deciding = join.ended(strand.number, strand.label, ended)
        if deciding is not None:
            for number in join.open():
                self._cancel(number)
            self._ready.append((join.parent, join.fail(deciding[0], _outcome(deciding[1]))))
        elif join.done():
            self._ready.append((join.parent, join.finish()))
        else:
            for number in join.next_to_start():
                self._ready.append((number, None))
            self._retry_parked()

    def _cancel(self, number: int) -> None:
        """Stops a strand at its present yield, and those below it. Its jobs go on; a `shell` command of its own is ended."""
        strand = self._strands.pop(number, None)
        if strand is None:
            return
        for child in strand.children:
            self._cancel(child)
        if strand.join is None and number in self._spawned:
            self._spawned[number] = Ended(number)
        self._parked.pop(number, None)
        pending = self._waiting.pop(number, None)
        if pending is not None:
            stop = getattr(pending, "stop", None)
            if stop is not None:
                stop()
        self._ready = deque(entry for entry in self._ready if entry[0] != number)
        self._program.cancel(number)

    def _retry_parked(self) -> None:
        """Lets parked strands ask again: one that is still parked parks again."""
        parked, self._parked = self._parked, {}
        for asked in parked.values():
            self._begin(asked)

    def _wake_parked(self) -> bool:
        """Where there is nothing else to do, the strand whose error decided a join earlier cannot be waited for: the script was edited,
        and the parked ones go on in earnest. False where there are none."""
        if not self._parked:
            return False
        for strand in self._strands.values():
            if strand.join is not None:
                strand.join.give_up_parking()
        self._retry_parked()
        if not self._ready and not self._waiting:
            raise Stuck
        return True

    def _name_deadlock(self) -> None:
        """Strands that wait for each other for ever: raised in one of them, as a mistake of the script."""
        for awaited, waiting in self._awaited_by.items():
            if waiting:
                number = waiting.pop()
                strand, other = self._strands[number], self._strands[awaited]
                circle = "itself" if other is strand else f"strand {other.label}, which waits for it in turn"
                message = f"await: deadlock: strand {strand.label} waits for {circle}"
                self._ready.append((number, Raised(StepError(message, kind="Usage", usage=True))))
                return


def _outcome(ended: Ended) -> Done | Raised:
    """What a parent sees of a child's end: the error keeps the line that raised it."""
    error = ended.error
    if error is None:
        return Done()
    fields = error.fields if "position" in error.fields else {**error.fields, "position": ended.position}
    return Raised(msgspec.structs.replace(error, fields=fields))


def sleep_until_due(pendings: Iterable[Pending], notifier: Notifier, clock: Clock) -> None:
    """Blocks until a hint comes or the first of the pendings is due."""
    now = clock.monotonic()
    due = now + GREATEST_SLEEP_S
    for pending in pendings:
        when = pending.due()
        if when is not None and when < due:
            due = when
    if due > now:
        notifier.wait(due - now)
