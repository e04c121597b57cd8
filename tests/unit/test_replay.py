"""The pure decisions of a replay, rule by rule."""

import pytest

from sparkles.engine.replay import Execute, Reuse, decide, decide_read, decide_write
from sparkles.model import Digest, Step, StepKey, StepState


def step(state=StepState.DONE, error=False):
    key = StepKey("main", "now", Digest("0" * 64), 1)
    return Step(key=key, state=state, sequence=3, parts="{}", position="w.lua:1", value="1", error=error)


@pytest.mark.parametrize(
    ("recorded", "passed", "expected"),
    [
        pytest.param(None, False, Execute("never ran"), id="nothing-recorded"),
        pytest.param(step(StepState.STARTED), False, Execute("was interrupted"), id="started-only"),
        pytest.param(step(StepState.STARTED), True, Execute("was interrupted"), id="started-only-though-passed"),
        pytest.param(step(), True, Reuse(), id="done"),
        pytest.param(step(), False, Execute("failed before the run ended"), id="accepted-failure-of-a-script-that-failed"),
        pytest.param(step(error=True), True, Reuse(), id="caught-error-replays"),
        pytest.param(step(error=True), False, Execute("ended the run"), id="last-error-is-tried-again"),
    ],
)
def test_general_rule(recorded, passed, expected):
    assert decide(recorded, passed) == expected


A, B = Digest("a" * 64), Digest("b" * 64)


def test_read_of_an_unchanged_file_is_reused():
    assert decide_read("p.csv", A, A, False, False) == Reuse()


def test_read_of_a_changed_file_takes_the_new_content_and_says_so():
    decision = decide_read("p.csv", A, B, False, False)
    assert isinstance(decision, Execute)
    assert decision.notice == "p.csv changed since this run read it; the new content is used (--frozen keeps the recorded)"


def test_read_whose_change_the_run_explains_is_reused_silently():
    assert decide_read("p.csv", A, B, True, False) == Reuse()


def test_read_frozen_keeps_the_recorded_and_says_so():
    decision = decide_read("p.csv", A, B, False, True)
    assert isinstance(decision, Reuse)
    assert "--frozen" in decision.notice


def test_read_of_a_file_that_is_gone_keeps_the_recorded():
    decision = decide_read("p.csv", A, None, False, False)
    assert isinstance(decision, Reuse)
    assert "gone" in decision.notice


def test_write_present_is_left():
    assert decide_write("x", A, A) == Reuse()


def test_write_missing_is_done_again():
    assert isinstance(decide_write("x", A, None), Execute)


def test_write_that_differs_is_left_alone_and_named():
    decision = decide_write("x", A, B)
    assert isinstance(decision, Reuse)
    assert "left alone" in decision.notice


def test_write_that_a_later_write_replaced_is_silent():
    assert decide_write("x", A, B, later=True) == Reuse()


def test_write_over_what_an_earlier_write_put_there_is_done_again_silently():
    assert decide_write("x", A, B, earlier=True) == Execute("holds what an earlier write put there")


def test_write_over_what_another_run_put_there_is_done_again_and_named():
    decision = decide_write("x", A, B, other="r-2")
    assert isinstance(decision, Execute)
    assert "run r-2" in decision.notice
