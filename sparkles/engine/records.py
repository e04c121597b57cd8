"""A task in the worker's hands, and the record that is made of its attempt when that is over. May import ports and model.

Surprise: a record may be made in a thread of the crew while the loop goes on, so nothing here touches the worker's own state.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import msgspec

from sparkles.engine import attempt as files
from sparkles.engine import outputs
from sparkles.engine.attempt import AttemptFailed, Plan
from sparkles.engine.capacity import Amount
from sparkles.engine.runner import Ended
from sparkles.errors import BackendError
from sparkles.model import Artifact, Attempt, Claim, FailureClass, WorkerId
from sparkles.ports import Clock, Workspace


class HeldTask:
    """A claim in hand, from its start on. `handle` is 0 until its program runs; `told` once the store knows that it does; `why` is
    PREEMPTED or CANCELLED once this worker has decided to end it."""

    __slots__ = ("claim", "folder", "handle", "need", "plan", "started_at_ms", "told", "why")

    def __init__(self, claim: Claim, plan: Plan, need: Amount, folder: str, started_at_ms: int) -> None:
        self.claim, self.plan, self.need, self.folder, self.started_at_ms = claim, plan, need, folder, started_at_ms
        self.handle = 0
        self.told = False
        self.why: FailureClass | None = None


class Records:
    """Makes the records of one worker's attempts."""

    def __init__(self, worker: WorkerId, blobs: Workspace, clock: Clock) -> None:
        self._worker, self._blobs, self._clock = worker, blobs, clock
        self.unwritten: dict[str, Attempt] = {}
        """By token: records that a full disk has kept from being written so far."""

    def conclude(self, task: HeldTask, ended: Ended, full: bool) -> Attempt:
        """Perhaps in the crew: judges, keeps what is to be kept, and writes the record. `full`: whether the disk was when it ended."""
        claim, spec, folder = task.claim, task.plan.spec, task.folder
        failure, reason = outputs.judge(ended, spec, task.need.memory)
        results: str | None = None
        artifacts: tuple[Artifact, ...] = ()
        if task.why is not None:
            failure = task.why
            reason = "ended because its worker was stopped" if failure is FailureClass.PREEMPTED else "cancelled while it ran"
        try:
            if changed := outputs.changed_inputs(claim, self._blobs):
                raise AttemptFailed(FailureClass.STAGING, f"{changed}; the program {reason}" if reason else changed)
            if failure is None or failure is FailureClass.EXIT:
                results = outputs.read_results(folder)
            if failure is None and spec.outputs:
                artifacts = outputs.collect_outputs(spec, claim, folder, self._blobs)
        except (OSError, BackendError) as error:
            # Nothing that one task did may reach the worker's loop, where the other tasks are.
            if failure is None:
                failure, reason = FailureClass.STAGING, f"what it left could not be kept: {error}"
        except AttemptFailed as failed:
            if failure is None or failed.failure is FailureClass.STAGING:
                failure, reason = failed.failure, failed.reason
        return self.record(
            task,
            failure,
            reason,
            exit_code=ended.exit_code,
            signal=ended.signal,
            cpu_s=ended.cpu_s,
            peak_memory_bytes=ended.peak_memory_bytes,
            full=full,
            results=results,
            artifacts=artifacts,
        )

    def record(
        self,
        task: HeldTask,
        failure: FailureClass | None,
        reason: str,
        *,
        exit_code: int | None = None,
        signal: int = 0,
        cpu_s: float = 0.0,
        peak_memory_bytes: int | None = None,
        full: bool = False,
        results: str | None = None,
        artifacts: tuple[Artifact, ...] = (),
    ) -> Attempt:
        """The attempt's record, written to result.json."""
        folder = task.folder
        tail = ""
        if failure is not None:
            tail = outputs.log_tail(folder, task.plan.secrets)
            # A program that passes over a refused write fails by what is missing of its outputs.
            lacking = failure is FailureClass.OUTPUT and outputs.disk_full(folder)
            if lacking or (failure is FailureClass.EXIT and (full or outputs.said_full(tail))):
                failure, reason = FailureClass.DISK, f"{reason}: no space is left on the device of {folder}"
        attempt = Attempt(
            task.claim.ref,
            task.claim.token,
            self._worker,
            failure,
            exit_code,
            signal,
            reason,
            task.started_at_ms,
            self._clock.now_ms(),
            cpu_s,
            peak_memory_bytes,
            results,
            artifacts,
            tail,
        )
        try:
            try:
                files.write_record(folder, attempt)
            except OSError:
                files.remove_scratch(folder)  # what the task left there may be what fills the disk
                files.write_record(folder, attempt)
        except OSError as error:
            if files.is_full(error):
                self.unwritten[attempt.token] = attempt  # hours of work are not to be lost for it: the store may have room
            elif failure is None:
                failed = files.failed_call(error, "the attempt's record was not written")
                attempt = msgspec.structs.replace(
                    attempt, failure=failed.failure, reason=failed.reason, outputs=(), results=None
                )
        return attempt

    def write_late(self) -> None:
        """Writes what a full disk had refused, as far as it is possible now."""
        for token, attempt in list(self.unwritten.items()):
            try:
                files.write_record(os.fspath(self._blobs.folder(attempt.ref)), attempt)
            except OSError:
                continue
            del self.unwritten[token]

    def recorded(self, attempts: Iterable[Attempt]) -> None:
        """The store has these: what of them could not be written is not needed any more."""
        for attempt in attempts if self.unwritten else ():
            self.unwritten.pop(attempt.token, None)
