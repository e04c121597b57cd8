"""One job while it is waited for: how fast it goes, and the line that shows it. Pure; prints nothing."""

from __future__ import annotations

from collections import deque

from sparkles.cli import render
from sparkles.model import Counts

_WINDOW_S = 30.0
_BAR = 30

Segment = tuple[str, str]
"""A piece of a line and its style as rich calls it."""


class Gauge:
    """What is known of one job, and how fast it goes."""

    def __init__(self, job: str, now: float) -> None:
        self.job = job
        self.counts = Counts()
        self.began = now
        self.ended_before = -1
        self.said_at, self.said_ended = now, 0
        self._samples: deque[tuple[float, int]] = deque()

    def take(self, counts: Counts, now: float) -> None:
        """The job as it stands now."""
        if self.ended_before < 0 or counts.ended < self.counts.ended:
            self.ended_before = counts.ended  # first sight, or tasks were reset
            self._samples.clear()
        self.counts = counts
        samples = self._samples
        if not samples or now - samples[-1][0] >= 0.5:
            samples.append((now, counts.ended))
            while len(samples) > 2 and now - samples[0][0] > _WINDOW_S:
                samples.popleft()

    def rate(self, now: float) -> float:
        """Ended tasks a second over the last half minute; 0.0 while there is nothing to tell from."""
        if not self._samples:
            return 0.0
        then, ended = self._samples[0]
        return (self.counts.ended - ended) / (now - then) if now > then else 0.0

    def left_s(self, now: float) -> float | None:
        """How long it may still take, in seconds."""
        rate = self.rate(now)
        return (self.counts.total - self.counts.ended) / rate if rate > 0 else None


def words(gauge: Gauge, now: float) -> list[Segment]:
    """Counts, rate and time to go, the most important first."""
    counts = gauge.counts
    parts: list[Segment] = [(f"{counts.ended}/{counts.total}", "")]
    if counts.failed:
        parts.append((f"{counts.failed} failed", "red"))
    if counts.cancelled:
        parts.append((f"{counts.cancelled} cancelled", "yellow"))
    if counts.running:
        parts.append((f"{counts.running} running", "cyan"))
    left = gauge.left_s(now)
    if left is not None:
        parts.append((f"{render.duration(left)} to go", ""))
    rate = gauge.rate(now)
    if rate > 0:
        parts.append((f"{rate:.1f}/s" if rate >= 1 else f"{rate * 60:.1f}/min", "dim"))
    return parts


def bar_line(gauge: Gauge, now: float, width: int, full: str = "█", empty: str = "░") -> list[Segment]:
    """One line of at most `width` columns: id, bar, words. What does not fit is left out from the end; the bar shrinks first."""
    parts = words(gauge, now)
    name = gauge.job if len(gauge.job) <= max(width // 3, 12) else gauge.job[: max(width // 3, 12) - 2] + ".."

    def used() -> int:
        return len(name) + sum(len(text) + 2 for text, _ in parts)

    while len(parts) > 1 and used() > width:
        parts.pop()
    line: list[Segment] = [(name, "bold")]
    room = min(_BAR, width - used() - 2)
    if room >= 5:
        counts = gauge.counts
        done = room * counts.ended // max(counts.total, 1)
        bad = -(-done * (counts.failed + counts.cancelled) // max(counts.ended, 1))
        line += [("  ", ""), (full * (done - bad), "green"), (full * bad, "red"), (empty * (room - done), "dim")]
    for part in parts:
        line += [("  ", ""), part]
    rest = width
    cut: list[Segment] = []
    for text, style in line:
        if rest > 0 and text:
            cut.append((text[:rest], style))
            rest -= len(text)
    return cut


def summary(gauge: Gauge, now: float, *, timed: bool = True) -> str:
    """The line that a job leaves when it has ended; not `timed` where it was over when it was first looked at."""
    counts = gauge.counts
    if counts.succeeded == counts.total:
        how = f"{render.plural(counts.total, 'task')} succeeded"
    else:
        shown = (("succeeded", counts.succeeded), ("failed", counts.failed), ("cancelled", counts.cancelled))
        how = ", ".join(f"{count} {word}" for word, count in shown if count)
    reused = f", {counts.reused} of them reused" if counts.reused else ""
    return f"{gauge.job}: {how}{reused}" + (f"; {render.duration(now - gauge.began)}" if timed else "")
