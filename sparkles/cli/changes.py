"""`kill`, `reset` and `clean`: what changes jobs and runs after they were submitted."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from sparkles import hints
from sparkles.cli import render
from sparkles.cli.arguments import ANY, DURATION, JOB, json_option
from sparkles.errors import NotFound, UsageError

if TYPE_CHECKING:
    from sparkles.app import App
    from sparkles.cli.main import Invocation
    from sparkles.engine.cleaning import Plan
    from sparkles.model import Job, Run

_ENDED = ("succeeded", "failed", "cancelled")


@click.command(epilog="Example:  sparkles kill LAST/17")
@click.argument("words", metavar="JOB|RUN|JOB/INDEX...", nargs=-1, required=True, type=ANY)
@json_option
@click.pass_obj
def kill(invocation: Invocation, /, words: tuple[str, ...], as_json: bool) -> None:
    """Ends jobs, tasks or runs.

    Pending tasks are cancelled, running ones ended. Of a run, its driver is ended too, and the run is marked cancelled; it can be
    resumed. LAST is the newest job.
    """
    from sparkles.cli.ending import kill_run
    from sparkles.cli.progress import Progress
    from sparkles.engine import selecting
    from sparkles.model import Run

    app = invocation.app
    progress = Progress()
    # All words are understood before anything is ended.
    for thing in [each for word in words for each in selecting.anything(app.runs, app.jobs, word)]:
        driver = False
        if isinstance(thing, Run):
            name = f"run {thing.id}"
            driver, count = kill_run(app, thing.id, progress)
        elif isinstance(thing, selecting.TaskOf):
            name = str(thing)
            count = app.jobs.kill_tasks(thing.job.id, [thing.index])
        else:
            name = thing.id
            count = app.jobs.kill_tasks(thing.id)
        app.notifier.notify()
        if as_json:
            render.json_line({"killed": name.removeprefix("run "), "driver": driver, "tasks": count})
        elif count or driver:
            what = (["its driver ended"] if driver else []) + ([f"{render.plural(count, 'task')} cancelled"] if count else [])
            render.say(f"{name}: {', '.join(what)}")
        else:
            render.say(f"{name}: nothing to end, all of it has ended")


@click.command(epilog="Example:  sparkles reset LAST --state failed,cancelled")
@click.argument("word", metavar="JOB", type=JOB)
@click.argument("indexes", metavar="[INDEX]...", nargs=-1)
@click.option("--state", "states", metavar="STATE,...", help="Which ended tasks (default: failed,cancelled; with INDEX: any).")
@json_option
@click.pass_obj
def reset(invocation: Invocation, /, word: str, indexes: tuple[str, ...], states: str | None, as_json: bool) -> None:
    """Lets ended tasks run again.

    They become pending with a fresh budget of attempts. INDEX is a number or a range such as 5-9. A job without a run gets a worker at
    once; one of a run goes on when the run is resumed.
    """
    from sparkles.engine import selecting
    from sparkles.model import TaskState

    app = invocation.app
    if "/" in word:
        of = selecting.task(app.jobs, word)
        job, chosen = of.job, [of.index, *selecting.indexes(indexes, of.job.count)]
    else:
        job = selecting.job(app.jobs, word)
        chosen = selecting.indexes(indexes, job.count)
    names = [each.strip() for each in states.split(",")] if states else list(_ENDED if chosen else _ENDED[1:])
    for name in names:
        if name not in _ENDED:
            raise UsageError(f"--state: expected {', '.join(_ENDED)}, found {name!r}")
    count = app.jobs.reset_tasks(job.id, {TaskState(name) for name in names}, chosen or None)
    app.notifier.notify()
    how, pid = _serve_again(app, job) if count else ("", None)
    if as_json:
        render.json_line({"job": job.id, "tasks": count, "pid": pid})
    elif count:
        render.say(f"{job.id}: {render.plural(count, 'task')} pending again; {how}")
    else:
        render.say(f"{job.id}: no task is {' or '.join(names)}{' among those named' if chosen else ''}")


def _serve_again(app: App, job: Job) -> tuple[str, int | None]:
    """Sees to it that the job goes on, or says how it will; the pid of a worker that was started."""
    from sparkles.cli import serving
    from sparkles.model import RunState

    run = serving.run_of(app, job)
    if run is not None and serving.is_driven(run):
        return f"run {run.id} is being driven and runs them", None
    if run is not None and run.state is not RunState.SUCCEEDED:
        return f"they run when its run is resumed: {hints.command('resume', run.id)}", None
    watch = f"watch it with: {hints.command('watch', job.id)}"
    if serving.workers_of(app, job):
        return f"its worker runs them; {watch}", None
    app.jobs.set_held([job.id], False)
    pid = serving.start_detached(app, job)
    return f"a worker (pid {pid}) runs them; {watch}", pid


@click.command(epilog="Example:  sparkles clean --older-than 30d")
@click.argument("words", metavar="[JOB|RUN]...", nargs=-1, type=ANY)
@click.option("--older-than", metavar="DURATION", type=DURATION, default=0.0, help="Only what ended this long ago (7d, 12h).")
@click.option("--yes", is_flag=True, help="Do not ask; allow what has not ended, unless it runs.")
@click.option("--dry-run", is_flag=True, help="Only show what would go.")
@json_option
@click.pass_obj
def clean(
    invocation: Invocation, /, words: tuple[str, ...], older_than: float, yes: bool, dry_run: bool, as_json: bool
) -> None:
    """Removes finished jobs and runs, and content that no job uses.

    Without names: every run that has ended, with its jobs, and every job without a run that has. A failed, interrupted or cancelled run
    cannot be resumed afterwards. Safe beside running workers.
    """
    app = invocation.app
    if not words and (nothing := app.check_state()):
        render.say(nothing)
        return
    with app.room():
        try:
            _clean(app, words, older_than, yes=yes, dry_run=dry_run, as_json=as_json)
        except NotFound as error:
            invocation.tell_cleaned(error)
            raise


def _clean(app: App, words: tuple[str, ...], older_than: float, *, yes: bool, dry_run: bool, as_json: bool) -> None:
    from sparkles.cli import serving
    from sparkles.engine import cleaning
    from sparkles.model import RunState

    before_ms = app.clock.now_ms() - round(older_than * 1000) + (0 if older_than else 1)
    if words:
        plan = cleaning.plan_these(_chosen(app, words), app.jobs, before_ms=before_ms)
    else:
        plan = cleaning.plan_all(app.runs, app.jobs, before_ms=before_ms, shared=app.in_cloud)
    running = [run for run in app.runs.list_runs(limit=1_000_000) if run.state is RunState.RUNNING]
    driven = {str(run.id) for run in running if serving.is_driven(run)}
    cleaning.check_not_driven(plan, driven)
    if plan.unfinished and not yes:
        raise UsageError(
            f"{', '.join(plan.unfinished[:5])}: not ended yet; end it first ({hints.command('kill')}), or insist with --yes"
        )
    if not as_json:
        _show_plan(app, plan)
    if dry_run:
        if as_json:
            render.json_line(_plan_value(plan))
        return
    if not yes and (plan.jobs or plan.runs) and not _is_agreed():
        render.say("nothing was removed")
        return
    # Asked for again now: who else works here may be about to store or to use something.
    alone = not driven and not any(_is_live(app))
    # Who works with a bucket elsewhere is not seen from here.
    grace_s = 0.0 if alone and not app.in_cloud else cleaning.GRACE_S
    freed = cleaning.remove(
        plan, app.runs, app.jobs, app.blobs, app.workspace, app.fleet, grace_s=grace_s, now_ms=app.clock.now_ms()
    )
    subscriptions = app.cloud.tidy() if app.in_cloud else 0
    if alone:
        app.database.compact()
    if as_json:
        value = {"folderBytes": freed.folder_bytes, "contentFiles": freed.files, "contentBytes": freed.content_bytes}
        if app.in_cloud:
            value["subscriptions"] = subscriptions
        render.json_line({**_plan_value(plan), **value})
        return
    total = render.size(freed.folder_bytes + freed.content_bytes)
    gone = f"{render.plural(freed.runs, 'run')} and {render.plural(freed.jobs, 'job')} removed, {total} freed"
    render.say(f"{gone} ({render.plural(freed.files, 'stored file')} no longer used)")
    if subscriptions:
        render.say(f"{render.plural(subscriptions, 'subscription')} of killed processes removed")


def _chosen(app: App, words: tuple[str, ...]) -> list[Run | Job]:
    from sparkles.engine import selecting

    found: list[Run | Job] = []
    for word in words:
        for thing in selecting.anything(app.runs, app.jobs, word):
            if isinstance(thing, selecting.TaskOf):
                raise UsageError(f"{word}: a task cannot be removed by itself; name its job")
            found.append(thing)
    return found


def _is_live(app: App) -> list[bool]:
    from sparkles.backends.local.process import liveness

    return [liveness(worker.process) != "dead" for worker in app.jobs.list_workers()]


def _plan_value(plan: Plan) -> dict[str, Any]:
    jobs = [job.id for job in plan.jobs]
    return {"runs": [run.id for run in plan.runs], "jobs": jobs, "tasks": plan.tasks, "kept": plan.kept}


def _show_plan(app: App, plan: Plan) -> None:
    for run in plan.runs:
        render.line(f"run {run.id}  {run.state}  {run.workflow}  {render.params(_args(run), 60)}".rstrip())
    for job in plan.jobs:
        render.line(f"job {job.id}  {render.plural(job.count, 'task')}")
    total = render.size(sum(app.blobs.job_bytes(job.id) for job in plan.jobs))
    what = f"{render.plural(len(plan.runs), 'run')} and {render.plural(len(plan.jobs), 'job')} with {render.plural(plan.tasks, 'task')}"
    kept = f"; {plan.kept} {'stays' if plan.kept == 1 else 'stay'} (not ended, or not that old)" if plan.kept else ""
    if plan.foreign:
        kept += (
            f"; {render.plural(plan.foreign, 'job')} of other state folders' runs {'stays' if plan.foreign == 1 else 'stay'}"
        )
    if plan.runs or plan.jobs:
        render.say(f"{what}: {total} of logs and records, and the stored files that only they use{kept}")
    else:
        render.say(f"no run and no job to remove{kept}; looking for stored files that nothing uses")


def _args(run: Run) -> dict[str, Any]:
    from sparkles import digest

    found: dict[str, Any] = digest.parse(run.args)
    return found


def _is_agreed() -> bool:
    """Asks on the terminal. Raises UsageError where there is nobody to ask."""
    if not sys.stdin.isatty():
        raise UsageError("nobody can be asked here: say --yes to remove them")
    sys.stdout.flush()
    return click.confirm("Remove them?", err=True)
