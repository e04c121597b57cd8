"""A task's log: its end, or all of it, or on and on while the task runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from sparkles.cli import render
from sparkles.errors import NotFound, UsageError
from sparkles.model import AttemptRef, Task, TaskState

if TYPE_CHECKING:
    from sparkles.app import App

_PIECE = 1 << 20
_POLL_S = 0.2
_OVER = (TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED)


def show_log(app: App, job_id: str, index: int, *, attempt: int | None, lines: int | None, follow: bool) -> None:
    """Writes the log to standard output, byte for byte; what else there is to say goes to standard error.

    Raises UsageError where there is no such attempt.
    """
    task = app.jobs.get_task(job_id, index)
    ref = _chosen(task, attempt)
    if ref is None and not follow:
        render.say(f"{job_id}/{index} is {task.state}{': ' + task.reason if task.reason else ''}; it has not run")
        return
    offset = 0
    if ref is not None:
        offset = _last(app, ref, lines) if lines is not None else 0
        offset += _copy(app, ref, offset)
    if follow and attempt is None:
        _follow(app, job_id, index, ref, offset)
    elif not offset and lines != 0 and ref is not None:
        record = app.jobs.get_attempt(ref)
        reason = record.reason if record is not None else ""
        render.say(f"{ref} wrote nothing{': ' + reason if reason else ''}")


def log_value(app: App, job_id: str, index: int, *, attempt: int | None, lines: int | None) -> dict[str, Any]:
    """A task's log for `--json`. `text` is null where the task has not run; bytes that are not UTF-8 are replaced in it.

    Raises UsageError where there is no such attempt.
    """
    task = app.jobs.get_task(job_id, index)
    ref = _chosen(task, attempt)
    text = None
    if ref is not None:
        data = b"".join(_pieces(app, ref, _last(app, ref, lines) if lines is not None else 0))
        text = data.decode("utf-8", "replace")
    reused = ref is not None and (ref.job, ref.index) != (job_id, index)
    return {
        "job": job_id,
        "index": index,
        "state": str(task.state),
        "attempt": ref.attempt if ref is not None else None,
        "reusedFrom": f"{ref.job}/{ref.index}" if ref is not None and reused else None,
        "text": text,
    }


def _chosen(task: Task, attempt: int | None) -> AttemptRef | None:
    """The attempt to show: the one asked for, the newest, or that whose result is reused."""
    if attempt is not None:
        if attempt > task.attempt:
            raise UsageError(f"{task.job}/{task.index} has {render.plural(task.attempt, 'attempt')}, no attempt {attempt}")
        return AttemptRef(task.job, task.index, attempt)
    if task.reused:
        return task.origin
    if task.state is TaskState.PENDING and not task.attempt:
        return None
    return AttemptRef(task.job, task.index, task.attempt) if task.attempt else None


def _copy(app: App, ref: AttemptRef, offset: int) -> int:
    """Writes what is there from `offset` on; returns how many bytes."""
    written = 0
    for piece in _pieces(app, ref, offset):
        render.data(piece)
        written += len(piece)
    return written


def _pieces(app: App, ref: AttemptRef, offset: int) -> Iterator[bytes]:
    while piece := app.blobs.read_log(ref, offset, _PIECE):
        yield piece
        offset += len(piece)


def _last(app: App, ref: AttemptRef, lines: int) -> int:
    """The offset at which the last `lines` lines begin."""
    size = _size(app, ref)
    end, found = size, 0
    while end > 0:
        start = max(0, end - 65536)
        piece = app.blobs.read_log(ref, start, end - start)
        for position in range(len(piece) - 1, -1, -1):
            # The newline at the very end closes the last line; it does not begin another.
            if piece[position] == 10 and start + position != size - 1:
                found += 1
                if found == lines:
                    return start + position + 1
        end = start
    return 0 if lines else size


def _size(app: App, ref: AttemptRef) -> int:
    return app.blobs.log_size(ref)


def _follow(app: App, job_id: str, index: int, ref: AttemptRef | None, offset: int) -> None:
    """Shows what is added until the task has ended; goes on with the next attempt where there is one."""
    while True:
        # The state is read before the log: what a task wrote before it ended is then in what is read after.
        try:
            task = app.jobs.get_task(job_id, index)
        except NotFound:
            return
        newest = _chosen(task, None)
        if newest is not None and newest != ref:
            if ref is not None:
                render.say(f"attempt {newest.attempt} of {job_id}/{index}")
            ref, offset = newest, 0
        copied = _copy(app, ref, offset) if ref is not None else 0
        offset += copied
        if task.state in _OVER:
            how = f"exit code {task.exit_code}" if task.exit_code is not None else task.reason
            render.say(f"{job_id}/{index} {task.state}{': ' + how if how else ''}")
            return
        if not copied:
            app.notifier.wait(_POLL_S)
