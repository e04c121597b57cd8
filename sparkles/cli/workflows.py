"""`run` and `resume`: executes a script, shows what happens, and ends by saying how to go on."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from sparkles import hints
from sparkles.cli import params_file as files
from sparkles.cli import render
from sparkles.cli.arguments import RUN, WORKFLOW, pairs, run_options
from sparkles.cli.failures import failure_notes
from sparkles.cli.parameters import PARAMETER, WorkflowCommand, help_page
from sparkles.errors import JobFailed, RunBusy, RunCancelled, RunError, RunFailed, SparklesError, UsageError

if TYPE_CHECKING:
    from sparkles.app import App
    from sparkles.cli.main import Invocation
    from sparkles.cli.progress import Progress
    from sparkles.engine.drive import Interrupts
    from sparkles.model import RunId


_KEPT = ("frozen", "no_cache")
"""Options that a command line which goes on repeats: without them it would do something else."""


@click.command(cls=WorkflowCommand, epilog="Example:  sparkles run examples/csv_submit.lua --alpha 0.5", add_help_option=False)
@click.argument("workflow", type=WORKFLOW, required=False)
@click.option(
    "-p",
    "--param",
    "params",
    metavar="KEY=VALUE",
    type=PARAMETER,
    multiple=True,
    callback=pairs,
    help="A parameter of the script; --KEY VALUE behind WORKFLOW is the same.",
)
@click.option(
    "--params-file",
    metavar="FILE",
    type=click.Path(),
    help="Parameters from a .json or .toml object; a .csv: one run for each row. Those of -p win.",
)
@click.option("--new", is_flag=True, help="Begin another run, whatever is unfinished.")
@click.option(
    "--fork", metavar="RUN", type=RUN, help="Begin a run from what RUN recorded, with its parameters and those of -p."
)
@click.option(
    "--rerun", metavar="STEP|JOB", multiple=True, help="With --fork: a step (its number or name) or a job to perform anew."
)
@run_options
@click.option("--help", "helps", is_flag=True, help="Show this message, or with WORKFLOW what it does and its parameters.")
@click.pass_context
def run(
    ctx: click.Context,
    /,
    workflow: str | None,
    params: dict[str, str],
    params_file: str | None,
    helps: bool,
    new: bool,
    fork: str | None,
    rerun: tuple[str, ...],
    as_json: bool,
    quiet: bool,
    **how: bool,
) -> None:
    """Runs a workflow, or goes on with the unfinished run of it.

    WORKFLOW is a .lua file or the name of a ready one. The newest unfinished run of the same workflow and parameters is resumed: what
    is done is answered from the record.
    """
    invocation: Invocation = ctx.obj
    if helps:
        taken = run.taken()
        for line in help_page(invocation.app, workflow, taken) if workflow else [ctx.get_help()]:
            render.line(line)
        return
    source: RunId | None = None
    base: dict[str, str] = {}
    if fork is not None and new:
        raise UsageError("--fork RUN begins a new run already: leave out --new, or --fork for a run that starts from nothing")
    if fork is not None:
        workflow, base, source = _forked(invocation.app, fork, workflow)
    elif rerun:
        raise UsageError("--rerun goes with --fork RUN")
    if workflow is None:
        raise UsageError("name a workflow: a .lua file or a ready one, or --fork RUN")
    script = workflow
    sets = [{**base, **params}]
    if params_file is not None:
        loaded = files.load(params_file)
        files.check(invocation.app, script, loaded, params, base)
        sets = [{**base, **each.values, **params} for each in loaded]
    begun = ["run", script, *_kept(how)]
    # Of several rows the one that runs is not all that is left.
    forks = ["--fork", source, *(word for each in rerun for word in ("--rerun", each))] if source else []
    rows = [*begun, *forks, "--params-file", params_file or "", *_given(params)]
    failed = 0
    for number, given in enumerate(sets, 1):
        if len(sets) > 1:
            render.say(f"row {number} of {len(sets)}: {' '.join(f'{key}={value}' for key, value in given.items())}")
        again = hints.command(*begun, *_given(given))
        everything = hints.command(*rows) if len(sets) > 1 else again

        def execute(app: App, progress: Progress, interrupts: Interrupts, given: dict[str, str] = given) -> str:
            more = {"new": new, "fork": source, "rerun": rerun, **_options(how)}
            return app.run_workflow(script, given, report=progress, interrupts=interrupts, **more)

        try:
            _execute(invocation, execute, again, everything, quiet=quiet, as_json=as_json)
        except RunError as error:
            if len(sets) == 1 or isinstance(error, RunCancelled):
                raise
            render.error(str(error), getattr(error, "__notes__", ()))
            failed += 1
    if failed:
        raise RunFailed(f"{failed} of {len(sets)} runs failed; the same command goes on with them")


def _kept(how: dict[str, bool]) -> list[str]:
    return [f"--{name.replace('_', '-')}" for name in _KEPT if how[name]]


def _given(params: dict[str, str]) -> list[str]:
    """Parameters as words of a command line."""
    return [word for key, value in params.items() for word in ("-p", f"{key}={value}")]


def _forked(app: App, word: str, workflow: str | None) -> tuple[str, dict[str, str], RunId]:
    """The script (where the command line leaves it to the run), parameters and id of a run to fork."""
    from sparkles import digest
    from sparkles.engine import selecting

    source = selecting.run(app.runs, word)
    script = workflow if workflow is not None else app.scripts.of_run(source)[1]
    return script, digest.parse(source.args), source.id


@click.command(epilog="Example:  sparkles resume r-7f3a")
@click.argument("run_word", metavar="RUN", type=RUN)
@run_options
@click.pass_obj
def resume(invocation: Invocation, /, run_word: str, as_json: bool, quiet: bool, **how: bool) -> None:
    """Goes on with an unfinished run.

    RUN is a run's id, the beginning of one, or LAST.
    """
    from sparkles.engine import selecting

    run_id = selecting.run(invocation.app.runs, run_word).id

    def execute(app: App, progress: Progress, interrupts: Interrupts) -> str:
        app.resume_run(run_id, report=progress, interrupts=interrupts, **_options(how))
        return run_id

    again = hints.command("resume", run_id, *_kept(how))
    _execute(invocation, execute, again, again, quiet=quiet, as_json=as_json)


def _options(how: dict[str, bool]) -> dict[str, Any]:
    return {"cache": not how["no_cache"], "frozen": how["frozen"], "keep_failed": how["keep_failed"]}


def _execute(
    invocation: Invocation,
    execute: Callable[[App, Progress, Interrupts], str],
    again: str,
    everything: str,
    *,
    quiet: bool,
    as_json: bool,
) -> None:
    """Drives to the end and tells it; `again` is the command that goes on with the run, `everything` with all that was asked for."""
    from sparkles.cli.progress import Progress
    from sparkles.cli.signals import interrupts_from_signals

    app = invocation.app
    progress = Progress(quiet=quiet, logs_to_stderr=as_json)

    first = f"Ctrl-C: no new tasks are started; resume with: {everything}"
    second = "Ctrl-C again: running tasks are ended; they run again on resume"
    try:
        with interrupts_from_signals(progress, first, second, f"resume with: {everything}") as interrupts:
            execute(app, progress, interrupts)
    except SparklesError as error:
        progress.close()
        if as_json and progress.run:
            render.json_line(_outcome(app, progress, "error", str(error)))
        _add_notes(app, error, again, everything, progress.run)
        raise
    finally:
        progress.close()
    tell_end(progress)
    if as_json:
        render.json_line(_outcome(app, progress, "succeeded", None))


def tell_end(progress: Progress) -> None:
    """One line of talk: run, steps, tasks, time."""
    ended = progress.ended
    if ended is None:
        return
    steps = _performed(ended.performed, ended.reused, "step")
    tasks = _performed(sum(progress.tasks_run.values()), sum(progress.reused.values()), "task")
    both = [steps] + ([tasks] if tasks else [])
    seconds = render.duration(progress.clock() - progress.began)
    progress.say(f"run {progress.run} succeeded: {'; '.join(both)}; {seconds}", "dim")


def _performed(done: int, reused: int, noun: str) -> str:
    if not reused:
        return f"{render.plural(done, noun)} run" if done or noun == "step" else ""
    if done:
        return f"{render.plural(done, noun)} run, {reused:,} reused"
    return f"{render.plural(reused, noun)}, {'' if reused == 1 else 'all '}reused"


def _outcome(app: App, progress: Progress, state: str, error: str | None) -> dict[str, Any]:
    from sparkles.model import RunId

    if state != "succeeded":
        state = str(app.runs.get_run(RunId(progress.run)).state)
    ended = progress.ended
    return {
        "run": progress.run,
        "state": state,
        "error": error,
        "steps": {"performed": ended.performed, "reused": ended.reused} if ended is not None else None,
        "tasks": {"run": sum(progress.tasks_run.values()), "reused": sum(progress.reused.values())},
        "seconds": round(progress.clock() - progress.began, 3),
    }


def _add_notes(app: App, error: SparklesError, again: str, everything: str, run: str) -> None:
    """What a user needs after a run that did not end well: the task that failed, and how to go on."""
    from sparkles.model import RunId

    if isinstance(error, RunBusy):
        return
    if isinstance(error, JobFailed) and error.job and error.failed:
        for text in failure_notes(app, error.job, error.failed[0]):
            error.add_note(text)
    trace = getattr(error, "traceback", "")
    if trace.count("\n"):
        error.add_note("\n".join(f"  {each.strip()}" for each in trace.splitlines()))
    if isinstance(error, RunCancelled):
        if error.signal == signal.SIGHUP:
            error.add_note("the terminal is gone: running tasks are finished and recorded")
        error.add_note(f"resume with: {everything}")
    elif isinstance(error, RunError):
        pending = sum(app.jobs.count_tasks(job.id).pending for job in app.jobs.list_jobs(owner=run))
        left = f" with {render.plural(pending, 'task')} that no worker runs now" if pending else ""
        tried = ", failed tasks are tried again" if isinstance(error, JobFailed) else ""
        error.add_note(f"run {run} can go on{left}{tried}: {again}")
    elif run and isinstance(error, UsageError) and app.runs.last_sequence(RunId(run)):
        error.add_note(f"what is done is kept; mend it and run again: {everything}")
