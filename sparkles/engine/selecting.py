"""Which run, job or task a user means by a word. Reads the stores; may import ports and below.

LAST is the newest. Else an id as it is, then a job's name (its newest job), then a pattern with `*`, `?` or `[` where several are taken,
then the beginning of one id only.
Surprise: a run and a job may begin alike; where both are possible both are candidates.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from sparkles import hints
from sparkles.errors import NotFound, UsageError
from sparkles.model import Job, Run, RunState
from sparkles.ports import JobStore, RunStore
from sparkles.suggest import nearest

LAST = "LAST"
_SHOWN = 8
_ALL = 1_000_000
_TASK = re.compile(r"(.+)/([0-9]+)")
_RANGE = re.compile(r"([0-9]+)(?:-([0-9]+))?")
_PATTERN = re.compile(r"[*?\[]")

Named = TypeVar("Named", Run, Job)
_Either = TypeVar("_Either", bound=Run | Job)


@dataclass(frozen=True)
class TaskOf:
    """A task by its job and index."""

    job: Job
    index: int

    def __str__(self) -> str:
        return f"{self.job.id}/{self.index}"


def run(runs: RunStore, word: str) -> Run:
    """The run that `word` names. Raises NotFound with the nearest ids, or UsageError with the candidates."""
    return _one("run", word, lambda: runs.list_runs(limit=_ALL), hints.command("runs"))


def earlier(runs: RunStore, run: Run) -> Run | None:
    """The run that a plan of `run` is compared with: the newest other one that succeeded, else the newest; first of the same parameters."""
    for args in (run.args, None):
        others = [each for each in runs.list_runs(workflow=run.workflow, args=args) if each.id != run.id]
        if others:
            return next((each for each in others if each.state is RunState.SUCCEEDED), others[0])
    return None


def job(jobs: JobStore, word: str) -> Job:
    """The job that `word` names: as `run`; a pattern must match one job only."""
    found = select_jobs(jobs, [word])
    if len(found) > 1:
        raise UsageError(f"{word} matches {len(found)} jobs, expected one: {_listed([each.id for each in found])}")
    return found[0]


def select_jobs(jobs: JobStore, words: Sequence[str]) -> list[Job]:
    """The jobs that any of `words` names, each once, in the order named; a pattern names every job that matches, newest first."""
    found: dict[str, Job] = {}
    for word in words:
        for each in _jobs(jobs, word):
            found.setdefault(each.id, each)
    return list(found.values())


def task(jobs: JobStore, word: str) -> TaskOf:
    """The task that JOB/INDEX names; JOB alone where the job has one task. Raises NotFound where the job has no such task."""
    match = _TASK.fullmatch(word)
    if match is None:
        found = job(jobs, word)
        if found.count == 1:
            return TaskOf(found, 1)
        raise UsageError(f"{word}: expected a task, JOB/INDEX: {found.id} has {found.count} tasks, {found.id}/1 is the first")
    found = job(jobs, match[1])
    jobs.get_task(found.id, int(match[2]))
    return TaskOf(found, int(match[2]))


def anything(runs: RunStore, jobs: JobStore, word: str) -> list[Run | Job | TaskOf]:
    """What `word` names: a task, a run, or one or (by a pattern) several jobs. LAST is the newest job."""
    if _TASK.fullmatch(word):
        return [task(jobs, word)]
    if word == LAST:
        return [job(jobs, word)]
    if _PATTERN.search(word):
        return list(_jobs(jobs, word))
    everything: list[Run | Job] = [*runs.list_runs(limit=_ALL), *jobs.list_jobs()]
    exact = [each for each in everything if each.id == word]
    found = exact or _named(everything, word) or [each for each in everything if each.id.startswith(word)]
    if len(found) == 1:
        return [found[0]]
    if found:
        raise UsageError(f"{word} is not unique: {_listed([each.id for each in found])}")
    raise _unknown(
        "run and no job", word, [each.id for each in everything], f"{hints.command('runs')}` and `{hints.command('list')}"
    )


def indexes(words: Sequence[str], count: int) -> list[int]:
    """Task indexes from words like 3 or 5-9. Raises UsageError for other words and for indexes that the job does not have."""
    found: dict[int, None] = {}
    for word in words:
        match = _RANGE.fullmatch(word)
        if match is None:
            raise UsageError(f"{word}: expected a task's index or a range such as 5-9")
        first, last = int(match[1]), int(match[2] or match[1])
        if not 1 <= first <= last <= count:
            raise UsageError(f"{word}: expected indexes from 1 to {count}")
        found.update(dict.fromkeys(range(first, last + 1)))
    return list(found)


def _jobs(jobs: JobStore, word: str) -> list[Job]:
    if word == LAST:
        return [_one("job", word, lambda: jobs.list_jobs(limit=1), hints.command("list"))]
    try:
        return [jobs.get_job(word)]
    except NotFound:
        pass
    if not _PATTERN.search(word):
        return [_one("job", word, jobs.list_jobs, hints.command("list"))]
    everything = jobs.list_jobs()
    found = [each for each in everything if fnmatch.fnmatchcase(each.id, word)]
    if not found:
        raise _unknown("job", word, [each.id for each in everything], hints.command("list"))
    return found


def _one(kind: str, word: str, list_all: Callable[[], Sequence[Named]], lister: str) -> Named:
    everything = list_all()
    if word == LAST:
        if not everything:
            raise NotFound(f"there is no {kind} yet in this state folder", f"select {kind}", word)
        return everything[0]
    exact = [each for each in everything if each.id == word]
    found = exact or _named(everything, word) or [each for each in everything if each.id.startswith(word)] if word else []
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(f"{word} is not unique: {_listed([each.id for each in found])}")
    raise _unknown(kind, word, [each.id for each in everything], lister)


def _named(everything: Sequence[_Either], word: str) -> list[_Either]:
    """The newest job of this name, if there is one; stores list the newest first."""
    return [each for each in everything if (each.spec.name if isinstance(each, Job) else "") == word][:1]


def _unknown(kind: str, word: str, ids: Sequence[str], lister: str) -> NotFound:
    """The error for a word that names nothing, with the nearest id: as a whole, or without the digits at its end."""
    near = nearest(word, ids)
    if near is None:
        names: dict[str, str] = {}
        for each in ids:
            names.setdefault(each.rpartition("-")[0], each)
        name = nearest(word, names)
        near = names[name] if name is not None else None
    hint = f" Did you mean {near}?" if near is not None else ""
    return NotFound(f"there is no {kind} {word!r} (`{lister}` lists them).{hint}", f"select {kind}", word)


def _listed(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
    return ", ".join(ids[:_SHOWN]) + more
