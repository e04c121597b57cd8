"""The JobStore's workers in Datastore: rows, heartbeats, what they hold of their host, and who is dead. May import shards and wire."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Callable

import msgspec
from msgspec.structs import replace

from sparkles import __version__, wire
from sparkles.backends import messages
from sparkles.backends.google import names
from sparkles.backends.google.datastore import Datastore
from sparkles.backends.google.entities import Entity
from sparkles.backends.google.shards import Shards
from sparkles.backends.hosts import may_hold
from sparkles.model import TaskState, Worker, WorkerId
from sparkles.wire import SCHEMA, ShardDocument, WorkerDocument


class _Held(msgspec.Struct, forbid_unknown_fields=True):
    """What workers hold of one host: by id, cores and bytes."""

    schema: int = SCHEMA
    held: dict[str, tuple[float, int]] = {}


class Workers:
    """The part of ports.JobStore that knows who works."""

    def __init__(self, datastore: Datastore, shards: Shards) -> None:
        self._datastore = datastore
        self._shards = shards
        self._beats: dict[str, tuple[int, float]] = {}
        self._lock = threading.Lock()

    def enter_worker(self, worker: Worker) -> None:
        """See ports.JobStore."""
        self._datastore.put_all([_entity(WorkerDocument(SCHEMA, worker, __version__))])
        if worker.cpu or worker.memory_bytes:
            self._hold(worker.process.host, worker.id, (worker.cpu, worker.memory_bytes), (math.inf, sys.maxsize))

    def beat_worker(self, worker: WorkerId, *, waiting: bool) -> bool:
        """See ports.JobStore."""
        return self._change(worker, lambda row: replace(row, beat=row.beat + 1, waiting=waiting)) is not None

    def leave_worker(self, worker: WorkerId) -> None:
        """See ports.JobStore. Raises Conflict where it still holds claims: without the row nobody could recover them."""
        held = sum(1 for _ in self.claims_of({worker}))
        if held:
            raise messages.worker_holds(worker, held)
        self.remove_worker(worker)

    def remove_worker(self, worker: str) -> None:
        """Removes the row whatever it holds."""
        found = self.get_worker(worker)
        self._datastore.delete_all(names.WORKER, [worker])
        if found is not None and (found.cpu or found.memory_bytes):
            self._hold(found.process.host, worker, None)

    def get_worker(self, worker: str) -> Worker | None:
        """The row, or None."""
        entity = self._datastore.get(names.WORKER, worker)
        return None if entity is None else _document(entity).worker

    def list_workers(self) -> list[Worker]:
        """See ports.JobStore."""
        found = [_document(entity).worker for entity in self._datastore.query(names.WORKER)]
        return sorted(found, key=lambda worker: (worker.started_at_ms, worker.id))

    def troubles_of(self, pool: str) -> dict[str, str]:
        """What keeps workers of a pool from going on, in a few words of their own, by worker; those that go on are left out."""
        found = map(_document, self._datastore.query(names.WORKER, ("pool", "=", pool)))
        return {document.worker.id: document.trouble for document in found if document.trouble}

    def dead_workers(self, lease_s: float) -> list[Worker]:
        """Those whose heartbeat stands still: by the server's own times where it has them, else as long as this process has watched it
        (docs/wire.md). Two machines' clocks are never compared. Nobody is dead until the service has answered for a whole lease after
        it was away: no heartbeat could reach it meanwhile."""
        dead = []
        now = time.monotonic()
        with self._lock:
            seen, self._beats = self._beats, {}
            for entity in self._datastore.query(names.WORKER):
                worker = _document(entity).worker
                beat, since = seen.get(worker.id, (-1, now))
                if beat != worker.beat:
                    since = now
                self._beats[worker.id] = (worker.beat, since)
                age_s = entity.age_s if entity.age_s is not None else now - since
                if age_s > lease_s:
                    dead.append(worker)
        return dead if self._datastore.answers_for_s() > lease_s else []

    def claims_of(self, workers: set[str]) -> list[tuple[ShardDocument, int]]:
        """The current claims of workers, as (shard, index)."""
        return [
            (stored.document, stored.document.first + place)
            for stored in self._shards.open_shards()
            for place, task in enumerate(stored.document.tasks)
            if task.state is TaskState.CLAIMED and task.worker in workers
        ]

    def reserve(self, worker: WorkerId, *, cpu: float, memory_bytes: int, total_cpu: float, total_memory_bytes: int) -> bool:
        """See ports.JobStore."""
        row = self.get_worker(worker)
        if row is None:
            return False
        allowed = self._hold(row.process.host, worker, (cpu, memory_bytes), (total_cpu, total_memory_bytes))
        return allowed and self._change(worker, lambda row: replace(row, cpu=cpu, memory_bytes=memory_bytes)) is not None

    def _hold(self, host: str, worker: str, wanted: tuple[float, int] | None, total: tuple[float, int] = (0.0, 0)) -> bool:
        """Sets or removes (`wanted` None) what a worker holds of its host; False where it may not."""
        allowed = False
        alive: set[str] | None = None

        def change(entity: Entity | None) -> Entity | None:
            nonlocal allowed, alive
            found = msgspec.json.decode(entity.document, type=_Held) if entity is not None else _Held()
            if alive is None and found.held:
                alive = {each.id for each in self.list_workers()}
            held = {name: amounts for name, amounts in found.held.items() if alive is None or name in alive}
            mine = held.pop(worker, (0.0, 0))
            if wanted is not None:
                others = sum(each[0] for each in held.values()), sum(each[1] for each in held.values())
                allowed = may_hold(mine, wanted, others, total)
                if not allowed:
                    return None
                held[worker] = wanted
            return Entity(names.HOST, host, msgspec.json.encode(_Held(held=held)))

        self._datastore.update(names.HOST, host, change)
        return allowed

    def _change(self, worker: str, change: Callable[[Worker], Worker]) -> Entity | None:
        def next_of(entity: Entity | None) -> Entity | None:
            if entity is None:
                return None
            document = _document(entity)
            return _entity(replace(document, worker=change(document.worker)))

        return self._datastore.update(names.WORKER, worker, next_of)


def _entity(document: WorkerDocument) -> Entity:
    return Entity(names.WORKER, document.worker.id, wire.encode(document), {"pool": document.worker.pool})


def _document(entity: Entity) -> WorkerDocument:
    return wire.decode(entity.document, WorkerDocument, f"{names.WORKER} {entity.name}")
