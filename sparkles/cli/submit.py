"""`sub`: a job without a script, from options and a CSV file, or from a job.json."""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sparkles import hints
from sparkles.cli import render
from sparkles.cli.arguments import DURATION, json_option, pairs
from sparkles.errors import UsageError

if TYPE_CHECKING:
    from sparkles.app import App
    from sparkles.cli.main import Invocation
    from sparkles.engine.commands import JobDraft, TaskDraft
    from sparkles.engine.jobs import BuiltJob

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")


@click.command(epilog="Example:  sparkles sub -n squares --csv params.csv -- 'echo $(({n} * {n}))'")
@click.argument("command", metavar="[-- COMMAND...]", nargs=-1)
@click.option(
    "--file", "job_file", metavar="JOB.JSON", type=click.Path(path_type=Path), help="The job as a JSON file describes it."
)
@click.option("-n", "--name", help="The job's name (default: the command's).")
@click.option(
    "--csv", "csv_file", metavar="FILE", type=click.Path(path_type=Path), help="One task a row; columns are parameters."
)
@click.option("--seq", metavar="N", type=click.IntRange(1), help="N tasks with the parameter i from 1 to N.")
@click.option("--file-input", "inputs", metavar="SRC[=DST]", multiple=True, help="A file or glob that each task finds.")
@click.option("--output", "outputs", metavar="GLOB", multiple=True, help="Files to keep of each task.")
@click.option("--env", metavar="NAME=VALUE", multiple=True, callback=pairs, help="A variable of each task.")
@click.option("--timeout", metavar="DURATION", type=DURATION, help="The longest an attempt may take.")
@click.option("--cpu", metavar="CORES", help="Cores that a task needs (1, 0.5, 500m).")
@click.option("--memory", metavar="SIZE", help="Memory that a task needs, and may not exceed (4Gi).")
@click.option("--retry", metavar="N", type=click.IntRange(1), help="Tries of each task in all.")
@click.option("--max-failures", metavar="N|N%", help="More failed tasks than this end the job.")
@click.option("--parallelism", metavar="N", type=click.IntRange(1), help="Tasks at a time.")
@click.option("--property", "properties", metavar="KEY=VALUE", multiple=True, callback=pairs, help="A label, shown by status.")
@click.option("--no-cache", is_flag=True, help="Run tasks although their result is known.")
@click.option("--detach", is_flag=True, help="Return at once; a worker stays until nothing is pending.")
@click.option("--dry-run", is_flag=True, help="Only show the commands.")
@click.option("-q", "--quiet", is_flag=True, help="Show errors only.")
@json_option
@click.pass_obj
def sub(
    invocation: Invocation,
    /,
    command: tuple[str, ...],
    job_file: Path | None,
    no_cache: bool,
    detach: bool,
    dry_run: bool,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Submits a job without a script, and waits for it.

    One COMMAND word is a template for /bin/sh; several are a program and its arguments, run without a shell. {name} stands for a
    parameter. Paths are relative to the current folder; those in a JOB.JSON to the project root.
    """
    draft = _from_file(job_file, command, options) if job_file is not None else _from_options(command, options)
    here = Path.cwd()
    # Whoever types a path means the current folder; a file is read from the project root, wherever its reader stands.
    folder = here if job_file is None and here != invocation.app.settings.root else None
    if dry_run:
        _show_commands(invocation.app, draft, folder, as_json)
        return
    _submit(invocation.app, draft, folder, cache=not no_cache, detach=detach, quiet=quiet, as_json=as_json)


def _from_file(path: Path, command: tuple[str, ...], options: dict[str, Any]) -> JobDraft:
    from sparkles.engine.jobfile import load_job

    given = [f"--{name.replace('_', '-')}" for name, value in options.items() if value]
    if command or given:
        raise click.UsageError(f"--file describes the whole job: leave out {', '.join(given) or 'the command'}")
    return load_job(_read(path), str(path))


def _from_options(command: tuple[str, ...], options: dict[str, Any]) -> JobDraft:
    from sparkles.engine.commands import FileDraft, JobDraft, ResourcesDraft
    from sparkles.model import OutputGlob, RetryPolicy

    if not command:
        raise click.UsageError("expected a command after --, or --file JOB.JSON")
    limit = options["max_failures"]
    files = []
    for word in options["inputs"]:
        src, _, dst = word.partition("=")
        # A relative path would start at the project root, and who types one means the current folder.
        files.append(FileDraft(src=src if "://" in src else os.path.abspath(os.path.expanduser(src)), dst=dst or None))
    return JobDraft(
        name=options["name"] or _name_of(command[0]),
        command=command[0] if len(command) == 1 else command,
        tasks=_tasks(options["csv_file"], options["seq"]),
        files=tuple(files),
        outputs=tuple(OutputGlob(pattern) for pattern in options["outputs"]),
        env=options["env"],
        timeout_s=options["timeout"],
        retry=RetryPolicy(attempts=options["retry"] or 1),
        resources=ResourcesDraft(cpu=options["cpu"], memory=options["memory"]),
        parallelism=options["parallelism"],
        properties=options["properties"],
        max_failures=int(limit) if limit and limit.isdigit() else limit,
    )


def _tasks(csv_file: Path | None, seq: int | None) -> list[TaskDraft] | None:
    from sparkles.engine.commands import TaskDraft
    from sparkles.rows import parse_csv

    if csv_file is not None and seq is not None:
        raise click.UsageError("--csv and --seq both say what the tasks are: give one of them")
    if csv_file is not None:
        found = parse_csv(_read(csv_file), str(csv_file))
        if not found:
            raise UsageError(f"{csv_file}: expected at least one row below the header, found none")
        return [TaskDraft(params=row) for row in found]
    return [TaskDraft(params={"i": number}) for number in range(1, seq + 1)] if seq is not None else None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UsageError(f"{path}: expected a file, found a folder") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None


def _name_of(word: str) -> str:
    words = word.split()
    name = _NOT_IN_NAMES.sub("-", os.path.basename(words[0] if words else "")).strip(".-_")
    return name[:40] or "job"


def _show_commands(app: App, draft: JobDraft, folder: Path | None, as_json: bool) -> None:
    from sparkles.cli.dry import DryFiles
    from sparkles.engine import jobs

    built = jobs.build(draft, DryFiles(folder or app.settings.root, app.settings.state))
    for index, task in enumerate(built.tasks, 1):
        if as_json:
            command = task.command if isinstance(task.command, str) else list(task.command)
            render.json_line(
                {"index": index, "params": task.params, "command": command, "files": [each.dst for each in task.files]}
            )
        else:
            render.line(render.command(task.command))


def _submit(app: App, draft: JobDraft, folder: Path | None, *, cache: bool, detach: bool, quiet: bool, as_json: bool) -> None:
    from sparkles.cli.jobs import status_value
    from sparkles.cli.progress import Progress
    from sparkles.cli.serving import Waiting, interrupts_for, pool_of, start_detached
    from sparkles.cli.watching import judge
    from sparkles.model import JobId

    progress = Progress(quiet=quiet)
    job_id = JobId(f"{draft.name}-{secrets.token_hex(4)}")
    pool = pool_of(job_id)
    try:
        with interrupts_for(progress, hints.command("wait", job_id))() as interrupts:
            app.begin(progress)
            app.recover(progress)
            submitter = app.submitter(progress, serve=not detach, folder=folder)
            built: BuiltJob = submitter.build(draft)
            reused = submitter.create(built, job_id, owner="", pool=pool, cache=cache)
            job = app.jobs.get_job(job_id)
            if detach:
                pid = start_detached(app, job) if reused < job.count else None
                if as_json:
                    render.json_line({**status_value(app, job), "pid": pid})
                else:
                    render.line(job_id)
                return
            waiting = Waiting(app, progress, interrupts)
            waiting.own(pool)
            counts = waiting.until_done([job])
    finally:
        progress.close()
    if as_json:
        render.json_line(status_value(app, job))
    judge(app, [job], counts)
