"""What time it is by a server's clock. May import nothing of sparkles.

Clocks of two machines are never compared (DESIGN.md): how old an object is is told by the clock that wrote its time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any

CLOCKS_S = 1.0
"""Clocks that are kept by NTP are closer to each other than this."""

_STEP_S = 1.0
"""A Date is in whole seconds, of which a part may have passed."""


class ServerTime:
    """The clock of a server of HTTP, by the Date of its answers."""

    def __init__(self, now: Callable[[], float] = lambda: time.time()) -> None:
        """`now` is this machine's clock, in seconds since the epoch."""
        self._now = now
        self._ahead_s = 0.0

    def note(self, answer: Any, *_: Any, **__: Any) -> None:
        """A hook of a requests session. An answer that was kept somewhere on the way says nothing."""
        date = answer.headers.get("Date")
        if not date or "Age" in answer.headers:
            return
        try:
            earliest = parsedate_to_datetime(date).timestamp()
        except ValueError:
            return
        own = self._now()
        # It was answered a little before it came: within that time no difference can be told.
        elapsed_s = answer.elapsed.total_seconds()
        self._ahead_s = min(earliest + _STEP_S + elapsed_s + CLOCKS_S - own, 0.0) + max(earliest - CLOCKS_S - own, 0.0)

    def now(self) -> float:
        """Seconds since the epoch; this machine's own present before the first answer."""
        return self._now() + self._ahead_s
