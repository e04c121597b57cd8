"""The schema of sparkles.db as append-only migrations, and what brings a database to it. May import errors and local.db.

`migrate` changes a database; `verify` and `pending` only look. A migration that was released is never edited: a new one follows.
Surprise: a reused task (its outcome is another task's attempt) has `origin_job` set, one that ran itself has not.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import NamedTuple

from sparkles import __version__
from sparkles.backends.local.db import Database
from sparkles.errors import BackendError, SchemaTooNew


class Migration(NamedTuple):
    """One step of the schema: `sql` holds statements that end in semicolons."""

    number: int
    name: str
    sql: str


_FIRST = """
CREATE TABLE runs (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT, -- newest = greatest: the wall clock may jump
    id TEXT NOT NULL UNIQUE,
    workflow TEXT NOT NULL,
    args TEXT NOT NULL, -- canonical JSON
    state TEXT NOT NULL CHECK (state IN ('running', 'succeeded', 'failed', 'cancelled')),
    seed INTEGER NOT NULL,
    driver TEXT, -- model.ProcessId as canonical JSON; NULL where nobody drives it
    created_at_ms INTEGER NOT NULL,
    ended_at_ms INTEGER,
    error TEXT NOT NULL,
    workflow_digest TEXT NOT NULL,
    beat_ms INTEGER NOT NULL,
    forked_from TEXT NOT NULL -- an id, which may outlive its run; '' where it is no fork
) STRICT;
CREATE INDEX runs_by_identity ON runs (workflow, args, sequence);

CREATE TABLE steps (
    run TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    strand TEXT NOT NULL,
    kind TEXT NOT NULL,
    digest TEXT NOT NULL,
    occurrence INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('started', 'done')),
    parts TEXT NOT NULL, -- canonical JSON
    position TEXT NOT NULL,
    value TEXT, -- canonical JSON
    error INTEGER NOT NULL,
    started_at_ms INTEGER NOT NULL,
    ended_at_ms INTEGER,
    UNIQUE (digest, run, occurrence, kind, strand) -- digest first: it tells steps apart at the first comparison
) STRICT;
CREATE INDEX steps_by_strand ON steps (run, strand, sequence);

CREATE TABLE jobs (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    pool TEXT NOT NULL,
    held INTEGER NOT NULL,
    open INTEGER NOT NULL, -- 0 only where no task is pending; a claim that finds none clears it
    priority INTEGER NOT NULL,
    parallelism INTEGER,
    max_failures INTEGER,
    count INTEGER NOT NULL,
    created_at_ms INTEGER NOT NULL,
    spec BLOB NOT NULL -- model.JobSpec as JSON
) STRICT;
CREATE INDEX jobs_by_owner ON jobs (owner, sequence);
CREATE INDEX jobs_to_serve ON jobs (pool, priority DESC, sequence) WHERE open = 1 AND held = 0;

CREATE TABLE tasks (
    job INTEGER NOT NULL REFERENCES jobs (sequence) ON DELETE CASCADE,
    idx INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'claimed', 'succeeded', 'failed', 'cancelled')),
    fingerprint TEXT NOT NULL,
    attempt INTEGER NOT NULL DEFAULT 0,
    tries INTEGER NOT NULL DEFAULT 0,
    losses INTEGER NOT NULL DEFAULT 0,
    origin_job TEXT, -- an id, which may outlive its job; NULL where the outcome is this task's own
    origin_idx INTEGER,
    origin_attempt INTEGER, -- NULL where there is no outcome
    failure TEXT,
    exit_code INTEGER,
    reason TEXT NOT NULL DEFAULT '',
    worker TEXT NOT NULL DEFAULT '',
    token TEXT,
    started INTEGER NOT NULL DEFAULT 0, -- of a claimed task: 1 once its worker has said that its program was started
    not_before_ms INTEGER NOT NULL DEFAULT 0,
    memory_bytes INTEGER,
    name TEXT NOT NULL,
    PRIMARY KEY (job, idx)
) STRICT, WITHOUT ROWID;
-- state is in their keys so that counting reads the index alone.
CREATE INDEX tasks_pending ON tasks (job, state, not_before_ms, idx) WHERE state = 'pending';
CREATE INDEX tasks_claimed ON tasks (worker, state, job) WHERE state = 'claimed';
CREATE INDEX tasks_bad ON tasks (job, state) WHERE state IN ('failed', 'cancelled');
CREATE INDEX tasks_reused ON tasks (job, origin_job) WHERE origin_job IS NOT NULL;
CREATE INDEX tasks_by_origin ON tasks (origin_job, origin_idx, origin_attempt) WHERE origin_job IS NOT NULL;

CREATE TABLE specs ( -- apart from tasks: counting and claiming read no specs
    job INTEGER NOT NULL REFERENCES jobs (sequence) ON DELETE CASCADE,
    idx INTEGER NOT NULL,
    spec BLOB NOT NULL, -- model.TaskSpec as JSON, without params
    params TEXT NOT NULL, -- canonical JSON
    PRIMARY KEY (job, idx)
) STRICT, WITHOUT ROWID;

CREATE TABLE attempts (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    job TEXT NOT NULL, -- an id: the record may outlive the job while other tasks reuse it
    idx INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    fingerprint TEXT, -- NULL where it did not succeed
    record BLOB NOT NULL, -- model.Attempt as JSON
    UNIQUE (job, idx, attempt)
) STRICT;
CREATE INDEX attempts_reusable ON attempts (fingerprint, sequence) WHERE fingerprint IS NOT NULL;

CREATE TABLE workers (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    pool TEXT NOT NULL,
    host TEXT NOT NULL,
    process TEXT NOT NULL, -- model.ProcessId as canonical JSON
    beat INTEGER NOT NULL,
    cpu REAL NOT NULL,
    memory_bytes INTEGER NOT NULL,
    waiting INTEGER NOT NULL,
    started_at_ms INTEGER NOT NULL
) STRICT;
"""

_SECOND = """
-- A check cannot be changed: the column is made anew. What was interrupted had the state cancelled until now.
ALTER TABLE runs ADD COLUMN status TEXT NOT NULL DEFAULT 'running'
    CHECK (status IN ('running', 'succeeded', 'failed', 'interrupted', 'cancelled'));
UPDATE runs SET status = CASE WHEN state = 'cancelled' AND error LIKE 'interrupted%' THEN 'interrupted' ELSE state END;
ALTER TABLE runs DROP COLUMN state;
ALTER TABLE runs RENAME COLUMN status TO state;

CREATE TABLE cleaned ( -- what `clean` removed, so that it can be said
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL CHECK (kind IN ('run', 'job')),
    name TEXT NOT NULL,
    cleaned_at_ms INTEGER NOT NULL
) STRICT;
"""

MIGRATIONS: tuple[Migration, ...] = (
    Migration(1, "runs, steps, jobs, tasks, attempts, workers", _FIRST),
    Migration(2, "interrupted runs; what was cleaned", _SECOND),
)
"""In order; numbers are 1, 2, 3 ... without a gap."""

_RECORDS = """
CREATE TABLE IF NOT EXISTS migrations (
    number INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    sparkles TEXT NOT NULL, -- the version that applied it
    applied_at_ms INTEGER NOT NULL
) STRICT
"""


def statements(sql: str) -> Iterator[str]:
    """The single statements of a script. sqlite3's own executescript would commit the open transaction first."""
    start = 0
    for end in range(len(sql)):
        if sql[end] == ";" and sqlite3.complete_statement(sql[start : end + 1]):
            yield sql[start : end + 1]
            start = end + 1
    if sql[start:].strip():
        yield sql[start:]


def applied(database: Database) -> dict[int, tuple[str, str]]:
    """Number -> (name, the version of sparkles that applied it); empty for a new database. Reads only."""
    if not database.one("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'migrations'"):
        return {}
    return {number: (name, version) for number, name, version in database.all("SELECT number, name, sparkles FROM migrations")}


def pending(database: Database, migrations: tuple[Migration, ...] = MIGRATIONS) -> tuple[Migration, ...]:
    """The migrations that the database has not seen. Reads only.

    Raises:
        SchemaTooNew: It has seen one that is not known here.
    """
    have = applied(database)
    _refuse_newer(database, have, migrations)
    return tuple(each for each in migrations if each.number not in have)


def migrate(database: Database, migrations: tuple[Migration, ...] = MIGRATIONS) -> None:
    """Applies what is pending, each with its record in one transaction; a database that holds data is backed up first, to
    `sparkles.db.backup-N` where N is the schema it had. Safe with several processes at once, and when killed in the middle.

    Raises:
        SchemaTooNew: A newer sparkles wrote the database; nothing is changed.
        StorageFull, Damaged, BackendError: As `Database`.
    """
    missing = pending(database, migrations)
    if not missing:
        return
    have = missing[0].number - 1
    if _holds_data(database):
        database.back_up(database.path.with_name(f"{database.path.name}.backup-{have}"))
    for each in missing:
        with database.atomic() as connection:
            connection.execute(_RECORDS)
            # Asked again under the write lock: another process may have been quicker.
            if connection.execute("SELECT 1 FROM migrations WHERE number = ?", (each.number,)).fetchone():
                continue
            for statement in statements(each.sql):
                connection.execute(statement)
            connection.execute(
                "INSERT INTO migrations VALUES (?, ?, ?, CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER))",
                (each.number, each.name, __version__),
            )


def _holds_data(database: Database) -> bool:
    """Whether a table has a row, that of the migrations aside: another process may have begun to make this database."""
    names = [name for kind, name, _ in database.all(_OBJECTS) if kind == "table" and name != "migrations"]
    return any(database.one(f'SELECT 1 FROM "{name}" LIMIT 1') for name in names)


def verify(database: Database, migrations: tuple[Migration, ...] = MIGRATIONS) -> list[str]:
    """A sentence per difference between the database's schema and this version's; empty where there is none. Reads only."""
    have = applied(database)
    problems = [f"migration {each.number} ({each.name}) is not applied" for each in migrations if each.number not in have]
    known = {each.number: each.name for each in migrations}
    for number, (name, version) in sorted(have.items()):
        if number not in known:
            problems.append(f"migration {number} ({name}) was applied by sparkles {version} and is not known here")
        elif known[number] != name:
            problems.append(f"migration {number} is {known[number]!r} here and was {name!r} when it was applied")
    if problems:
        return problems
    expected = _expected(migrations)
    found = describe(database.all(_OBJECTS))
    for what in sorted(expected.keys() | found.keys()):
        if what not in found:
            problems.append(f"{what} is missing")
        elif what not in expected:
            problems.append(f"{what} does not belong there")
        elif expected[what] != found[what]:
            problems.append(f"{what} is not as it should be: expected {expected[what]}; found {found[what]}")
    return problems


_OBJECTS = "SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%'"


def describe(objects: list[tuple[str, str, str]]) -> dict[str, str]:
    """`table tasks` -> its SQL without comments and line breaks, for comparing schemas."""
    described = {}
    for kind, name, sql in objects:
        lines = (line.split("--")[0] for line in sql.splitlines())
        described[f"{kind} {name}"] = " ".join(" ".join(lines).split())
    return described


def _expected(migrations: tuple[Migration, ...]) -> dict[str, str]:
    connection = sqlite3.connect(":memory:")
    try:
        connection.execute(_RECORDS)
        for each in migrations:
            connection.executescript(each.sql)
        return describe(connection.execute(_OBJECTS).fetchall())
    finally:
        connection.close()


def _refuse_newer(database: Database, have: dict[int, tuple[str, str]], migrations: tuple[Migration, ...]) -> None:
    newest_known = migrations[-1].number if migrations else 0
    newest = max(have, default=0)
    if newest > newest_known:
        raise SchemaTooNew(
            f"{database.path} has schema {newest}, written by sparkles {have[newest][1]}; this is sparkles {__version__}, which knows"
            f" schemas up to {newest_known}. Use the newer sparkles, or another state folder (--state)",
            "open",
            str(database.path),
        )
    strangers = [number for number in have if number < 1]
    if strangers:
        raise BackendError(f"{database.path} is not a database of sparkles: it holds a migration {strangers[0]}", "open")
