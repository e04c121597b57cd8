"""The sentences that every store says alike. Pure; may import model and errors."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from sparkles import hints
from sparkles.errors import Conflict, LeaseLost, NotFound, RunBusy
from sparkles.model import ProcessId, Run, RunState


def run_exists(run_id: str) -> Conflict:
    """The id is taken."""
    return Conflict(f"run {run_id} exists already", "create run", run_id)


def no_run(run_id: str) -> NotFound:
    """There is no such run."""
    return NotFound(f"there is no run {run_id}; `{hints.command('runs')}` lists them", "get run", run_id)


def run_busy(run: Run, driver: ProcessId) -> RunBusy:
    """Another driver holds it."""
    since = datetime.fromtimestamp(driver.started, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return RunBusy(
        f"run {run.id} ({run.workflow}) is driven by pid {driver.pid} on host {driver.host} since {since}; wait for it, or end it with"
        f" `{hints.command('kill', run.id)}`"
    )


def run_lost(run_id: str, driver: ProcessId) -> LeaseLost:
    """The driver is not the owner any more."""
    return LeaseLost(f"run {run_id} is not driven by pid {driver.pid} on host {driver.host} any more", "own run", run_id)


def refuse_ended(run: Run) -> None:
    """Raises Conflict for a run that is over for good."""
    if run.state is RunState.SUCCEEDED:
        again = hints.command("run", run.workflow.removeprefix("workflows:"))
        raise Conflict(
            f"run {run.id} has succeeded and is over; `{again}` begins another",
            "take run",
            run.id,
        )


def no_job(job_id: str) -> NotFound:
    """There is no such job."""
    return NotFound(f"there is no job {job_id}; `{hints.command('list')}` shows the jobs", "get job", job_id)


def no_task(job_id: str, index: int, count: int) -> NotFound:
    """The job has no such task."""
    has = "1 task" if count == 1 else f"{count} tasks"
    return NotFound(
        f"there is no task {index} in job {job_id}, which has {has}, numbered from 1", "get task", f"{job_id}/{index}"
    )


def job_claimed(job_id: str, indexes: Sequence[int], total: int) -> Conflict:
    """Tasks of a job to be deleted are being executed; `indexes` are the first of `total`."""
    named = ", ".join(map(str, indexes)) + (", ..." if total > len(indexes) else "")
    return Conflict(
        f"job {job_id} has {total} running task{'' if total == 1 else 's'} ({named}); end it first: {hints.command('kill', job_id)}",
        "delete job",
        job_id,
        retryable=True,
    )


def worker_holds(worker: str, count: int) -> Conflict:
    """A worker that still holds claims cannot leave."""
    return Conflict(
        f"worker {worker} still holds {count} claim{'' if count == 1 else 's'}, which must be finished or released first",
        "leave",
        worker,
        retryable=True,
    )


def too_many_failures(failed: int, limit: int) -> str:
    """The reason of a task that was not started any more because of its job's `max_failures`."""
    return f"{failed} task{'' if failed == 1 else 's'} of the job failed and at most {limit} may"


KILLED = "cancelled by kill"
"""The reason of a task that `kill_tasks` cancelled."""
