"""`runs` and `show`: what is recorded of runs, jobs and tasks."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from sparkles import hints
from sparkles.cli import render
from sparkles.cli.arguments import ANY, json_option
from sparkles.errors import NotFound, SparklesError

if TYPE_CHECKING:
    from sparkles.app import App
    from sparkles.cli.main import Invocation
    from sparkles.engine.selecting import TaskOf
    from sparkles.model import Attempt, Job, Run, Step, StepKey

_ITEM = re.compile(r"[0-9a-f]{12}(~[0-9]+)?")
"""The label of an item of `map`; equal items are counted."""


@click.command(epilog="Example:  sparkles runs --json")
@click.option("-n", "--limit", metavar="N", type=click.IntRange(1), default=50, show_default=True, help="How many at most.")
@json_option
@click.pass_obj
def runs(invocation: Invocation, /, limit: int, as_json: bool) -> None:
    """Lists runs, the newest first."""
    app = invocation.app
    if nothing := app.check_state(of_runs=True):
        render.say(nothing)
        return
    found = app.runs.list_runs(limit=limit)
    if as_json:
        for run in found:
            render.json_line(run_value(app, run))
        return
    if not found:
        render.say(f"there is no run yet in this state folder; `{hints.command('run', 'WORKFLOW')}` begins one")
        return
    rows = []
    for run in found:
        value = run_value(app, run)
        args = render.params(value["params"])
        rows.append((run.id, value["state"], value["steps"], render.when(run.created_at_ms), run.workflow, args))
    render.table(("RUN", "STATE", "STEPS", "BEGAN", "WORKFLOW", "PARAMETERS"), rows, right=("STEPS",))


def run_value(app: App, run: Run) -> dict[str, Any]:
    """A run for `--json`. `driven` says whether a driver holds it: null where it is on another host and cannot be looked at."""
    from sparkles import digest
    from sparkles.backends.local.process import liveness
    from sparkles.model import RunState

    driven: bool | None = False
    driver = None
    if run.driver is not None and run.state is RunState.RUNNING:
        driven = {"alive": True, "dead": False, "elsewhere": None}[liveness(run.driver)]
        driver = {"pid": run.driver.pid, "host": run.driver.host}
    left = run.state is RunState.RUNNING and driven is False
    return {
        "run": run.id,
        "workflow": run.workflow,
        "params": digest.parse(run.args),
        "state": "interrupted" if left else str(run.state),
        "steps": len(app.runs.list_steps(run.id)),
        "createdAt": render.iso(run.created_at_ms),
        "endedAt": render.iso(run.ended_at_ms),
        "error": run.error or None,
        "driven": driven,
        "driver": driver,
        "forkedFrom": run.forked_from or None,
    }


@click.command(epilog="Example:  sparkles show LAST/17")
@click.argument("what", metavar="RUN|JOB|JOB/INDEX", type=ANY)
@json_option
@click.pass_obj
def show(invocation: Invocation, /, what: str, as_json: bool) -> None:
    """Shows a run's steps, a job's description or a task's attempts.

    LAST is the newest job, LAST/3 its third task.
    """
    from sparkles.engine import selecting
    from sparkles.errors import UsageError
    from sparkles.model import Run

    app = invocation.app
    found = selecting.anything(app.runs, app.jobs, what)
    if len(found) > 1:
        raise UsageError(f"{what} matches {len(found)} jobs, expected one; `{hints.command('status', what)}` shows several")
    thing = found[0]
    if isinstance(thing, Run):
        _show_run(app, thing, as_json)
    elif isinstance(thing, selecting.TaskOf):
        _show_task(app, thing, as_json)
    else:
        _show_job(app, thing, as_json)


def _show_run(app: App, run: Run, as_json: bool) -> None:
    from sparkles.engine import cleaning

    value = run_value(app, run)
    steps = app.runs.list_steps(run.id)
    jobs = app.jobs.list_jobs(owner=run.id)[::-1]
    stale = _stale(app, run)
    if as_json:
        value["steps"] = [{**_step_value(step), "stale": step.key in stale if stale is not None else None} for step in steps]
        value["jobs"] = [job.id for job in jobs]
        render.json_line(value)
        return
    render.fields(
        (
            ("run", run.id),
            ("workflow", run.workflow),
            ("parameters", render.params(value["params"])),
            ("forked from", run.forked_from and _called(app, run.forked_from)),
            ("state", value["state"]),
            ("began", render.when(run.created_at_ms)),
            ("ended", render.when(run.ended_at_ms)),
            ("error", run.error),
            ("driver", f"pid {run.driver.pid} on {run.driver.host}" if value["driven"] and run.driver else ""),
            ("jobs", ", ".join(job.id for job in jobs)),
        )
    )
    if steps:
        render.line()
        rows = []
        owners = _owners(app, run, steps)
        cleaned = {each.id: f" on {cleaning.date(each.cleaned_at_ms)}" for each in app.runs.list_cleaned()}
        strands = _strands(steps)
        for number, step in enumerate(steps, 1):
            shown = _step_value(step)
            seconds = render.duration(shown["seconds"]) if shown["seconds"] is not None else ""
            outcome = _outcome(step, run.id, owners, cleaned) + (
                " (not asked for any more)" if stale and step.key in stale else ""
            )
            rows.append((number, step.key.kind, step.position, seconds, strands(step.key.strand), outcome))
        render.table(("STEP", "KIND", "POSITION", "TIME", "STRAND", "OUTCOME"), rows, right=("STEP", "TIME"))


def _called(app: App, run_id: str) -> str:
    """A run that another refers to; it may be gone."""
    from sparkles.engine import cleaning
    from sparkles.model import RunId

    try:
        app.runs.get_run(RunId(run_id))
    except NotFound:
        found = cleaning.cleaned(app.runs, run_id)
        return f"{run_id} (its record was cleaned{f' on {cleaning.date(found.cleaned_at_ms)}' if found else ''})"
    return run_id


def _owners(app: App, run: Run, steps: Sequence[Step]) -> dict[str, str]:
    """The runs of the jobs that steps submitted, as far as the jobs are kept: a fork's copied steps name jobs of another run."""
    from sparkles import digest

    of = filter(None, (run.id, run.forked_from))
    owners = {str(job.id): job.owner for each in of for job in app.jobs.list_jobs(owner=each)}
    for step in steps:
        value = digest.parse(step.value) if step.key.kind == "submit" and step.value is not None else None
        if isinstance(value, dict) and not step.error and value["id"] not in owners:
            with contextlib.suppress(NotFound):
                owners[value["id"]] = app.jobs.get_job(value["id"]).owner
    return owners


def _stale(app: App, run: Run) -> set[StepKey] | None:
    """The steps that the script, edited since or begun from another's record, does not ask for any more; None where that is unknown."""
    from sparkles import digest
    from sparkles.model import RunState

    if run.forked_from and run.state is not RunState.SUCCEEDED:
        return None  # what it was to begin with is asked for, or is not, once it goes on
    try:
        if not run.forked_from and digest.of_bytes(app.scripts.of_run(run)[0].read_bytes()) == run.workflow_digest:
            return set()
        rehearsal = app.replay(run.id, strict=False)
    except (SparklesError, OSError):
        return None
    return {step.key for step in rehearsal.not_asked} if rehearsal.complete else None


def _strands(steps: Sequence[Step]) -> Callable[[str], str]:
    """Shows strands: an item of `map` is labelled by its digest, which tells people nothing, so its place in the list and its text stand
    in its place."""
    from sparkles import digest

    places: dict[str, str] = {}
    labels: Counter[str] = Counter()
    for step in steps:
        if step.key.kind == "join":
            value = digest.parse(step.value) if step.value is not None else None
            texts = value.get("items", []) if isinstance(value, dict) else []
            for place, key in enumerate(digest.parse(step.parts)["children"], 1):
                label = f"{step.key.strand}/{key}"
                labels[label] += 1
                word = f"{key}~{labels[label]}" if labels[label] > 1 else key
                text = render.clean(texts[place - 1]) if place <= len(texts) else word
                places[f"{step.key.strand}/{word}"] = f"[{place}] {text}"

    def shown(strand: str) -> str:
        words: list[str] = []
        label = ""
        for word in strand.split("/"):
            label = f"{label}/{word}" if label else word
            place = places.get(label) if _ITEM.fullmatch(word) else None
            words.append(place if place is not None else word)
        return "/".join(words)

    return shown


def _step_value(step: Step) -> dict[str, Any]:
    from sparkles import digest

    ended = step.ended_at_ms
    return {
        "kind": step.key.kind,
        "strand": step.key.strand,
        "occurrence": step.key.occurrence,
        "position": step.position,
        "state": str(step.state),
        "failed": step.error,
        "arguments": _arguments(step),
        "value": digest.parse(step.value) if step.value is not None else None,
        "startedAt": render.iso(step.started_at_ms),
        "endedAt": render.iso(ended),
        "seconds": (ended - step.started_at_ms) / 1000 if ended is not None else None,
    }


def _arguments(step: Step) -> Any:
    """What the step was asked with; a job's description as a job.json has it."""
    from msgspec import convert

    from sparkles import digest
    from sparkles.engine.describing import describe_spec
    from sparkles.model import JobSpec

    found = digest.parse(step.parts)
    return {**found, "spec": describe_spec(convert(found["spec"], JobSpec))} if step.key.kind == "submit" else found


def _outcome(step: Step, run: str, owners: Mapping[str, str], cleaned: Mapping[str, str]) -> str:
    """A step of a run in a few words; `owners` has the runs of jobs that are kept, `cleaned` says when others were cleaned."""
    from sparkles import digest

    if step.ended_at_ms is None:
        return "not finished"
    value: Any = digest.parse(step.value) if step.value is not None else None
    parts: Any = digest.parse(step.parts)
    if step.key.kind == "join":
        if step.error:
            return f"ended by the error of {value['decided']}"
        children = len(parts["children"])
        return "nothing to do" if not children else "it ended well" if children == 1 else f"all {children} ended well"
    if step.error:
        return f"failed: {value.get('message', '') if isinstance(value, dict) else value}"
    match step.key.kind:
        case "submit":
            owner = owners.get(value["id"])
            gone = f"; its record was cleaned{cleaned.get(value['id'], '')}"
            of = gone if owner is None else "" if owner == run else f"; of run {owner}"
            return f"{value['id']} ({render.plural(value['count'], 'task')}{of})"
        case "wait":
            return ", ".join(parts["jobs"])
        case "read" | "write":
            return str(parts["path"])
        case "log":
            return str(parts["text"])
        case "shell":
            return f"exit code {value['exitCode']}: {render.command(_words(parts['command']))}"
        case "fetch":
            return f"{parts['job']} -> {parts['dest']}"
    return digest.canonical(value) if value is not None else ""


def _words(command: str | list[str]) -> str | tuple[str, ...]:
    return command if isinstance(command, str) else tuple(command)


def _show_job(app: App, job: Job, as_json: bool) -> None:
    from sparkles.cli.jobs import job_value
    from sparkles.engine import describing

    value = job_value(app, job)
    if as_json:
        tasks = (app.jobs.get_spec(job.id, index) for index in range(1, job.count + 1))
        render.json_line({**value, "spec": describing.describe(job.spec, tasks)})
        return
    render.fields(
        (
            ("job", job.id),
            ("state", value["state"]),
            ("tasks", job.count),
            ("run", job.owner),
            ("submitted", render.when(job.created_at_ms)),
            ("command", render.command(job.spec.command)),
        )
    )
    spec = describing.describe_spec(job.spec)
    render.fields(((name, _shown(each)) for name, each in spec.items() if name not in ("name", "command")), indent="  ")


def _shown(value: Any) -> str:
    from sparkles import digest

    return value if isinstance(value, str) else digest.canonical(value)


def _show_task(app: App, of: TaskOf, as_json: bool) -> None:
    from sparkles.engine import results

    job_id = of.job.id
    task = app.jobs.get_task(job_id, of.index)
    spec = app.jobs.get_spec(job_id, of.index)
    rows: list[tuple[Any, ...]]
    attempts = app.jobs.list_attempts(job_id, of.index)
    value = results.page(app.jobs, job_id, of.index, 1)[0]
    files: list[dict[str, Any]] = [
        {"path": file.dst, "digest": file.digest, "size": file.size_bytes, "source": file.src or None, "link": file.link}
        for file in spec.files
    ]
    command = spec.command if isinstance(spec.command, str) else list(spec.command)
    value = {
        "job": job_id,
        **value,
        "command": command,
        "files": files,
        "tries": [_attempt_value(app, each) for each in attempts],
    }
    if as_json:
        render.json_line(value)
        return
    folder = app.blobs.locate(task.origin) if task.origin is not None else ""
    render.fields(
        (
            ("task", f"{job_id}/{of.index}"),
            ("name", task.name),
            ("state", value["state"]),
            ("class", value["class"]),
            ("reason", value["reason"]),
            ("parameters", render.params(spec.params)),
            ("command", render.command(spec.command)),
            ("environment", render.params(spec.env)),
            ("reused from", value["reusedFrom"]),
            ("results", _shown(value["results"]) if value["results"] is not None else ""),
            ("folder", folder),
        )
    )
    if files:
        render.line()
        render.table(
            ("INPUT", "SIZE", "FROM"), [(each["path"], render.size(each["size"]), each["source"] or "") for each in files]
        )
    if value["outputs"]:
        render.line()
        rows = [(name, render.size(each["size"]), each["digest"][:12]) for name, each in value["outputs"].items()]
        render.table(("OUTPUT", "SIZE", "DIGEST"), rows)
    if attempts:
        render.line()
        rows = []
        for attempt, each in zip(attempts, value["tries"], strict=True):
            times = (render.when(attempt.started_at_ms), render.duration(each["seconds"]), f"{attempt.cpu_s:.1f} s")
            how = each["class"] or "succeeded"
            code = "" if attempt.exit_code is None else attempt.exit_code
            rows.append((attempt.ref.attempt, how, code, *times, _peak(attempt), attempt.reason))
        header = ("ATTEMPT", "OUTCOME", "EXIT", "BEGAN", "TIME", "CPU", "PEAK MEMORY", "REASON")
        render.table(header, rows, right=("ATTEMPT", "EXIT", "TIME", "CPU", "PEAK MEMORY"))


def _peak(attempt: Attempt) -> str:
    """ "" for a program that ended before it was looked at."""
    return render.size(attempt.peak_memory_bytes) if attempt.peak_memory_bytes else ""


def _attempt_value(app: App, attempt: Attempt) -> dict[str, Any]:
    return {
        "attempt": attempt.ref.attempt,
        "class": str(attempt.failure) if attempt.failure is not None else None,
        "exitCode": attempt.exit_code,
        "signal": attempt.signal or None,
        "reason": attempt.reason or None,
        "worker": attempt.worker,
        "startedAt": render.iso(attempt.started_at_ms),
        "endedAt": render.iso(attempt.ended_at_ms),
        "seconds": (attempt.ended_at_ms - attempt.started_at_ms) / 1000 if attempt.started_at_ms else 0.0,
        "cpuSeconds": attempt.cpu_s,
        "peakMemory": attempt.peak_memory_bytes,
        "folder": app.blobs.locate(attempt.ref),
    }
