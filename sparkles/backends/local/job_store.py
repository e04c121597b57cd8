"""Jobs, tasks, claims, attempts and workers in SQLite: the JobStore of ports.py. May import ports and below.

This file holds what concerns whole jobs; tasks are in tasks.py, claims in claims.py, workers in workers.py. Surprise: a job's number
of pending and running tasks is stored nowhere: it is counted in partial indexes, which hold only tasks that are not done yet.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import islice
from typing import Any

from sparkles import digest
from sparkles.backends import messages
from sparkles.backends.local import task_rows
from sparkles.backends.local.claims import Claims
from sparkles.backends.local.db import Database
from sparkles.backends.local.task_rows import json_list, spec_columns
from sparkles.backends.local.tasks import Tasks
from sparkles.backends.local.workers import Workers
from sparkles.errors import StorageFull
from sparkles.model import AttemptRef, Job, JobId, NewTask
from sparkles.ports import JobStore

_JOB = "id, spec, count, owner, pool, held, created_at_ms, sequence"

_CHUNK = 500
"""Tasks that are in memory at once while a job is stored."""

_SHORTENED = 64
"""Tasks that go at once where the disk is full: some 200 pages of tables and indexes, of the 256 that the reserve gives up."""

_REUSED_NO_MORE = (
    "NOT EXISTS (SELECT 1 FROM tasks AS t WHERE t.origin_job = attempts.job AND t.origin_idx = attempts.idx"
    " AND t.origin_attempt = attempts.attempt)"
)


class SqliteJobStore(Tasks, Claims, Workers):
    """See ports.JobStore."""

    def __init__(self, database: Database) -> None:
        """`database` is at this version's schema (`open_state`)."""
        self._db = database
        self._rows = task_rows.Rows(database.path)

    def create_job(self, job: Job, tasks: Iterable[NewTask]) -> bool:
        """See ports.JobStore."""
        spec = job.spec
        with self._db.atomic() as connection:
            created = connection.execute(
                "INSERT INTO jobs (id, owner, pool, held, open, priority, parallelism, max_failures, count, created_at_ms, spec)"
                " VALUES (?, ?, ?, ?, 1, ?, ?, ?, 0, ?, ?) ON CONFLICT (id) DO NOTHING",
                (
                    job.id,
                    job.owner,
                    job.pool,
                    job.held,
                    spec.priority,
                    spec.parallelism,
                    spec.max_failures,
                    job.created_at_ms,
                    digest.encode_value(spec),
                ),
            )
            if not created.rowcount:
                return False
            sequence = created.lastrowid
            count = 0
            rest = iter(tasks)
            while chunk := list(islice(rest, _CHUNK)):
                connection.executemany(
                    "INSERT INTO tasks (job, idx, state, fingerprint, origin_job, origin_idx, origin_attempt, exit_code, name)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    [_task_row(sequence, job.id, index, task) for index, task in enumerate(chunk, count + 1)],
                )
                connection.executemany(
                    "INSERT INTO specs (job, idx, spec, params) VALUES (?, ?, ?, ?)",
                    [(sequence, index, *spec_columns(task.spec)) for index, task in enumerate(chunk, count + 1)],
                )
                count += len(chunk)
            connection.execute("UPDATE jobs SET count = ? WHERE sequence = ?", (count, sequence))
            # `clean` may have removed an attempt between its being found and now.
            connection.execute(
                "UPDATE tasks SET state = 'pending', exit_code = NULL, origin_job = NULL, origin_idx = NULL, origin_attempt = NULL"
                " WHERE job = ? AND origin_job IS NOT NULL AND NOT EXISTS (SELECT 1 FROM attempts WHERE attempts.job = origin_job"
                " AND attempts.idx = origin_idx AND attempts.attempt = origin_attempt)",
                (sequence,),
            )
            # Attempts of an earlier job of this id that others reuse were kept, with their folders: numbers go on after theirs.
            connection.execute(
                "UPDATE tasks SET attempt = kept.last FROM"
                " (SELECT idx, max(attempt) AS last FROM attempts WHERE job = ? GROUP BY idx) AS kept"
                " WHERE tasks.job = ? AND tasks.idx = kept.idx",
                (job.id, sequence),
            )
        return True

    def get_job(self, job_id: str) -> Job:
        """See ports.JobStore."""
        row = self._db.one(f"SELECT {_JOB} FROM jobs WHERE id = ?", (job_id,))
        if row is None:
            raise messages.no_job(job_id)
        return self._job_of(row)

    def list_jobs(self, *, owner: str | None = None, limit: int | None = None) -> list[Job]:
        """See ports.JobStore."""
        where, values = ("", ()) if owner is None else ("WHERE owner = ?", (owner,))
        sql = f"SELECT {_JOB} FROM jobs {where} ORDER BY sequence DESC LIMIT ?"
        return [self._job_of(row) for row in self._db.all(sql, (*values, -1 if limit is None else limit))]

    def delete_jobs(self, job_ids: Collection[str]) -> list[AttemptRef]:
        """See ports.JobStore. Ids without a job are looked at too: records that were kept for others and are reused no more go.

        A single job whose removal does not fit into what is free on the disk goes a few tasks at a time. It is a job of fewer tasks
        meanwhile, and stays one where this process dies in between.
        """
        try:
            return self._delete_jobs(job_ids)
        except StorageFull:
            if len(job_ids) != 1:
                raise
        self._shorten(*job_ids)
        return self._delete_jobs(job_ids)

    def _shorten(self, job_id: str) -> None:
        """Removes a job's tasks from the end, all but the first, in transactions that need little room. Each log is emptied at once."""
        row = self._db.one("SELECT sequence, count FROM jobs WHERE id = ?", (job_id,))
        sequence, left = row if row is not None else (0, 0)
        size = _SHORTENED
        while left > 1:
            first = max(left - size, 1)
            try:
                self._remove_after(first, sequence, job_id)
                left = first
            except StorageFull:
                if size == 1:
                    raise
                size //= 2
            self._db.empty_log()

    def _remove_after(self, first: int, sequence: int, job_id: str) -> None:
        with self._db.atomic() as connection:
            these = (sequence, first)
            claimed = connection.execute(
                "SELECT idx FROM tasks WHERE job = ? AND idx > ? AND state = 'claimed'", these
            ).fetchall()
            if claimed:
                raise messages.job_claimed(job_id, [index for (index,) in claimed][:5], len(claimed))
            connection.execute("UPDATE jobs SET count = ?2 WHERE sequence = ?1", these)
            connection.execute("DELETE FROM tasks WHERE job = ? AND idx > ?", these)
            connection.execute("DELETE FROM specs WHERE job = ? AND idx > ?", these)
            connection.execute(f"DELETE FROM attempts WHERE job = ? AND idx > ? AND {_REUSED_NO_MORE}", (job_id, first))

    def _delete_jobs(self, job_ids: Collection[str]) -> list[AttemptRef]:
        ids = json_list(job_ids)
        these = "(SELECT value FROM json_each(?))"
        with self._db.atomic() as connection:
            claimed = connection.execute(
                f"SELECT jobs.id, t.idx FROM jobs JOIN tasks AS t ON t.job = jobs.sequence WHERE t.state = 'claimed'"
                f" AND jobs.id IN {these} ORDER BY jobs.sequence, t.idx",
                (ids,),
            ).fetchall()
            if claimed:
                first = claimed[0][0]
                indexes = [index for job_id, index in claimed if job_id == first]
                raise messages.job_claimed(first, indexes[:5], len(indexes))
            kept = self.list_kept(job_ids)
            connection.execute(f"DELETE FROM jobs WHERE id IN {these}", (ids,))
            # What is left of tasks belongs to other jobs.
            connection.execute(
                f"DELETE FROM attempts WHERE job IN {these} AND {_REUSED_NO_MORE}",
                (ids,),
            )
        return kept

    def sweep_jobs(self, older_than_s: float) -> None:
        """See ports.JobStore. A job is created in one transaction: nothing is left of half a one."""

    def list_kept(self, job_ids: Collection[str]) -> list[AttemptRef]:
        """See ports.JobStore."""
        these = "(SELECT value FROM json_each(?1))"
        rows = self._db.all(
            f"SELECT DISTINCT t.origin_job, t.origin_idx, t.origin_attempt FROM tasks AS t JOIN jobs ON jobs.sequence = t.job"
            f" WHERE t.origin_job IN {these} AND t.origin_job IS NOT NULL AND jobs.id NOT IN {these}"
            " ORDER BY t.origin_job, t.origin_idx, t.origin_attempt",
            (json_list(job_ids),),
        )
        return [AttemptRef(*row) for row in rows]

    def set_held(self, job_ids: Collection[str], held: bool) -> None:
        """See ports.JobStore."""
        sql = "UPDATE jobs SET held = ?1 WHERE held != ?1 AND id IN (SELECT value FROM json_each(?2))"
        self._db.run(sql, (held, json_list(job_ids)))

    def _job_of(self, row: Any) -> Job:
        job_id, spec, count, owner, pool, held, created_at_ms, sequence = row
        return Job(JobId(job_id), self._rows.job_spec(spec, job_id), count, owner, pool, held == 1, created_at_ms, sequence)


def _task_row(sequence: int | None, job_id: str, index: int, task: NewTask) -> tuple[Any, ...]:
    origin = task.origin
    if origin is None:
        return (sequence, index, "pending", task.fingerprint, None, None, None, None, task.spec.name)
    if origin.job == job_id and origin.index == index:
        return (sequence, index, "succeeded", task.fingerprint, None, None, origin.attempt, 0, task.spec.name)
    return (
        sequence,
        index,
        "succeeded",
        task.fingerprint,
        origin.job,
        origin.index,
        origin.attempt,
        0,
        task.spec.name,
    )


def _conforms(database: Database) -> JobStore:
    return SqliteJobStore(database)
