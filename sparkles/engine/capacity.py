"""How much of its host a worker reserves for its tasks. Pure; may import model only.

Workers on one host share its cpu and memory through reservations in the JobStore. A worker does not reserve per task: it reserves what
it can use, keeps it while tasks come and go, and gives some back when another worker waits. Surprise: a task that asks for more than a
worker's fair share still runs, when nothing else of that worker does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from sparkles.model import Resources, Worker, WorkerId

_ROUNDING = 1e-9
"""0.1 + 0.2 of a core fits in 0.3."""


class Amount(NamedTuple):
    """Cores, and bytes of memory."""

    cpu: float = 0.0
    memory: int = 0

    def plus(self, other: Amount) -> Amount:
        return Amount(self.cpu + other.cpu, self.memory + other.memory)

    def minus(self, other: Amount) -> Amount:
        """Rounded, and never below nothing: sums of fractions of cores are not exact."""
        return Amount(max(0.0, round(self.cpu - other.cpu, 9)), max(0, self.memory - other.memory))

    def within(self, other: Amount) -> bool:
        """Whether it fits in `other`."""
        return self.cpu <= other.cpu + _ROUNDING and self.memory <= other.memory

    def lesser(self, other: Amount) -> Amount:
        return Amount(min(self.cpu, other.cpu), min(self.memory, other.memory))

    def greater(self, other: Amount) -> Amount:
        return Amount(max(self.cpu, other.cpu), max(self.memory, other.memory))


def needed(resources: Resources, memory_bytes: int | None) -> Amount:
    """What a task takes of the host; `memory_bytes` is what an oom retry raised it to."""
    memory = memory_bytes if memory_bytes is not None else resources.memory_bytes
    return Amount(resources.cpu, memory or 0)


def too_large(need: Amount, gpu: int, total: Amount) -> str:
    """The sentence that says why a task can never run on this machine, or ""."""
    if gpu:
        return f"the task asks for {gpu} GPU and the local backend offers none"
    if need.cpu > total.cpu + _ROUNDING:
        return f"the task asks for {need.cpu:g} cpu and this machine offers {total.cpu:g}"
    if need.memory > total.memory:
        return f"the task asks for {size(need.memory)} of memory and this machine offers {size(total.memory)}"
    return ""


def fair_share(total: Amount, workers: Sequence[Worker], me: WorkerId) -> Amount | None:
    """What `me` may keep while others on its host wait: an equal part. None where nobody waits, and all may be kept."""
    host = next((worker.process.host for worker in workers if worker.id == me), None)
    others = [worker for worker in workers if worker.id != me and worker.process.host == host]
    if host is None or not any(worker.waiting for worker in others):
        return None
    parts = 1 + sum(1 for worker in others if worker.waiting or worker.cpu > 0 or worker.memory_bytes > 0)
    return Amount(total.cpu / parts, total.memory // parts)


def wanted(used: Amount, demand: Iterable[Amount], total: Amount, share: Amount | None) -> Amount:
    """What to reserve: what runs and what could start of the tasks in hand, no more than the host has nor, beyond what runs, the share."""
    sought = used
    for need in demand:
        sought = sought.plus(need)
        if total.within(sought):
            break
    sought = sought.lesser(total)
    return sought if share is None else sought.lesser(share).greater(used)


AHEAD_S = 0.2
"""A claim takes a millisecond and commits are 50 ms apart: a queue of four commits never runs dry."""


def claims_ahead(slots: int, mean_s: float | None, batch: int) -> int:
    """How many claims to hold beyond what can start now: AHEAD_S worth, `batch` at most; none while durations are unknown.

    What one worker holds no other can take, and a job that is killed or drained has them to give back; but a claim for each task would
    cost a transaction for each task.
    """
    if mean_s is None:
        return 0
    return batch if mean_s * batch <= slots * AHEAD_S else int(slots * AHEAD_S / mean_s)


def size(count: int) -> str:
    """Bytes for people: 1.5 GiB, 300 MiB, 12 B."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.4g} {unit}"
        value /= 1024
    return f"{value:.4g} TiB"
