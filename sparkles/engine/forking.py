"""A new run that starts from another's journal. May import ports and below.

Steps are copied, jobs are not: the new run's first `submit` of each makes a job of its own whose tasks reuse the old results, so
nothing runs again but what is named or what the new parameters change.
"""

from __future__ import annotations

from collections.abc import Sequence

from sparkles import digest
from sparkles.errors import NotFound, UsageError
from sparkles.model import Run, RunId, Step
from sparkles.ports import RunStore
from sparkles.suggest import did_you_mean


def fork(store: RunStore, source: Run, target: RunId, rerun: Sequence[str]) -> frozenset[str]:
    """Copies the journal of `source` to the run `target`, which exists and has no steps, except what is to be performed anew.

    Args:
        rerun: Steps by their number (as `sparkles show RUN` lists them) and jobs by name or id.

    Returns:
        The names of the jobs whose tasks have to run though their results are known.

    Raises:
        UsageError: A word of `rerun` names nothing in the run.
    """
    steps = store.list_steps(source.id)
    if not steps:
        raise NotFound(f"run {source.id} has no recorded steps to start from", "fork", source.id)
    left_out: set[int] = set()
    jobs: set[str] = set()
    for word in rerun:
        if word.isdigit():
            number = int(word)
            if not 1 <= number <= len(steps):
                raise UsageError(f"--rerun {word}: run {source.id} has {len(steps)} steps, numbered from 1")
            found = [number - 1]
        else:
            found = _of_job(steps, word)
        for index in found:
            left_out.add(index)
            name = _submitted(steps[index])[0]
            if name:
                jobs.add(name)
    for index, step in enumerate(steps):
        # Waits and fetches name the old run's jobs: the new run's are others.
        if index not in left_out and step.key.kind not in ("wait", "fetch"):
            store.put_step(target, step)
    return frozenset(jobs)


def _submitted(step: Step) -> tuple[str, str]:
    """The name and id of the job that a step submitted; ("", "") where it submitted none."""
    if step.key.kind != "submit" or step.value is None:
        return "", ""
    value = digest.parse(step.value)
    return (value["name"], value["id"]) if isinstance(value, dict) else ("", "")


def _of_job(steps: Sequence[Step], word: str) -> list[int]:
    """The indexes of a job's steps: its submit, and what waited for it or fetched it."""
    submitted = {name: job_id for name, job_id in map(_submitted, steps) if name}
    ids = {job_id for name, job_id in submitted.items() if word in (name, job_id)}
    if not ids:
        known = [*submitted, *submitted.values()]
        listed = f" (its jobs: {', '.join(submitted)})" if submitted else ""
        raise UsageError(f"--rerun {word}: no such job in the run{listed}.{did_you_mean(word, known)}")
    found = []
    for index, step in enumerate(steps):
        if _submitted(step)[1] in ids or any(job_id in step.parts for job_id in ids):
            found.append(index)
    return found
