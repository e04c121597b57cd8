"""Jobs, tasks and attempts in SQLite (JobStore). May import ports, model and db; claims and workers stand in modules of their own.

The tasks table is keyed by the job's sequence, an integer that is never used again; attempts are keyed by the job's id, because they
outlive a job whose results other jobs reuse.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import msgspec

from sparkles import digest
from sparkles.backends.local.claims import Claims
from sparkles.backends.local.db import Database
from sparkles.backends.local.workers import Workers
from sparkles.errors import Conflict, NotFound
from sparkles.model import (
    Attempt,
    AttemptRef,
    Counts,
    Digest,
    FailureClass,
    Job,
    JobId,
    JobSpec,
    NewTask,
    Task,
    TaskSpec,
    TaskState,
)
from sparkles.ports import FailureGroup, JobStore, Outcome

_JOB = "id, spec, count, owner, pool, held, created_at_ms, sequence"
_TASK = (
    "idx, state, fingerprint, attempt, tries, losses, origin_job, origin_idx, origin_attempt, failure, exit_code, reason, worker,"
    " not_before_ms, memory_bytes, name"
)
_INSERT = (
    "INSERT INTO tasks (job, idx, state, fingerprint, attempt, tries, losses, reused, origin_job, origin_idx, origin_attempt, reason,"
    " worker, not_before_ms, name, spec) VALUES (?, ?, ?, ?, 0, 0, 0, ?, ?, ?, ?, '', '', 0, ?, ?)"
)
_SEQUENCE = "(SELECT sequence FROM jobs WHERE id = ?)"
_FIND_REUSABLE = (
    "SELECT wanted.value, attempts.record FROM json_each(?) AS wanted JOIN attempts ON (attempts.job, attempts.idx, attempts.attempt) ="
    " (SELECT origin_job, origin_idx, origin_attempt FROM tasks WHERE fingerprint = wanted.value AND state = 'succeeded'"
    " ORDER BY reused, tasks.job DESC LIMIT 1)"
)

_ATTEMPT = msgspec.json.Decoder(Attempt)
_SPEC = msgspec.json.Decoder(JobSpec)
_TASK_SPEC = msgspec.json.Decoder(TaskSpec)


class SqliteJobStore(Claims, Workers):
    """Keeps the promises of ports.JobStore in the state folder's database."""

    def __init__(self, database: Database) -> None:
        self._db = database

    # Jobs

    def create_job(self, job: Job, tasks: Iterable[NewTask]) -> bool:
        """See JobStore."""
        with self._db.atomic() as connection:
            if connection.execute("SELECT 1 FROM jobs WHERE id = ?", (job.id,)).fetchone():
                return False
            sequence = connection.execute(
                "INSERT INTO jobs (id, owner, pool, held, priority, parallelism, count, created_at_ms, spec)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    job.id,
                    job.owner,
                    job.pool,
                    job.held,
                    job.spec.priority,
                    job.spec.parallelism,
                    job.count,
                    job.created_at_ms,
                    digest.encode_value(job.spec).decode(),
                ),
            ).lastrowid
            connection.executemany(_INSERT, _rows(sequence, tasks))
        return True

    def get_job(self, job_id: str) -> Job:
        """See JobStore."""
        row = self._db.read_one(f"SELECT {_JOB} FROM jobs WHERE id = ?", (job_id,))
        if row is None:
            raise NotFound(f"there is no job {job_id} (`sparkles list` lists them)", "get job", job_id)
        return _job_of(row)

    def list_jobs(self, *, owner: str | None = None, limit: int | None = None) -> list[Job]:
        """See JobStore."""
        condition, arguments = ("owner = ?", [owner]) if owner is not None else ("1", [])
        sql = f"SELECT {_JOB} FROM jobs WHERE {condition} ORDER BY sequence DESC LIMIT ?"
        return [_job_of(row) for row in self._db.read(sql, (*arguments, -1 if limit is None else limit))]

    def delete_jobs(self, job_ids: Collection[str]) -> list[AttemptRef]:
        """See JobStore."""
        kept: list[AttemptRef] = []
        with self._db.atomic() as connection:
            connection.execute("CREATE TEMP TABLE IF NOT EXISTS doomed (id TEXT PRIMARY KEY)")
            connection.execute("DELETE FROM doomed")
            connection.executemany("INSERT OR IGNORE INTO doomed VALUES (?)", [(job_id,) for job_id in job_ids])
            inside = "SELECT sequence FROM jobs WHERE id IN (SELECT id FROM doomed)"
            claimed = connection.execute(
                "SELECT jobs.id, tasks.idx FROM jobs JOIN tasks ON tasks.job = jobs.sequence AND tasks.state = 'claimed'"
                " WHERE jobs.id IN (SELECT id FROM doomed) LIMIT 1"
            ).fetchone()
            if claimed is not None:
                raise Conflict(
                    f"{claimed[0]}/{claimed[1]} is running; end it first (`sparkles kill {claimed[0]}`)", "delete", claimed[0]
                )
            rows = connection.execute(
                "SELECT DISTINCT origin_job, origin_idx, origin_attempt FROM tasks WHERE reused = 1"
                f" AND origin_job IN (SELECT id FROM doomed) AND job NOT IN ({inside})"
            ).fetchall()
            kept.extend(AttemptRef(*row) for row in rows)
            connection.execute("CREATE TEMP TABLE IF NOT EXISTS spared (job TEXT, idx INTEGER, attempt INTEGER)")
            connection.execute("DELETE FROM spared")
            connection.executemany("INSERT INTO spared VALUES (?, ?, ?)", rows)
            connection.execute(
                "DELETE FROM attempts WHERE job IN (SELECT id FROM doomed)"
                " AND (job, idx, attempt) NOT IN (SELECT job, idx, attempt FROM spared)"
            )
            connection.execute(f"DELETE FROM tasks WHERE job IN ({inside})")
            connection.execute("DELETE FROM jobs WHERE id IN (SELECT id FROM doomed)")
            # Attempts that outlived their own job go with the last task that reused them.
            connection.execute(
                "DELETE FROM attempts WHERE job NOT IN (SELECT id FROM jobs) AND NOT EXISTS (SELECT 1 FROM tasks WHERE reused = 1"
                " AND origin_job = attempts.job AND origin_idx = attempts.idx AND origin_attempt = attempts.attempt)"
            )
        return kept

    def set_held(self, job_ids: Collection[str], held: bool) -> None:
        """See JobStore."""
        if job_ids:
            with self._db.atomic() as connection:
                connection.executemany("UPDATE jobs SET held = ? WHERE id = ?", [(held, job_id) for job_id in job_ids])

    # Tasks

    def count_tasks(self, job_id: str) -> Counts:
        """See JobStore."""
        sequence = self._sequence(job_id)
        counts = dict(self._db.read("SELECT state, count(*) FROM tasks WHERE job = ? GROUP BY state", (sequence,)))
        counts["reused"] = self._db.read_one("SELECT count(*) FROM tasks WHERE job = ? AND reused = 1", (sequence,))[0]
        return Counts(**counts)

    def count_failures(self, job_id: str) -> list[FailureGroup]:
        """See JobStore."""
        rows = self._db.read(
            "SELECT failure, exit_code, count(*), min(idx) FROM tasks WHERE job = ? AND state = 'failed'"
            " GROUP BY failure, exit_code ORDER BY count(*) DESC, min(idx)",
            (self._sequence(job_id),),
        )
        return [FailureGroup(FailureClass(row[0] or "lost"), *row[1:]) for row in rows]

    def get_task(self, job_id: str, index: int) -> Task:
        """See JobStore."""
        return _task_of(job_id, self._task_row(job_id, index, _TASK))

    def get_spec(self, job_id: str, index: int) -> TaskSpec:
        """See JobStore."""
        return _TASK_SPEC.decode(self._task_row(job_id, index, "spec")[0])

    def _task_row(self, job_id: str, index: int, columns: str) -> Any:
        row = self._db.read_one(f"SELECT {columns} FROM tasks WHERE job = {_SEQUENCE} AND idx = ?", (job_id, index))
        if row is None:
            count = self.get_job(job_id).count
            tasks = "one task" if count == 1 else f"{count} tasks"
            raise NotFound(f"{job_id} has {tasks}, no task {index} (the first one is 1)", "get task", f"{job_id}/{index}")
        return row

    def list_tasks(
        self, job_id: str, *, first: int = 1, limit: int | None = None, states: Collection[TaskState] | None = None
    ) -> list[Task]:
        """See JobStore."""
        where, arguments = self._page(job_id, first, limit, states)
        return [_task_of(job_id, row) for row in self._db.read(f"SELECT {_TASK} FROM tasks {where}", arguments)]

    def list_outcomes(
        self, job_id: str, *, first: int = 1, limit: int | None = None, states: Collection[TaskState] | None = None
    ) -> list[Outcome]:
        """See JobStore."""
        where, arguments = self._page(job_id, first, limit, states)
        sql = (
            f"SELECT {_TASK}, spec, (SELECT record FROM attempts WHERE attempts.job = origin_job AND attempts.idx = origin_idx"
            f" AND attempts.attempt = origin_attempt) FROM tasks {where}"
        )
        return [
            Outcome(
                _task_of(job_id, row),
                _TASK_SPEC.decode(row[16]).params,
                _ATTEMPT.decode(row[17]) if row[17] is not None else None,
            )
            for row in self._db.read(sql, arguments)
        ]

    def _page(self, job_id: str, first: int, limit: int | None, states: Collection[TaskState] | None) -> tuple[str, list[Any]]:
        where = "WHERE tasks.job = ? AND tasks.idx >= ?"
        arguments: list[Any] = [self._sequence(job_id), first]
        if states is not None:
            where += f" AND state IN ({', '.join('?' * len(states))})"
            arguments += [state.value for state in states]
        return where + " ORDER BY tasks.idx LIMIT ?", [*arguments, -1 if limit is None else limit]

    def state_digest(self, job_id: str) -> Digest:
        """See JobStore."""
        state = hashlib.sha256()
        rows = self._db.read("SELECT idx, state, attempt FROM tasks WHERE job = ? ORDER BY idx", (self._sequence(job_id),))
        state.update(repr(rows).encode())
        return Digest(state.hexdigest())

    def find_reusable(self, fingerprints: Sequence[Digest]) -> dict[Digest, Attempt]:
        """See JobStore."""
        wanted = msgspec.json.encode(list(dict.fromkeys(fingerprints))).decode()
        return {Digest(row[0]): _ATTEMPT.decode(row[1]) for row in self._db.read(_FIND_REUSABLE, (wanted,))}

    def get_attempt(self, ref: AttemptRef) -> Attempt | None:
        """See JobStore."""
        row = self._db.read_one(
            "SELECT record FROM attempts WHERE job = ? AND idx = ? AND attempt = ?", (ref.job, ref.index, ref.attempt)
        )
        return None if row is None else _ATTEMPT.decode(row[0])

    def list_attempts(self, job_id: str, index: int) -> list[Attempt]:
        """See JobStore."""
        rows = self._db.read("SELECT record FROM attempts WHERE job = ? AND idx = ? ORDER BY attempt", (job_id, index))
        return [_ATTEMPT.decode(row[0]) for row in rows]

    def list_digests(self) -> set[Digest]:
        """See JobStore."""
        found: set[Digest] = set()
        for (spec,) in self._db.read("SELECT spec FROM tasks WHERE spec LIKE '%\"files\"%'"):
            found.update(file.digest for file in _TASK_SPEC.decode(spec).files)
        for (record,) in self._db.read("SELECT record FROM attempts WHERE record LIKE '%\"outputs\"%'"):
            found.update(output.digest for output in _ATTEMPT.decode(record).outputs)
        return found

    def kill_tasks(self, job_id: str, indexes: Collection[int] | None = None) -> int:
        """See JobStore."""
        return self._end_tasks(job_id, ("pending", "claimed"), indexes, "cancelled by sparkles kill")

    def cancel_pending(self, job_id: str, reason: str) -> int:
        """See JobStore."""
        return self._end_tasks(job_id, ("pending",), None, reason)

    def _end_tasks(self, job_id: str, states: tuple[str, ...], indexes: Collection[int] | None, reason: str) -> int:
        sql = (
            "UPDATE tasks SET state = 'cancelled', failure = 'cancelled', token = NULL, worker = '', not_before_ms = 0, reason = ?"
            f" WHERE job = ? AND state IN ({', '.join('?' * len(states))})"
        )
        return self._update(sql, [reason, self._sequence(job_id), *states], indexes)

    def reset_tasks(self, job_id: str, states: Collection[TaskState], indexes: Collection[int] | None = None) -> int:
        """See JobStore."""
        allowed = [state.value for state in states if state not in (TaskState.PENDING, TaskState.CLAIMED)]
        sql = (
            "UPDATE tasks SET state = 'pending', tries = 0, losses = 0, reused = 0, origin_job = NULL, origin_idx = NULL,"
            " origin_attempt = NULL, failure = NULL, exit_code = NULL, reason = '', worker = '', token = NULL, not_before_ms = 0,"
            f" memory_bytes = NULL WHERE job = ? AND state IN ({', '.join('?' * len(allowed))})"
        )
        return self._update(sql, [self._sequence(job_id), *allowed], indexes)

    def _update(self, sql: str, arguments: list[Any], indexes: Collection[int] | None) -> int:
        with self._db.atomic() as connection:
            if indexes is None:
                return connection.execute(sql, arguments).rowcount
            return sum(connection.execute(sql + " AND idx = ?", [*arguments, index]).rowcount for index in indexes)

    def _sequence(self, job_id: str) -> int:
        row = self._db.read_one("SELECT sequence FROM jobs WHERE id = ?", (job_id,))
        if row is None:
            raise NotFound(f"there is no job {job_id} (`sparkles list` lists them)", "get job", job_id)
        return int(row[0])


def _rows(sequence: int | None, tasks: Iterable[NewTask]) -> Iterator[tuple[Any, ...]]:
    for index, task in enumerate(tasks, 1):
        origin = task.origin
        spec = msgspec.json.encode(task.spec).decode()
        if origin is None:
            yield sequence, index, "pending", task.fingerprint, 0, None, None, None, task.spec.name, spec
        else:
            where = (origin.job, origin.index, origin.attempt)
            yield sequence, index, "succeeded", task.fingerprint, 1, *where, task.spec.name, spec


def _job_of(row: Any) -> Job:
    return Job(JobId(row[0]), _SPEC.decode(row[1]), row[2], row[3], row[4], row[5] != 0, row[6], row[7])


def _task_of(job_id: str, row: Any) -> Task:
    return Task(
        job_id,
        row[0],
        TaskState(row[1]),
        Digest(row[2]),
        row[3],
        row[4],
        row[5],
        AttemptRef(row[6], row[7], row[8]) if row[6] is not None else None,
        FailureClass(row[9]) if row[9] is not None else None,
        *row[10:16],
    )


def _conforms(store: SqliteJobStore) -> JobStore:
    return store
