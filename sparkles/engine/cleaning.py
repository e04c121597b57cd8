"""What can be removed from an installation, and removing it beside processes that work. May import ports and below.

The order makes it safe: rows first, in one transaction that refuses running tasks; then folders; then content that nothing refers to any
more. Content asked for less than `grace_s` ago stays: a job that is just being created has stored its inputs and has no row yet.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from sparkles import hints
from sparkles.errors import StorageFull, UsageError
from sparkles.model import Cleaned, Digest, Job, Run, RunState
from sparkles.ports import Blobs, Fleet, JobStore, RunStore

GRACE_S = 3600.0
"""Hashing a large sweep's inputs may take this long before the job is created."""

_DIGEST = re.compile(r'"([0-9a-f]{64})"')
_ALL = 1_000_000
_SLICE = 500


@dataclass(frozen=True)
class Plan:
    """What is to go. `unfinished` names what has not ended; `kept` counts what is passed over because it has not, or is too young;
    `foreign` counts jobs of runs that another state folder knows."""

    runs: list[Run] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    kept: int = 0
    foreign: int = 0

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


def plan_all(runs: RunStore, jobs: JobStore, *, before_ms: int, shared: bool = False) -> Plan:
    """Every run that has ended, with its jobs, and every job without a run whose tasks have; only what ended (a job: was submitted) before
    `before_ms`. A run with tasks that have not ended stays.

    Args:
        shared: The jobs are of several state folders: one of a run that is not known here stays, for its run may go on with it.
    """
    plan = Plan()
    kept = foreign = 0
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
        if shared and job.owner:
            foreign += 1
        elif job.created_at_ms < before_ms and jobs.count_tasks(job.id).done:
            plan.jobs.append(job)
        else:
            kept += 1
    return Plan(plan.runs, plan.jobs, [], kept, foreign)


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


def remove(
    plan: Plan, runs: RunStore, jobs: JobStore, blobs: Blobs, kept: Blobs, fleet: Fleet, *, grace_s: float, now_ms: int
) -> Freed:
    """Removes what the plan names, then what nothing refers to any more. That it was there is remembered, with the time.

    Where there is no room even for the records of removing, what needs no such record goes first, and then one job after the other, the
    smallest first: each makes room for the next.

    Args:
        kept: Where the content is that runs read and wrote; may be `blobs`.
        grace_s: Content asked for this recently stays; 0 where no other process works in this state folder.

    Raises:
        Conflict: A task of a job is running; earlier slices are gone, the rest stays.
        StorageFull: No room could be made.
    """
    freed = Freed()
    left = sorted(plan.jobs, key=lambda job: job.count, reverse=True)
    try:
        _remove_jobs(left, _SLICE, jobs, blobs, freed)
    except StorageFull:
        _remove_unused(runs, jobs, blobs, kept, fleet, grace_s, freed)
        while left:
            _make_way(left[-1].id, jobs, blobs, freed)
            _remove_jobs(left[-1:], 1, jobs, blobs, freed)
            left.pop()
    for run in plan.runs:
        freed.folder_bytes += runs.delete_run(run.id)
        freed.runs += 1
    _remember(plan, runs, now_ms)
    jobs.sweep_jobs(grace_s)
    orphans = set(blobs.list_jobs())  # before the jobs: one that is created now has no folder among these
    orphans -= {str(job.id) for job in jobs.list_jobs()}
    # What was kept for others and is reused no more, or is of a cleaning that was cut short.
    for_others = jobs.delete_jobs(orphans) if orphans else []
    freed.folder_bytes += sum(blobs.delete_job(job_id, for_others) for job_id in sorted(orphans))
    _remove_unused(runs, jobs, blobs, kept, fleet, grace_s, freed)
    return freed


def _remember(plan: Plan, runs: RunStore, now_ms: int) -> None:
    gone = [Cleaned(job.id, "job", job.spec.name, now_ms) for job in plan.jobs]
    gone += [Cleaned(run.id, "run", run.workflow, now_ms) for run in plan.runs]
    with suppress(StorageFull):  # only those who ask for it later miss it
        runs.put_cleaned(gone)


def cleaned(runs: RunStore, word: str) -> Cleaned | None:
    """What `word` named before it was removed: by its id, else its name (the newest), else the beginning of one id only."""
    gone = runs.list_cleaned()
    found = [each for each in gone if each.id == word] or [each for each in gone if each.name == word][:1]
    found = found or ([each for each in gone if each.id.startswith(word)] if word else [])
    return found[0] if len(found) == 1 else None


def cleaned_text(each: Cleaned) -> str:
    """`run r-7f3a (w.lua) was cleaned on 2026-03-01`."""
    return f"{each.kind} {each.id} ({each.name}) was cleaned on {date(each.cleaned_at_ms)}"


def date(at_ms: int) -> str:
    """The local day."""
    return time.strftime("%Y-%m-%d", time.localtime(at_ms / 1000))


def _make_way(job_id: str, jobs: JobStore, blobs: Blobs, freed: Freed) -> None:
    """Removes the folders of a job whose rows go next: a job of many tasks has a large record of its removal, and larger folders."""
    if not jobs.count_tasks(job_id).claimed:
        freed.folder_bytes += blobs.delete_job(job_id, jobs.list_kept([job_id]))


def _remove_jobs(left: list[Job], slice_of: int, jobs: JobStore, blobs: Blobs, freed: Freed) -> None:
    """Takes jobs from the end of `left` until none is left."""
    while left:
        ids = [job.id for job in left[-slice_of:]]
        kept = jobs.delete_jobs(ids)
        del left[-slice_of:]
        freed.jobs += len(ids)
        freed.folder_bytes += sum(blobs.delete_job(job_id, kept) for job_id in ids)


def _remove_unused(
    runs: RunStore, jobs: JobStore, blobs: Blobs, kept: Blobs, fleet: Fleet, grace_s: float, freed: Freed
) -> None:
    """What nothing refers to; no record of it is written."""
    freed.folder_bytes += fleet.remove_logs()
    of_jobs, of_runs = jobs.list_digests(), journal_digests(runs)
    for content, wanted in ((blobs, of_jobs), (kept, of_runs)) if kept is not blobs else ((blobs, of_jobs | of_runs),):
        files, size = content.sweep(wanted, grace_s)
        freed.files += files
        freed.content_bytes += size


def journal_digests(runs: RunStore) -> set[Digest]:
    """Content that the recorded reads and writes of runs refer to: a resumed run needs it."""
    found: set[Digest] = set()
    for run in runs.list_runs(limit=_ALL):
        for step in runs.list_steps(run.id, kinds=("read", "write")):
            found.update(Digest(each) for each in _DIGEST.findall(step.value or ""))
    return found


def check_not_driven(plan: Plan, driven: Collection[str]) -> None:
    """Raises UsageError where a run to be removed, or the run of a job to be removed, is being executed."""
    for run in plan.runs:
        if run.id in driven:
            raise UsageError(f"run {run.id} is being driven; end it first: {hints.command('kill', run.id)}")
    for job in plan.jobs:
        if job.owner in driven:
            raise UsageError(
                f"{job.id} belongs to run {job.owner}, which is being driven; end it first: {hints.command('kill', job.owner)}"
            )
