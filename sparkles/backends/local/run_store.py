"""Runs and steps in SQLite (RunStore). May import ports, model and db."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection
from typing import Any

import msgspec

from sparkles.backends.local.db import Database
from sparkles.errors import Conflict, LeaseLost, NotFound, RunBusy
from sparkles.model import ProcessId, Run, RunId, RunState, Step, StepKey, StepState
from sparkles.ports import RunStore

_RUN = "id, workflow, args, state, seed, driver, created_at_ms, ended_at_ms, error, workflow_digest, beat_ms"
_STEP = "strand, kind, digest, occurrence, state, sequence, parts, position, value, error, started_at_ms, ended_at_ms"
_GET_STEP = f"SELECT {_STEP} FROM steps WHERE run = ? AND strand = ? AND kind = ? AND digest = ? AND occurrence = ?"
_PUT_STEP = (
    f"INSERT INTO steps (run, {_STEP}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT DO UPDATE SET state = excluded.state, parts = excluded.parts, position = excluded.position,"
    " value = excluded.value, error = excluded.error, started_at_ms = excluded.started_at_ms, ended_at_ms = excluded.ended_at_ms"
)


def busy_sentence(run_id: str, driver: ProcessId, since_ms: int) -> str:
    """Why a run cannot be taken."""
    from datetime import UTC, datetime

    since = datetime.fromtimestamp(since_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    return (
        f"run {run_id} is driven by pid {driver.pid} on host {driver.host} since {since};"
        f" wait for it (`sparkles runs`), end it (`sparkles kill {run_id}`), or begin another with --new"
    )


class SqliteRunStore:
    """Keeps the promises of ports.RunStore in the state folder's database."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def create_run(self, run: Run) -> None:
        """See RunStore."""
        try:
            with self._db.atomic() as connection:
                connection.execute(f"INSERT INTO runs ({_RUN}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", _run_row(run))
        except Exception as error:
            if isinstance(error.__cause__, sqlite3.IntegrityError):
                raise Conflict(f"run {run.id} exists already", "create run", run.id) from error
            raise

    def get_run(self, run_id: RunId) -> Run:
        """See RunStore."""
        row = self._db.read_one(f"SELECT {_RUN} FROM runs WHERE id = ?", (run_id,))
        if row is None:
            raise NotFound(f"there is no run {run_id} (`sparkles runs` lists them)", "get run", run_id)
        return _run_of(row)

    def list_runs(self, *, workflow: str | None = None, args: str | None = None, limit: int = 1000) -> list[Run]:
        """See RunStore."""
        conditions, arguments = ["1"], list[Any]()
        for column, value in (("workflow", workflow), ("args", args)):
            if value is not None:
                conditions.append(f"{column} = ?")
                arguments.append(value)
        sql = f"SELECT {_RUN} FROM runs WHERE {' AND '.join(conditions)} ORDER BY created_at_ms DESC, rowid DESC LIMIT ?"
        return [_run_of(row) for row in self._db.read(sql, (*arguments, limit))]

    def take_run(self, run_id: RunId, driver: ProcessId, is_dead: Callable[[ProcessId], bool], now_ms: int) -> Run:
        """See RunStore."""
        while True:
            run = self.get_run(run_id)
            # Asked outside of the transaction: an owner on another host is watched for a minute.
            if run.driver is not None and run.driver != driver and not is_dead(run.driver):
                raise RunBusy(busy_sentence(run_id, run.driver, run.beat_ms or run.created_at_ms))
            with self._db.atomic() as connection:
                changed = connection.execute(
                    "UPDATE runs SET driver = ?, state = 'running', ended_at_ms = NULL, error = '', beat_ms = ?"
                    " WHERE id = ? AND driver IS ?",
                    (_process_text(driver), now_ms, run_id, _process_text(run.driver)),
                ).rowcount
            if changed:
                return self.get_run(run_id)

    def beat_run(self, run_id: RunId, driver: ProcessId, now_ms: int) -> None:
        """See RunStore."""
        if not self._db.write(
            "UPDATE runs SET beat_ms = ? WHERE id = ? AND driver = ?", (now_ms, run_id, _process_text(driver))
        ):
            raise self._lost(run_id)

    def end_run(self, run_id: RunId, driver: ProcessId, state: RunState, error: str, now_ms: int) -> None:
        """See RunStore."""
        changed = self._db.write(
            "UPDATE runs SET driver = NULL, state = ?, error = ?, ended_at_ms = ? WHERE id = ? AND driver = ?",
            (state.value, error, now_ms, run_id, _process_text(driver)),
        )
        if not changed:
            raise self._lost(run_id)

    def delete_run(self, run_id: RunId) -> None:
        """See RunStore."""
        with self._db.atomic() as connection:
            connection.execute("DELETE FROM steps WHERE run = ?", (run_id,))
            connection.execute("DELETE FROM runs WHERE id = ?", (run_id,))

    def get_step(self, run_id: RunId, key: StepKey) -> Step | None:
        """See RunStore."""
        row = self._db.read_one(_GET_STEP, (run_id, key.strand, key.kind, key.digest, key.occurrence))
        if row is None:
            return None
        return Step(key, StepState(row[4]), row[5], row[6], row[7], row[8], row[9] != 0, row[10], row[11])

    def put_step(self, run_id: RunId, step: Step) -> None:
        """See RunStore."""
        key = step.key
        self._db.write(
            _PUT_STEP,
            (
                run_id,
                key.strand,
                key.kind,
                key.digest,
                key.occurrence,
                step.state.value,
                step.sequence,
                step.parts,
                step.position,
                step.value,
                step.error,
                step.started_at_ms,
                step.ended_at_ms,
            ),
        )

    def list_steps(self, run_id: RunId, *, kinds: Collection[str] | None = None) -> list[Step]:
        """See RunStore."""
        sql, arguments = f"SELECT {_STEP} FROM steps WHERE run = ?", list[str]((run_id,))
        if kinds is not None:
            sql += f" AND kind IN ({', '.join('?' * len(kinds))})"
            arguments += kinds
        return [
            Step(StepKey(*row[:4]), StepState(row[4]), row[5], row[6], row[7], row[8], row[9] != 0, row[10], row[11])
            for row in self._db.read(sql + " ORDER BY sequence", arguments)
        ]

    def last_sequence(self, run_id: RunId) -> int:
        """See RunStore."""
        return int(self._db.read_one("SELECT coalesce(max(sequence), 0) FROM steps WHERE run = ?", (run_id,))[0])

    def followed(self, run_id: RunId, strand: str, sequence: int) -> bool:
        """See RunStore."""
        sql = "SELECT 1 FROM steps WHERE run = ? AND sequence > ? AND strand = ? LIMIT 1"
        return self._db.read_one(sql, (run_id, sequence, strand)) is not None

    def _lost(self, run_id: RunId) -> LeaseLost:
        run = self.get_run(run_id)
        if run.driver is None:
            return LeaseLost(f"run {run_id} was ended by another process; this one stops", "drive run", run_id)
        return LeaseLost(
            f"run {run_id} was taken over by pid {run.driver.pid} on host {run.driver.host}; this driver stops",
            "drive run",
            run_id,
        )


def _process_text(process: ProcessId | None) -> str | None:
    return None if process is None else msgspec.json.encode(process).decode()


def _run_row(run: Run) -> tuple[Any, ...]:
    return (
        run.id,
        run.workflow,
        run.args,
        run.state.value,
        run.seed,
        _process_text(run.driver),
        run.created_at_ms,
        run.ended_at_ms,
        run.error,
        run.workflow_digest,
        run.beat_ms,
    )


def _run_of(row: Any) -> Run:
    driver = None if row[5] is None else msgspec.json.decode(row[5], type=ProcessId)
    return Run(RunId(row[0]), row[1], row[2], RunState(row[3]), row[4], driver, *row[6:11])


def _conforms(store: SqliteRunStore) -> RunStore:
    return store
