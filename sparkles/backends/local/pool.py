"""The fleet of the local backend: processes that run sparkles/worker_process.py. May import fleet, recovery, ports and model."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

from sparkles.backends.local.fleet import ProcessFleet
from sparkles.backends.local.recovery import StallWatch, recover
from sparkles.model import WorkerId
from sparkles.ports import Clock, JobStore, Workspace


def local_fleet(
    state: Path,
    jobs: JobStore,
    blobs: Workspace,
    clock: Clock,
    *,
    cpu: float | None = None,
    memory_bytes: int | None = None,
    lease_s: float = 60.0,
    beat_s: float | None = None,
    grace_s: float | None = None,
) -> ProcessFleet:
    """The workers of one driver on this machine.

    Args:
        cpu, memory_bytes: What workers of this host may use together; None: the machine's.
        lease_s: How long a heartbeat may stand still.
        beat_s, grace_s: None: the worker's own.
    """
    folder = os.path.abspath(state)
    program = str(Path(__file__).parents[2] / "worker_process.py")
    options: list[str] = []
    for name, value in (("--cpu", cpu), ("--memory", memory_bytes), ("--beat", beat_s), ("--grace", grace_s)):
        if value is not None:
            options += [name, str(value)]

    def command(pool: str, worker: WorkerId) -> list[str]:
        # -P: the driver's folder may hold a queue.py or a select.py that is not Python's.
        return [sys.executable, "-P", program, "--state", folder, "--pool", pool, "--id", worker, *options]

    settle = partial(recover, jobs, blobs, clock, is_stalled=StallWatch(clock, lease_s))
    return ProcessFleet(Path(folder, "workers"), jobs, clock, command, settle, lease_s=lease_s)
