"""The present by a server's clock: sparkles/backends/google/server_time.py."""

from __future__ import annotations

from datetime import timedelta
from email.utils import formatdate
from types import SimpleNamespace

import pytest

from sparkles.backends.google.server_time import ServerTime

NOW = 1_800_000_000.0


def answer(at, elapsed_s=0.1, **headers):
    return SimpleNamespace(headers={"Date": formatdate(at, usegmt=True), **headers}, elapsed=timedelta(seconds=elapsed_s))


@pytest.mark.parametrize("apart_s", [0.0, 0.9, -0.9])
def test_clocks_that_are_kept_are_the_same(apart_s):
    time = ServerTime(lambda: NOW + apart_s)
    assert time.now() == NOW + apart_s
    time.note(answer(NOW))
    assert time.now() == NOW + apart_s


@pytest.mark.parametrize("apart_s", [7200.0, -7200.0, 30.0, -30.0])
def test_the_server_is_believed(apart_s):
    time = ServerTime(lambda: NOW + apart_s)
    time.note(answer(NOW + 0.5))
    assert abs(time.now() - NOW) < 3


def test_a_slow_answer_is_no_difference():
    time = ServerTime(lambda: NOW)
    time.note(answer(NOW - 40, elapsed_s=41.0))
    assert time.now() == NOW


def test_what_says_nothing():
    """An answer that was kept on the way, one without a date, and one whose date is none."""
    time = ServerTime(lambda: NOW)
    time.note(answer(NOW - 7200, Age="7200"))
    time.note(SimpleNamespace(headers={}, elapsed=timedelta()))
    time.note(SimpleNamespace(headers={"Date": "today"}, elapsed=timedelta()))
    assert time.now() == NOW
