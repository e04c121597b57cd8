"""What happens in a run, told to whoever shows it: frozen values, handed down as a plain function. May import model only.

Nothing in the engine depends on an event being seen: a renderer that raises or is absent changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from sparkles.model import Counts


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """The base of all events."""


class RunOpened(Event, frozen=True, kw_only=True):
    """A run begins or is resumed; `steps` are recorded already, copied from run `forked_from` where the run begins with them."""

    run: str
    resumed: bool
    steps: int
    forked_from: str = ""


class Logged(Event, frozen=True, kw_only=True):
    """`log` or `print` in the script, performed now (a replayed one is silent)."""

    text: str


class Noticed(Event, frozen=True, kw_only=True):
    """Something a user should know, as one sentence; nothing went wrong."""

    text: str


class Submitted(Event, frozen=True, kw_only=True):
    """A job was created now; `reused` of its tasks had their result already."""

    job: str
    name: str
    count: int
    reused: int


class Progressed(Event, frozen=True, kw_only=True):
    """A job that is being waited for, as it stands now."""

    job: str
    counts: Counts
    awaited: bool = True


class RunEnded(Event, frozen=True, kw_only=True):
    """The script has ended well: how many steps were carried out now, and how many were answered from the record."""

    performed: int
    reused: int


Report = Callable[[Event], None]
