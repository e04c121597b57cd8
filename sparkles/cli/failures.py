"""A failed task in words, as a run's end and `status` show it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparkles import hints
from sparkles.cli import render
from sparkles.errors import NotFound
from sparkles.model import AttemptRef

if TYPE_CHECKING:
    from sparkles.app import App

TAIL_LINES = 20
_TAIL_BYTES = 16384


def failure_notes(app: App, job_id: str, index: int) -> list[str]:
    """A failed task: command, parameters, how it ended, its last log lines, and where to see more."""
    try:
        task = app.jobs.get_task(job_id, index)
        spec = app.jobs.get_spec(job_id, index)
    except NotFound:
        return []
    how = [f"class {task.failure}" if task.failure else str(task.state)]
    if task.exit_code is not None:
        how.append(f"exit code {task.exit_code}")
    how.append(f"attempt {task.attempt}")
    notes = [f"task {job_id}/{index} failed: {', '.join(how)}"]
    if task.reason and task.failure != "exit":
        notes.append(f"  reason   {render.clean(task.reason, 500)}")
    notes.append(f"  command  {render.command(spec.command, 500)}")
    if spec.params:
        notes.append(f"  params   {render.params(spec.params, 500)}")
    lines = last_lines(app, job_id, index, task.attempt, TAIL_LINES)
    notes += [f"  | {each}" for each in lines] or ["  it wrote nothing"]
    notes.append(f"more: {hints.command('logs', f'{job_id}/{index}')}")
    return notes


def last_lines(app: App, job_id: str, index: int, attempt: int, count: int) -> list[str]:
    """The end of an attempt's log: from its file, or where that is gone from its record."""
    ref = AttemptRef(job_id, index, max(attempt, 1))
    data = app.blobs.read_log(ref, -_TAIL_BYTES)
    if not data:
        record = app.jobs.get_attempt(ref)
        return render.clean_lines(record.tail, count) if record is not None else []
    return render.clean_lines(data.decode("utf-8", "replace"), count)
