"""Jobs of a plan: which tasks of a sweep have their result, why the others are new, and what is known of a job's end.

May import ports and below. Nothing is stored and no task is started.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

import msgspec

from sparkles import digest
from sparkles.engine.commands import Done
from sparkles.engine.differences import Difference, of_tasks
from sparkles.engine.jobs import BuiltJob
from sparkles.engine.looking import LookingBlobs
from sparkles.engine.monitor import lost_outputs
from sparkles.engine.planned import Reason
from sparkles.engine.submitting import Submitter, job_id_of
from sparkles.errors import NotFound
from sparkles.model import Attempt, Counts, Digest, Job, JobId, Run, RunId, StepKey, Task, TaskSpec, TaskState
from sparkles.ports import JobStore, Outcome


class Sweep(msgspec.Struct, frozen=True):
    """A job that would be made: how many of its tasks reuse a result, how many are new and why."""

    reused: int
    new: int
    reasons: tuple[Reason, ...]


class PlannedJobs:
    """The jobs that a script asks for in a plan."""

    def __init__(self, store: JobStore, blobs: LookingBlobs, submitter: Submitter, run: Run, before: RunId | None) -> None:
        """`before` is the run whose jobs are compared with, besides those of `run`."""
        self._store = store
        self._blobs = blobs
        self._submitter = submitter
        self._before = before
        self._named = _by_name(store, run.id)
        self._named_before = _by_name(store, before) if before is not None else {}
        self._asked: Counter[str] = Counter()
        self._known: dict[str, list[Outcome]] = {}
        self._open: dict[str, str] = {}
        self._lost: dict[str, list[int]] = {}
        self.again: set[str] = set()
        """Planned jobs whose tasks all succeeded before and are run again only because the cache is off: what they gave is known."""

    def get(self, job_id: str) -> Job | None:
        """The job, where it exists."""
        try:
            return self._store.get_job(job_id)
        except NotFound:
            return None

    def name(self, job_id: str) -> str:
        """What the job is called, whether or not it exists yet."""
        job = self.get(job_id)
        return job.spec.name if job is not None else job_id.rpartition("-")[0]

    def outcomes(self, job_id: str, first: int, limit: int) -> list[Outcome]:
        """Results for the script: of jobs that exist, or of those whose results are known beforehand."""
        if job_id in self._known:
            return self._known[job_id][first - 1 : first - 1 + limit]
        return self._store.list_outcomes(job_id, first=first, limit=limit)

    def is_planned(self, job_id: str) -> bool:
        """Whether the job would be made by the plan."""
        return job_id in self._known or job_id in self._open

    def until(self, job_id: str) -> str:
        """What has to happen before the job's results are known; "" where they are."""
        if job_id in self._known:
            return ""
        if job_id in self._open:
            return self._open[job_id]
        counts = self._store.count_tasks(job_id)
        left = counts.total - counts.succeeded
        if not counts.done:
            return f"{job_id} ends ({_tasks(left)} to run)"
        return f"{job_id} ends (failed or cancelled and tried again: {_tasks(left)})" if left else ""

    def lost_of(self, job_id: str) -> list[int]:
        """The tasks of a job of this run that a resume lets make their outputs again; what they make is expected from then on."""
        if job_id not in self._lost:
            self._lost[job_id], gone = lost_outputs(self._store, self._blobs, job_id)
            self._blobs.expect(gone)
        return self._lost[job_id]

    def count(self, job_id: str) -> Counts:
        """Its tasks by state, where they are known."""
        if job_id in self._known:
            return Counts(succeeded=len(self._known[job_id]), reused=len(self._known[job_id]))
        return self._store.count_tasks(job_id)

    def add(self, job_id: JobId, built: BuiltJob, key: StepKey, *, cached: bool) -> Sweep:
        """Plans a job that does not exist."""
        prints = list(map(digest.fingerprinter(built.spec), built.tasks))
        found = self._submitter.reusable(prints)
        new = [index for index, each in enumerate(prints, 1) if not cached or each not in found]
        reasons = self._reasons(built, new, self._twin(built.spec.name, key)) if cached else []
        if new and not cached:
            reasons = [Reason("the cache is off", len(new), new[0])]
        if all(each in found for each in prints):
            self._known[job_id] = [
                _outcome(job_id, index, task, each, found[each])
                for index, (task, each) in enumerate(zip(built.tasks, prints, strict=True), 1)
            ]
        else:
            self._open[job_id] = f"{built.spec.name} ends ({_tasks(len(new))} to run)"
        if new and job_id in self._known:
            self.again.add(job_id)
        return Sweep(len(prints) - len(new), len(new), tuple(reasons))

    def passed(self, name: str) -> None:
        """The script asked for a job of that name that exists."""
        self._asked[name] += 1

    def _twin(self, name: str, key: StepKey) -> Job | None:
        """The job to compare with: that of the same step in the earlier run, else the first, second ... of its name, as this one is."""
        jobs = self._named.get(name) or self._named_before.get(name, [])
        count = self._asked[name]
        self._asked[name] += 1
        same = self.get(job_id_of(self._before, key, name)) if self._before is not None else None
        return same or (jobs[min(count, len(jobs) - 1)] if jobs else None)

    def _reasons(self, built: BuiltJob, new: Collection[int], before: Job | None) -> list[Reason]:
        """Why tasks are new, grouped by the part that differs from the job that ran before."""
        if not new:
            return []
        if before is None:
            return [Reason("never ran", len(new), min(new))]
        by_params = {digest.canonical(outcome.params): outcome.task for outcome in self._store.list_outcomes(before.id)}
        groups: Counter[str] = Counter()
        examples: dict[str, tuple[int, tuple[Difference, ...]]] = {}
        for index in new:
            task = built.tasks[index - 1]
            twin = by_params.get(digest.canonical(task.params))
            if twin is None and index <= before.count and len(built.tasks) == before.count:
                twin = self._store.get_task(before.id, index)
            why, found = self._reason(before, twin, built, task)
            groups[why] += 1
            examples.setdefault(why, (index, found))
        return [Reason(why, count, *examples[why]) for why, count in groups.most_common()]

    def _reason(self, before: Job, twin: Task | None, built: BuiltJob, task: TaskSpec) -> tuple[str, tuple[Difference, ...]]:
        if twin is None:
            return "never ran", ()
        found = tuple(of_tasks(before.spec, self._store.get_spec(before.id, twin.index), built.spec, task))
        if found:
            parts = [each.part for each in found if not (each.part == "command" and found[0].part.startswith("parameter"))]
            return f"changed: {', '.join(parts)}", found
        if twin.state is not TaskState.SUCCEEDED:
            return f"{twin.state} before", ()
        return "its outputs are not stored any more", ()

    def waited(self, job_ids: Sequence[str], *, reused: bool) -> Done:
        """What a wait for these jobs gives."""
        counted = [(each, self.count(each)) for each in job_ids]
        found = [
            {"id": each, "name": self.name(each), "count": counts.total, "counts": counts.by_state()}
            for each, counts in counted
        ]
        return Done({"jobs": found}, reused=reused)


def _tasks(count: int) -> str:
    return f"{count} task{'' if count == 1 else 's'}"


def _by_name(store: JobStore, owner: str) -> dict[str, list[Job]]:
    found: dict[str, list[Job]] = {}
    for job in reversed(store.list_jobs(owner=owner)):
        found.setdefault(job.spec.name, []).append(job)
    return found


def _outcome(job_id: JobId, index: int, task: TaskSpec, fingerprint: Digest, attempt: Attempt) -> Outcome:
    row = Task(job_id, index, TaskState.SUCCEEDED, fingerprint, origin=attempt.ref, name=task.name)
    return Outcome(row, task.params, attempt)
