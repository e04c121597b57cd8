"""What is told while jobs run: rates, bar lines of any width, and how seldom plain lines come."""

from __future__ import annotations

import pytest

from sparkles.cli.gauge import Gauge, bar_line, summary
from sparkles.cli.progress import Progress
from sparkles.engine.events import Logged, Noticed, Progressed, RunEnded, RunOpened, Submitted
from sparkles.model import Counts


class Seconds:
    """A clock that is told the time."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def gauge(counts: Counts, *, ended_before: int = 0, seconds: float = 10.0) -> Gauge:
    """A job that had `ended_before` ended tasks, and `seconds` later these counts."""
    found = Gauge("coarse-1a2b3c4d", 0.0)
    found.take(Counts(pending=counts.total - ended_before, succeeded=ended_before), 0.0)
    found.take(counts, seconds)
    return found


def test_rate_and_time_to_go() -> None:
    """By what ended since the job was first looked at, not by what was there before."""
    found = gauge(Counts(pending=30, claimed=10, succeeded=55, failed=5), ended_before=20)
    assert found.rate(10.0) == 4.0
    assert found.left_s(10.0) == 10.0
    nothing = gauge(Counts(pending=10, succeeded=20), ended_before=20)
    assert (nothing.rate(10.0), nothing.left_s(10.0)) == (0.0, None)


def test_the_rate_is_of_the_last_half_minute() -> None:
    """A job that was slow at first is not called slow for ever."""
    found = Gauge("j", 0.0)
    for second in range(200):
        found.take(Counts(pending=1000, succeeded=0 if second < 100 else (second - 100) * 5), float(second))
    assert found.rate(199.0) == pytest.approx(5.0, rel=0.05)


def test_after_a_reset_the_rate_begins_anew() -> None:
    """Fewer ended tasks than before: tasks were reset, and the rate is never negative."""
    found = gauge(Counts(pending=0, succeeded=90, failed=10))
    found.take(Counts(pending=10, succeeded=90), 11.0)
    found.take(Counts(pending=5, succeeded=95), 16.0)
    assert found.rate(16.0) == 1.0


@pytest.mark.parametrize("width", range(1, 140))
def test_a_bar_line_fits(width: int) -> None:
    """Whatever the width, the line is no wider; from 30 columns on it has the counts."""
    found = gauge(Counts(pending=268, claimed=48, running=16, succeeded=655, failed=23, cancelled=6))
    line = "".join(text for text, _ in bar_line(found, 10.0, width))
    assert len(line) <= width
    if width >= 30:
        assert "684/1000" in line
    if width >= 100:
        assert line.startswith("coarse-1a2b3c4d  █")
        assert line.endswith("684/1000  23 failed  6 cancelled  16 running  4.6 s to go  68.4/s")


def test_the_bar_shows_what_failed() -> None:
    """Green for what succeeded, red for what did not, at least one cell of it."""
    styles = [
        (text, style) for text, style in bar_line(gauge(Counts(pending=50, succeeded=49, failed=1)), 10.0, 100) if "█" in text
    ]
    assert [style for _, style in styles] == ["green", "red"]
    assert (len(styles[0][0]), len(styles[1][0])) == (14, 1)


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        (Counts(succeeded=1), "j: 1 task succeeded; 2.0 s"),
        (Counts(succeeded=48, reused=12), "j: 48 tasks succeeded, 12 of them reused; 2.0 s"),
        (Counts(succeeded=46, failed=2), "j: 46 succeeded, 2 failed; 2.0 s"),
        (Counts(failed=1, cancelled=3), "j: 1 failed, 3 cancelled; 2.0 s"),
    ],
)
def test_summaries(counts: Counts, text: str) -> None:
    """One line for a job that has ended."""
    found = Gauge("j", 0.0)
    found.take(counts, 2.0)
    assert summary(found, 2.0) == text
    assert summary(found, 2.0, timed=False) == text.partition(";")[0]


def progressed(pending: int, succeeded: int) -> Progressed:
    return Progressed(job="j", counts=Counts(pending=pending, succeeded=succeeded))


def test_plain_lines_are_few(capsys: pytest.CaptureFixture[str]) -> None:
    """Where nothing can be redrawn: the start, then a line after a tenth or after 10 s but not twice a second, and the end."""
    clock = Seconds()
    progress = Progress(clock=clock)
    progress(Submitted(job="j", name="j", count=1000, reused=0))
    for ended in range(1000):
        progress(progressed(1000 - ended, ended))
        clock.now += 0.1
    progress(progressed(0, 1000))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "j: 1,000 tasks"
    assert lines[-1] == "j: 1,000 tasks succeeded; 1 min 40 s"
    assert 9 <= len(lines) - 2 <= 11
    assert all(line.startswith("j: ") for line in lines)


def test_a_stalled_job_is_told_every_ten_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    """A job in which nothing ends gives a line after 10 s each, no more."""
    clock = Seconds()
    progress = Progress(clock=clock)
    progress(progressed(10, 0))
    for _ in range(350):
        clock.now += 0.1
        progress(progressed(10, 0))
    assert capsys.readouterr().err.splitlines() == ["j: 0/10"] * 4


def test_a_fast_job_is_told_once_a_second_at_most(capsys: pytest.CaptureFixture[str]) -> None:
    """Tenths that fly by within a second give no lines."""
    clock = Seconds()
    progress = Progress(clock=clock)
    progress(Submitted(job="j", name="j", count=100, reused=0))
    for ended in range(100):
        clock.now += 0.005
        progress(progressed(100 - ended, ended))
    progress(progressed(0, 100))
    assert capsys.readouterr().err.splitlines() == ["j: 100 tasks", "j: 100 tasks succeeded; 0.5 s"]


def test_where_things_go(capsys: pytest.CaptureFixture[str]) -> None:
    """Log lines to standard output, notices to standard error; with --json everything to standard error; quiet: log lines only."""
    for how, out, err in (
        ({}, "logged\n", "noticed\n"),
        ({"logs_to_stderr": True}, "", "logged\nnoticed\n"),
        ({"quiet": True}, "logged\n", ""),
    ):
        progress = Progress(**how)
        progress(Logged(text="logged"))
        progress(Noticed(text="noticed"))
        told = capsys.readouterr()
        assert (told.out, told.err) == (out, err)


def test_counting_for_the_last_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Tasks run are those that ended while it looked; reused ones are told when they are submitted, and a job of them alone once."""
    progress = Progress()
    progress(RunOpened(run="r-1", resumed=False, steps=0))
    progress(Submitted(job="j", name="j", count=10, reused=4))
    progress(progressed(6, 4))
    progress(progressed(0, 10))
    progress(Submitted(job="k", name="k", count=3, reused=3))
    progress(Progressed(job="k", counts=Counts(succeeded=3, reused=3)))
    progress(RunEnded(performed=5, reused=2))
    assert (progress.tasks_run, progress.reused) == ({"j": 6, "k": 0}, {"j": 4, "k": 3})
    lines = capsys.readouterr().err.splitlines()
    assert lines[1] == "j: 4 of 10 tasks reused; --no-cache runs them again"
    assert lines[2].startswith("j: 10 tasks succeeded; ")
    assert lines[3:] == ["k: all 3 tasks reused; --no-cache runs them again"]
