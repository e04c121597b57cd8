"""Claims in SQLite: taking tasks, ending and giving them back, each by token. May import ports, model and db."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import msgspec

from sparkles import digest
from sparkles.backends.local.db import Database
from sparkles.model import AttemptRef, Claim, Finish, TaskSpec, TaskState, WorkerId
from sparkles.states import check_task

_TASK_SPEC = msgspec.json.Decoder(TaskSpec)
_CLAIM = "jobs.id, tasks.idx, tasks.attempt, tasks.spec, tasks.tries, tasks.losses, tasks.memory_bytes, jobs.sequence"
# CROSS JOIN keeps the order of the loops: jobs by priority and age, then the pending tasks of each, so that nothing is sorted.
_PENDING = (
    f"SELECT {_CLAIM}, jobs.priority FROM jobs CROSS JOIN tasks ON tasks.job = jobs.sequence AND tasks.state = 'pending'"
    " WHERE jobs.pool = ? AND jobs.held = 0 AND tasks.not_before_ms <= ?"
)
_UNLIMITED = _PENDING + " AND jobs.parallelism IS NULL ORDER BY jobs.priority DESC, jobs.sequence, tasks.idx LIMIT ?"
_LIMITED = _PENDING + " AND jobs.sequence = ? ORDER BY tasks.idx LIMIT ?"
_LIMITED_JOBS = (
    "SELECT sequence, parallelism - (SELECT count(*) FROM tasks WHERE job = sequence AND state = 'claimed') FROM jobs"
    " WHERE pool = ? AND held = 0 AND parallelism IS NOT NULL"
)
_TAKE = "UPDATE tasks SET state = 'claimed', worker = ?, token = ?, attempt = ? WHERE job = ? AND idx = ?"
_FINISH = (
    "UPDATE tasks SET state = ?, tries = ?, losses = ?, failure = ?, exit_code = ?, reason = ?, not_before_ms = ?, memory_bytes = ?,"
    " token = NULL, origin_job = ?, origin_idx = ?, origin_attempt = ?"
    " WHERE job = (SELECT sequence FROM jobs WHERE id = ?) AND idx = ? AND token = ?"
)
_RECORD = "INSERT OR REPLACE INTO attempts (job, idx, attempt, record) VALUES (?, ?, ?, ?)"
_RELEASE = (
    "UPDATE tasks SET state = 'pending', worker = '', token = NULL, attempt = attempt - 1"
    " WHERE job = (SELECT sequence FROM jobs WHERE id = ?) AND idx = ? AND token = ?"
)


class Claims:
    """The part of the job store that workers use most."""

    _db: Database

    def claim(self, worker: WorkerId, *, pool: str, limit: int, now_ms: int) -> list[Claim]:
        """See JobStore."""
        with self._db.atomic() as connection:
            rows = connection.execute(_UNLIMITED, (pool, now_ms, limit)).fetchall()
            limited = connection.execute(_LIMITED_JOBS, (pool,)).fetchall()
            if limited:
                for sequence, room in limited:
                    if room > 0:
                        rows += connection.execute(_LIMITED, (pool, now_ms, sequence, min(room, limit))).fetchall()
                rows.sort(key=lambda row: (-row[8], row[7], row[1]))
                del rows[limit:]
            claims, updates = [], []
            for row in rows:
                claim = Claim(
                    AttemptRef(row[0], row[1], row[2] + 1),
                    secrets.token_hex(8),
                    worker,
                    _TASK_SPEC.decode(row[3]),
                    row[4],
                    row[5],
                    row[6],
                )
                claims.append(claim)
                updates.append((worker, claim.token, row[2] + 1, row[7], row[1]))
            connection.executemany(_TAKE, updates)
        return claims

    def next_due_ms(self, pool: str) -> int | None:
        """See JobStore."""
        row = self._db.read_one(
            "SELECT min(tasks.not_before_ms) FROM jobs CROSS JOIN tasks ON tasks.job = jobs.sequence AND tasks.state = 'pending'"
            " WHERE jobs.pool = ? AND jobs.held = 0",
            (pool,),
        )
        return None if row is None or row[0] is None else int(row[0])

    def finish(self, finishes: Sequence[Finish]) -> list[bool]:
        """See JobStore."""
        accepted = []
        with self._db.atomic() as connection:
            for finish in finishes:
                attempt = finish.attempt
                ref = attempt.ref
                check_task(TaskState.CLAIMED, finish.state)
                final = finish.state.value != "pending"
                origin = (ref.job, ref.index, ref.attempt) if final else (None, None, None)
                failure = attempt.failure.value if attempt.failure is not None else None
                changed = connection.execute(
                    _FINISH,
                    (
                        finish.state.value,
                        finish.tries,
                        finish.losses,
                        failure,
                        attempt.exit_code,
                        attempt.reason,
                        finish.not_before_ms,
                        finish.memory_bytes,
                        *origin,
                        ref.job,
                        ref.index,
                        attempt.token,
                    ),
                ).rowcount
                if changed:
                    record = digest.encode_value(attempt).decode()
                    connection.execute(_RECORD, (ref.job, ref.index, ref.attempt, record))
                accepted.append(changed == 1)
        return accepted

    def release(self, claims: Sequence[Claim]) -> int:
        """See JobStore."""
        with self._db.atomic() as connection:
            return sum(connection.execute(_RELEASE, (claim.ref.job, claim.ref.index, claim.token)).rowcount for claim in claims)

    def held_tokens(self, worker: WorkerId) -> set[str]:
        """See JobStore."""
        return {row[0] for row in self._db.read("SELECT token FROM tasks WHERE worker = ? AND state = 'claimed'", (worker,))}

    def list_claims(self, worker: WorkerId) -> list[Claim]:
        """See JobStore."""
        rows: list[Any] = self._db.read(
            f"SELECT {_CLAIM}, tasks.token FROM tasks JOIN jobs ON jobs.sequence = tasks.job"
            " WHERE tasks.worker = ? AND tasks.state = 'claimed' ORDER BY jobs.sequence, tasks.idx",
            (worker,),
        )
        return [
            Claim(AttemptRef(row[0], row[1], row[2]), row[8], worker, _TASK_SPEC.decode(row[3]), row[4], row[5], row[6])
            for row in rows
        ]
