"""The JobStore's workers in SQLite: rows, heartbeats, and what they hold of their host. May import ports and below."""

from __future__ import annotations

import msgspec

from sparkles import digest
from sparkles.backends import messages
from sparkles.backends.hosts import may_hold
from sparkles.backends.local.db import Database
from sparkles.backends.local.sqlite_errors import damaged
from sparkles.model import ProcessId, Worker, WorkerId

_COLUMNS = "id, pool, process, beat, cpu, memory_bytes, waiting, started_at_ms"


class Workers:
    """The part of ports.JobStore that knows who works."""

    _db: Database

    def enter_worker(self, worker: Worker) -> None:
        """See ports.JobStore."""
        self._db.run(
            f"INSERT INTO workers ({_COLUMNS}, host) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET"
            " pool = excluded.pool, process = excluded.process, beat = excluded.beat, cpu = excluded.cpu,"
            " memory_bytes = excluded.memory_bytes, waiting = excluded.waiting, started_at_ms = excluded.started_at_ms,"
            " host = excluded.host",
            (
                worker.id,
                worker.pool,
                digest.encode_value(worker.process).decode("utf-8"),
                worker.beat,
                worker.cpu,
                worker.memory_bytes,
                worker.waiting,
                worker.started_at_ms,
                worker.process.host,
            ),
        )

    def beat_worker(self, worker: WorkerId, *, waiting: bool) -> bool:
        """See ports.JobStore."""
        return self._db.run("UPDATE workers SET beat = beat + 1, waiting = ? WHERE id = ?", (waiting, worker)) == 1

    def leave_worker(self, worker: WorkerId) -> None:
        """See ports.JobStore. Raises Conflict where it still holds claims: without the row nobody could recover them."""
        with self._db.atomic() as connection:
            (held,) = connection.execute(
                "SELECT count(*) FROM tasks INDEXED BY tasks_claimed WHERE worker = ? AND state = 'claimed'", (worker,)
            ).fetchone()
            if held:
                raise messages.worker_holds(worker, held)
            connection.execute("DELETE FROM workers WHERE id = ?", (worker,))

    def list_workers(self) -> list[Worker]:
        """See ports.JobStore."""
        workers = []
        for worker, pool, process, beat, cpu, memory_bytes, waiting, started_at_ms in self._db.all(
            f"SELECT {_COLUMNS} FROM workers ORDER BY sequence"
        ):
            try:
                decoded = msgspec.json.decode(process, type=ProcessId)
            except msgspec.MsgspecError as error:
                raise damaged(self._db.path, f"process of worker {worker}: {error}") from error
            workers.append(Worker(WorkerId(worker), pool, decoded, beat, cpu, memory_bytes, waiting == 1, started_at_ms))
        return workers

    def reserve(self, worker: WorkerId, *, cpu: float, memory_bytes: int, total_cpu: float, total_memory_bytes: int) -> bool:
        """See ports.JobStore."""
        with self._db.atomic() as connection:
            own = connection.execute("SELECT host, cpu, memory_bytes FROM workers WHERE id = ?", (worker,)).fetchone()
            if own is None:
                return False
            host, held_cpu, held_memory = own
            others_cpu, others_memory = connection.execute(
                "SELECT total(cpu), coalesce(sum(memory_bytes), 0) FROM workers WHERE host = ? AND id != ?", (host, worker)
            ).fetchone()
            if not may_hold(
                (held_cpu, held_memory), (cpu, memory_bytes), (others_cpu, others_memory), (total_cpu, total_memory_bytes)
            ):
                return False
            connection.execute("UPDATE workers SET cpu = ?, memory_bytes = ? WHERE id = ?", (cpu, memory_bytes, worker))
        return True
