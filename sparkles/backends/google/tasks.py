"""Reading the tasks of jobs: their shards, definitions and records put together. May import shards, definitions, reuse and views."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Sequence

from sparkles import wire
from sparkles.backends import messages
from sparkles.backends.google import names, shard
from sparkles.backends.google.datastore import Datastore
from sparkles.backends.google.definitions import Definitions
from sparkles.backends.google.entities import Entity
from sparkles.backends.google.reuse import Reuse
from sparkles.backends.google.shards import Shards, Stored
from sparkles.backends.google.views import Views
from sparkles.errors import NotFound
from sparkles.model import Attempt, AttemptRef, Counts, Digest, FailureClass, Task, TaskSpec, TaskState
from sparkles.ports import FailureGroup, Outcome
from sparkles.wire import JobDocument


class Tasks:
    """The part of ports.JobStore that reads tasks."""

    _datastore: Datastore
    _shards: Shards
    _definitions: Definitions
    _views: Views
    _reuse: Reuse

    def count_tasks(self, job_id: str) -> Counts:
        """See ports.JobStore."""
        job = self._get(job_id)
        total = dict.fromkeys(Counts.__struct_fields__, 0)
        for document in self._views.look(job):
            for name, count in shard.counts(document).by_state().items():
                total[name] += count
        return Counts(**total)

    def count_failures(self, job_id: str) -> list[FailureGroup]:
        """See ports.JobStore."""
        groups: dict[tuple[FailureClass, int | None], list[int]] = {}
        for stored in self._shards.of_job(self._get(job_id)):
            for index, task in enumerate(stored.document.tasks, stored.document.first):
                if task.state is TaskState.FAILED:
                    groups.setdefault((task.failure or FailureClass.EXIT, task.exit_code), []).append(index)
        found = [FailureGroup(failure, code, len(indexes), indexes[0]) for (failure, code), indexes in groups.items()]
        return sorted(found, key=lambda group: (-group.count, group.example))

    def get_task(self, job_id: str, index: int) -> Task:
        """See ports.JobStore."""
        job, stored = self._shard_of(job_id, index)
        row = self._definitions.row(job, index)
        return shard.task_of(stored.document, index, row.fingerprint, row.spec.name)

    def get_spec(self, job_id: str, index: int) -> TaskSpec:
        """See ports.JobStore."""
        job, _ = self._shard_of(job_id, index)
        return self._definitions.row(job, index).spec

    def list_tasks(
        self, job_id: str, *, first: int = 1, limit: int | None = None, states: Collection[TaskState] | None = None
    ) -> list[Task]:
        """See ports.JobStore."""
        job = self._get(job_id)
        return self._tasks(job, self._from(job, first, limit, states), first=first, limit=limit, states=states)

    def _from(self, job: JobDocument, first: int, limit: int | None, states: Collection[TaskState] | None) -> list[Stored]:
        """The shards that hold tasks from `first` on: as few as will do."""
        count = math.ceil(job.job.count / job.shard_size)
        start = max(first - 1, 0) // job.shard_size
        end = count if limit is None or states is not None else min(count, (max(first, 1) + limit - 2) // job.shard_size + 1)
        return self._shards.get_many([(job.job.id, number) for number in range(start, end)])

    def _tasks(
        self,
        job: JobDocument,
        shards: Sequence[Stored],
        *,
        first: int = 1,
        limit: int | None = None,
        states: Collection[TaskState] | None = None,
    ) -> list[Task]:
        tasks: list[Task] = []
        for stored in shards:
            document = stored.document
            for index, row in enumerate(document.tasks, document.first):
                if limit is not None and len(tasks) >= limit:
                    return tasks
                if index >= first and (states is None or row.state in states):
                    definition = self._definitions.row(job, index)
                    tasks.append(shard.task_of(document, index, definition.fingerprint, definition.spec.name))
        return tasks

    def list_outcomes(
        self, job_id: str, *, first: int = 1, limit: int | None = None, states: Collection[TaskState] | None = None
    ) -> list[Outcome]:
        """See ports.JobStore."""
        job = self._get(job_id)
        shards = self._from(job, first, limit, states)
        rows = {index: row for each in shards for index, row in enumerate(each.document.tasks, each.document.first)}
        tasks = self._tasks(job, shards, first=first, limit=limit, states=states)
        attempts = self._reuse.whole({task.index: rows[task.index] for task in tasks})
        return [Outcome(task, self._definitions.row(job, task.index).spec.params, attempts.get(task.index)) for task in tasks]

    def state_digest(self, job_id: str) -> Digest:
        """See ports.JobStore."""
        job = self._get(job_id)
        lines = (f"{task.state}{task.attempt}" for each in self._shards.of_job(job) for task in each.document.tasks)
        return Digest(hashlib.sha256("".join(lines).encode("ascii")).hexdigest())

    def find_reusable(self, fingerprints: Collection[Digest]) -> dict[Digest, Attempt]:
        """See ports.JobStore."""
        jobs = [document_of(entity) for entity in self._datastore.query(names.JOB, order="-sequence")]
        return self._reuse.find(fingerprints, jobs)

    def get_attempt(self, ref: AttemptRef) -> Attempt | None:
        """See ports.JobStore."""
        return self._reuse.records({ref}).get(ref)

    def list_attempts(self, job_id: str, index: int) -> list[Attempt]:
        """See ports.JobStore."""
        found = self._reuse.records({ref for ref in self._reuse.kept_of(job_id) if ref.index == index})
        try:
            _, stored = self._shard_of(job_id, index)
        except NotFound:
            pass  # what others keep of a deleted job
        else:
            row = stored.document.tasks[index - stored.document.first]
            found.update((attempt.ref, self._reuse.whole_record(attempt, row)) for attempt in row.records)
        return sorted(found.values(), key=lambda attempt: attempt.ref.attempt)

    def list_outputs(self, job_id: str) -> dict[int, list[Digest]]:
        """See ports.JobStore."""
        rows = {
            index: row
            for stored in self._shards.of_job(self._get(job_id))
            for index, row in enumerate(stored.document.tasks, stored.document.first)
            if row.state is TaskState.SUCCEEDED
        }
        whole = self._reuse.whole(rows)
        return {index: [output.digest for output in each.outputs] for index, each in sorted(whole.items()) if each.outputs}

    def list_digests(self) -> set[Digest]:
        """See ports.JobStore."""
        found: set[Digest] = set()
        for entity in self._datastore.query(names.JOB):
            job = document_of(entity)
            found.update(file.digest for _, row in self._definitions.rows(job) for file in row.spec.files)
            for stored in self._shards.of_job(job):
                for task in stored.document.tasks:
                    whole = [self._reuse.whole_record(attempt, task) for attempt in task.records]
                    borrowed = self._reuse.whole_borrowed(task)
                    if borrowed is not None:
                        whole.append(borrowed)
                    found.update(output.digest for attempt in whole for output in attempt.outputs)
        return found

    def _find(self, job_id: str) -> JobDocument | None:
        entity = self._datastore.get(names.JOB, job_id) if job_id else None
        return None if entity is None else document_of(entity)

    def _get(self, job_id: str) -> JobDocument:
        found = self._find(job_id)
        if found is None:
            raise messages.no_job(job_id)
        return found

    def _shard_of(self, job_id: str, index: int) -> tuple[JobDocument, Stored]:
        job = self._get(job_id)
        found = self._shards.get_many([(job_id, (index - 1) // job.shard_size)]) if 1 <= index <= job.job.count else []
        if not found:
            raise messages.no_task(job_id, index, job.job.count)
        return job, found[0]


def document_of(entity: Entity) -> JobDocument:
    return wire.decode(entity.document, JobDocument, f"{names.JOB} {entity.name}")
