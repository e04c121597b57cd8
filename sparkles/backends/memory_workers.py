"""The JobStore's workers in memory: rows, heartbeats, and what they hold of their host. May import ports and below."""

from __future__ import annotations

import threading
from abc import abstractmethod

from msgspec.structs import replace

from sparkles.backends import messages
from sparkles.backends.hosts import may_hold
from sparkles.model import Worker, WorkerId


class MemoryWorkers:
    """The part of ports.JobStore that knows who works."""

    _lock: threading.RLock
    _workers: dict[str, Worker]

    @abstractmethod
    def held_tokens(self, worker: WorkerId) -> set[str]:
        """See ports.JobStore."""

    def enter_worker(self, worker: Worker) -> None:
        """See ports.JobStore."""
        with self._lock:
            self._workers[worker.id] = worker

    def beat_worker(self, worker: WorkerId, *, waiting: bool) -> bool:
        """See ports.JobStore."""
        with self._lock:
            row = self._workers.get(worker)
            if row is None:
                return False
            self._workers[worker] = replace(row, beat=row.beat + 1, waiting=waiting)
            return True

    def leave_worker(self, worker: WorkerId) -> None:
        """See ports.JobStore. Raises Conflict where it still holds claims: without the row nobody could recover them."""
        with self._lock:
            held = self.held_tokens(worker)
            if held:
                raise messages.worker_holds(worker, len(held))
            self._workers.pop(worker, None)

    def list_workers(self) -> list[Worker]:
        """See ports.JobStore."""
        with self._lock:
            return list(self._workers.values())

    def reserve(self, worker: WorkerId, *, cpu: float, memory_bytes: int, total_cpu: float, total_memory_bytes: int) -> bool:
        """See ports.JobStore."""
        with self._lock:
            row = self._workers.get(worker)
            if row is None:
                return False
            others = [w for w in self._workers.values() if w.id != worker and w.process.host == row.process.host]
            held_by_others = sum(other.cpu for other in others), sum(other.memory_bytes for other in others)
            held, wanted = (row.cpu, row.memory_bytes), (cpu, memory_bytes)
            if not may_hold(held, wanted, held_by_others, (total_cpu, total_memory_bytes)):
                return False
            self._workers[worker] = replace(row, cpu=cpu, memory_bytes=memory_bytes)
            return True
