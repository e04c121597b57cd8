"""States never leave the legal set, and a job's state follows from its tasks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sparkles.errors import InternalError
from sparkles.model import Counts, JobState, TaskState
from sparkles.states import TASK_TRANSITIONS, check_task, job_state

ENDED = {TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED}


def test_every_state_has_its_row() -> None:
    """A state that is added without transitions would be a trap."""
    assert set(TASK_TRANSITIONS) == set(TaskState)
    assert set().union(*TASK_TRANSITIONS.values()) == set(TaskState)


@pytest.mark.parametrize("before", TaskState)
@pytest.mark.parametrize("after", TaskState)
def test_check_task_allows_what_the_table_allows(before: TaskState, after: TaskState) -> None:
    """The check and the table are one; no task stands still by a transition."""
    allowed = {
        ("pending", "claimed"),
        ("pending", "cancelled"),
        ("claimed", "pending"),
        ("claimed", "succeeded"),
        ("claimed", "failed"),
        ("claimed", "cancelled"),
        ("succeeded", "pending"),
        ("failed", "pending"),
        ("cancelled", "pending"),
    }
    if (before, after) in allowed:
        check_task(before, after)
    else:
        with pytest.raises(InternalError, match=f"a task cannot go from {before} to {after}"):
            check_task(before, after)


@pytest.mark.parametrize("state", ENDED)
def test_an_outcome_is_changed_by_a_new_attempt_only(state: TaskState) -> None:
    """What has ended goes back to pending or nowhere: no writer can turn a failure into a success."""
    assert TASK_TRANSITIONS[state] == {TaskState.PENDING}


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        pytest.param(Counts(pending=3), JobState.PENDING, id="nothing begun"),
        pytest.param(Counts(pending=1, succeeded=2, reused=2), JobState.PENDING, id="reused tasks are no beginning"),
        pytest.param(Counts(pending=1, succeeded=2, reused=1), JobState.RUNNING, id="one has run"),
        pytest.param(Counts(pending=1, failed=1), JobState.RUNNING, id="one has failed, one is left"),
        pytest.param(Counts(claimed=1, succeeded=9), JobState.RUNNING, id="the last one runs"),
        pytest.param(Counts(succeeded=3, reused=3), JobState.SUCCEEDED, id="all reused"),
        pytest.param(Counts(succeeded=2, failed=1, cancelled=1), JobState.FAILED, id="failed wins over cancelled"),
        pytest.param(Counts(succeeded=2, cancelled=1), JobState.CANCELLED, id="cancelled"),
    ],
)
def test_job_state(counts: Counts, expected: JobState) -> None:
    """Derived, never stored."""
    assert job_state(counts) is expected


@given(st.builds(Counts, **{name: st.integers(0, 5) for name in ("pending", "claimed", "succeeded", "failed", "cancelled")}))
def test_a_job_ends_with_its_last_task(counts: Counts) -> None:
    """A job is over exactly when no task is pending or claimed, and its counts add up."""
    over = job_state(counts) in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)
    assert over is counts.done is (counts.ended == counts.total)


class Tasks(RuleBasedStateMachine):
    """Tasks that are moved at random: a move that the check lets through keeps every number right."""

    def __init__(self) -> None:
        super().__init__()
        self.states = [TaskState.PENDING] * 4
        self.attempts = [0] * 4
        self.outcomes = [0] * 4

    @rule(which=st.integers(0, 3), after=st.sampled_from(TaskState))
    def move(self, which: int, after: TaskState) -> None:
        before = self.states[which]
        try:
            check_task(before, after)
        except InternalError:
            return
        self.states[which] = after
        self.attempts[which] += after is TaskState.CLAIMED
        self.outcomes[which] += after in (TaskState.SUCCEEDED, TaskState.FAILED)

    @invariant()
    def legal(self) -> None:
        """A task succeeds or fails at most once for each time it was claimed, and the job's state agrees with the tasks'."""
        assert all(done <= tried for done, tried in zip(self.outcomes, self.attempts, strict=True))
        counts = Counts(**{str(state): self.states.count(state) for state in TaskState})
        assert counts.total == 4
        state = job_state(counts)
        assert (state is JobState.SUCCEEDED) is all(each is TaskState.SUCCEEDED for each in self.states)
        assert (state in (JobState.PENDING, JobState.RUNNING)) is any(each not in ENDED for each in self.states)


TestTasks = Tasks.TestCase
