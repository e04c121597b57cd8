"""How long the driver sleeps while something is waited for. May import ports and below."""

from __future__ import annotations

from collections.abc import Iterable

from sparkles.engine.commands import Pending
from sparkles.ports import Clock, Notifier

GREATEST_SLEEP_S = 0.5
"""Without any hint the loop looks this often: a lost hint costs no more."""


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
