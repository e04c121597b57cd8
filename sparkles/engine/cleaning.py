"""What can be removed from a state folder, and removing it beside processes that work. May import ports and below.

The order makes it safe: rows first, in one transaction that refuses running tasks; then folders; then content that nothing refers to any
more. Content asked for less than `grace_s` ago stays: a job that is just being created has stored its inputs and has no row yet.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sparkles.errors import UsageError
from sparkles.model import Digest, Job, Run, RunState
from sparkles.ports import Blobs, JobStore, RunStore

GRACE_S = 3600.0
"""Hashing a large sweep's inputs may take this long before the job is created."""

_DIGEST = re.compile(r'"([0-9a-f]{64})"')
_ALL = 1_000_000
_SLICE = 500


@dataclass(frozen=True)
class Plan:
    """What is to go. `unfinished` names what has not ended; `kept` counts what is passed over because it has not, or is too young."""

    runs: list[Run] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    kept: int = 0

    @property
    def tasks(self) -> int:
        return sum(job.count for job in self.jobs)


@dataclass
class Freed:
    """What was removed: rows, bytes of attempt folders, files and bytes of content."""

    runs: int = 0
    jobs: int = 0
    folder_bytes: int = 0
    files: int = 0
    content_bytes: int = 0


def plan_all(runs: RunStore, jobs: JobStore, *, before_ms: int) -> Plan:
    """Every run that has ended, with its jobs, and every job without a run whose tasks have; only what ended (a job: was submitted) before
    `before_ms`. A run with tasks that have not ended stays."""
    plan = Plan()
    kept = 0
    everything = jobs.list_jobs()
    by_owner: dict[str, list[Job]] = {}
    for job in everything:
        by_owner.setdefault(job.owner, []).append(job)
    all_runs = runs.list_runs(limit=_ALL)
    for run in all_runs:
        own = by_owner.get(run.id, [])
        ended = run.ended_at_ms if run.ended_at_ms is not None else run.created_at_ms
        if run.state is RunState.RUNNING or ended >= before_ms or not all(jobs.count_tasks(job.id).done for job in own):
            kept += 1
            continue
        plan.runs.append(run)
        plan.jobs.extend(own)
    known = {str(run.id) for run in all_runs}
    for job in everything:
        if job.owner in known:
            continue
        if job.created_at_ms < before_ms and jobs.count_tasks(job.id).done:
            plan.jobs.append(job)
        else:
            kept += 1
    return Plan(plan.runs, plan.jobs, [], kept)


def plan_these(chosen: Sequence[Run | Job], jobs: JobStore, *, before_ms: int) -> Plan:
    """The runs, with their jobs, and the jobs that were named; those not yet that old are passed over."""
    plan = Plan()
    kept = 0
    found: dict[str, Job] = {}
    for each in chosen:
        if isinstance(each, Run):
            ended = each.ended_at_ms if each.ended_at_ms is not None else each.created_at_ms
            if ended >= before_ms:
                kept += 1
                continue
            plan.runs.append(each)
            if each.state is RunState.RUNNING:
                plan.unfinished.append(each.id)
            found.update((job.id, job) for job in jobs.list_jobs(owner=each.id))
        elif each.created_at_ms >= before_ms:
            kept += 1
        else:
            found[each.id] = each
    plan.jobs.extend(found.values())
    plan.unfinished.extend(job.id for job in plan.jobs if not jobs.count_tasks(job.id).done)
    return Plan(plan.runs, plan.jobs, plan.unfinished, kept)


def folder_bytes(state: Path, jobs: Iterable[Job]) -> int:
    """What the attempt folders of jobs take on disk; files that the content store holds as well are not counted."""
    return sum(tree_bytes(state / "jobs" / job.id) for job in jobs)


def tree_bytes(folder: Path, *, linked: bool = False) -> int:
    """What is below a folder, in bytes; files with a further name elsewhere only with `linked`."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                found = os.lstat(os.path.join(path, name))
            except OSError:
                continue
            total += found.st_size if linked or found.st_nlink == 1 else 0
    return total


def remove(plan: Plan, runs: RunStore, jobs: JobStore, blobs: Blobs, state: Path, *, grace_s: float) -> Freed:
    """Removes what the plan names, then what nothing refers to any more.

    Args:
        grace_s: Content asked for this recently stays; 0 where no other process works in this state folder.

    Raises:
        Conflict: A task of a job is running; earlier slices are gone, the rest stays.
    """
    freed = Freed()
    for start in range(0, len(plan.jobs), _SLICE):
        ids = [job.id for job in plan.jobs[start : start + _SLICE]]
        kept = jobs.delete_jobs(ids)
        freed.jobs += len(ids)
        freed.folder_bytes += sum(blobs.delete_job(job_id, kept) for job_id in ids)
    for run in plan.runs:
        runs.delete_run(run.id)
        freed.runs += 1
        folder = state / "runs" / run.id
        freed.folder_bytes += tree_bytes(folder)
        shutil.rmtree(folder, ignore_errors=True)
    freed.folder_bytes += _remove_orphans(jobs, blobs, state)
    freed.folder_bytes += _remove_worker_logs(jobs, state)
    keep = jobs.list_digests() | journal_digests(runs)
    freed.files, freed.content_bytes = blobs.sweep(keep, grace_s)
    return freed


def journal_digests(runs: RunStore) -> set[Digest]:
    """Content that the recorded reads and writes of runs refer to: a resumed run needs it."""
    found: set[Digest] = set()
    for run in runs.list_runs(limit=_ALL):
        for step in runs.list_steps(run.id, kinds=("read", "write")):
            found.update(Digest(each) for each in _DIGEST.findall(step.value or ""))
    return found


def _remove_orphans(jobs: JobStore, blobs: Blobs, state: Path) -> int:
    """What jobs that are gone left: records and folders that were kept for others and are reused no more, or of a cleaning that was cut
    short."""
    folders = _folders(state / "jobs")  # before the jobs: one that is created now has no folder among these
    known = {str(job.id) for job in jobs.list_jobs()}
    orphans = [name for name in folders if name not in known]
    kept = jobs.delete_jobs(orphans) if orphans else []
    return sum(blobs.delete_job(name, kept) for name in orphans)


def _remove_worker_logs(jobs: JobStore, state: Path) -> int:
    """Logs of workers that are gone."""
    known = {str(worker.id) for worker in jobs.list_workers()}
    freed = 0
    for path in (state / "workers").glob("w-*.log"):
        try:
            size, age = path.stat().st_size, path.stat().st_mtime
            # A worker that is just starting has a log and no row yet.
            if path.stem not in known and age < _newest(state) - 60:
                path.unlink()
                freed += size
        except OSError:
            continue
    return freed


def _newest(state: Path) -> float:
    """The file system's own present, by a file of the state folder that every process touches."""
    return max((path.stat().st_mtime for path in state.glob("sparkles.db*")), default=0.0)


def _folders(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.is_symlink())
    except OSError:
        return []


def check_not_driven(plan: Plan, driven: Collection[str]) -> None:
    """Raises UsageError where a run to be removed, or the run of a job to be removed, is being executed."""
    for run in plan.runs:
        if run.id in driven:
            raise UsageError(f"run {run.id} is being driven; end it first: sparkles kill {run.id}")
    for job in plan.jobs:
        if job.owner in driven:
            raise UsageError(
                f"{job.id} belongs to run {job.owner}, which is being driven; end it first: sparkles kill {job.owner}"
            )
