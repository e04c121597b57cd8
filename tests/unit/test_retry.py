"""What becomes of a task after an attempt (engine/retry.py)."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkles.engine.retry import LOSS_BUDGET, backoff_ms, decide, requeue
from sparkles.model import INFRASTRUCTURE, Attempt, AttemptRef, FailureClass, OomRetry, RetryPolicy, TaskState

GIB = 1 << 30
THREE = RetryPolicy(attempts=3, backoff_s=2.0, backoff_factor=3.0, max_backoff_s=5.0)


def attempt(failure, **facts):
    return Attempt(AttemptRef("job-1", 1, 1), "token", "w-1", failure, **facts)


def after(failure, policy=THREE, *, tries=0, losses=0, memory=None, now_ms=1_000_000, **facts):
    return decide(attempt(failure, **facts), policy, tries=tries, losses=losses, requested_memory=memory, now_ms=now_ms)


def test_success_ends_the_task_and_counts_one_try():
    finish = after(None, tries=1, losses=2)
    assert (finish.state, finish.tries, finish.losses) == (TaskState.SUCCEEDED, 2, 2)


@pytest.mark.parametrize(
    "failure",
    [c for c in FailureClass if c not in INFRASTRUCTURE and c is not FailureClass.CANCELLED],
)
def test_what_a_program_or_its_surroundings_do_uses_up_attempts(failure):
    facts = {"exit_code": 3} if failure is FailureClass.EXIT else {}
    first = after(failure, **facts)
    assert (first.state, first.tries, first.losses) == (TaskState.PENDING, 1, 0)
    assert first.not_before_ms == 1_002_000
    second = after(failure, tries=1, **facts)
    assert (second.state, second.not_before_ms) == (TaskState.PENDING, 1_005_000)
    third = after(failure, tries=2, reason="why", **facts)
    assert (third.state, third.tries, third.attempt.failure) == (TaskState.FAILED, 3, failure)
    assert third.attempt.reason == "why; tried 3 times"


def test_a_single_attempt_keeps_its_reason_as_it_is():
    assert (
        after(FailureClass.EXIT, RetryPolicy(), exit_code=1, reason="exited with code 1").attempt.reason == "exited with code 1"
    )


@pytest.mark.parametrize(
    ("facts", "state"),
    [
        ({"exit_code": 75}, TaskState.PENDING),
        ({"exit_code": 1}, TaskState.FAILED),
        ({"signal": 9}, TaskState.PENDING),
        ({"signal": 15}, TaskState.FAILED),
    ],
    ids=["listed", "not listed", "signal as the shell's code", "other signal"],
)
def test_only_listed_exit_codes_are_tried_again(facts, state):
    policy = RetryPolicy(attempts=3, exit_codes=(75, 137))
    finish = after(FailureClass.EXIT, policy, reason="ended", **facts)
    assert finish.state is state
    if state is TaskState.FAILED:
        assert finish.attempt.reason == "ended; not tried again: only exit codes 75, 137 are"


def test_listed_exit_codes_say_nothing_about_other_classes():
    assert after(FailureClass.TIMEOUT, RetryPolicy(attempts=2, exit_codes=(75,))).state is TaskState.PENDING


@pytest.mark.parametrize("failure", sorted(INFRASTRUCTURE))
def test_losses_have_a_budget_of_their_own(failure):
    losses = 0
    for losses in range(LOSS_BUDGET - 1):
        finish = after(failure, RetryPolicy(), losses=losses, tries=0, memory=GIB)
        assert (finish.state, finish.tries, finish.losses) == (TaskState.PENDING, 0, losses + 1)
        assert (finish.not_before_ms, finish.memory_bytes) == (0, GIB)
    last = after(failure, RetryPolicy(attempts=9), losses=losses + 1, reason="worker w-1 died")
    assert (last.state, last.tries, last.losses) == (TaskState.FAILED, 0, LOSS_BUDGET)
    assert last.attempt.failure is FailureClass.LOST
    assert last.attempt.reason.startswith("worker w-1 died; given up after 5 attempts")


def test_out_of_memory_is_tried_again_with_more_up_to_the_maximum():
    policy = RetryPolicy(attempts=9, oom=OomRetry(2.0, 3 * GIB))
    assert after(FailureClass.OOM, policy, memory=GIB).memory_bytes == 2 * GIB
    assert after(FailureClass.OOM, policy, memory=2 * GIB).memory_bytes == 3 * GIB
    final = after(FailureClass.OOM, policy, memory=3 * GIB)
    assert final.state is TaskState.FAILED
    assert "at its maximum" in final.attempt.reason


def test_out_of_memory_without_a_rule_is_tried_again_with_the_same():
    finish = after(FailureClass.OOM, memory=GIB)
    assert (finish.state, finish.memory_bytes) == (TaskState.PENDING, GIB)


def test_a_raised_memory_is_kept_by_later_retries():
    assert after(FailureClass.EXIT, memory=2 * GIB, exit_code=1).memory_bytes == 2 * GIB


def test_cancelled_is_never_tried_again():
    finish = after(FailureClass.CANCELLED, tries=0)
    assert (finish.state, finish.tries) == (TaskState.CANCELLED, 0)


def test_requeue_costs_nothing():
    finish = requeue(attempt(FailureClass.PREEMPTED), tries=1, losses=4, requested_memory=GIB)
    assert (finish.state, finish.tries, finish.losses, finish.memory_bytes) == (TaskState.PENDING, 1, 4, GIB)


@given(st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0, 1e6), st.integers(1, 1_000_000_000))
def test_back_off_is_never_negative_nor_above_its_maximum(backoff, factor, most, tries):
    policy = RetryPolicy(backoff_s=backoff, backoff_factor=factor, max_backoff_s=most)
    assert 0 <= backoff_ms(policy, tries) <= most * 1000


@given(st.sampled_from(list(FailureClass)), st.integers(1, 10), st.integers(0, 5), st.integers(0, 4))
def test_every_task_ends(failure, attempts, tries, losses):
    policy = RetryPolicy(attempts=attempts)
    record = attempt(failure, exit_code=1)
    for _ in range(attempts + LOSS_BUDGET):
        finish = decide(record, policy, tries=tries, losses=losses, requested_memory=None, now_ms=0)
        if finish.state is not TaskState.PENDING:
            break
        assert finish.tries + finish.losses == tries + losses + 1
        tries, losses = finish.tries, finish.losses
    assert finish.state in (TaskState.FAILED, TaskState.CANCELLED)
    assert msgspec.json.decode(msgspec.json.encode(finish), type=type(finish)) == finish
