"""Workers in SQLite: their rows, heartbeats, and what each holds of its host. May import ports, model and db."""

from __future__ import annotations

from typing import Any

import msgspec

from sparkles.backends.local.db import Database
from sparkles.model import ProcessId, Worker, WorkerId

_TOLERANCE = 1e-9
"""Sums of cpu fractions such as 0.1 are off by rounding."""


class Workers:
    """The part of the job store that knows workers."""

    _db: Database

    def enter_worker(self, worker: Worker) -> None:
        """See JobStore."""
        self._db.write(
            "INSERT OR REPLACE INTO workers (id, pool, process, host, beat, cpu, memory_bytes, waiting, started_at_ms)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                worker.id,
                worker.pool,
                msgspec.json.encode(worker.process).decode(),
                worker.process.host,
                worker.beat,
                worker.cpu,
                worker.memory_bytes,
                worker.waiting,
                worker.started_at_ms,
            ),
        )

    def beat_worker(self, worker: WorkerId, *, waiting: bool) -> bool:
        """See JobStore."""
        return self._db.write("UPDATE workers SET beat = beat + 1, waiting = ? WHERE id = ?", (waiting, worker)) == 1

    def leave_worker(self, worker: WorkerId) -> None:
        """See JobStore."""
        self._db.write("DELETE FROM workers WHERE id = ?", (worker,))

    def list_workers(self) -> list[Worker]:
        """See JobStore."""
        sql = "SELECT id, pool, process, beat, cpu, memory_bytes, waiting, started_at_ms FROM workers ORDER BY started_at_ms, rowid"
        return [_worker_of(row) for row in self._db.read(sql)]

    def reserve(self, worker: WorkerId, *, cpu: float, memory_bytes: int, total_cpu: float, total_memory_bytes: int) -> bool:
        """See JobStore."""
        with self._db.atomic() as connection:
            mine = connection.execute("SELECT cpu, memory_bytes, host FROM workers WHERE id = ?", (worker,)).fetchone()
            if mine is None:
                return False
            others = connection.execute(
                "SELECT coalesce(sum(cpu), 0), coalesce(sum(memory_bytes), 0) FROM workers WHERE host = ? AND id <> ?",
                (mine[2], worker),
            ).fetchone()
            smaller = cpu <= mine[0] + _TOLERANCE and memory_bytes <= mine[1]
            alone = others[0] <= _TOLERANCE and others[1] == 0
            fits = others[0] + cpu <= total_cpu + _TOLERANCE and others[1] + memory_bytes <= total_memory_bytes
            if not (smaller or alone or fits):
                return False
            connection.execute("UPDATE workers SET cpu = ?, memory_bytes = ? WHERE id = ?", (cpu, memory_bytes, worker))
        return True


def _worker_of(row: Any) -> Worker:
    process = msgspec.json.decode(row[2], type=ProcessId)
    return Worker(WorkerId(row[0]), row[1], process, row[3], row[4], row[5], row[6] != 0, row[7])
