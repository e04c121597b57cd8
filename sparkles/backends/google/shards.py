"""The shards of jobs in Datastore: read, write by compare-and-set, find. May import shard, datastore, names and wire."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import TypeVar

from sparkles import wire
from sparkles.backends.google import names, shard
from sparkles.backends.google.datastore import Datastore
from sparkles.backends.google.entities import Entity
from sparkles.errors import StorageFull
from sparkles.model import TaskState
from sparkles.wire import SCHEMA, Change, Event, JobDocument, ShardDocument, TaskRow

MOST_TASKS = 64
ENTITY_BYTES = 1_000_000
"""Datastore takes 1,048,572 bytes an entity (documented limit); the rest is for keys and indexed properties."""

T = TypeVar("T")


def size_for(count: int, max_workers: int) -> int:
    """Tasks of one shard (docs/wire.md): few for a small job, so that its workers do not write over each other."""
    return min(max(math.ceil(count / (8 * max_workers)), 1), MOST_TASKS)


class Stored:
    """A shard as it is in Datastore."""

    __slots__ = ("document", "entity")

    def __init__(self, entity: Entity) -> None:
        self.entity = entity
        self.document = _document(entity)

    def become(self, entity: Entity, document: ShardDocument, sent: bytes) -> None:
        """It was written as `document`, in bytes `sent`; `entity` is what it is now, which others may have written over since."""
        self.entity, self.document = entity, document if entity.document == sent else _document(entity)


class _Marks:
    """What shows that a write was applied whose answer was lost, though others have written since: new tokens, new records."""

    def __init__(self, before: ShardDocument, after: ShardDocument) -> None:
        self._new = _marks(after) - _marks(before)

    def __call__(self, current: Entity) -> bool:
        return bool(self._new & _marks(_document(current)))


def _marks(document: ShardDocument) -> set[tuple[int, int, str, bool]]:
    """(index, attempt, token, whether it has ended) of every claim and record."""
    found = set()
    for index, task in enumerate(document.tasks, document.first):
        if task.token:
            found.add((index, task.attempt, task.token, False))
        for record in task.records:
            # Whoever ended a claim had it: the record shows that the claim was written too.
            found.add((index, record.ref.attempt, record.token, True))
            found.add((index, record.ref.attempt, record.token, False))
    return found


def _document(entity: Entity) -> ShardDocument:
    return wire.decode(entity.document, ShardDocument, f"{names.SHARD} {entity.name}")


class Shards:
    """All shards of an installation."""

    def __init__(self, datastore: Datastore, publish: Callable[[Event], None] = lambda event: None) -> None:
        """`publish` is given an event after each write."""
        self._datastore = datastore
        self._publish = publish

    def entity(self, document: ShardDocument) -> Entity:
        """What is stored of a document. Raises StorageFull where it is too large for an entity."""
        data = wire.encode(document)
        if len(data) > ENTITY_BYTES:
            raise StorageFull(
                f"tasks {document.first} to {document.first + len(document.tasks) - 1} of job {document.job}: their records have"
                f" {len(data)} bytes; Datastore takes {ENTITY_BYTES} in one entity",
                "write",
                document.job,
            )
        properties = {
            "job": document.job,
            "claimable": shard.claimable(document),
            "open": shard.unfinished(document),
            "reuses": shard.reuses(document) or None,
        }
        return Entity(names.SHARD, shard.key_name(document.job, document.number), data, properties)

    def create(self, documents: Iterable[ShardDocument]) -> None:
        """Writes the shards of a job that is being created, in parallel commits."""
        self._datastore.put_all(map(self.entity, documents))

    def of_job(self, job: JobDocument) -> list[Stored]:
        """Every shard of a job, in order. One that is missing (the job was deleted meanwhile) is left out."""
        count = math.ceil(job.job.count / job.shard_size)
        return self.get_many([(job.job.id, number) for number in range(count)])

    def get_many(self, wanted: Sequence[tuple[str, int]]) -> list[Stored]:
        """Shards by job and number, in that order; those that are missing are left out."""
        keys = [shard.key_name(job, number) for job, number in wanted]
        found = self._datastore.lookup(names.SHARD, keys)
        return [Stored(found[key]) for key in keys if key in found]

    def numbers(self, job: str) -> list[str]:
        """The key names of whatever shards a job has, complete or not."""
        return [each.name for each in self._datastore.query(names.SHARD, ("job", "=", job), keys_only=True)]

    def delete(self, keys: Iterable[str]) -> None:
        """Removes shards by key name."""
        self._datastore.delete_all(names.SHARD, keys)

    def all_keys(self) -> list[str]:
        """The key names of all shards, of jobs that exist and of others."""
        return [each.name for each in self._datastore.query(names.SHARD, keys_only=True)]

    def delete_orphans(self, keys: Iterable[str], older_than_s: float, *, undated: bool = False) -> int:
        """Removes those of these shards whose job has no entity and that were written that long ago; returns how many.

        One that is written anew meanwhile stays: its job is being submitted again.

        Args:
            undated: Also where the server does not say when they were written.
        """
        by_job: dict[str, list[str]] = {}
        for key in keys:
            by_job.setdefault(key.split(":")[1], []).append(key)
        suspects = [key for job in self._without_entity(by_job) for key in by_job[job]]
        found = self._datastore.lookup(names.SHARD, suspects)
        old = [each for each in found.values() if (undated if each.age_s is None else each.age_s > older_than_s)]
        # Asked again, after they were read: the job may have been inserted in between.
        orphans = self._without_entity({entity.name.split(":")[1] for entity in old})
        gone = [entity for entity in old if entity.name.split(":")[1] in orphans]
        return sum(self._datastore.pool.map(self._datastore.delete, gone))

    def _without_entity(self, jobs: Collection[str]) -> set[str]:
        return set(jobs) - set(self._datastore.lookup(names.JOB, sorted(jobs)))

    def open_of(self, owner: str) -> set[str]:
        """The jobs of an owner that have tasks pending or claimed."""
        found = self._datastore.query(names.SHARD, ("open", "=", owner or "-"), keys_only=True)
        return {each.name.split(":")[1] for each in found}

    def open_shards(self) -> Iterator[Stored]:
        """Every shard with tasks pending or claimed, of all jobs."""
        return map(Stored, self._datastore.query(names.SHARD, ("open", ">", ""), order="open"))

    def that_reuse(self, job: str) -> Iterator[Stored]:
        """Shards of other jobs in which a task has its outcome from `job`."""
        return map(Stored, self._datastore.query(names.SHARD, ("reuses", "=", job)))

    def first_in_line(self, pool: str, after: str = "") -> str | None:
        """The least `claimable` of a pool, greater than `after`."""
        prefix = shard.line_prefix(pool)
        first = self._datastore.query(
            names.SHARD,
            ("claimable", ">", after or prefix),
            ("claimable", "<", prefix[:-1] + "0"),  # "0" is the character after "/"
            order="claimable",
            limit=1,
        )
        for each in first:
            return str(each.properties["claimable"])
        return None

    def at(self, line: str, start: str, limit: int) -> list[Stored]:
        """Up to `limit` shards with that `claimable`, from key `start` on and around."""
        found = [
            Stored(each) for each in self._datastore.query(names.SHARD, ("claimable", "=", line), after=start, limit=limit)
        ]
        if len(found) < limit and start:
            seen = {each.entity.name for each in found}
            rest = self._datastore.query(names.SHARD, ("claimable", "=", line), limit=limit - len(found))
            found += [Stored(each) for each in rest if each.name not in seen]
        return found

    def try_write(self, stored: Stored, document: ShardDocument) -> bool:
        """Writes `document` over what was read; False where somebody else wrote meanwhile."""
        entity = self.entity(document)
        written = self._datastore.replace(entity, stored.entity.version, _Marks(stored.document, document))
        if written is None:
            return False
        self._tell(stored.document, document)
        stored.become(written, document, entity.document)
        return True

    def change(self, stored: Stored, act: Callable[[ShardDocument], tuple[ShardDocument, T]], none: T) -> T:
        """Applies a function of shard.py until it is written. `none` is the answer where the shard is gone."""
        result = none
        before = stored.document
        after = before
        sent = b""

        def attempt(known: Entity | None) -> Entity | None:
            nonlocal result, before, after, sent
            if known is None:
                result = none
                return None
            if known is not stored.entity:
                before = _document(known)
            after, result = act(before)
            if after is before:
                return None
            wanted = self.entity(after)
            sent = wanted.document
            return wanted

        def applied(current: Entity) -> bool:
            return _Marks(before, after)(current)

        written = self._datastore.change(stored.entity, names.SHARD, stored.entity.name, attempt, applied)
        if written is not None:
            self._tell(before, after)
            stored.become(written, after, sent)
        return result

    def _tell(self, before: ShardDocument, after: ShardDocument) -> None:
        changes = tuple(
            Change(after.first + place, new.state, new.attempt)
            for place, (old, new) in enumerate(zip(before.tasks, after.tasks, strict=True))
            if (old.state, old.attempt) != (new.state, new.attempt)
        )
        self._publish(Event(SCHEMA, after.job, after.number, after.seq, changes))


def cut(job: JobDocument, rows: Sequence[TaskRow]) -> Iterator[ShardDocument]:
    """The shards of a new job."""
    head = job.job
    for number, at in enumerate(range(0, len(rows), job.shard_size)):
        yield ShardDocument(
            schema=SCHEMA,
            job=head.id,
            number=number,
            first=at + 1,
            tasks=tuple(rows[at : at + job.shard_size]),
            pool=head.pool,
            owner=head.owner,
            priority=head.spec.priority,
            sequence=head.sequence,
        )


def failed(documents: Iterable[ShardDocument]) -> int:
    """Failed tasks."""
    return sum(task.state is TaskState.FAILED for document in documents for task in document.tasks)
