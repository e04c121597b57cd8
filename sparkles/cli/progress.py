"""Shows what happens while a command works: a line per job that is waited for, log lines above. With render.py alone it prints.

On a terminal the lines are redrawn in place by rich, which is imported only once something has been waited for; elsewhere a plain line
is written now and then. Surprise: it never raises. Whoever reads may leave; the work goes on.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from sparkles.cli import render
from sparkles.cli.gauge import Gauge, bar_line, summary, words
from sparkles.engine.events import Event, Logged, Noticed, Progressed, RunEnded, RunOpened, Submitted

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

FRAME_S = 0.1
"""Redraws are no closer together than this."""

PATIENCE_S = 0.2
"""What is over sooner than this gets no bar: it would only flicker."""

PLAIN_S = 10.0
PLAIN_SHARE = 0.1
PLAIN_LEAST_S = 1.0
"""Where lines cannot be redrawn: one after 10 s, or after a tenth of the job, but no more than one a second."""


class Progress:
    """The `report` of a run: called with each event."""

    def __init__(
        self, *, quiet: bool = False, logs_to_stderr: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`quiet`: log lines only. `logs_to_stderr`: standard output is kept for something else (`--json`)."""
        self._quiet, self._logs_to_stderr, self.clock = quiet, logs_to_stderr, clock
        self._terminal = render.is_terminal(sys.stderr)
        self._gauges: dict[str, Gauge] = {}
        self._over: set[str] = set()
        self._live: Live | None = None
        self._drawn_at = 0.0
        self._interrupts: list[str] = []
        self._gone: set[int] = set()
        self.began = clock()
        self.run = ""
        self.ended: RunEnded | None = None
        self.reused: dict[str, int] = {}
        self.tasks_run: dict[str, int] = {}

    def __call__(self, event: Event) -> None:
        """Shows an event; never raises for a reader that is gone."""
        if self._interrupts and self._live is not None:
            self._stop()
        match event:
            case Progressed():
                self._progressed(event)
            case Logged():
                self._logged(event.text)
            case Noticed():
                self.say(event.text)
            case Submitted():
                self._submitted(event)
            case RunOpened():
                self.run = event.run
                if event.resumed:
                    self.say(f"run {event.run} goes on: {render.plural(event.steps, 'step')} recorded", "dim")
                elif event.forked_from:
                    steps = render.plural(event.steps, "step")
                    self.say(f"run {event.run}: a new run that starts from {event.forked_from} with {steps} of it", "dim")
                else:
                    self.say(f"run {event.run}", "dim")
            case RunEnded():
                self.ended = event

    def say(self, text: str, style: str = "") -> None:
        """A line of talk, above the bars."""
        if self._quiet:
            return
        if self._live is not None:
            from rich.text import Text

            self._above(Text(text, style=style))
        else:
            self._write(2, lambda: render.say(text, style))

    def interrupted(self, text: str) -> None:
        """Called by another thread: the text is written at once where nothing is being drawn, else with the next event or at the end."""
        if self._live is not None:
            self._interrupts.append(text)
        else:
            self._write_now(f"{text}\n")

    def last_words(self, text: str) -> None:
        """Called by another thread that ends the process: what was not said yet, and this; the cursor comes back."""
        lines = [*self._interrupts, text]
        self._write_now(("\n\x1b[?25h" if self._live is not None else "") + "".join(f"{each}\n" for each in lines))

    def _write_now(self, text: str) -> None:
        try:
            os.write(2, text.encode(errors="backslashreplace"))
        except OSError:
            pass  # nobody reads it

    def close(self) -> None:
        """Removes the bars; what was said stays."""
        self._stop()

    # Events

    def _logged(self, text: str) -> None:
        if self._live is not None and sys.stdout.isatty():
            from rich.text import Text

            self._above(Text.from_ansi(text))
        elif self._logs_to_stderr:
            self._write(2, lambda: render.say(text))
        else:
            self._write(1, lambda: render.data(text.encode(sys.stdout.encoding, sys.stdout.errors or "replace") + b"\n"))

    def _submitted(self, event: Submitted) -> None:
        self.reused[event.job] = event.reused
        self.tasks_run.setdefault(event.job, 0)
        self._over.discard(event.job)
        gauge = Gauge(event.job, self.clock())
        gauge.ended_before = event.reused
        gauge.said_ended = event.reused
        self._gauges[event.job] = gauge
        if event.reused:
            which = "" if event.count == 1 else "all " if event.reused == event.count else f"{event.reused:,} of "
            them = "it" if event.reused == 1 else "them"
            self.say(f"{event.job}: {which}{render.plural(event.count, 'task')} reused; --no-cache runs {them} again")
            if event.reused == event.count:
                self._over.add(event.job)
        elif not self._terminal:
            self.say(f"{event.job}: {render.plural(event.count, 'task')}")

    def _progressed(self, event: Progressed) -> None:
        now = self.clock()
        counts = event.counts
        gauge = self._gauges.get(event.job)
        first = gauge is None
        if gauge is None:
            gauge = self._gauges[event.job] = Gauge(event.job, now)
        if event.job in self._over:
            if counts.done:
                return
            self._over.discard(event.job)
        gauge.take(counts, now)
        self.tasks_run[event.job] = max(counts.ended - gauge.ended_before, 0)
        if counts.done:
            self._over.add(event.job)
            del self._gauges[event.job]
            if not any(each not in self._over for each in self._gauges):
                self._stop()
            elif self._live is not None:
                self._live.update(self._frame(self._live.console, now))  # without it; drawn with the line that follows
            style = "red" if counts.failed else "yellow" if counts.cancelled else "green"
            self.say(summary(gauge, now, timed=not first), style)
        elif self._quiet:
            return
        elif self._terminal:
            self._draw(now, gauge)
        elif (first and event.job not in self.reused) or self._plain_is_due(gauge, now):
            gauge.said_at, gauge.said_ended = now, counts.ended
            self.say(f"{gauge.job}: " + ", ".join(text for text, _ in words(gauge, now)))

    def _plain_is_due(self, gauge: Gauge, now: float) -> bool:
        since = now - gauge.said_at
        more = gauge.counts.ended - gauge.said_ended
        return since >= PLAIN_S or (since >= PLAIN_LEAST_S and more >= max(gauge.counts.total * PLAIN_SHARE, 1))

    # Drawing

    def _draw(self, now: float, gauge: Gauge) -> None:
        if self._live is None:
            if now - gauge.began < PATIENCE_S or self._interrupts:
                return
            self._start()
        elif now - self._drawn_at < FRAME_S:
            return
        self._drawn_at = now
        if self._live is not None:
            try:
                self._live.update(self._frame(self._live.console, now), refresh=True)
            except OSError:
                self._live, self._quiet = None, True  # the terminal is gone

    def _above(self, text: Text) -> None:
        """A line that stays, above the bars."""
        if self._live is not None:
            try:
                self._live.console.print(text, soft_wrap=True)
            except OSError:
                self._live, self._quiet = None, True

    def _start(self) -> None:
        from rich.console import Console
        from rich.live import Live

        console = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._live = Live(console=console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False)
        sys.stdout.flush()
        self._live.start()

    def _frame(self, console: Console, now: float) -> Text:
        from rich.text import Text

        utf_8 = console.encoding.lower().startswith("utf")
        gauges = [each for each in self._gauges.values() if each.counts.total and each.job not in self._over]
        most = max(console.height - 2, 1)
        frame = Text(no_wrap=True, overflow="crop", end="")
        shown = gauges if len(gauges) <= most else gauges[: most - 1]
        for number, gauge in enumerate(shown):
            if number:
                frame.append("\n")
            for text, style in bar_line(gauge, now, console.width - 1, *(() if utf_8 else ("#", "."))):
                frame.append(text, style=style)
        if len(shown) < len(gauges):
            frame.append(f"\nand {render.plural(len(gauges) - len(shown), 'more job')}", style="dim")
        return frame

    def _stop(self) -> None:
        if self._live is not None:
            try:
                self._live.stop()
            except OSError:
                self._quiet = True
            self._live = None
        while self._interrupts:
            self.say(self._interrupts.pop(0))

    def _write(self, descriptor: int, write: Callable[[], object]) -> None:
        if descriptor in self._gone:
            return
        try:
            write()
        except BrokenPipeError:
            self._gone.add(descriptor)
            if descriptor == 1:
                render.close_stdout()
        except OSError:
            self._gone.add(descriptor)  # a terminal that hung up
