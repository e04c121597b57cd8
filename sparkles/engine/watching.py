"""Waiting for jobs outside of runs: count, tell, look again when a hint came or it is time. May import ports and below.

The twin of `wait` in scripts (monitor.py) without a journal. It waits for whoever serves the jobs; `keep_served` is the caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sparkles.engine.events import Progressed, Report
from sparkles.engine.monitor import COUNTING_SHARE, GREATEST_PACE_S, LEAST_PACE_S
from sparkles.errors import WaitTimeout
from sparkles.model import Counts, Job
from sparkles.ports import Clock, JobStore, Notifier


def until_done(
    jobs: Sequence[Job],
    store: JobStore,
    notifier: Notifier,
    clock: Clock,
    report: Report,
    *,
    keep_served: Callable[[Job], None],
    interrupted: Callable[[], None],
    timeout_s: float | None = None,
) -> dict[str, Counts]:
    """Blocks until every job is done. `keep_served` is called for each that is not, twice a second; `interrupted` raises to end it.

    Raises:
        WaitTimeout: After `timeout_s` seconds.
        NotFound: A job was removed meanwhile.
    """
    began = clock.monotonic()
    served_at = began - GREATEST_PACE_S
    counts: dict[str, Counts] = {}
    while True:
        interrupted()
        before = clock.monotonic()
        counted = [job for job in jobs if job.id not in counts or not counts[job.id].done]
        for job in counted:
            counts[job.id] = store.count_tasks(job.id)
        now = clock.monotonic()
        for job in counted:
            report(Progressed(job=job.id, counts=counts[job.id]))
        left = [job for job in counted if not counts[job.id].done]
        if not left:
            return counts
        if now - served_at >= GREATEST_PACE_S:
            served_at = now
            for job in left:
                keep_served(job)
        pause = GREATEST_PACE_S
        if timeout_s is not None:
            pause = min(pause, began + timeout_s - now)
            if pause <= 0:
                names = ", ".join(job.id for job in left)
                raise WaitTimeout(f"{names} did not end within {timeout_s:g} s")
        clock.sleep(min(max(LEAST_PACE_S, (now - before) / COUNTING_SHARE), 2.0, pause))
        spent = clock.monotonic() - now
        if spent < pause:
            notifier.wait(pause - spent)
