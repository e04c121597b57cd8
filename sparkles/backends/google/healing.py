"""Puts in order what dead cloud workers left, from the driver's side. May import the job store, bucket, names, engine.retry and process.

Workers do the same for each other; a driver does it too, since all of its workers may be dead. On this machine a worker whose process is
gone is dead at once, and what its tasks left running is ended first; elsewhere its lease has to run out. Order: processes, claims, row.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from sparkles import wire
from sparkles.backends.google import names
from sparkles.backends.google.bucket import Bucket
from sparkles.backends.google.job_store import GoogleJobStore
from sparkles.backends.local import process
from sparkles.engine import retry
from sparkles.errors import BackendError, Conflict, Damaged, NotFound
from sparkles.model import Attempt, Claim, FailureClass, Finish, Worker
from sparkles.ports import Clock

GRACE_S = 2.0


class Healer:
    """Recovers the workers that this driver can tell are dead."""

    def __init__(self, jobs: GoogleJobStore, bucket: Bucket, clock: Clock, *, lease_s: float) -> None:
        self._jobs, self._bucket, self._clock, self._lease_s = jobs, bucket, clock, lease_s

    def __call__(self) -> list[str]:
        """Recovers every dead worker; a sentence for people for each that left something."""
        stalled = {worker.id for worker in self._jobs.dead_workers(self._lease_s)}
        sentences = []
        for worker in self._jobs.list_workers():
            state = process.liveness(worker.process)
            if state == "dead":
                sentences.append(self._recover(worker, "died"))
            elif worker.id in stalled:
                sentences.append(self._recover(worker, "stood still"))
        return [sentence for sentence in sentences if sentence]

    def _recover(self, worker: Worker, how: str) -> str:
        """What was done, for people; "" where nothing was, or where what it left cannot be read now: its claims wait for the next time."""
        where = f"worker {worker.id} (pid {worker.process.pid} on {worker.process.host})"
        if process.liveness(worker.process) != "elsewhere":
            left = process.end_processes(lambda: _processes_of(worker), grace_s=GRACE_S)
            if left:
                pids = ", ".join(map(str, left))
                return f"{where} {how}, and processes of its tasks outlive SIGKILL: {pids}; its tasks wait until they are gone"
        try:
            finishes = [self._finish(claim, worker, how) for claim in self._jobs.list_claims(worker.id)]
        except BackendError as error:
            if not error.retryable:
                raise
            return ""
        accepted = self._jobs.finish(finishes)
        lost = sum(
            done and finish.attempt.failure is FailureClass.LOST for finish, done in zip(finishes, accepted, strict=True)
        )
        try:
            self._jobs.leave_worker(worker.id)
        except Conflict:
            pass  # a claim of it was left: the next time sees to it
        recorded = sum(accepted) - lost
        parts = [f"{count} {what}" for count, what in ((recorded, "finished but not yet recorded"), (lost, "lost")) if count]
        return f"{where} {how}: {', '.join(parts)}" if parts else ""

    def _finish(self, claim: Claim, worker: Worker, how: str) -> Finish:
        now_ms = self._clock.now_ms()
        record = self._record(claim) or Attempt(
            claim.ref,
            claim.token,
            worker.id,
            FailureClass.LOST,
            reason=f"worker {worker.id} {how} before the task's end was recorded",
            ended_at_ms=now_ms,
        )
        try:
            spec = self._jobs.get_job(claim.ref.job).spec
        except NotFound:
            spec = None  # deleted just now
        return retry.conclude(record, claim, spec, now_ms)  # the end is by another machine's clock

    def _record(self, claim: Claim) -> Attempt | None:
        """The complete record that the claim's holder left, or None. Raises BackendError where that cannot be told: the task may have ended
        well."""
        name = names.attempt(claim.ref, "result.json")
        try:
            found = wire.decode_attempt(self._bucket.get(name), self._bucket.url(name))
        except (NotFound, Damaged):
            return None
        return found if found.token == claim.token else None


def _processes_of(worker: Worker) -> set[int]:
    """The worker, if it lives, and everything that carries its marker or is in a process group with something that does."""
    found = set(process.marked("SPARKLES_WORKER", worker.id))
    if process.is_alive(worker.process):
        found.add(worker.process.pid)
    groups: set[int] = set()
    for pid in found:
        try:
            groups.add(os.getpgid(pid))
        except ProcessLookupError:
            continue
    groups.discard(os.getpgrp())
    for group in groups:
        found.update(process.group_members(group))
    return found


def _conforms(healer: Healer) -> Callable[[], list[str]]:
    return healer
