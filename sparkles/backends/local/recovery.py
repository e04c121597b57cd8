"""Puts in order what dead workers left, before anybody may claim their tasks again. May import ports, model, engine.retry and attempt.

The order is what makes it safe: first every process of the dead worker is gone, then its claims are settled, then its row goes. Each
settlement is refused by the store unless the claim's token is still current, so two processes may recover the same worker at once;
files are touched only after a settlement was accepted, since a given-back attempt's folder may be somebody else's by then.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from sparkles.backends.local import process
from sparkles.engine import attempt as files
from sparkles.engine import outputs, retry
from sparkles.errors import Conflict, NotFound
from sparkles.model import Attempt, Claim, FailureClass, Finish, Worker
from sparkles.ports import Clock, JobStore, Workspace

GRACE_S = 2.0
"""What a surviving program has between SIGTERM and SIGKILL: its result is lost already, so less than an orderly stop gives."""


class StallWatch:
    """Says of a worker that its heartbeat stood still for the lease, on this observer's own monotonic clock."""

    def __init__(self, clock: Clock, lease_s: float) -> None:
        self._clock, self._lease_s = clock, lease_s
        self._seen: dict[str, tuple[int, float]] = {}

    def __call__(self, worker: Worker) -> bool:
        """Whether it stalls; to be asked at least a few times within the lease."""
        now = self._clock.monotonic()
        beat, since = self._seen.get(worker.id, (-1, now))
        if beat != worker.beat:
            self._seen[worker.id] = (worker.beat, now)
            return False
        return now - since >= self._lease_s


def recover(
    jobs: JobStore, blobs: Workspace, clock: Clock, *, is_stalled: Callable[[Worker], bool] = lambda worker: False
) -> list[str]:
    """Recovers every worker that is dead, or that `is_stalled` says stands still: that one is killed first.

    A finished task that was not recorded yet is recorded from its result.json; one that was not started goes back as if it had never
    been claimed; one that ran is lost (its budget of losses decides).

    Returns:
        A sentence for people per worker that left something.
    """
    sentences = []
    for worker in jobs.list_workers():
        sentence = _recover_one(worker, jobs, blobs, clock, is_stalled)
        if sentence:
            sentences.append(sentence)
    return sentences


def _recover_one(worker: Worker, jobs: JobStore, blobs: Workspace, clock: Clock, is_stalled: Callable[[Worker], bool]) -> str:
    state = process.liveness(worker.process)
    where = f"worker {worker.id} (pid {worker.process.pid} on {worker.process.host})"
    how = "died"
    if state != "dead":
        if worker.process == process.this_process() or not is_stalled(worker):
            return ""
        how = "stood still"
    if state != "elsewhere":
        left = _end_all(worker)
        if left:
            pids = ", ".join(map(str, left))
            return f"{where} {how}, and processes of its tasks outlive SIGKILL: {pids}; its tasks wait until they are gone"
    recorded, given_back, lost = _settle(worker, how, jobs, blobs, clock)
    try:
        jobs.leave_worker(worker.id)
    except Conflict:
        pass  # a claim of it was left: the next recovery sees to it
    parts = [
        f"{count} {what}"
        for count, what in (
            (recorded, "finished but not yet recorded"),
            (given_back, "not started"),
            (lost, "lost while running"),
        )
        if count
    ]
    return f"{where} {how}: {', '.join(parts)}" if parts else ""


def _end_all(worker: Worker) -> list[int]:
    """Ends the worker, if it lives, and everything that carries its marker or is in a process group with something that does.
    Returns what cannot be ended."""
    left = process.end_processes(lambda: [worker.process.pid] if process.is_alive(worker.process) else [], grace_s=0.0)
    if left:
        return left
    groups: set[int] = set()
    mine = os.getpgrp()

    def survivors() -> set[int]:
        found = set(process.marked("SPARKLES_WORKER", worker.id))
        for pid in found:
            try:
                groups.add(os.getpgid(pid))
            except ProcessLookupError:
                continue
        groups.discard(mine)
        for group in groups:
            found.update(process.group_members(group))
        return found

    return process.end_processes(survivors, grace_s=GRACE_S)


def _settle(worker: Worker, how: str, jobs: JobStore, blobs: Workspace, clock: Clock) -> tuple[int, int, int]:
    """Ends the worker's claims. Returns how many were recorded, given back and lost by this call."""
    unstarted: list[Claim] = []
    finishes: list[tuple[Finish, str]] = []
    now_ms = clock.now_ms()
    for claim in jobs.list_claims(worker.id):
        folder = os.fspath(blobs.folder(claim.ref))
        record = files.read_record(folder, claim.token)
        if record is None and not files.was_started(folder):
            unstarted.append(claim)
            continue
        if record is None:
            record = Attempt(
                claim.ref,
                claim.token,
                worker.id,
                FailureClass.LOST,
                reason=f"worker {worker.id} {how} while the task ran",
                ended_at_ms=now_ms,
                tail="" if _has_secrets(claim, jobs) else outputs.log_tail(folder),
            )
        finishes.append((_finish(claim, record, jobs, now_ms), folder))
    accepted = jobs.finish([finish for finish, _ in finishes])
    lost = 0
    for (finish, folder), done in zip(finishes, accepted, strict=True):
        if not done:
            continue
        files.remove_scratch(folder)
        if finish.attempt.failure is FailureClass.LOST:
            lost += 1
            try:
                files.write_record(folder, finish.attempt)
            except OSError:
                pass  # the store has it
    return sum(accepted) - lost, jobs.release(unstarted), lost


def _has_secrets(claim: Claim, jobs: JobStore) -> bool:
    """Whether the log may show values that are not known here, and so cannot be left out."""
    try:
        return bool(jobs.get_job(claim.ref.job).spec.secret_env)
    except NotFound:
        return True


def _finish(claim: Claim, record: Attempt, jobs: JobStore, now_ms: int) -> Finish:
    try:
        spec = jobs.get_job(claim.ref.job).spec
    except NotFound:
        spec = None  # deleted just now
    return retry.conclude(record, claim, spec, record.ended_at_ms or now_ms)
