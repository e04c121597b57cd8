"""The Clock: the machine's own and the one that tests turn by hand."""

import time

import pytest

from sparkles.backends.clock import ManualClock, SystemClock


@pytest.fixture(params=[SystemClock, ManualClock], ids=["system", "manual"])
def clock(request):
    return request.param()


def test_sleeping_takes_the_time(clock):
    """After a sleep both clocks are later by at least that much."""
    monotonic, wall = clock.monotonic(), clock.now_ms()
    clock.sleep(0.02)
    assert clock.monotonic() - monotonic >= 0.02
    assert clock.now_ms() - wall >= 15  # the machine's wall clock may be slewed meanwhile


@pytest.mark.parametrize("seconds", [0.0, -1.0])
def test_no_time_is_no_sleep(clock, seconds):
    """Sleeping for no time, or until a moment that has passed, returns at once."""
    before = clock.monotonic()
    clock.sleep(seconds)
    assert 0 <= clock.monotonic() - before < 0.2


def test_the_wall_clock_counts_milliseconds():
    """now_ms is the time since the epoch, in UTC and in milliseconds."""
    before = time.time() * 1000
    assert before - 1 <= SystemClock().now_ms() <= time.time() * 1000 + 1


def test_a_manual_clock_stands_still():
    """Nothing but `advance`, `sleep` and `set_back` moves it."""
    clock = ManualClock(now_ms=5_000)
    assert (clock.now_ms(), clock.monotonic()) == (clock.now_ms(), clock.monotonic())
    clock.advance(1.5)
    assert clock.now_ms() == 6_500
    assert clock.monotonic() == 1.5


def test_a_manual_clock_remembers_its_sleeps():
    """What the code under test asked for can be looked at."""
    clock = ManualClock()
    clock.sleep(3)
    clock.sleep(0.5)
    assert clock.slept == [3, 0.5]


def test_setting_the_wall_clock_back_leaves_the_monotonic_one():
    """As on a machine whose administrator sets the time."""
    clock = ManualClock(now_ms=10_000)
    clock.advance(1)
    clock.set_back(8)
    assert clock.now_ms() == 3_000
    assert clock.monotonic() == 1


def test_time_cannot_pass_backwards():
    """A test that computes a negative time is told so."""
    with pytest.raises(ValueError, match=r"time cannot pass backwards: -1 s; set_back"):
        ManualClock().advance(-1)
