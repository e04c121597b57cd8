"""The loop that drives a script's strands: which one runs next, who waits for what. May import ports and below.

Nothing blocks while a script is on the stack. A strand runs to its next command; one that is answered at once goes on, one that has
to wait is polled when a hint comes or its time is due. Answers are given in the order in which commands were asked, so an execution
with the same record takes the same course.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from sparkles.engine.commands import Answer, Asked, Done, Ended, Pending, Program, Raised, Unrecorded
from sparkles.engine.session import Session
from sparkles.ports import Clock, Notifier

GREATEST_SLEEP_S = 0.5
"""Without any hint the loop looks this often: a lost hint costs no more."""


def run_strands(
    program: Program, session: Session, notifier: Notifier, clock: Clock, interrupted: Callable[[], None]
) -> Ended:
    """Runs a program to the end of its main strand.

    Args:
        interrupted: Called between commands and polls; raises RunCancelled to leave the loop.

    Returns:
        How the main strand ended.
    """
    main = program.start()
    ready: deque[tuple[int, Answer | None]] = deque([(main, None)])
    waiting: dict[int, Pending] = {}
    while True:
        while ready:
            interrupted()
            strand, answer = ready.popleft()
            asked = program.resume(strand, answer)
            if isinstance(asked, Ended):
                if asked.strand == main:
                    return asked
                continue
            _begin(asked, session, ready, waiting)
        sleep_until_due(waiting.values(), notifier, clock)
        interrupted()
        for strand, pending in list(waiting.items()):
            polled = pending.poll()
            if polled is not None:
                del waiting[strand]
                ready.append((strand, polled))


def _begin(asked: Asked, session: Session, ready: deque[tuple[int, Answer | None]], waiting: dict[int, Pending]) -> None:
    begun = session.begin(asked.label, asked.command)
    if isinstance(begun, Done | Raised | Unrecorded):
        ready.append((asked.strand, begun))
        return
    polled = begun.poll()
    if polled is not None:
        ready.append((asked.strand, polled))
    else:
        waiting[asked.strand] = begun


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
