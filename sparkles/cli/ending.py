"""Ends a run from another process: its driver, its programs, its tasks, and the record of it."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

from sparkles.cli.serving import is_driven
from sparkles.errors import BackendError, LeaseLost, UsageError
from sparkles.model import ProcessId, Run, RunId, RunState

if TYPE_CHECKING:
    from sparkles.app import App
    from sparkles.engine.events import Report

_DRIVER_S = 15.0
"""An orderly driver gives programs 5 s and then ends; one that takes longer hangs."""


def kill_run(app: App, run_id: RunId, report: Report) -> tuple[bool, int]:
    """Ends the run's driver if it lives, cancels the tasks of its jobs, and marks the run cancelled unless it has succeeded, failed or been
    cancelled before.

    Returns:
        Whether a driver was ended, and how many tasks are cancelled.

    Raises:
        UsageError: It is driven on another host.
        BackendError: The driver cannot be ended.
    """
    from sparkles.backends.local.process import liveness

    run = app.runs.get_run(run_id)
    ended = False
    if run.driver is not None and is_driven(run):
        if liveness(run.driver) == "elsewhere":
            raise UsageError(f"run {run_id} is driven by pid {run.driver.pid} on host {run.driver.host}: kill it there")
        _end_driver(run.driver, run_id)
        ended = True
        app.end_shell_commands(run_id)
        app.recover(report)
    count = sum(app.jobs.kill_tasks(job.id) for job in app.jobs.list_jobs(owner=run_id))
    app.notifier.notify()
    _mark_cancelled(app, app.runs.get_run(run_id))
    return ended, count


def _end_driver(driver: ProcessId, run_id: str) -> None:
    """SIGTERM, and where that does not help SIGKILL. The process is known by its start time, so a reused pid is never hit."""
    from sparkles.backends.local.process import liveness

    for number, patience in ((signal.SIGTERM, _DRIVER_S), (signal.SIGKILL, 5.0)):
        deadline = time.monotonic() + patience
        try:
            if liveness(driver) == "alive":
                os.kill(driver.pid, number)
            while liveness(driver) == "alive":
                if time.monotonic() > deadline:
                    break
                time.sleep(0.02)
            else:
                return
        except ProcessLookupError:
            return
        except PermissionError:
            raise BackendError(
                f"run {run_id}: its driver (pid {driver.pid}) belongs to another user, who has to end it", "kill", run_id
            ) from None
    raise BackendError(f"run {run_id}: its driver (pid {driver.pid}) outlives SIGKILL; it hangs in the kernel", "kill", run_id)


def _mark_cancelled(app: App, run: Run) -> None:
    # Its driver, if there was one, has recorded that a signal interrupted it.
    if run.state not in (RunState.RUNNING, RunState.INTERRUPTED):
        return
    now = app.clock.now_ms()
    try:
        app.runs.take_run(run.id, app.driver, lambda process: not is_driven(run), now)
        app.runs.end_run(run.id, app.driver, RunState.CANCELLED, "ended by sparkles kill", now)
    except LeaseLost:
        pass  # somebody resumed it in this very moment, and owns it now
