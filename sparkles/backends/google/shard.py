"""What may happen to the tasks of one shard, as pure functions from a document to the next. May import wire, model, states, digest.

Each returns the document unchanged (the very object) where nothing happened. The Datastore's compare-and-set around them makes them
atomic; consume/internal/shard is the twin, and tests/golden/shard.json is played by both. Surprise: a shard does not know whether its
job is held or how many tasks its job may run at once: who claims looks at that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence

from msgspec.structs import replace

from sparkles import digest
from sparkles.model import Attempt, AttemptRef, Counts, Digest, FailureClass, Finish, Task, TaskState
from sparkles.states import check_task
from sparkles.wire import ShardDocument, TaskRow

RECORD_BYTES = 4096
"""A record whose JSON is longer is kept whole in its result.json alone."""

RECORDS_KEPT = 4
"""Of one task's ended attempts, this many newest are kept whole in the shard; the older are summaries."""

RECORDS_BYTES = 12_000
"""All of one task's records in the shard: where they are more, the oldest are summarised, then left out (each is in its result.json), so
that 64 tasks fit in an entity however often each is tried."""

REASON_LETTERS = 500
"""Of a reason, in the task and in a summary; the whole is in result.json."""

_MOST = 5_000_000_000


def key_name(job: str, number: int) -> str:
    """The shard's key: begins with a digest, so that neither jobs nor numbers make a hot range of keys."""
    spread = hashlib.sha256(f"{job}/{number}".encode()).hexdigest()[:8]
    return f"{spread}:{job}:{number}"


def line_prefix(pool: str) -> str:
    """What the `claimable` property of every shard of this pool begins with."""
    return hashlib.sha256(pool.encode()).hexdigest()[:16] + "/"


def claimable(shard: ShardDocument) -> str | None:
    """The indexed property that lines up what can be claimed: less is earlier (greater priority, older job). None: nothing is pending."""
    if not any(task.state is TaskState.PENDING for task in shard.tasks):
        return None
    return line(shard.pool, shard.priority, shard.sequence)


def line(pool: str, priority: int, sequence: int) -> str:
    """Where a job stands in its pool's line."""
    rank = min(max(_MOST - priority, 0), 2 * _MOST - 1)
    return f"{line_prefix(pool)}{rank:010d}/{sequence:012d}"


def unfinished(shard: ShardDocument) -> str | None:
    """The indexed property `open`: the job's owner ("-" for none) while tasks are pending or claimed, else None."""
    if any(task.state in (TaskState.PENDING, TaskState.CLAIMED) for task in shard.tasks):
        return shard.owner or "-"
    return None


def reuses(shard: ShardDocument) -> list[str]:
    """The indexed property `reuses`: the other jobs whose attempts tasks of this shard take their outcome from."""
    return sorted({task.origin.job for task in shard.tasks if task.origin is not None and task.origin.job != shard.job})


def claim(shard: ShardDocument, worker: str, tokens: Sequence[str], now_ms: int) -> tuple[ShardDocument, list[int]]:
    """Claims at most `len(tokens)` pending tasks that are due, the lowest indexes first. Returns their indexes, in order of `tokens`."""
    rows = list(shard.tasks)
    taken: list[int] = []
    for place, task in enumerate(rows):
        if len(taken) == len(tokens):
            break
        if task.state is TaskState.PENDING and task.not_before_ms <= now_ms:
            token = tokens[len(taken)]
            rows[place] = replace(task, state=TaskState.CLAIMED, attempt=task.attempt + 1, worker=worker, token=token)
            taken.append(shard.first + place)
    return (_next(shard, rows), taken) if taken else (shard, taken)


def finish(
    shard: ShardDocument, finishes: Sequence[Finish], started: Sequence[tuple[AttemptRef, str]] = ()
) -> tuple[ShardDocument, list[bool]]:
    """Ends claims; False for each whose (attempt, token) is not the task's current one. Claims `started` (ref, token) are marked so.

    Raises:
        InternalError: No claim can end in that state.
    """
    rows = list(shard.tasks)
    recorded: list[bool] = []
    for each in finishes:
        attempt, ref = each.attempt, each.attempt.ref
        check_task(TaskState.CLAIMED, each.state)
        place = _held(shard, rows, ref, attempt.token)
        recorded.append(place is not None)
        if place is None:
            continue
        task = rows[place]
        again = each.state is TaskState.PENDING
        records, stored = _with_record(task, attempt)
        rows[place] = replace(
            task,
            state=each.state,
            tries=each.tries,
            losses=each.losses,
            origin=None if again else ref,
            failure=attempt.failure,
            exit_code=attempt.exit_code,
            reason=attempt.reason[:REASON_LETTERS],
            worker="" if again else attempt.worker,
            token="",
            started=False,
            not_before_ms=max(0, each.not_before_ms) if again else 0,
            memory_bytes=task.memory_bytes if each.memory_bytes is None else each.memory_bytes,
            records=records,
            stored=stored,
        )
    changed = any(recorded)
    for ref, token in started:
        place = _held(shard, rows, ref, token)
        if place is not None and not rows[place].started:
            rows[place] = replace(rows[place], started=True)
            changed = True
    return (_next(shard, rows), recorded) if changed else (shard, recorded)


def release(shard: ShardDocument, claims: Sequence[tuple[AttemptRef, str]]) -> tuple[ShardDocument, int]:
    """Gives back claims (ref, token) whose program was never started: the attempt's number is free again. Returns how many were current."""
    rows = list(shard.tasks)
    count = 0
    for ref, token in claims:
        place = _held(shard, rows, ref, token)
        if place is not None:
            task = rows[place]
            rows[place] = replace(task, state=TaskState.PENDING, attempt=task.attempt - 1, worker="", token="", started=False)
            count += 1
    return (_next(shard, rows), count) if count else (shard, 0)


def cancel(
    shard: ShardDocument, states: Collection[TaskState], reason: str, indexes: Collection[int] | None = None
) -> tuple[ShardDocument, int]:
    """Cancels tasks that are in one of `states` (pending, claimed); a claim's token is void from then on. Returns how many."""
    rows = list(shard.tasks)
    count = 0
    for place, task in enumerate(rows):
        if task.state in states and (indexes is None or shard.first + place in indexes):
            rows[place] = replace(
                task,
                state=TaskState.CANCELLED,
                failure=FailureClass.CANCELLED,
                exit_code=None,
                reason=reason,
                token="",
                started=False,
                not_before_ms=0,
            )
            count += 1
    return (_next(shard, rows), count) if count else (shard, 0)


def reset(
    shard: ShardDocument, states: Collection[TaskState], indexes: Collection[int] | None = None
) -> tuple[ShardDocument, int]:
    """Puts ended tasks in one of `states` back to pending with a fresh budget. Returns how many."""
    ended = {TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED} & set(states)
    rows = list(shard.tasks)
    count = 0
    for place, task in enumerate(rows):
        if task.state in ended and (indexes is None or shard.first + place in indexes):
            own = tuple(number for number in task.stored if number)
            rows[place] = TaskRow(attempt=task.attempt, records=task.records, stored=own)
            count += 1
    return (_next(shard, rows), count) if count else (shard, 0)


def counts(shard: ShardDocument) -> Counts:
    """Tasks by state."""
    found = dict.fromkeys(TaskState, 0)
    reused = running = 0
    for task in shard.tasks:
        found[task.state] += 1
        reused += task.borrowed is not None
        running += task.started
    return Counts(**{str(state): count for state, count in found.items()}, reused=reused, running=running)


def task_of(shard: ShardDocument, index: int, fingerprint: Digest, name: str) -> Task:
    """The task as the rest of sparkles knows it."""
    row = shard.tasks[index - shard.first]
    return Task(
        job=shard.job,
        index=index,
        state=row.state,
        fingerprint=fingerprint,
        attempt=row.attempt,
        tries=row.tries,
        losses=row.losses,
        origin=row.origin,
        failure=row.failure,
        exit_code=row.exit_code,
        reason=row.reason,
        worker=row.worker,
        not_before_ms=row.not_before_ms,
        memory_bytes=row.memory_bytes,
        name=name,
    )


def reused(attempt: Attempt) -> TaskRow:
    """The row of a task that has its outcome from another's attempt."""
    large = is_large(attempt)
    return TaskRow(
        state=TaskState.SUCCEEDED,
        origin=attempt.ref,
        exit_code=0,
        borrowed=summary(attempt) if large else attempt,
        stored=(0,) if large else (),
    )


def is_large(attempt: Attempt) -> bool:
    """Whether only a summary of the record is kept in the shard."""
    return len(digest.encode_value(attempt)) > RECORD_BYTES


def _with_record(task: TaskRow, attempt: Attempt) -> tuple[tuple[Attempt, ...], tuple[int, ...]]:
    records = [*task.records, attempt]
    stored = set(task.stored)

    def shorten(place: int) -> None:
        short = summary(records[place])
        if short != records[place]:
            records[place] = short
            stored.add(short.ref.attempt)

    if is_large(attempt):
        shorten(-1)
    if len(records) > RECORDS_KEPT:
        shorten(-RECORDS_KEPT - 1)
    for place in range(len(records) - 1):
        if _size(records) <= RECORDS_BYTES:
            break
        shorten(place)
    while len(records) > 1 and _size(records) > RECORDS_BYTES:
        stored.discard(records.pop(0).ref.attempt)
    return tuple(records), tuple(sorted(stored))


def _size(records: Sequence[Attempt]) -> int:
    return sum(len(digest.encode_value(record)) for record in records)


def summary(attempt: Attempt) -> Attempt:
    """A record without what can be long: results, outputs and tail are in its result.json."""
    return replace(attempt, results=None, outputs=(), tail="", reason=attempt.reason[:REASON_LETTERS])


def _held(shard: ShardDocument, rows: Sequence[TaskRow], ref: AttemptRef, token: str) -> int | None:
    """The place of the task that (ref, token) holds now."""
    place = ref.index - shard.first
    if ref.job != shard.job or not 0 <= place < len(rows):
        return None
    task = rows[place]
    current = task.state is TaskState.CLAIMED and task.attempt == ref.attempt and task.token == token != ""
    return place if current else None


def _next(shard: ShardDocument, rows: Sequence[TaskRow]) -> ShardDocument:
    return replace(shard, tasks=tuple(rows), seq=shard.seq + 1)
