"""What becomes of a task after an attempt: done, tried again (when, with how much memory), or failed for good. Pure; may import model only.

Two budgets. The program's own (`RetryPolicy.attempts`) is used up by what a program does: exit codes, missing outputs, time and memory
limits, and by what is wrong around it (staging, disk, config, image). What nobody did wrong (INFRASTRUCTURE: the worker died, the machine
was taken away) counts against LOSS_BUDGET instead, so that a week of bad luck never uses up the three tries of a program; it is a
budget all the same, because a task that kills its worker each time would otherwise be tried for ever.
"""

from __future__ import annotations

import msgspec

from sparkles.model import INFRASTRUCTURE, Attempt, Claim, FailureClass, Finish, JobSpec, RetryPolicy, TaskState

LOSS_BUDGET = 5
"""The loss with this number ends the task: HyperQueue's crash limit, found to tell bad luck from a task that takes its worker down."""


def decide(
    attempt: Attempt, policy: RetryPolicy, *, tries: int, losses: int, requested_memory: int | None, now_ms: int
) -> Finish:
    """Decides from an ended attempt and what the task had used up before it.

    Args:
        tries: Attempts of this task that used the program's budget, before this one.
        losses: Attempts that did not, before this one.
        requested_memory: What this attempt was given, in bytes; None: no limit.
        now_ms: When the attempt ended; a back-off counts from here.

    Returns:
        The Finish to record. Its attempt is the one given, except that a final failure says in its reason why it is not tried again.
    """
    failure = attempt.failure
    if failure is None:
        return Finish(attempt, TaskState.SUCCEEDED, tries + 1, losses)
    if failure is FailureClass.CANCELLED:
        return Finish(attempt, TaskState.CANCELLED, tries, losses)
    if failure in INFRASTRUCTURE:
        return _lost(attempt, tries, losses + 1, requested_memory)
    tries += 1
    if failure is FailureClass.EXIT and policy.exit_codes and _code(attempt) not in policy.exit_codes:
        note = (
            f"not tried again: only exit codes {', '.join(map(str, policy.exit_codes))} are" if tries < policy.attempts else ""
        )
        return _failed(attempt, tries, losses, note)
    if tries >= policy.attempts:
        return _failed(attempt, tries, losses, f"tried {tries} times" if tries > 1 else "")
    memory = requested_memory
    if failure is FailureClass.OOM and policy.oom is not None and requested_memory is not None:
        memory = int(requested_memory * policy.oom.factor)
        if policy.oom.max_bytes is not None:
            memory = min(memory, policy.oom.max_bytes)
        if memory <= requested_memory:
            return _failed(attempt, tries, losses, "not tried again: the memory of its oom retry is at its maximum")
    return Finish(attempt, TaskState.PENDING, tries, losses, now_ms + backoff_ms(policy, tries), memory)


def conclude(attempt: Attempt, claim: Claim, spec: JobSpec | None, now_ms: int) -> Finish:
    """The Finish of a claim's attempt: `requeue` where its worker was asked to stop, else as `decide` says. `spec` is None where the job
    is gone; the store will refuse what is decided then."""
    memory = claim.memory_bytes
    if attempt.failure is FailureClass.PREEMPTED:
        return requeue(attempt, tries=claim.tries, losses=claim.losses, requested_memory=memory)
    if memory is None and spec is not None:
        memory = (claim.spec.resources or spec.resources).memory_bytes
    policy = spec.retry if spec is not None else RetryPolicy()
    return decide(attempt, policy, tries=claim.tries, losses=claim.losses, requested_memory=memory, now_ms=now_ms)


def requeue(attempt: Attempt, *, tries: int, losses: int, requested_memory: int | None) -> Finish:
    """Puts a task back to pending at no cost: its worker was asked to stop and ended the program itself."""
    return Finish(attempt, TaskState.PENDING, tries, losses, 0, requested_memory)


def backoff_ms(policy: RetryPolicy, tries: int) -> int:
    """The pause after the `tries`-th counted attempt, in milliseconds."""
    try:
        pause = policy.backoff_s * policy.backoff_factor ** (tries - 1)
    except OverflowError:
        pause = policy.max_backoff_s if policy.backoff_s else 0.0
    return int(1000 * min(pause, policy.max_backoff_s))


def _lost(attempt: Attempt, tries: int, losses: int, memory: int | None) -> Finish:
    if losses < LOSS_BUDGET:
        return Finish(attempt, TaskState.PENDING, tries, losses, 0, memory)
    note = f"given up after {losses} attempts that were lost with their worker: the task may be what ends it"
    return _failed(msgspec.structs.replace(attempt, failure=FailureClass.LOST), tries, losses, note)


def _failed(attempt: Attempt, tries: int, losses: int, note: str) -> Finish:
    if note:
        reason = f"{attempt.reason}; {note}" if attempt.reason else note
        attempt = msgspec.structs.replace(attempt, reason=reason)
    return Finish(attempt, TaskState.FAILED, tries, losses)


def _code(attempt: Attempt) -> int:
    """The exit code as a shell would report it: 128 + signal where a signal ended the program."""
    return attempt.exit_code if attempt.exit_code is not None else 128 + attempt.signal
