"""Runs and steps in SQLite: the RunStore of ports.py. May import ports and below.

`get_step` is the hot path of a replay and `put_step` that of a first execution: one statement each, no transaction around it.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from sparkles import digest
from sparkles.backends import messages
from sparkles.backends.local.db import Database
from sparkles.backends.local.layout import tree_bytes
from sparkles.backends.local.sqlite_errors import damaged, translate
from sparkles.backends.names import MOST_CLEANED, check_run_id
from sparkles.model import Cleaned, ProcessId, Run, RunId, RunState, Step, StepKey, StepState
from sparkles.ports import RunStore

_RUN = "id, workflow, args, state, seed, driver, created_at_ms, ended_at_ms, error, workflow_digest, beat_ms, forked_from"

_STEP = "strand, kind, digest, occurrence, state, sequence, parts, position, value, error, started_at_ms, ended_at_ms"

_GET_STEP = (
    "SELECT state, sequence, parts, position, value, error, started_at_ms, ended_at_ms FROM steps"
    " WHERE run = ? AND digest = ? AND occurrence = ? AND kind = ? AND strand = ?"
)

_STRAND = f"SELECT {_STEP} FROM steps WHERE run = ? AND strand = ? AND sequence > ? ORDER BY sequence LIMIT ?"

_PUT_STEP = (
    f"INSERT INTO steps (run, {_STEP}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (digest, run, occurrence, kind, strand) DO UPDATE SET state = excluded.state, parts = excluded.parts,"
    " position = excluded.position, value = excluded.value, error = excluded.error, started_at_ms = excluded.started_at_ms,"
    " ended_at_ms = excluded.ended_at_ms"
)

_STATES = {str(state): state for state in StepState}


class SqliteRunStore:
    """See ports.RunStore."""

    def __init__(self, database: Database) -> None:
        """`database` is at this version's schema (`open_state`)."""
        self._db = database

    # Runs

    def create_run(self, run: Run) -> None:
        """See ports.RunStore."""
        values = (
            run.id,
            run.workflow,
            run.args,
            run.state,
            run.seed,
            _process_text(run.driver),
            run.created_at_ms,
            run.ended_at_ms,
            run.error,
            run.workflow_digest,
            run.beat_ms,
            run.forked_from,
        )
        sql = f"INSERT INTO runs ({_RUN}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING"
        if not self._db.run(sql, values):
            raise messages.run_exists(run.id)

    def begin_run(self, run: Run) -> Run:
        """See ports.RunStore."""
        with self._db.atomic():
            for newest in self.list_runs(workflow=run.workflow, args=run.args, limit=1):
                if newest.state is not RunState.SUCCEEDED:
                    return newest
            self.create_run(run)
        return run

    def get_run(self, run_id: RunId) -> Run:
        """See ports.RunStore."""
        row = self._db.one(f"SELECT {_RUN} FROM runs WHERE id = ?", (run_id,))
        if row is None:
            raise messages.no_run(run_id)
        return self._run(row)

    def list_runs(self, *, workflow: str | None = None, args: str | None = None, limit: int = 1000) -> list[Run]:
        """See ports.RunStore."""
        where, values = [], []
        for column, value in (("workflow", workflow), ("args", args)):
            if value is not None:
                where.append(f"{column} = ?")
                values.append(value)
        condition = f"WHERE {' AND '.join(where)}" if where else ""
        sql = f"SELECT {_RUN} FROM runs {condition} ORDER BY sequence DESC LIMIT ?"
        return [self._run(row) for row in self._db.all(sql, (*values, limit))]

    def take_run(self, run_id: RunId, driver: ProcessId, is_dead: Callable[[ProcessId], bool], now_ms: int) -> Run:
        """See ports.RunStore."""
        while True:
            before = self.get_run(run_id)
            messages.refuse_ended(before)
            # Outside of the transaction: `is_dead` may watch the owner's heartbeat for a while, which the owner must be able to write.
            if before.driver is not None and before.driver != driver and not is_dead(before.driver):
                raise messages.run_busy(before, before.driver)
            with self._db.atomic() as connection:
                taken = connection.execute(
                    "UPDATE runs SET driver = ?, state = 'running', error = '', ended_at_ms = NULL, beat_ms = ?"
                    " WHERE id = ? AND driver IS ? AND state != 'succeeded'",
                    (_process_text(driver), now_ms, run_id, _process_text(before.driver)),
                ).rowcount
                if taken:
                    return self.get_run(run_id)
            # Somebody else took, ended or deleted it in between: look again.

    def beat_run(self, run_id: RunId, driver: ProcessId, now_ms: int) -> None:
        """See ports.RunStore."""
        if not self._db.run("UPDATE runs SET beat_ms = ? WHERE id = ? AND driver = ?", (now_ms, run_id, _process_text(driver))):
            raise messages.run_lost(run_id, driver)

    def end_run(self, run_id: RunId, driver: ProcessId, state: RunState, error: str, now_ms: int) -> None:
        """See ports.RunStore."""
        sql = "UPDATE runs SET state = ?, error = ?, ended_at_ms = ?, driver = NULL WHERE id = ? AND driver = ?"
        if not self._db.run(sql, (state, error, now_ms, run_id, _process_text(driver))):
            raise messages.run_lost(run_id, driver)

    def folder(self, run_id: str) -> Path:
        """See ports.RunStore."""
        check_run_id(run_id)
        return self._db.path.parent / "runs" / run_id

    def delete_run(self, run_id: RunId) -> int:
        """See ports.RunStore."""
        folder = self.folder(run_id)
        self._db.run("DELETE FROM runs WHERE id = ?", (run_id,))
        size = tree_bytes(folder)
        shutil.rmtree(folder, ignore_errors=True)
        return size

    def put_cleaned(self, cleaned: Sequence[Cleaned]) -> None:
        """See ports.RunStore."""
        with self._db.atomic() as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO cleaned (id, kind, name, cleaned_at_ms) VALUES (?, ?, ?, ?)",
                [(each.id, each.kind, each.name, each.cleaned_at_ms) for each in cleaned],
            )
            connection.execute("DELETE FROM cleaned WHERE sequence <= (SELECT max(sequence) FROM cleaned) - ?", (MOST_CLEANED,))

    def list_cleaned(self) -> list[Cleaned]:
        """See ports.RunStore."""
        sql = "SELECT id, kind, name, cleaned_at_ms FROM cleaned ORDER BY sequence DESC"
        return [Cleaned(*row) for row in self._db.all(sql)]

    # Steps

    def get_step(self, run_id: RunId, key: StepKey) -> Step | None:
        """See ports.RunStore."""
        try:
            row = (
                self._db.connection().execute(_GET_STEP, (run_id, key.digest, key.occurrence, key.kind, key.strand)).fetchone()
            )
        except (sqlite3.Error, UnicodeEncodeError) as error:
            raise translate(error, self._db.path) from error
        if row is None:
            return None
        state, sequence, parts, position, value, is_error, started, ended = row
        return Step(key, _STATES[state], sequence, parts, position, value, is_error == 1, started, ended)

    def put_step(self, run_id: RunId, step: Step) -> None:
        """See ports.RunStore."""
        key = step.key
        values = (
            run_id,
            key.strand,
            key.kind,
            key.digest,
            key.occurrence,
            step.state,
            step.sequence,
            step.parts,
            step.position,
            step.value,
            step.error,
            step.started_at_ms,
            step.ended_at_ms,
        )
        try:
            self._db.connection().execute(_PUT_STEP, values)
        except sqlite3.IntegrityError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY:
                raise messages.no_run(run_id) from error
            raise translate(error, self._db.path) from error
        except (sqlite3.Error, UnicodeEncodeError) as error:
            raise translate(error, self._db.path) from error

    def move_steps(self, run_id: RunId, positions: Mapping[StepKey, str]) -> None:
        """See ports.RunStore."""
        with self._db.atomic() as connection:
            connection.executemany(
                "UPDATE steps SET position = ? WHERE run = ? AND digest = ? AND occurrence = ? AND kind = ? AND strand = ?",
                ((at, run_id, key.digest, key.occurrence, key.kind, key.strand) for key, at in positions.items()),
            )

    def list_steps(self, run_id: RunId, *, kinds: Collection[str] | None = None) -> list[Step]:
        """See ports.RunStore."""
        condition = "" if kinds is None else "AND kind IN (SELECT value FROM json_each(?))"
        values = (run_id,) if kinds is None else (run_id, digest.canonical(sorted(kinds)))
        return [
            _step_of(row)
            for row in self._db.all(f"SELECT {_STEP} FROM steps WHERE run = ? {condition} ORDER BY sequence", values)
        ]

    def list_strand(self, run_id: RunId, strand: str, *, after: int, limit: int) -> list[Step]:
        """See ports.RunStore."""
        return [_step_of(row) for row in self._db.all(_STRAND, (run_id, strand, after, limit))]

    def list_strands(self, run_id: RunId) -> list[str]:
        """See ports.RunStore."""
        rows = self._db.all("SELECT strand FROM steps WHERE run = ? GROUP BY strand ORDER BY min(sequence)", (run_id,))
        return [strand for (strand,) in rows]

    def last_sequence(self, run_id: RunId) -> int:
        """See ports.RunStore."""
        (last,) = self._db.one("SELECT coalesce(max(sequence), 0) FROM steps WHERE run = ?", (run_id,))
        return int(last)

    def _run(self, row: Any) -> Run:
        run_id, workflow, args, state, seed, driver, created, ended, error, workflow_digest, beat, source = row
        try:
            process = None if driver is None else msgspec.json.decode(driver, type=ProcessId)
        except msgspec.MsgspecError as problem:
            raise damaged(self._db.path, f"driver of run {run_id}: {problem}") from problem
        return Run(run_id, workflow, args, RunState(state), seed, process, created, ended, error, workflow_digest, beat, source)


def _step_of(row: Any) -> Step:
    strand, kind, of_parts, occurrence, state, sequence, parts, position, value, is_error, started, ended = row
    key = StepKey(strand, kind, of_parts, occurrence)
    return Step(key, _STATES[state], sequence, parts, position, value, is_error == 1, started, ended)


def _process_text(process: ProcessId | None) -> str | None:
    """One text per process, for comparing: an integer start time is written as the float that it is read back as."""
    if process is None:
        return None
    return digest.encode_value(msgspec.structs.replace(process, started=float(process.started))).decode("utf-8")


def _conforms(database: Database) -> RunStore:
    return SqliteRunStore(database)
