"""`status`, `list`, `logs` and `fetch`: jobs and tasks, looked at."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sparkles.cli import render
from sparkles.cli.arguments import JOB, json_option, pairs

if TYPE_CHECKING:
    from sparkles.app import App
    from sparkles.cli.main import Invocation
    from sparkles.model import Job, TaskState
    from sparkles.ports import Outcome

_EXAMPLE_LINES = 5
_SAMPLE = 200
STATES = ("pending", "claimed", "succeeded", "failed", "cancelled")


def job_value(app: App, job: Job) -> dict[str, Any]:
    """A job for `--json`."""
    from sparkles.states import job_state

    counts = app.jobs.count_tasks(job.id)
    return {
        "job": job.id,
        "name": job.spec.name,
        "state": str(job_state(counts)),
        "count": job.count,
        "counts": counts.by_state(),
        "run": job.owner or None,
        "createdAt": render.iso(job.created_at_ms),
        "properties": job.spec.properties,
    }


@click.command(epilog="Example:  sparkles status 'align-*'")
@click.argument("words", metavar="[JOB]...", nargs=-1, type=JOB)
@json_option
@click.pass_obj
def status(invocation: Invocation, /, words: tuple[str, ...], as_json: bool) -> None:
    """Shows how jobs stand and why tasks failed.

    Without JOB: those that are not done, or else the newest. Failures are grouped by class and exit code, with one example each.
    """
    from sparkles.engine import selecting

    app = invocation.app
    if not words and (nothing := app.check_state()):
        render.say(nothing)
        return
    if words:
        jobs = selecting.select_jobs(app.jobs, words)
    else:
        everything = app.jobs.list_jobs()
        jobs = [job for job in everything if not app.jobs.count_tasks(job.id).done] or everything[:1]
    if not jobs and not as_json:
        render.say("there is no job yet in this state folder")
    for number, job in enumerate(jobs):
        value = status_value(app, job)
        if as_json:
            render.json_line(value)
            continue
        if number:
            render.line()
        _show_status(job, value)


def status_value(app: App, job: Job) -> dict[str, Any]:
    """How a job stands: counts, who serves it, time to go, failures with one example each."""
    from sparkles.cli import serving
    from sparkles.cli.failures import last_lines

    value = job_value(app, job)
    counts = app.jobs.count_tasks(job.id)
    failures = []
    for group in app.jobs.count_failures(job.id):
        task = app.jobs.get_task(job.id, group.example)
        spec = app.jobs.get_spec(job.id, group.example)
        failures.append(
            {
                "class": str(group.failure),
                "exitCode": group.exit_code,
                "count": group.count,
                "example": {
                    "index": group.example,
                    "params": spec.params,
                    "reason": task.reason or None,
                    "log": last_lines(app, job.id, group.example, task.attempt, _EXAMPLE_LINES),
                },
            }
        )
    workers = serving.workers_of(app, job)
    mean = _mean_seconds(app, job.id) if not counts.done else None
    left = None
    if mean is not None and counts.running and workers:
        left = mean * (counts.pending + counts.claimed - counts.running / 2) / counts.running
    value.update({"workers": workers, "held": job.held, "secondsToGo": left, "failures": failures})
    value["goesOnWith"] = None if counts.done or workers else serving.how_to_go_on(app, job)
    return value


def _mean_seconds(app: App, job_id: str) -> float | None:
    """The mean wall time of the first tasks that succeeded by themselves."""
    from sparkles.model import TaskState

    outcomes = app.jobs.list_outcomes(job_id, limit=_SAMPLE, states={TaskState.SUCCEEDED})
    attempts = [each.attempt for each in outcomes if each.attempt is not None and not each.task.reused]
    if not attempts:
        return None
    return sum(each.ended_at_ms - each.started_at_ms for each in attempts) / 1000 / len(attempts)


def _show_status(job: Job, value: dict[str, Any]) -> None:
    counts = value["counts"]
    done = value["state"] in ("succeeded", "failed", "cancelled")
    # What a worker has claimed ahead waits like the rest.
    numbers = {**counts, "pending": counts["pending"] + counts["claimed"] - counts["running"]}
    shown = [f"{numbers[name]} {name}" for name in ("pending", "running", "succeeded", "failed", "cancelled") if numbers[name]]
    if counts["reused"]:
        shown.append(f"{counts['reused']} of them reused")
    workers = ", ".join(f"{each['worker']} (pid {each['pid']} on {each['host']})" for each in value["workers"])
    if value["goesOnWith"] is not None:
        workers = f"none; goes on with: {value['goesOnWith']}"
    left = value["secondsToGo"]
    render.line(f"{job.id}  {render.state(value['state'])}")
    render.fields(
        (
            ("tasks", f"{job.count}: {', '.join(shown)}"),
            ("to go", f"about {render.duration(left)}" if left is not None else ""),
            ("workers", workers if not done else ""),
            ("run", job.owner),
            ("submitted", render.when(job.created_at_ms)),
            ("command", render.command(job.spec.command, 200)),
            ("properties", render.params(job.spec.properties)),
        ),
        indent="  ",
    )
    for group in value["failures"]:
        code = f", exit code {group['exitCode']}" if group["exitCode"] is not None else ""
        example = group["example"]
        render.line(f"  {render.plural(group['count'], 'task')} failed: {group['class']}{code}")
        render.line(f"    for example {job.id}/{example['index']}  {render.params(example['params'], 200)}")
        if example["reason"] and group["class"] != "exit":
            render.line(f"    {render.clean(example['reason'], 300)}")
        for text in example["log"]:
            render.line(f"    | {text}")


@click.command(name="list", epilog="Example:  sparkles list LAST --failed --params 'alpha=0.*'")
@click.argument("word", metavar="[JOB]", required=False, type=JOB)
@click.option("--state", "states", metavar="STATE", multiple=True, type=click.Choice(STATES), help="Only tasks in this state.")
@click.option("--failed", is_flag=True, help="Only failed tasks, like --state failed.")
@click.option(
    "--params",
    "wanted",
    metavar="KEY=PATTERN",
    multiple=True,
    callback=pairs,
    help="Only tasks whose parameter is like this.",
)
@click.option("-n", "--limit", metavar="N", type=click.IntRange(1), help="How many at most.")
@json_option
@click.pass_obj
def list_(
    invocation: Invocation,
    /,
    word: str | None,
    states: tuple[str, ...],
    failed: bool,
    wanted: dict[str, str],
    limit: int | None,
    as_json: bool,
) -> None:
    """Lists jobs, or the tasks of a job."""
    from sparkles.engine import selecting
    from sparkles.model import TaskState

    app = invocation.app
    if word is None:
        if states or failed or wanted:
            raise click.UsageError("--state, --failed and --params choose among the tasks of a job: name the JOB")
        if nothing := app.check_state():
            render.say(nothing)
            return
        _list_jobs(app, limit, as_json)
        return
    job = selecting.job(app.jobs, word)
    chosen = {TaskState(each) for each in states} | ({TaskState.FAILED} if failed else set())
    _list_tasks(app, job, chosen or None, wanted, limit, as_json)


def _list_jobs(app: App, limit: int | None, as_json: bool) -> None:
    jobs = app.jobs.list_jobs(limit=limit)
    if as_json:
        for job in jobs:
            render.json_line(job_value(app, job))
        return
    if not jobs:
        render.say("there is no job yet in this state folder")
        return
    rows = []
    for job in jobs:
        value = job_value(app, job)
        counts = value["counts"]
        at = render.when(job.created_at_ms)
        rows.append((job.id, value["state"], job.count, counts["succeeded"], counts["failed"], at, job.owner))
    header = ("JOB", "STATE", "TASKS", "DONE", "FAILED", "SUBMITTED", "RUN")
    render.table(header, rows, right=("TASKS", "DONE", "FAILED"))


def _matching(
    app: App, job: Job, states: set[TaskState] | None, wanted: dict[str, str], limit: int | None
) -> Iterator[Outcome]:
    first, left = 1, limit if limit is not None else job.count
    while left and (page := app.jobs.list_outcomes(job.id, first=first, limit=500, states=states)):
        first = page[-1].task.index + 1
        for outcome in page:
            if left and all(_like(outcome.params, key, pattern) for key, pattern in wanted.items()):
                left -= 1
                yield outcome


def _like(params: dict[str, object], key: str, pattern: str) -> bool:
    from sparkles import digest

    if key not in params:
        return False
    value = params[key]
    text = value if isinstance(value, str) else digest.canonical(value)
    return text == pattern or fnmatch.fnmatchcase(text, pattern)


def _list_tasks(
    app: App, job: Job, states: set[TaskState] | None, wanted: dict[str, str], limit: int | None, as_json: bool
) -> None:
    from sparkles.engine import results

    rows = []
    for outcome in _matching(app, job, states, wanted, limit):
        value = results.as_value(outcome)
        if as_json:
            render.json_line({"job": job.id, **value})
            continue
        seconds = render.duration(value["seconds"]) if value["seconds"] is not None else ""
        code = "" if value["exitCode"] is None else value["exitCode"]
        how = value["class"] or ("reused" if value["reusedFrom"] else "")
        rows.append((value["index"], value["state"], how, code, value["attempts"], seconds, render.params(outcome.params)))
    if rows:
        header = ("INDEX", "STATE", "CLASS", "EXIT", "ATTEMPTS", "TIME", "PARAMETERS")
        render.table(header, rows, right=("INDEX", "EXIT", "ATTEMPTS", "TIME"))
    elif not as_json:
        render.say(f"no task of {job.id} is like that")


@click.command(epilog="Example:  sparkles logs LAST/17 -f")
@click.argument("word", metavar="JOB/INDEX", type=JOB)
@click.option("-f", "--follow", is_flag=True, help="Go on while the task runs.")
@click.option("--attempt", metavar="N", type=click.IntRange(1), help="An earlier attempt (default: the one that counts).")
@click.option("-n", "--lines", metavar="LINES", type=click.IntRange(0), help="Only the last lines.")
@json_option
@click.pass_obj
def logs(invocation: Invocation, /, word: str, follow: bool, attempt: int | None, lines: int | None, as_json: bool) -> None:
    """Shows what a task wrote.

    JOB alone is enough where the job has one task. With --json: the whole text in one object.
    """
    from sparkles.cli.logs import log_value, show_log
    from sparkles.engine import selecting

    if as_json and follow:
        raise click.UsageError("--json prints what is there now: leave out --follow, or --json")
    app = invocation.app
    of = selecting.task(app.jobs, word)
    if as_json:
        render.json_line(log_value(app, of.job.id, of.index, attempt=attempt, lines=lines))
        return
    show_log(app, of.job.id, of.index, attempt=attempt, lines=lines, follow=follow)


@click.command(epilog="Example:  sparkles fetch LAST results/")
@click.argument("word", metavar="JOB|JOB/INDEX", type=JOB)
@click.argument("dest", type=click.Path(path_type=Path))
@json_option
@click.pass_obj
def fetch(invocation: Invocation, /, word: str, dest: Path, as_json: bool) -> None:
    """Copies the results of a job to a folder.

    One folder a task, DEST/INDEX, with outputs, results.json and output.log; DEST/tasks.csv lists them. What is there and the same
    is not copied again.
    """
    from sparkles.engine import fetching, selecting
    from sparkles.errors import UsageError

    app = invocation.app
    index = None
    if "/" in word:
        of = selecting.task(app.jobs, word)
        job, index = of.job, of.index
    else:
        job = selecting.job(app.jobs, word)
    early = fetching.unfinished(app.jobs, job.id, index)
    try:
        count = fetching.fetch(app.jobs, app.blobs, job.id, dest, None if index is None else [index])
    except OSError as error:
        raise UsageError(f"{error.filename or dest}: cannot be written: {error.strerror}") from error
    if as_json:
        render.json_line({"job": job.id, "dest": str(dest), "files": count})
    elif count or not early:
        render.say(f"{job.id}: {render.plural(count, 'file')} written to {dest}" if count else f"{dest} is up to date")
    if early:
        render.say(early)
