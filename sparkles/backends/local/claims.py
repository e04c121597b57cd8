"""The JobStore's claims in SQLite: the queue that workers draw from. May import ports and below.

A claim walks over the pool's open jobs in the order in which they are served and takes what is ready of each, so its cost grows with
what it takes, not with what is pending or done. Surprise: `jobs.open` may say 1 where nothing is pending, never the opposite.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Sequence
from sqlite3 import Connection
from typing import Any

from sparkles import digest
from sparkles.backends import messages
from sparkles.backends.local.db import Database
from sparkles.backends.local.task_rows import Rows
from sparkles.model import AttemptRef, Claim, Finish, TaskState, WorkerId
from sparkles.states import check_task

_OPEN_JOBS = (
    "SELECT sequence, id, parallelism FROM jobs INDEXED BY jobs_to_serve WHERE pool = ? AND open = 1 AND held = 0"
    " ORDER BY priority DESC, sequence"
)

_COLUMNS = "t.idx, t.attempt, t.tries, t.losses, t.memory_bytes, s.spec, s.params"

_READY = (
    f"SELECT {_COLUMNS} FROM tasks AS t INDEXED BY tasks_pending JOIN specs AS s ON s.job = t.job AND s.idx = t.idx"
    " WHERE t.job = ? AND t.state = 'pending' AND t.not_before_ms = 0 ORDER BY t.idx LIMIT ?"
)

_DUE = (
    f"SELECT {_COLUMNS} FROM tasks AS t INDEXED BY tasks_pending JOIN specs AS s ON s.job = t.job AND s.idx = t.idx"
    " WHERE t.job = ? AND t.state = 'pending' AND t.not_before_ms > 0 AND t.not_before_ms <= ? ORDER BY t.idx LIMIT ?"
)

_NEXT = "SELECT not_before_ms FROM tasks INDEXED BY tasks_pending WHERE job = ? AND state = 'pending' ORDER BY not_before_ms LIMIT 1"

_RUNNING = "SELECT count(*) FROM tasks INDEXED BY tasks_claimed WHERE state = 'claimed' AND job = ?"

_FAILED = (
    "SELECT count(*) FROM tasks INDEXED BY tasks_bad WHERE job = ? AND state IN ('failed', 'cancelled') AND state = 'failed'"
)

_FINISH = (
    "UPDATE tasks SET state = ?, tries = ?, losses = ?, origin_attempt = ?, failure = ?, exit_code = ?, reason = ?,"
    " worker = ?, token = NULL, not_before_ms = ?, memory_bytes = coalesce(?, memory_bytes)"
    " WHERE job = ? AND idx = ? AND state = 'claimed' AND token = ? AND attempt = ? RETURNING fingerprint"
)


class Claims:
    """The part of ports.JobStore that workers work with."""

    _db: Database
    _rows: Rows

    def claim(self, worker: WorkerId, *, pool: str, limit: int, now_ms: int) -> list[Claim]:
        """See ports.JobStore."""
        # A look without the write lock: a worker that has nothing to do asks again and again.
        if limit < 1 or self._db.one(f"{_OPEN_JOBS} LIMIT 1", (pool,)) is None:
            return []
        taken: list[tuple[str, str, Any]] = []
        with self._db.atomic() as connection:
            # Claims of a worker without a row could never be recovered.
            if not connection.execute("SELECT 1 FROM workers WHERE id = ?", (worker,)).fetchone():
                return []
            empty: list[tuple[int]] = []
            changes = []
            for sequence, job_id, parallelism in connection.execute(_OPEN_JOBS, (pool,)):
                room = limit - len(taken)
                if parallelism is not None:
                    (running,) = connection.execute(_RUNNING, (sequence,)).fetchone()
                    room = min(room, parallelism - running)
                    if room <= 0:
                        continue
                found = self._take(connection, sequence, room, now_ms)
                if not found and not connection.execute(_NEXT, (sequence,)).fetchone():
                    empty.append((sequence,))
                for row in found:
                    token = secrets.token_hex(12)
                    taken.append((job_id, token, row))
                    changes.append((worker, token, sequence, row[0]))
                if len(taken) >= limit:
                    break
            connection.executemany(
                "UPDATE tasks SET state = 'claimed', attempt = attempt + 1, worker = ?, token = ?, started = 0"
                " WHERE job = ? AND idx = ?",
                changes,
            )
            connection.executemany("UPDATE jobs SET open = 0 WHERE sequence = ?", empty)
        return [self._claim(worker, job_id, token, row, started=1) for job_id, token, row in taken]

    def _claim(self, worker: WorkerId, job_id: str, token: str, row: Any, *, started: int) -> Claim:
        """A row of _COLUMNS as a claim; `started`: 1 where the row is from before this attempt was counted."""
        index, attempt, tries, losses, memory_bytes, spec, params = row
        ref = AttemptRef(job_id, index, attempt + started)
        return Claim(ref, token, worker, self._rows.task_spec(spec, params, job_id, index), tries, losses, memory_bytes)

    def _take(self, connection: Connection, sequence: int, limit: int, now_ms: int) -> list[Any]:
        """The first `limit` tasks of a job that may start now, by index."""
        ready = connection.execute(_READY, (sequence, limit)).fetchall()
        due = connection.execute(_DUE, (sequence, now_ms, limit)).fetchall()
        return sorted(ready + due, key=lambda row: row[0])[:limit] if due else ready

    def next_due_ms(self, pool: str) -> int | None:
        """See ports.JobStore."""
        least: int | None = None
        for sequence, _, _ in self._db.all(_OPEN_JOBS, (pool,)):
            row = self._db.one(_NEXT, (sequence,))
            if row is not None and (least is None or row[0] < least):
                least = row[0]
            if least == 0:
                break
        return least

    def finish(self, finishes: Sequence[Finish], started: Sequence[Claim] = ()) -> list[bool]:
        """See ports.JobStore."""
        accepted = []
        sequences: dict[str, int | None] = {}
        reopened: set[int] = set()
        limited: set[int] = set()
        records = []
        with self._db.atomic() as connection:
            for finish in finishes:
                check_task(TaskState.CLAIMED, finish.state)
                attempt, again = finish.attempt, finish.state is TaskState.PENDING
                ref = attempt.ref
                sequence = _sequence(connection, ref.job, sequences)
                row = connection.execute(
                    _FINISH,
                    (
                        finish.state,
                        finish.tries,
                        finish.losses,
                        None if again else ref.attempt,
                        attempt.failure,
                        attempt.exit_code,
                        attempt.reason,
                        "" if again else attempt.worker,
                        max(0, finish.not_before_ms) if again else 0,
                        finish.memory_bytes,
                        sequence,
                        ref.index,
                        attempt.token,
                        ref.attempt,
                    ),
                ).fetchone()
                accepted.append(row is not None)
                if row is None or sequence is None:
                    continue
                if again:
                    reopened.add(sequence)
                if again or finish.state is TaskState.FAILED:
                    limited.add(sequence)
                offered = row[0] if finish.state is TaskState.SUCCEEDED else None
                records.append((ref.job, ref.index, ref.attempt, offered, digest.encode_value(attempt)))
            connection.executemany(
                "INSERT INTO attempts (job, idx, attempt, fingerprint, record) VALUES (?, ?, ?, ?, ?)", records
            )
            connection.executemany("UPDATE jobs SET open = 1 WHERE sequence = ?", [(each,) for each in reopened])
            connection.executemany(
                "UPDATE tasks SET started = 1 WHERE job = ? AND idx = ? AND state = 'claimed' AND token = ?",
                [(_sequence(connection, each.ref.job, sequences), each.ref.index, each.token) for each in started],
            )
            _limit_failures(connection, limited)
        return accepted

    def release(self, claims: Sequence[Claim]) -> int:
        """See ports.JobStore."""
        count = 0
        sequences: dict[str, int | None] = {}
        reopened: set[int] = set()
        if not claims:
            return 0
        with self._db.atomic() as connection:
            for claim in claims:
                sequence = _sequence(connection, claim.ref.job, sequences)
                current = connection.execute(
                    "UPDATE tasks SET state = 'pending', attempt = attempt - 1, worker = '', token = NULL"
                    " WHERE job = ? AND idx = ? AND state = 'claimed' AND token = ? AND attempt = ?",
                    (sequence, claim.ref.index, claim.token, claim.ref.attempt),
                ).rowcount
                count += current
                if current and sequence is not None:
                    reopened.add(sequence)
            connection.executemany("UPDATE jobs SET open = 1 WHERE sequence = ?", [(each,) for each in reopened])
            _limit_failures(connection, reopened)
        return count

    def held_tokens(self, worker: WorkerId) -> set[str]:
        """See ports.JobStore."""
        sql = "SELECT token FROM tasks INDEXED BY tasks_claimed WHERE worker = ? AND state = 'claimed'"
        return {token for (token,) in self._db.all(sql, (worker,))}

    def list_claims(self, worker: WorkerId) -> list[Claim]:
        """See ports.JobStore."""
        rows = self._db.all(
            f"SELECT jobs.id, t.token, {_COLUMNS} FROM tasks AS t INDEXED BY tasks_claimed JOIN jobs ON jobs.sequence = t.job"
            " JOIN specs AS s ON s.job = t.job AND s.idx = t.idx WHERE t.worker = ? AND t.state = 'claimed' ORDER BY t.job, t.idx",
            (worker,),
        )
        return [self._claim(worker, row[0], row[1], row[2:], started=0) for row in rows]


def _limit_failures(connection: Connection, sequences: Collection[int]) -> None:
    """Cancels what is pending of those of these jobs that have more failures than they may."""
    for sequence in sequences:
        (limit,) = connection.execute("SELECT max_failures FROM jobs WHERE sequence = ?", (sequence,)).fetchone()
        if limit is None:
            continue
        (failed,) = connection.execute(_FAILED, (sequence,)).fetchone()
        if failed > limit:
            connection.execute(
                "UPDATE tasks SET state = 'cancelled', failure = 'cancelled', exit_code = NULL, reason = ?, not_before_ms = 0"
                " WHERE job = ? AND state = 'pending'",
                (messages.too_many_failures(failed, limit), sequence),
            )


def _sequence(connection: Connection, job_id: str, known: dict[str, int | None]) -> int | None:
    """The number of a job, or None where it is gone; asked once per transaction."""
    if job_id not in known:
        row = connection.execute("SELECT sequence FROM jobs WHERE id = ?", (job_id,)).fetchone()
        known[job_id] = None if row is None else row[0]
    return known[job_id]
