"""The JobStore's tasks in SQLite: counts, pages, results, attempts, kill and reset. May import ports and below."""

from __future__ import annotations

import hashlib
from collections.abc import Collection

from sparkles.backends import messages
from sparkles.backends.local.db import Database
from sparkles.backends.local.task_rows import TASK, TASK_T, Rows, json_list, task_of
from sparkles.model import Attempt, AttemptRef, Counts, Digest, FailureClass, Task, TaskSpec, TaskState
from sparkles.ports import FailureGroup, Outcome

_OPEN = (
    "SELECT id FROM jobs WHERE owner = ? AND (EXISTS (SELECT 1 FROM tasks WHERE job = jobs.sequence AND state = 'pending')"
    " OR sequence IN (SELECT job FROM tasks WHERE state = 'claimed'))"
)
_COUNTS = """
SELECT count,
    (SELECT count(*) FROM tasks INDEXED BY tasks_pending WHERE job = ?1 AND state = 'pending'),
    (SELECT count(*) FROM tasks INDEXED BY tasks_claimed WHERE state = 'claimed' AND job = ?1),
    (SELECT count(*) FROM tasks INDEXED BY tasks_claimed WHERE state = 'claimed' AND job = ?1 AND started = 1),
    (SELECT count(*) FROM tasks INDEXED BY tasks_bad WHERE job = ?1 AND state IN ('failed', 'cancelled') AND state = 'failed'),
    (SELECT count(*) FROM tasks INDEXED BY tasks_bad WHERE job = ?1 AND state IN ('failed', 'cancelled') AND state = 'cancelled'),
    (SELECT count(*) FROM tasks INDEXED BY tasks_reused WHERE job = ?1 AND origin_job IS NOT NULL)
FROM jobs WHERE sequence = ?1
"""
"""Succeeded tasks are in none of these indexes: they are the rest, so that a job costs less to count the further it is."""

_OUTCOMES = f"""
SELECT s.params, a.record, {TASK_T}
FROM tasks AS t
JOIN specs AS s ON s.job = t.job AND s.idx = t.idx
LEFT JOIN attempts AS a
    ON a.job = coalesce(t.origin_job, ?1) AND a.idx = coalesce(t.origin_idx, t.idx) AND a.attempt = t.origin_attempt
WHERE t.job = ?2 AND t.idx >= ?3
"""

_OUTPUTS = """
SELECT t.idx, a.record
FROM tasks AS t
JOIN attempts AS a ON a.job = coalesce(t.origin_job, ?1) AND a.idx = coalesce(t.origin_idx, t.idx) AND a.attempt = t.origin_attempt
WHERE t.job = ?2 AND t.state = 'succeeded' AND instr(a.record, CAST('"outputs"' AS BLOB))
"""

_ENDED = (TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED)


class Tasks:
    """The part of ports.JobStore that looks at tasks and attempts, and changes tasks from outside of claims."""

    _db: Database
    _rows: Rows

    def list_open(self, owner: str) -> set[str]:
        """See ports.JobStore."""
        return {row[0] for row in self._db.all(_OPEN, (owner,))}

    def count_tasks(self, job_id: str) -> Counts:
        """See ports.JobStore."""
        row = self._db.one(_COUNTS, (self._sequence(job_id),))
        if row is None:
            raise messages.no_job(job_id)
        count, pending, claimed, running, failed, cancelled, reused = row
        return Counts(pending, claimed, count - pending - claimed - failed - cancelled, failed, cancelled, reused, running)

    def count_failures(self, job_id: str) -> list[FailureGroup]:
        """See ports.JobStore."""
        rows = self._db.all(
            "SELECT failure, exit_code, count(*), min(idx) FROM tasks"
            " WHERE job = ? AND state IN ('failed', 'cancelled') AND state = 'failed'"
            " GROUP BY failure, exit_code ORDER BY 3 DESC, 4",
            (self._sequence(job_id),),
        )
        return [FailureGroup(FailureClass(failure), code, count, example) for failure, code, count, example in rows]

    def get_task(self, job_id: str, index: int) -> Task:
        """See ports.JobStore."""
        sequence = self._sequence(job_id)
        row = self._db.one(f"SELECT {TASK} FROM tasks WHERE job = ? AND idx = ?", (sequence, index))
        if row is None:
            raise self._no_task(job_id, index)
        return task_of(job_id, row)

    def get_spec(self, job_id: str, index: int) -> TaskSpec:
        """See ports.JobStore."""
        row = self._db.one("SELECT spec, params FROM specs WHERE job = ? AND idx = ?", (self._sequence(job_id), index))
        if row is None:
            raise self._no_task(job_id, index)
        spec, params = row
        return self._rows.task_spec(spec, params, job_id, index)

    def list_tasks(
        self, job_id: str, *, first: int = 1, limit: int | None = None, states: Collection[TaskState] | None = None
    ) -> list[Task]:
        """See ports.JobStore."""
        condition, values = _page(limit, states)
        sql = f"SELECT {TASK} FROM tasks AS t WHERE job = ? AND idx >= ? {condition}"
        return [task_of(job_id, row) for row in self._db.all(sql, (self._sequence(job_id), first, *values))]

    def list_outcomes(
        self, job_id: str, *, first: int = 1, limit: int | None = None, states: Collection[TaskState] | None = None
    ) -> list[Outcome]:
        """See ports.JobStore."""
        condition, values = _page(limit, states)
        rows = self._db.all(_OUTCOMES + condition, (job_id, self._sequence(job_id), first, *values))
        return [
            Outcome(
                task_of(job_id, row[2:]),
                self._rows.params(row[0], job_id, row[2]),
                None if row[1] is None else self._rows.attempt(row[1]),
            )
            for row in rows
        ]

    def state_digest(self, job_id: str) -> Digest:
        """See ports.JobStore."""
        # Indexes have no gaps: the place in the text is the index.
        (text,) = self._db.one(
            "SELECT group_concat(line, '') FROM (SELECT state || attempt AS line FROM tasks WHERE job = ? ORDER BY idx)",
            (self._sequence(job_id),),
        )
        return Digest(hashlib.sha256((text or "").encode("ascii")).hexdigest())

    def find_reusable(self, fingerprints: Collection[Digest]) -> dict[Digest, Attempt]:
        """See ports.JobStore."""
        # One look into the index for each: a third of the time of a join with max(sequence).
        rows = self._db.each(
            "SELECT value, (SELECT record FROM attempts WHERE fingerprint = value ORDER BY sequence DESC LIMIT 1) FROM json_each(?)",
            (json_list(fingerprints),),
        )
        return {fingerprint: self._rows.attempt(record) for fingerprint, record in rows if record is not None}

    def get_attempt(self, ref: AttemptRef) -> Attempt | None:
        """See ports.JobStore."""
        row = self._db.one(
            "SELECT record FROM attempts WHERE job = ? AND idx = ? AND attempt = ?", (ref.job, ref.index, ref.attempt)
        )
        return None if row is None else self._rows.attempt(row[0])

    def list_attempts(self, job_id: str, index: int) -> list[Attempt]:
        """See ports.JobStore."""
        rows = self._db.all("SELECT record FROM attempts WHERE job = ? AND idx = ? ORDER BY attempt", (job_id, index))
        return [self._rows.attempt(record) for (record,) in rows]

    def list_outputs(self, job_id: str) -> dict[int, list[Digest]]:
        """See ports.JobStore."""
        rows = self._db.all(_OUTPUTS, (job_id, self._sequence(job_id)))
        found = {index: [Digest(each) for each in self._rows.output_digests(record)] for index, record in rows}
        return {index: digests for index, digests in found.items() if digests}

    def list_digests(self) -> set[Digest]:
        """See ports.JobStore."""
        found: set[str] = set()
        for (spec,) in self._db.each("SELECT spec FROM specs"):
            # A quick look saves decoding the specs that have no inputs at all.
            if b'"files"' in spec:
                found.update(self._rows.input_digests(spec))
        for (record,) in self._db.each("SELECT record FROM attempts"):
            if b'"outputs"' in record:
                found.update(self._rows.output_digests(record))
        return {Digest(each) for each in found}

    def kill_tasks(self, job_id: str, indexes: Collection[int] | None = None) -> int:
        """See ports.JobStore."""
        only, values = _only(indexes)
        return self._db.run(
            "UPDATE tasks SET state = 'cancelled', failure = 'cancelled', exit_code = NULL, reason = ?, token = NULL, not_before_ms = 0"
            f" WHERE job = ? AND state IN ('pending', 'claimed') {only}",
            (messages.KILLED, self._sequence(job_id), *values),
        )

    def reset_tasks(self, job_id: str, states: Collection[TaskState], indexes: Collection[int] | None = None) -> int:
        """See ports.JobStore."""
        only, values = _only(indexes)
        ended = json_list([state for state in states if state in _ENDED])
        sequence = self._sequence(job_id)
        with self._db.atomic() as connection:
            count = connection.execute(
                "UPDATE tasks SET state = 'pending', tries = 0, losses = 0, origin_job = NULL, origin_idx = NULL, origin_attempt = NULL,"
                " failure = NULL, exit_code = NULL, reason = '', worker = '', not_before_ms = 0, memory_bytes = NULL"
                f" WHERE job = ? AND state IN (SELECT value FROM json_each(?)) {only}",
                (sequence, ended, *values),
            ).rowcount
            if count:
                connection.execute("UPDATE jobs SET open = 1 WHERE sequence = ?", (sequence,))
        return count

    def _sequence(self, job_id: str) -> int:
        row = self._db.one("SELECT sequence FROM jobs WHERE id = ?", (job_id,))
        if row is None:
            raise messages.no_job(job_id)
        sequence: int = row[0]
        return sequence

    def _no_task(self, job_id: str, index: int) -> Exception:
        row = self._db.one("SELECT count FROM jobs WHERE id = ?", (job_id,))
        return messages.no_job(job_id) if row is None else messages.no_task(job_id, index, row[0])


def _page(limit: int | None, states: Collection[TaskState] | None) -> tuple[str, tuple[object, ...]]:
    """The end of a query over tasks AS t, with its values."""
    end = "ORDER BY t.idx LIMIT ?"
    most = -1 if limit is None else limit
    if states is None:
        return end, (most,)
    return f"AND t.state IN (SELECT value FROM json_each(?)) {end}", (json_list(list(states)), most)


def _only(indexes: Collection[int] | None) -> tuple[str, tuple[str, ...]]:
    if indexes is None:
        return "", ()
    return "AND idx IN (SELECT value FROM json_each(?))", (json_list(indexes),)
