"""Which state may follow which, as data, and the derivations that need nothing else. Pure; may import model and errors.

Surprise: a job's state is never stored. It is derived from its tasks' states each time it is asked for.
"""

from __future__ import annotations

from sparkles.errors import InternalError
from sparkles.model import Counts, JobState, TaskState

TASK_TRANSITIONS: dict[TaskState, frozenset[TaskState]] = {
    TaskState.PENDING: frozenset({TaskState.CLAIMED, TaskState.CANCELLED}),
    TaskState.CLAIMED: frozenset({TaskState.PENDING, TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED}),
    TaskState.SUCCEEDED: frozenset({TaskState.PENDING}),
    TaskState.FAILED: frozenset({TaskState.PENDING}),
    TaskState.CANCELLED: frozenset({TaskState.PENDING}),
}
"""pending -> cancelled and the ways back to pending are `kill` and `reset`; the rest belong to whoever holds the claim."""


def check_task(before: TaskState, after: TaskState) -> None:
    """Raises InternalError where a task may not go from `before` to `after`."""
    if after not in TASK_TRANSITIONS[before]:
        raise InternalError(f"a task cannot go from {before} to {after}")


def job_state(counts: Counts) -> JobState:
    """Derives a job's state: failed wins over cancelled once nothing is left to do; a job of reused tasks alone is succeeded."""
    if not counts.done:
        started = counts.claimed or counts.failed or counts.cancelled or counts.succeeded > counts.reused
        return JobState.RUNNING if started else JobState.PENDING
    if counts.failed:
        return JobState.FAILED
    return JobState.CANCELLED if counts.cancelled else JobState.SUCCEEDED
