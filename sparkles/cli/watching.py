"""`wait` and `watch`: until jobs have ended. The first one serves jobs that nobody serves and judges; the other only looks on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from sparkles import hints
from sparkles.cli import render
from sparkles.cli.arguments import DURATION, JOB, json_option
from sparkles.errors import JobFailed, WaitTimeout

if TYPE_CHECKING:
    from sparkles.app import App
    from sparkles.cli.main import Invocation
    from sparkles.cli.progress import Progress
    from sparkles.engine.events import Event
    from sparkles.model import Counts, Job


@click.command(epilog="Example:  sparkles wait LAST --timeout 2h")
@click.argument("words", metavar="JOB...", nargs=-1, required=True, type=JOB)
@click.option("--timeout", metavar="DURATION", type=DURATION, help="Give up after 90s, 1.5m, 24h.")
@click.option("-q", "--quiet", is_flag=True, help="Show errors only.")
@json_option
@click.pass_obj
def wait(invocation: Invocation, /, words: tuple[str, ...], timeout: float | None, quiet: bool, as_json: bool) -> None:
    """Waits until jobs have ended.

    A job of `sparkles sub` that nobody serves is served meanwhile. Exit code 1 if tasks failed or were cancelled, or if the time is over.
    """
    _wait(invocation.app, words, timeout, quiet=quiet, as_json=as_json, serve=True)


@click.command(epilog="Example:  sparkles watch LAST")
@click.argument("words", metavar="JOB...", nargs=-1, required=True, type=JOB)
@json_option
@click.pass_obj
def watch(invocation: Invocation, /, words: tuple[str, ...], as_json: bool) -> None:
    """Shows the progress of jobs until they have ended.

    It only looks on: Ctrl-C ends the watching, not the jobs, and failed tasks make no exit code. With --json: a line for each change.
    """
    _wait(invocation.app, words, None, quiet=as_json, as_json=as_json, serve=False)


class _Changes:
    """Prints a job's counts each time they have changed."""

    def __init__(self, app: App, progress: Progress) -> None:
        self._app, self._progress = app, progress
        self._shown: dict[str, Counts] = {}

    def __call__(self, event: Event) -> None:
        from sparkles.engine.events import Progressed
        from sparkles.states import job_state

        if not isinstance(event, Progressed):
            self._progress(event)
        elif self._shown.get(event.job) != event.counts:
            self._shown[event.job] = counts = event.counts
            value = {"job": event.job, "state": str(job_state(counts)), "count": counts.total, "counts": counts.by_state()}
            render.json_line({**value, "at": render.iso(self._app.clock.now_ms())})
            render.flush()


def _wait(app: App, words: Sequence[str], timeout: float | None, *, quiet: bool, as_json: bool, serve: bool) -> None:
    from sparkles.cli.jobs import status_value
    from sparkles.cli.progress import Progress
    from sparkles.cli.serving import Waiting, interrupts_for
    from sparkles.engine import selecting

    jobs = selecting.select_jobs(app.jobs, words)
    progress = Progress(quiet=quiet)
    report = _Changes(app, progress) if as_json and not serve else progress
    try:
        with interrupts_for(progress, hints.command("wait" if serve else "watch", *(job.id for job in jobs)))() as interrupts:
            counts = Waiting(app, report, interrupts, serve=serve).until_done(jobs, timeout)
    except WaitTimeout as error:
        for job in jobs:
            if not app.jobs.count_tasks(job.id).done:
                error.add_note(_after(app, job))
        raise
    finally:
        progress.close()
    if as_json and serve:
        for job in jobs:
            render.json_line(status_value(app, job))
    if serve:
        judge(app, jobs, counts)


def _after(app: App, job: Job) -> str:
    """What becomes of a job that is not waited for any more."""
    from sparkles.cli import serving

    command = None if serving.workers_of(app, job) else serving.how_to_go_on(app, job)
    return f"{job.id} goes on" if command is None else f"nobody serves {job.id} now; go on with: {command}"


def judge(app: App, jobs: Sequence[Job], counts: dict[str, Counts]) -> None:
    """Raises JobFailed, with notes, where tasks of the jobs failed or were cancelled."""
    from sparkles.cli.failures import failure_notes
    from sparkles.engine.monitor import failure_sentence
    from sparkles.model import TaskState

    bad = [job for job in jobs if counts[job.id].failed or counts[job.id].cancelled]
    if not bad:
        return
    first = bad[0]
    failed = tuple(task.index for task in app.jobs.list_tasks(first.id, limit=10, states={TaskState.FAILED}))
    error = JobFailed("; ".join(failure_sentence(app.jobs, job.id, counts[job.id]) for job in bad), first.id, failed)
    if failed:
        for text in failure_notes(app, first.id, failed[0]):
            error.add_note(text)
    error.add_note(f"try again what failed: {hints.command('reset', first.id)}")
    raise error
