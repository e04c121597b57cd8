"""A new run that starts from another's journal. May import ports and below.

Steps are copied, jobs are not: the new run's first `submit` of each makes a job of its own whose tasks reuse the old results, so
nothing runs again but what is named or what the new parameters change.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sparkles import digest, hints
from sparkles.engine.cleaning import date
from sparkles.errors import BackendError, NotFound, UsageError
from sparkles.model import Json, Run, RunId, Step, StepKey
from sparkles.ports import JobStore, RunStore
from sparkles.suggest import did_you_mean
from sparkles.units import plural

Again = frozenset[str | StepKey]
"""Jobs whose tasks have to run though their results are known: by name, or one of them by the step that submits it."""


_AGAIN = "again.json"
"""Holds, in the folder of a run, what `to_run_again` gives: the fork may be interrupted before it has come to it."""


def fork(store: RunStore, source: Run, target: RunId, rerun: Sequence[str]) -> None:
    """Copies the journal of `source` to the run `target`, which exists and has no steps, except what is to be performed anew.

    Args:
        rerun: Steps by their number (as `sparkles show RUN` lists them), or name (of `step`); jobs by name (all that have it) or id.

    Raises:
        UsageError: A word of `rerun` names nothing in the run.
        BackendError: What is to run again cannot be remembered.
    """
    steps = store.list_steps(source.id)
    if not steps:
        raise NotFound(f"run {source.id} has no recorded steps to start from", "fork", source.id)
    left_out: set[int] = set()
    again: set[str | StepKey] = set()
    for word in rerun:
        if word.isdigit():
            number = int(word)
            if not 1 <= number <= len(steps):
                raise UsageError(f"--rerun {word}: run {source.id} has {plural(len(steps), 'step')}, numbered from 1")
            found = [number - 1]
        else:
            found = _of_word(source.id, steps, word)
        left_out.update(found)
        for name, job_id, key in (_submitted(steps[index]) for index in found):
            if job_id:
                again.add(name if word == name else key)
    if again:
        _remember(store.folder(target), again)
    for index, step in enumerate(steps):
        # Waits and fetches name the old run's jobs: the new run's are others.
        if index not in left_out and step.key.kind not in ("wait", "fetch"):
            store.put_step(target, step)


def to_run_again(store: RunStore, run: Run) -> Again:
    """The jobs of a fork whose tasks have to run though their results are known, in whichever execution it comes to them."""
    try:
        found: Json = digest.parse((store.folder(run.id) / _AGAIN).read_text("utf-8"))
    except FileNotFoundError:
        return frozenset()
    except (OSError, ValueError) as error:
        raise BackendError(f"run {run.id}: what --rerun named cannot be read: {error}", "fork", run.id) from error
    return frozenset(each if isinstance(each, str) else StepKey(*each) for each in found)


def _remember(folder: Path, again: set[str | StepKey]) -> None:
    value: Json = [each if isinstance(each, str) else [each.strand, each.kind, each.digest, each.occurrence] for each in again]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _AGAIN).write_text(digest.canonical(value), "utf-8")
    except OSError as error:
        raise BackendError(
            f"{folder}: {error.strerror}: what --rerun names cannot be remembered", "fork", folder.name
        ) from error


def gone_jobs(runs: RunStore, jobs: JobStore, source: Run) -> str:
    """A sentence about the jobs of a run that were cleaned, and so have no results to reuse; "" where all are kept."""
    kept = {str(job.id) for job in jobs.list_jobs(owner=source.id)}
    days = {each.id: f" ({date(each.cleaned_at_ms)})" for each in runs.list_cleaned()}
    ids = [job_id for _, job_id, _ in map(_submitted, runs.list_steps(source.id, kinds=("submit",))) if job_id]
    gone = [job_id + days.get(job_id, "") for job_id in dict.fromkeys(ids) if job_id not in kept]
    if not gone:
        return ""
    which = "its job was cleaned" if len(gone) == 1 else f"{len(gone)} of its jobs were cleaned"
    return f"run {source.id}: {which}: {_few(gone)}; what no other job has run runs again"


def _submitted(step: Step) -> tuple[str, str, StepKey]:
    """The name and id of the job that a step submitted, "" where it submitted none; and the step's key."""
    value = digest.parse(step.value) if step.key.kind == "submit" and step.value is not None else None
    return (value["name"], value["id"], step.key) if isinstance(value, dict) else ("", "", step.key)


def _step_name(step: Step) -> str:
    return str(digest.parse(step.parts)["name"]) if step.key.kind == "step" else ""


def _of_word(run: RunId, steps: Sequence[Step], word: str) -> list[int]:
    """The indexes of the steps of that name, and of jobs of that name or id: their submit, and what waited for them or fetched them."""
    submitted = [(name, job_id) for name, job_id, _ in map(_submitted, steps) if job_id]
    ids = {job_id for name, job_id in submitted if word in (name, job_id)}
    named = [name for name in map(_step_name, steps) if name]
    if not ids and word not in named:
        jobs = list(dict.fromkeys(name for name, _ in submitted))
        listed = [
            f"its {what}: {_few(names)}" for what, names in (("jobs", jobs), ("steps", list(dict.fromkeys(named)))) if names
        ]
        known = f" ({'; '.join(listed)})" if listed else ""
        hint = did_you_mean(word, [*jobs, *named, *(job_id for _, job_id in submitted)])
        raise UsageError(
            f"--rerun {word}: no such job or step in run {run}{known}.{hint} Every step has a number: {hints.command('show', run)}"
        )
    found = []
    for index, step in enumerate(steps):
        of_job = _submitted(step)[1] in ids or any(job_id in step.parts for job_id in ids)
        if of_job or _step_name(step) == word:
            found.append(index)
    return found


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
