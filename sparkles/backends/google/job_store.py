"""The JobStore in Datastore, with the tasks' definitions and large records in the bucket (docs/wire.md). May import ports and below.

Surprise: a job's shards are written before the job, which is inserted last and makes all of it visible at once; whoever finds shards
without their job passes them over. Deleting goes the other way round.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial

import msgspec
from msgspec.structs import replace

from sparkles import digest, wire
from sparkles.backends import messages
from sparkles.backends.google import names, shard
from sparkles.backends.google.bucket import Bucket
from sparkles.backends.google.claims import Claims
from sparkles.backends.google.datastore import Datastore
from sparkles.backends.google.definitions import Definitions, ManifestWriter
from sparkles.backends.google.entities import Entity
from sparkles.backends.google.reuse import Reuse
from sparkles.backends.google.shards import Shards, Stored, cut, size_for
from sparkles.backends.google.tasks import Tasks, document_of
from sparkles.backends.google.views import Views
from sparkles.backends.google.workers import Workers
from sparkles.engine.cleaning import GRACE_S
from sparkles.errors import StorageFull
from sparkles.model import (
    AttemptRef,
    Claim,
    Finish,
    Job,
    NewTask,
    TaskState,
    Worker,
    WorkerId,
)
from sparkles.ports import JobStore
from sparkles.wire import SCHEMA, Event, JobDocument, ShardDocument, TaskRow

DOCUMENT_BYTES = 900_000
_RUNNING = (TaskState.PENDING, TaskState.CLAIMED)

_WAITING = TaskRow()
"""A task that waits, as most of a new job's do: 100,000 of their own would take 20 MB."""


class _Counter(msgspec.Struct, forbid_unknown_fields=True):
    schema: int = SCHEMA
    value: int = 0


class GoogleJobStore(Tasks):
    """See ports.JobStore."""

    def __init__(
        self,
        datastore: Datastore,
        bucket: Bucket,
        *,
        max_workers: int = 100,
        shard_size: int | None = None,
        publish: Callable[[Event], None] = lambda event: None,
        events: Callable[[], list[Event] | None] = lambda: None,
        poll_s: float = 0.0,
    ) -> None:
        """
        Args:
            max_workers: How many workers to expect, for the size of shards; `shard_size` overrides what is made of it.
            publish: Is given an event after each write of a shard.
            events: The events that came since it was last called; None where none can come (then shards are read again).
            poll_s: Without events, the least time between two reads of a job's shards that nothing here has changed.
        """
        self._datastore, self._bucket = datastore, bucket
        self._max_workers, self._shard_size = max_workers, shard_size
        self._shards = Shards(datastore, publish)
        self._definitions = Definitions(bucket)
        self._workers = Workers(datastore, self._shards)
        self._queue = Claims(self._shards, self._workers, self._definitions, bucket, self._find, lambda: datastore.ahead_ms)
        self._views = Views(self._shards, events, poll_s)
        self._reuse = Reuse(datastore, bucket, self._shards)

    # Jobs

    def create_job(self, job: Job, tasks: Iterable[NewTask]) -> bool:
        """See ports.JobStore."""
        if self._find(job.id) is not None:
            return False
        writer = ManifestWriter(job.id)
        rows: list[TaskRow] = []
        origins: dict[int, AttemptRef] = {}
        for index, task in enumerate(tasks, 1):
            writer.add(task)
            rows.append(_WAITING)
            if task.origin is not None:
                origins[index] = task.origin
        borrowed = self._reuse.records(set(origins.values()))
        for index, ref in origins.items():
            if ref in borrowed:
                rows[index - 1] = shard.reused(borrowed[ref])
        for ref in self._reuse.kept_of(job.id):
            if ref.index <= len(rows):
                row = rows[ref.index - 1]
                rows[ref.index - 1] = replace(row, attempt=max(row.attempt, ref.attempt))
        manifest, data, fingerprints = writer.finish()
        size = self._shard_size or size_for(len(rows), self._max_workers)
        document = JobDocument(SCHEMA, replace(job, count=len(rows)), manifest, size, digest.of_bytes(fingerprints))
        _entity(document)  # what is too large is refused before anything is written
        document = replace(document, job=replace(document.job, sequence=self._next_sequence()))
        entity = _entity(document)
        uploads = [
            self._bucket.pool.submit(self._bucket.put, names.manifest(job.id, manifest), data),
            self._bucket.pool.submit(self._bucket.put, names.fingerprints(job.id), fingerprints),
        ]
        written = self._write_shards(document, rows)
        for upload in uploads:
            upload.result()
        if not written:
            return False
        for stored in self._gone_since(document, {ref.job for ref in borrowed}):
            self._shards.change(stored, partial(_forget, gone=self._missing(stored.document)), 0)
        if self._datastore.insert(entity):
            return True
        self._hand_over(document)
        return False

    def _hand_over(self, lost: JobDocument) -> None:
        """Another process created the job while this one wrote its shards, maybe in the place of the other's: they become the other's."""
        won = self._find(lost.job.id)
        if won is None or (won.manifest, won.shard_size) != (lost.manifest, lost.shard_size):
            return  # another job: its shards have other content
        for stored in self._shards.of_job(won):
            self._shards.change(stored, partial(_handed_over, lost=lost.job.sequence, won=won.job.sequence), 0)

    def _write_shards(self, job: JobDocument, rows: Sequence[TaskRow]) -> bool:
        """Writes the shards of a job that does not exist yet, over what an earlier try left; False where the job exists by now."""
        leftover = self._shards.numbers(job.job.id)
        if leftover and self._find(job.job.id) is not None:
            return False
        if leftover:
            # They may not be those of this try: what is beyond its last shard, or has another size, would be found by claims.
            self._shards.delete(leftover)
        self._shards.create(cut(job, rows))
        return True

    def _gone_since(self, job: JobDocument, origins: Collection[str]) -> Iterator[Stored]:
        """Shards of a new job that reuse outcomes of jobs that were deleted since these were looked up."""
        found = self._datastore.lookup(names.JOB, sorted(origins)) if origins else {}
        gone = set(origins) - set(found)
        if gone:
            for stored in self._shards.of_job(job):
                if gone & set(shard.reuses(stored.document)):
                    yield stored

    def _missing(self, document: ShardDocument) -> set[AttemptRef]:
        refs = {task.origin for task in document.tasks if task.origin is not None and task.borrowed is not None}
        found = self._datastore.lookup(names.JOB, sorted({ref.job for ref in refs}))
        kept = self._reuse.still_kept({ref for ref in refs if ref.job not in found}, but={document.job})
        return {ref for ref in refs if ref.job not in found and ref not in kept}

    def _next_sequence(self) -> int:
        value = 0

        def change(entity: Entity | None) -> Entity:
            nonlocal value
            value = 1 + (msgspec.json.decode(entity.document, type=_Counter).value if entity is not None else 0)
            return Entity(names.COUNTER, "jobs", msgspec.json.encode(_Counter(value=value)))

        self._datastore.update(names.COUNTER, "jobs", change)
        return value

    def get_job(self, job_id: str) -> Job:
        """See ports.JobStore."""
        return self._get(job_id).job

    def list_jobs(self, *, owner: str | None = None, limit: int | None = None) -> list[Job]:
        """See ports.JobStore."""
        # With an owner it is sorted here: filter and order together would need an index that somebody has to make first.
        if owner is None:
            found = self._datastore.query(names.JOB, order="-sequence", limit=limit)
            return [document_of(entity).job for entity in found]
        jobs = [document_of(entity).job for entity in self._datastore.query(names.JOB, ("owner", "=", owner))]
        return sorted(jobs, key=lambda job: -job.sequence)[:limit]

    def list_open(self, owner: str) -> set[str]:
        """See ports.JobStore."""
        return self._shards.open_of(owner)

    def delete_jobs(self, job_ids: Collection[str]) -> list[AttemptRef]:
        """See ports.JobStore. Their manifests go as well; attempts' objects are Blobs's to delete."""
        found = {name: document_of(entity) for name, entity in self._datastore.lookup(names.JOB, sorted(set(job_ids))).items()}
        shards = {job_id: self._shards.of_job(job) for job_id, job in found.items()}
        for job_id in sorted(found, key=lambda each: found[each].job.sequence):
            claimed = [task.index for task in self._tasks(found[job_id], shards[job_id], states={TaskState.CLAIMED})]
            if claimed:
                raise messages.job_claimed(job_id, claimed[:5], len(claimed))
        self._datastore.delete_all(names.JOB, sorted(found))
        # What has objects and is no job was cut short in its creation or deletion. How long ago a server without times does not say:
        # then it goes by the objects'.
        orphans = [key for job_id in sorted(set(job_ids) - set(found)) for key in self._shards.numbers(job_id)]
        self._shards.delete_orphans(orphans, GRACE_S, undated=True)
        objects = []
        for job_id, job in found.items():
            self._views.forget(job_id)
            self._shards.delete(each.entity.name for each in shards[job_id])
            objects += [names.manifest(job_id, job.manifest), names.fingerprints(job_id)]
        self._bucket.delete(objects)
        return self.list_kept(job_ids)

    def sweep_jobs(self, older_than_s: float) -> None:
        """See ports.JobStore; by the server's times, where it says them."""
        self._shards.delete_orphans(self._shards.all_keys(), older_than_s)

    def list_kept(self, job_ids: Collection[str]) -> list[AttemptRef]:
        """See ports.JobStore."""
        kept = {ref for job_id in job_ids for ref in self._reuse.kept_of(job_id, but=job_ids)}
        return sorted(kept, key=lambda ref: (ref.job, ref.index, ref.attempt))

    def set_held(self, job_ids: Collection[str], held: bool) -> None:
        """See ports.JobStore."""

        def change(entity: Entity | None) -> Entity | None:
            if entity is None:
                return None
            document = document_of(entity)
            if document.job.held == held:
                return None
            return _entity(replace(document, job=replace(document.job, held=held)))

        for job_id, entity in self._datastore.lookup(names.JOB, sorted(set(job_ids))).items():
            self._datastore.change(entity, names.JOB, job_id, change)

    # Tasks

    def kill_tasks(self, job_id: str, indexes: Collection[int] | None = None) -> int:
        """See ports.JobStore."""
        act = partial(shard.cancel, states=_RUNNING, reason=messages.KILLED, indexes=indexes)
        return self._each_shard(job_id, indexes, act)

    def reset_tasks(self, job_id: str, states: Collection[TaskState], indexes: Collection[int] | None = None) -> int:
        """See ports.JobStore."""
        return self._each_shard(job_id, indexes, partial(shard.reset, states=states, indexes=indexes))

    def _each_shard(
        self, job_id: str, indexes: Collection[int] | None, act: Callable[[ShardDocument], tuple[ShardDocument, int]]
    ) -> int:
        job = self._get(job_id)
        stored = self._shards.of_job(job)
        if indexes is not None:
            numbers = {(index - 1) // job.shard_size for index in indexes}
            stored = [each for each in stored if each.document.number in numbers]
        changed = sum(self._datastore.pool.map(lambda each: self._shards.change(each, act, 0), stored))
        self._views.forget(job_id)
        return changed

    # Claims and workers

    def claim(self, worker: WorkerId, *, pool: str, limit: int, now_ms: int) -> list[Claim]:
        """See ports.JobStore."""
        return self._queue.claim(worker, pool=pool, limit=limit, now_ms=now_ms)

    def next_due_ms(self, pool: str) -> int | None:
        """See ports.JobStore."""
        return self._queue.next_due_ms(pool)

    def finish(self, finishes: Sequence[Finish], started: Sequence[Claim] = ()) -> list[bool]:
        """See ports.JobStore."""
        return self._queue.finish(finishes, started)

    def release(self, claims: Sequence[Claim]) -> int:
        """See ports.JobStore."""
        return self._queue.release(claims)

    def held_tokens(self, worker: WorkerId) -> set[str]:
        """See ports.JobStore."""
        return self._queue.held_tokens(worker)

    def list_claims(self, worker: WorkerId) -> list[Claim]:
        """See ports.JobStore."""
        return self._queue.list_claims(worker)

    def enter_worker(self, worker: Worker) -> None:
        """See ports.JobStore."""
        self._workers.enter_worker(worker)

    def beat_worker(self, worker: WorkerId, *, waiting: bool) -> bool:
        """See ports.JobStore."""
        return self._workers.beat_worker(worker, waiting=waiting)

    def leave_worker(self, worker: WorkerId) -> None:
        """See ports.JobStore."""
        self._workers.leave_worker(worker)

    def list_workers(self) -> list[Worker]:
        """See ports.JobStore."""
        return self._workers.list_workers()

    def troubles_of(self, pool: str) -> dict[str, str]:
        """What keeps workers of a pool from going on, by worker (workers.py)."""
        return self._workers.troubles_of(pool)

    def dead_workers(self, lease_s: float) -> list[Worker]:
        """Workers whose heartbeat stands still (workers.py)."""
        return self._workers.dead_workers(lease_s)

    def remove_worker(self, worker: str) -> None:
        """Removes a dead worker's row, after its claims."""
        self._workers.remove_worker(worker)

    def reserve(self, worker: WorkerId, *, cpu: float, memory_bytes: int, total_cpu: float, total_memory_bytes: int) -> bool:
        """See ports.JobStore."""
        return self._workers.reserve(
            worker, cpu=cpu, memory_bytes=memory_bytes, total_cpu=total_cpu, total_memory_bytes=total_memory_bytes
        )


def _forget(document: ShardDocument, *, gone: Collection[AttemptRef]) -> tuple[ShardDocument, int]:
    """Tasks whose outcome is gone are pending instead."""
    rows = [TaskRow(attempt=task.attempt) if task.origin in gone else task for task in document.tasks]
    return replace(document, tasks=tuple(rows), seq=document.seq + 1), 0


def _handed_over(document: ShardDocument, *, lost: int, won: int) -> tuple[ShardDocument, int]:
    """A shard of the job that has lost its id to another of the same content belongs to that one."""
    if document.sequence != lost:
        return document, 0
    return replace(document, sequence=won, seq=document.seq + 1), 0


def _entity(document: JobDocument) -> Entity:
    data = wire.encode(document)
    if len(data) > DOCUMENT_BYTES:
        spec = document.job.spec
        parts = {name: len(msgspec.json.encode(getattr(spec, name))) for name in spec.__struct_fields__}
        largest = max(parts, key=lambda name: parts[name])
        raise StorageFull(
            f"job {document.job.id}: what its tasks have in common has {len(data)} bytes, most of them `{largest}` ({parts[largest]});"
            f" Datastore takes {DOCUMENT_BYTES}: put large values into a file (addFiles)",
            "create job",
            document.job.id,
        )
    job = document.job
    return Entity(names.JOB, job.id, data, {"pool": job.pool, "owner": job.owner or "-", "sequence": job.sequence})


def _conforms(store: GoogleJobStore) -> JobStore:
    return store
