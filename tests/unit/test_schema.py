"""Migrations: once, in order, backed up before, undone when they fail; every past schema becomes today's."""

import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sparkles import __version__
from sparkles.backends.local import schema
from sparkles.backends.local.db import Database, open_state
from sparkles.backends.local.job_store import SqliteJobStore
from sparkles.backends.local.layout import create_private
from sparkles.backends.local.run_store import SqliteRunStore
from sparkles.backends.local.schema import MIGRATIONS, Migration, migrate, pending, statements, verify
from sparkles.errors import BackendError, InternalError, SchemaTooNew
from sparkles.model import Counts, StepKey

SAVED = sorted((Path(__file__).parent / "schemas").glob("*.sql"), key=lambda path: int(path.stem))

ONE = Migration(1, "first", "CREATE TABLE a (x INTEGER) STRICT;")
TWO = Migration(2, "second", "CREATE TABLE b (y TEXT) STRICT; INSERT INTO b VALUES ('a;b'); UPDATE a SET x = x + 1;")
BROKEN = Migration(3, "third", "CREATE TABLE c (z TEXT) STRICT; INSERT INTO nowhere VALUES (1);")


@pytest.fixture
def database(tmp_path):
    database = Database(tmp_path / "sparkles.db")
    yield database
    database.close()


def tables(database):
    return {name for (name,) in database.all("SELECT name FROM sqlite_schema WHERE type = 'table'")}


def test_migrations_are_numbered_without_a_gap():
    """From 1, and each past one has its saved schema."""
    numbers = [each.number for each in MIGRATIONS]
    assert numbers == list(range(1, len(numbers) + 1))
    assert [int(path.stem) for path in SAVED] == numbers


@pytest.mark.parametrize("saved", SAVED, ids=lambda path: path.stem)
def test_every_past_schema_becomes_todays(tmp_path, saved):
    """A saved database of each version is upgraded, equals a fresh one, and what it held can be read."""
    path = tmp_path / ".sparkles" / "sparkles.db"
    path.parent.mkdir()
    with sqlite3.connect(path) as connection:
        connection.executescript(saved.read_text("utf-8"))
    connection.close()
    database = open_state(path.parent)
    fresh = open_state(tmp_path / "fresh")
    try:
        assert verify(database) == []
        objects = "SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL"
        assert schema.describe(database.all(objects)) == schema.describe(fresh.all(objects))
        assert database.check() == []
        jobs, runs = SqliteJobStore(database), SqliteRunStore(database)
        assert runs.get_run("r-1").workflow == "w.lua"
        assert runs.get_step("r-1", StepKey("main", "now", "d", 1)).value == "1.5"
        assert jobs.count_tasks("j-1") == Counts(pending=1, succeeded=1)
        first, second = jobs.list_outcomes("j-1")
        assert (first.attempt.worker, second.params) == ("w-1", {"n": 2})
        assert [claim.ref.index for claim in jobs.claim("w-1", pool="p", limit=9, now_ms=0)] == [2]
        older = int(saved.stem) < len(MIGRATIONS)
        assert path.with_name(f"sparkles.db.backup-{saved.stem}").exists() == older
    finally:
        database.close()
        fresh.close()


def test_runs_keep_their_steps_and_interrupted_ones_get_their_state(tmp_path):
    """Schema 2: what Ctrl-C ended was recorded as cancelled before, like what `sparkles kill` ended."""
    database = Database(tmp_path / "sparkles.db")
    try:
        migrate(database, MIGRATIONS[:1])
        for number, (state, error) in enumerate(
            (("cancelled", "interrupted"), ("cancelled", "ended by sparkles kill"), ("failed", "x"))
        ):
            values = f"'r-{number}', 'w.lua', '{{}}', '{state}', 7, NULL, 1, 2, '{error}', '', 2, ''"
            database.run(f"INSERT INTO runs VALUES ({number + 1}, {values})")
            step = f"'r-{number}', 'main', 'now', 'd', 1, 1, 'done', '[]', 'w.lua:1', '1.5', 0, 1, 2"
            database.run(f"INSERT INTO steps VALUES ({step})")
        migrate(database)
        assert verify(database) == []
        assert database.check() == []
        runs = SqliteRunStore(database)
        assert [str(each.state) for each in runs.list_runs()] == ["failed", "cancelled", "interrupted"]
        assert [len(runs.list_steps(each.id)) for each in runs.list_runs()] == [1, 1, 1]
    finally:
        database.close()


def test_a_new_database_is_brought_up_without_a_backup(database):
    """There is nothing to lose; each migration leaves its record."""
    assert pending(database, (ONE, TWO)) == (ONE, TWO)
    migrate(database, (ONE, TWO))
    assert pending(database, (ONE, TWO)) == ()
    assert schema.applied(database) == {1: ("first", __version__), 2: ("second", __version__)}
    assert database.all("SELECT y FROM b") == [("a;b",)]
    assert list(database.path.parent.glob("*backup*")) == []


def test_looking_changes_nothing(database):
    """`pending` and `verify` of an empty database write nothing."""
    assert pending(database, (ONE,)) == (ONE,)
    assert verify(database, (ONE,)) == ["migration 1 (first) is not applied"]
    assert tables(database) == set()


def test_data_is_backed_up_before_a_migration(database):
    """Under the number of the schema that it had; the backup is complete and as it was."""
    migrate(database, (ONE,))
    database.run("INSERT INTO a VALUES (41)")
    migrate(database, (ONE, TWO))
    assert database.all("SELECT x FROM a") == [(42,)]
    backup = Database(database.path.with_name("sparkles.db.backup-1"))
    try:
        assert backup.all("SELECT x FROM a") == [(41,)]
        assert verify(backup, (ONE,)) == []
        assert backup.check() == []
    finally:
        backup.close()


def test_a_migration_that_fails_leaves_nothing(database):
    """Its own transaction is undone, the earlier ones stand, the error says what is wrong, and the backup is there."""
    migrate(database, (ONE,))
    database.run("INSERT INTO a VALUES (1)")
    with pytest.raises(InternalError, match="no such table: nowhere"):
        migrate(database, (ONE, TWO, BROKEN))
    assert tables(database) == {"migrations", "a", "b"}
    assert max(schema.applied(database)) == 2
    assert database.path.with_name("sparkles.db.backup-1").exists()
    migrate(database, (ONE, TWO))
    assert verify(database, (ONE, TWO)) == []


def test_a_newer_schema_is_refused_by_name(database):
    """Both versions are named, and nothing is changed: not by opening, not by looking."""
    migrate(database, (ONE, TWO))
    database.run("UPDATE migrations SET sparkles = '9.1.0' WHERE number = 2")
    expected = (
        f"{database.path} has schema 2, written by sparkles 9.1.0; this is sparkles {__version__}, which knows schemas up to 1. Use"
        " the newer sparkles, or another state folder (--state)"
    )
    for ask in (migrate, pending):
        with pytest.raises(SchemaTooNew) as refused:
            ask(database, (ONE,))
        assert str(refused.value) == expected
    assert verify(database, (ONE,)) == ["migration 2 (second) was applied by sparkles 9.1.0 and is not known here"]
    assert list(database.path.parent.glob("*backup*")) == []


def test_a_state_folder_of_a_newer_version_is_refused(tmp_path):
    """By `open_state`, which everything goes through."""
    database = open_state(tmp_path)
    database.run("INSERT INTO migrations VALUES (99, 'future', '3.0.0', 0)")
    database.close()
    with pytest.raises(SchemaTooNew, match=r"has schema 99, written by sparkles 3\.0\.0"):
        open_state(tmp_path)


def test_a_migration_of_another_database_is_refused(database):
    """Numbers that sparkles never gave."""
    migrate(database, (ONE,))
    database.run("INSERT INTO migrations VALUES (-5, 'alien', '1', 0)")
    with pytest.raises(BackendError, match="is not a database of sparkles: it holds a migration -5"):
        pending(database, (ONE,))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("DROP INDEX runs_by_identity", "index runs_by_identity is missing"),
        ("CREATE TABLE extra (x)", "table extra does not belong there"),
        (
            "ALTER TABLE workers ADD COLUMN more INTEGER",
            "table workers is not as it should be",
        ),
        ("UPDATE migrations SET name = 'other' WHERE number = 2", "was 'other' when it was applied"),
        ("DELETE FROM migrations WHERE number = 2", "is not applied"),
    ],
    ids=["missing", "extra", "changed", "renamed", "forgotten"],
)
def test_differences_are_named(tmp_path, change, problem):
    """What somebody changed by hand, one sentence each."""
    database = open_state(tmp_path)
    try:
        assert verify(database) == []
        database.run(change)
        (found,) = verify(database)
        assert problem in found
    finally:
        database.close()


@pytest.mark.parametrize(
    ("script", "parts"),
    [
        ("", []),
        (" \n", []),
        ("SELECT 1", ["SELECT 1"]),
        ("SELECT ';'; SELECT 2;", ["SELECT ';';", " SELECT 2;"]),
        ("SELECT 1; -- a; b\nSELECT 2;", ["SELECT 1;", " -- a; b\nSELECT 2;"]),
        (
            "CREATE TRIGGER t AFTER INSERT ON a BEGIN DELETE FROM a; END; SELECT 1;",
            ["CREATE TRIGGER t AFTER INSERT ON a BEGIN DELETE FROM a; END;", " SELECT 1;"],
        ),
    ],
)
def test_a_script_is_split_into_statements(script, parts):
    """Semicolons in texts, comments and triggers are not ends."""
    assert list(statements(script)) == parts


def test_threads_migrate_at_once(tmp_path):
    """Each of them opens the same new folder; every migration is applied once."""

    def go(_):
        database = open_state(tmp_path / ".sparkles")
        try:
            return verify(database)
        finally:
            database.close()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(go, range(16))) == [[]] * 16
    assert not list(tmp_path.glob(".sparkles/*backup*"))


def test_threads_back_up_at_once(database):
    """Each writes a file of its own and the last one stays: they shared one, and SQLite found it gone (SQLITE_IOERR_FSTAT)."""
    migrate(database, (ONE,))
    database.run("INSERT INTO a VALUES (41)")
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: database.back_up(), range(64)))) == 1
    backup = Database(database.path.with_name("sparkles.db.backup"))
    try:
        assert backup.all("SELECT x FROM a") == [(41,)]
    finally:
        backup.close()
    assert not list(database.path.parent.glob("*.part-*"))


def test_processes_make_the_same_folder_at_once(tmp_path):
    """Drivers and workers that start together: nobody finds a half-made database or one that is locked."""
    script = (
        "import sys; from pathlib import Path; from sparkles.backends.local import db, schema;"
        "d = db.open_state(Path(sys.argv[1])); print(schema.verify(d)); d.close()"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "a" / ".sparkles")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(6)
    ]
    for each in started:
        out, err = each.communicate(timeout=30)
        assert (out, err) == ("[]\n", "")


def test_making_the_database_s_file_leaves_the_locks_of_other_threads(tmp_path):
    """Closing any descriptor of a file takes away every lock that its process has on it: one that is there is not opened."""
    database = Database(tmp_path / "sparkles.db", wal=False)
    database.run("CREATE TABLE a (x INTEGER) STRICT")
    script = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None); c.execute('BEGIN IMMEDIATE')"
    )
    with database.atomic():
        create_private(database.path)
        done = subprocess.run([sys.executable, "-c", script, str(database.path)], capture_output=True, text=True, check=False)
    database.close()
    assert "database is locked" in done.stderr
