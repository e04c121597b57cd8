"""Who serves a job, and what a command does so that somebody does: jobs of `sparkles sub`, and jobs of runs that are over.

A job of a run is served by the run's driver; a job without one by the worker of whoever waits for it, or by a detached one.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from sparkles import hints
from sparkles.engine import watching
from sparkles.engine.events import Noticed, Report
from sparkles.errors import NotFound, RunCancelled, UsageError
from sparkles.model import Counts, Job, Run, RunId, RunState

if TYPE_CHECKING:
    from sparkles.app import App
    from sparkles.cli.progress import Progress
    from sparkles.engine.drive import Interrupts


def pool_of(job_id: str) -> str:
    """The pool of a job without a run: its own."""
    return f"job:{job_id}"


def workers_of(app: App, job: Job) -> list[dict[str, Any]]:
    """The live workers of the job's pool, for `--json`; those of another host count as live."""
    from sparkles.backends.local.process import liveness

    return [
        {"worker": worker.id, "pid": worker.process.pid, "host": worker.process.host}
        for worker in app.jobs.list_workers()
        if worker.pool == job.pool and liveness(worker.process) != "dead"
    ]


def run_of(app: App, job: Job) -> Run | None:
    """The run that submitted the job; None where there is none, or where it was removed."""
    try:
        return app.runs.get_run(RunId(job.owner)) if job.owner else None
    except NotFound:
        return None


def is_driven(run: Run) -> bool:
    """Whether a driver executes the run now; one on another host counts."""
    from sparkles.backends.local.process import liveness

    return run.state is RunState.RUNNING and run.driver is not None and liveness(run.driver) != "dead"


def how_to_go_on(app: App, job: Job) -> str | None:
    """The command that has a job served that nobody serves; None where its run's driver will see to it."""
    run = run_of(app, job)
    if run is not None and is_driven(run):
        return None
    if run is not None and run.state is not RunState.SUCCEEDED:
        return hints.command("resume", run.id)
    return hints.command("wait", job.id)


class Waiting:
    """One command's wait for jobs, with a worker of its own where nobody else serves them."""

    def __init__(self, app: App, progress: Report, interrupts: Interrupts, *, serve: bool = True) -> None:
        """Without `serve` it only looks on."""
        self._app, self._progress, self._interrupts, self._serve = app, progress, interrupts, serve
        self._own: set[str] = set()

    def own(self, pool: str) -> None:
        """The pool is served by this process's worker from now on."""
        self._own.add(pool)

    def until_done(self, jobs: Sequence[Job], timeout_s: float | None = None) -> dict[str, Counts]:
        """Blocks until the jobs are done; leaves no worker of its own behind.

        Raises:
            RunCancelled: A signal ended the waiting. Its own worker finished what ran, or ended it at the second Ctrl-C.
            UsageError: A job belongs to an unfinished run that nobody drives.
            WaitTimeout: After `timeout_s`.
        """
        app = self._app
        try:
            counts = watching.until_done(
                jobs,
                app.jobs,
                app.notifier,
                app.clock,
                self._progress,
                keep_served=self._keep_served if self._serve else lambda job: None,
                interrupted=self._check,
                timeout_s=timeout_s,
            )
        except BaseException:
            self._leave()
            raise
        for pool in self._own:
            app.fleet.drain(pool)
        return counts

    def _check(self) -> None:
        if self._interrupts.level:
            raise RunCancelled("interrupted", self._interrupts.signal)

    def _keep_served(self, job: Job) -> None:
        if job.pool in self._own:
            self._app.fleet.ensure(job.pool)
            return
        if workers_of(self._app, job):
            return
        run = run_of(self._app, job)
        if run is not None and is_driven(run):
            return
        if run is not None and run.state is not RunState.SUCCEEDED:
            raise UsageError(
                f"{job.id} belongs to run {run.id}, which is not being driven; go on with: {hints.command('resume', run.id)}"
            )
        self._app.recover(self._progress)
        self._app.jobs.set_held([job.id], False)
        self._own.add(job.pool)
        self._app.fleet.ensure(job.pool)

    def _leave(self) -> None:
        """As at the end of a run: what runs is finished, or from the second Ctrl-C on ended."""
        fleet, interrupts = self._app.fleet, self._interrupts
        level = max(interrupts.level, 1)
        for pool in self._own:
            (fleet.stop if level > 1 else fleet.drain)(pool)
        waiting = [pool for pool in self._own if not fleet.wait_gone(pool, 0.3)]
        if not waiting or interrupts.signal == signal.SIGHUP:
            return
        if level == 1:
            self._progress(Noticed(text="running tasks finish and are recorded; Ctrl-C ends them (they will run again)"))
        while waiting := [pool for pool in waiting if not fleet.wait_gone(pool, 0.25)]:
            if interrupts.level > level:
                level = interrupts.level
                for pool in waiting:
                    fleet.stop(pool)


def start_detached(app: App, job: Job) -> int:
    """Starts a worker that leaves when nothing of the job's pool is pending; its pid."""
    return app.fleet.start_detached(job.pool)


def interrupts_for(progress: Progress, again: str) -> Callable[[], Any]:
    """A context manager that gives Interrupts and says at Ctrl-C what goes on; `again` is the command to come back with."""
    from sparkles.cli.signals import interrupts_from_signals

    return lambda: interrupts_from_signals(
        progress,
        f"Ctrl-C: go on later with: {again}",
        "Ctrl-C again: running tasks are ended; they will run again",
        f"go on with: {again}",
    )
