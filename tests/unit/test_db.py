"""The database's file: transactions, threads, journal modes, backups, and what is said when it cannot be read or written."""

import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
from contextlib import closing
from pathlib import Path

import pytest

from sparkles.backends.local import db as module
from sparkles.backends.local.db import Database, open_state
from sparkles.backends.local.job_store import SqliteJobStore
from sparkles.backends.local.run_store import SqliteRunStore
from sparkles.backends.local.sqlite_errors import translate
from sparkles.errors import BackendError, Damaged, InternalError, StorageFull, UsageError
from sparkles.model import Counts, Run, RunState, Step, StepKey, StepState
from tests.support.needs import requires, small_disk
from tests.support.stores import HERE, create, enter, run_all


@pytest.fixture
def database(tmp_path):
    database = Database(tmp_path / "sparkles.db")
    database.run("CREATE TABLE t (x INTEGER PRIMARY KEY) STRICT")
    yield database
    database.close()


def rows(database):
    return [x for (x,) in database.all("SELECT x FROM t ORDER BY x")]


# Transactions


def test_a_transaction_is_all_or_nothing(database):
    """Whatever ends it: an error of SQLite's, one of Python's, or Ctrl-C."""
    with database.atomic() as connection:
        connection.execute("INSERT INTO t VALUES (1)")

    def fail(error):
        with database.atomic() as connection:
            connection.execute("INSERT INTO t VALUES (2)")
            if error:
                raise error
            connection.execute("INSERT INTO t VALUES (1)")

    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error):
            fail(error)
    with pytest.raises(InternalError, match="UNIQUE"):
        fail(None)
    assert rows(database) == [1]
    assert not database.connection().in_transaction


def test_a_transaction_within_another_is_part_of_it(database):
    """It is undone with it."""

    def fail():
        with database.atomic():
            with database.atomic() as connection:
                connection.execute("INSERT INTO t VALUES (1)")
            raise ValueError("the outer one fails")

    with pytest.raises(ValueError, match="the outer one fails"):
        fail()
    assert rows(database) == []


def test_writers_wait_for_each_other(database):
    """A transaction that reads and then writes sees nobody else's write in between, and does not fail either."""

    def add():
        for _ in range(25):
            with database.atomic() as connection:
                (most,) = connection.execute("SELECT coalesce(max(x), 0) FROM t").fetchone()
                connection.execute("INSERT INTO t VALUES (?)", (most + 1,))

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert rows(database) == list(range(1, 101))


def test_a_lock_that_stays_is_worth_another_try(database, monkeypatch):
    """The message says what to do; the error says that the same call may succeed later."""
    monkeypatch.setattr(module, "BUSY_TIMEOUT_S", 0.05)
    with closing(sqlite3.connect(database.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        second = Database(database.path)
        try:
            with pytest.raises(BackendError, match="was locked by another process") as locked:
                second.run("INSERT INTO t VALUES (1)")
            assert locked.value.retryable
            with pytest.raises(BackendError, match="was locked by another process"), second.atomic():
                pytest.fail("the lock is held")
            assert rows(second) == []
            other.execute("ROLLBACK")
            assert second.run("INSERT INTO t VALUES (1)") == 1
        finally:
            second.close()


def test_each_thread_has_a_connection(database):
    """Connections of threads that ended are closed by the next one that opens; all of them by `close`."""
    seen = []

    def look():
        seen.append(database.connection())
        assert database.connection() is seen[-1]

    for _ in range(3):
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
    assert len({id(each) for each in [*seen, database.connection()]}) == 4
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        seen[0].execute("SELECT 1")
    seen[2].execute("SELECT 1")
    database.close()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        seen[2].execute("SELECT 1")


def test_a_closed_database_stays_closed(database):
    """Closing twice is harmless; using it is refused, from other threads too."""
    database.close()
    database.close()
    with pytest.raises(BackendError, match="was closed already"):
        database.one("SELECT 1")
    said = []

    def use():
        try:
            database.one("SELECT 1")
        except BackendError as error:
            said.append(str(error))

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert said == [f"{database.path} was closed already"]


# Journal modes


def pragma(database, name):
    return database.one(f"PRAGMA {name}")[0]


def test_a_local_disk_gets_a_write_ahead_log(database):
    """NORMAL: kept through the death of any process."""
    assert pragma(database, "journal_mode") == "wal"
    assert pragma(database, "synchronous") == 1
    assert pragma(database, "foreign_keys") == 1
    assert pragma(database, "busy_timeout") == 30_000
    assert database.notice == ""


def test_a_network_disk_gets_a_rollback_journal(tmp_path, monkeypatch):
    """With FULL, since NORMAL could damage the file there; a line says so; the mode of an existing file is changed."""
    open_state(tmp_path / ".sparkles").close()
    monkeypatch.setattr(module.mounts, "find_kind", lambda path: ("nfs4", "/home"))
    database = open_state(tmp_path / ".sparkles")
    try:
        assert pragma(database, "journal_mode") == "delete"
        assert pragma(database, "synchronous") == 2
        assert database.notice == (
            f"{tmp_path}/.sparkles is on nfs4 (/home), where SQLite's write-ahead log cannot work: recording is slower there. A state"
            " folder on a local disk (--state) avoids that"
        )
        jobs = SqliteJobStore(database)
        enter(jobs)
        create(jobs, "j", ["a", "b"])
        assert run_all(jobs) == 2
    finally:
        database.close()


def test_processes_share_a_rollback_journal(tmp_path):
    """Readers and writers get in each other's way and wait."""
    path = tmp_path / "sparkles.db"
    database = Database(path, wal=False)
    database.run("CREATE TABLE t (x INTEGER PRIMARY KEY) STRICT")
    script = """
import sys
from pathlib import Path
from sparkles.backends.local.db import Database
database = Database(Path(sys.argv[1]), wal=False)
for number in range(40):
    database.run("INSERT INTO t VALUES (?)", (int(sys.argv[2]) + number,))
    database.all("SELECT * FROM t")
database.close()
"""
    try:
        started = [subprocess.Popen([sys.executable, "-c", script, str(path), str(1000 * each)]) for each in range(3)]
        assert [each.wait(30) for each in started] == [0, 0, 0]
        assert len(rows(database)) == 120
        assert not path.with_name("sparkles.db-wal").exists()
    finally:
        database.close()


# The state folder


def test_the_state_folder_is_made(tmp_path):
    """With the folders above it and a .gitignore; what somebody wrote into that stays."""
    folder = tmp_path / "a" / "b ü" / ".sparkles"
    open_state(folder).close()
    assert (folder / ".gitignore").read_text() == "*\n"
    (folder / ".gitignore").write_text("mine\n")
    database = open_state(folder)
    database.close()
    assert (folder / ".gitignore").read_text() == "mine\n"
    assert database.path == folder / "sparkles.db"


def test_a_file_in_place_of_the_folder(tmp_path):
    """The message names the file."""
    (tmp_path / "state").write_text("x")
    for folder in (tmp_path / "state", tmp_path / "state" / "below"):
        with pytest.raises(
            BackendError, match=rf"cannot make the state folder {folder}: .*state is not a folder\. Move it away"
        ):
            open_state(folder)


def test_a_folder_in_place_of_the_database(tmp_path):
    """The message says what was expected."""
    (tmp_path / "sparkles.db").mkdir()
    with pytest.raises(BackendError, match=r"sparkles\.db: it is a folder; a database was expected\. Move it away"):
        open_state(tmp_path)


def test_a_folder_that_is_gone(tmp_path):
    """Somebody deleted it: the message says which."""
    database = Database(tmp_path / "gone" / "sparkles.db")
    with pytest.raises(BackendError, match=rf"there is no folder {tmp_path}/gone"):
        database.one("SELECT 1")
    database.close()


def test_a_database_that_is_moved_away_while_in_use(database):
    """The next write into a rollback journal says so (with WAL SQLite does not look)."""
    journalled = Database(database.path, wal=False)
    database.close()
    journalled.run("INSERT INTO t VALUES (1)")
    database.path.rename(database.path.with_name("elsewhere.db"))
    with pytest.raises(BackendError, match=r"sparkles\.db was moved or deleted while it was in use"):
        journalled.run("INSERT INTO t VALUES (2)")
    journalled.close()


AS_NOBODY = """
import os, sys
from pathlib import Path
from sparkles.backends.local import schema  # the interpreter's own folder may not be readable any more below
from sparkles.backends.local.db import open_state
from sparkles.errors import BackendError
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
try:
    database = open_state(Path(sys.argv[1]))
    database.run("DELETE FROM runs")
except BackendError as error:
    print(type(error).__name__, error.exit_code, error)
"""


def as_nobody(folder):
    """What a user who owns nothing is told about the folder."""
    done = subprocess.run([sys.executable, "-c", AS_NOBODY, str(folder)], capture_output=True, text=True, timeout=30)
    assert done.stderr == ""
    return done.stdout.rstrip()


@pytest.fixture
def public():
    """A folder that everybody can reach. pytest's own is for its user alone: another pytest that starts makes it so again."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def test_a_folder_that_is_read_only(public):
    """To this user: the sentence says which path, and two ways out."""
    (public / "top").mkdir(mode=0o555)
    assert as_nobody(public / "top" / ".sparkles") == (
        f"BackendError 3 cannot make the state folder {public}/top/.sparkles: Permission denied. Make it writable, or name another state"
        " folder (--state)"
    )
    open_state(public / "state").close()
    (public / "state").chmod(0o555)
    (public / "state" / "sparkles.db").chmod(0o444)
    assert as_nobody(public / "state") == (
        f"BackendError 3 cannot write to {public}/state: it is not writable by this user. Make it writable, or name another state folder"
        " (--state)"
    )


def test_a_database_that_is_read_only(public):
    """In a folder that can be written."""
    open_state(public / "state").close()
    (public / "state").chmod(0o777)
    (public / "state" / "sparkles.db").chmod(0o444)
    assert as_nobody(public / "state").startswith(
        f"BackendError 3 cannot write to {public}/state/sparkles.db: it is not writable by this user. Make it writable"
    )


def test_a_file_system_that_is_mounted_read_only(tmp_path):
    """To root as well."""
    with small_disk(tmp_path / "disk", 1 << 20) as disk:
        open_state(disk / "state").close()
        done = subprocess.run(["mount", "-o", "remount,ro", str(disk)], capture_output=True, text=True)
        requires(done.returncode == 0, done.stderr)
        with pytest.raises(BackendError, match="the file system is mounted read-only") as refused:
            open_state(disk / "state").run("DELETE FROM runs")
        assert not isinstance(refused.value, StorageFull)
        with pytest.raises(BackendError, match=r"cannot make the state folder .*: Read-only file system"):
            open_state(disk / "other")


# Full disks


@pytest.mark.parametrize("wal", [True, False], ids=["log", "journal"])
def test_a_full_disk_stores_nothing_and_damages_nothing(tmp_path, wal):
    """A job that does not fit is refused whole; what was there is there, and there is work again once there is room."""
    with small_disk(tmp_path / "disk", 2 << 20) as disk:
        open_state(disk).close()
        database = Database(disk / "sparkles.db", wal=wal)
        try:
            jobs = SqliteJobStore(database)
            enter(jobs)
            create(jobs, "small", ["a", "b"])
            with pytest.raises(
                StorageFull, match=rf"no space is left for {disk}/sparkles\.db: nothing was stored\. Free some space"
            ):
                create(jobs, "large", [f"echo {number} {'x' * 500}" for number in range(5000)])
            assert [job.id for job in jobs.list_jobs()] == ["small"]
            assert jobs.count_tasks("small") == Counts(pending=2)
            create(jobs, "another", ["c"])
            assert run_all(jobs) == 3
            assert database.check() == []
        finally:
            database.close()


@pytest.mark.parametrize("wal", [True, False], ids=["log", "journal"])
def test_a_job_whose_removal_does_not_fit_is_removed(tmp_path, wal):
    """With half a megabyte free, though one transaction would need more; what other jobs reuse of it stays, and so does the rest."""
    with small_disk(tmp_path / "disk", 24 << 20) as disk:
        open_state(disk).close()
        database = Database(disk / "sparkles.db", wal=wal)
        try:
            jobs = SqliteJobStore(database)
            enter(jobs)
            create(jobs, "large", [f"echo {number}" for number in range(6000)])
            assert run_all(jobs) == 6000
            origin = jobs.get_task("large", 5000).origin
            create(jobs, "small", ["echo 4999", "b"], reuse={1: origin})
            database.empty_log()
            usage = os.statvfs(disk)
            (disk / "filler").write_bytes(b"x" * (usage.f_bavail * usage.f_frsize - (512 << 10)))
            with pytest.raises(StorageFull):
                jobs._delete_jobs(["large"])
            assert jobs.count_tasks("large").total == 6000
            assert jobs.delete_jobs(["large"]) == [origin]
            assert [job.id for job in jobs.list_jobs()] == ["small"]
            assert jobs.get_attempt(origin).ref == origin
            assert database.all("SELECT count(*) FROM attempts") == [(1,)]
            assert database.all("SELECT (SELECT count(*) FROM tasks), (SELECT count(*) FROM specs)") == [(2, 2)]
            assert database.check() == []
        finally:
            database.close()


def test_a_full_disk_is_told_to_the_journal(tmp_path):
    """A step that does not fit is not recorded; the error is not one to try again at once."""
    with small_disk(tmp_path / "disk", 1 << 20) as disk:
        database = open_state(disk)
        try:
            runs = SqliteRunStore(database)
            runs.create_run(Run("r-1", "w.lua", "{}", RunState.RUNNING, 7, HERE))
            (disk / "filler").write_bytes(b"x" * 100_000)

            def step(number):
                return Step(StepKey("main", "read", "d", number), StepState.DONE, number, "[]", "", '"' + "v" * 4000 + '"')

            def record():
                for number in range(1, 2000):
                    runs.put_step("r-1", step(number))

            with pytest.raises(StorageFull) as full:
                record()
            assert not full.value.retryable
            last = runs.last_sequence("r-1")
            assert 0 < last < 1999
            (disk / "filler").unlink()
            runs.put_step("r-1", step(last + 1))
            assert runs.list_steps("r-1") == [step(number) for number in range(1, last + 2)]
        finally:
            database.close()


def test_a_disk_that_is_full_from_the_start(tmp_path):
    """No folder, or no database in it."""
    with small_disk(tmp_path / "disk", 1 << 20) as disk:
        (disk / "state").mkdir()
        with pytest.raises(OSError, match="No space left"):
            (disk / "filler").write_bytes(b"x" * (2 << 20))
        for folder in (disk / "state", disk / "new"):
            with pytest.raises(StorageFull, match="no space is left for"):
                open_state(folder)


# Damage


@pytest.fixture
def state(tmp_path):
    """A state folder with a job of 500 tasks; its path, which a shell would take apart."""
    folder = tmp_path / "it's mine" / ".sparkles"
    database = open_state(folder)
    create(SqliteJobStore(database), "j", [f"echo {number}" for number in range(500)])
    database.close()
    return folder


@pytest.mark.parametrize("content", [b"not a database" * 1000, b"\0" * 8192], ids=["text", "zeros"])
def test_something_else_in_place_of_the_database(state, content):
    """The sentence names the file and how to begin anew, with commands that do so."""
    (state / "sparkles.db").write_bytes(content)
    with pytest.raises(Damaged) as damaged:
        open_state(state)
    message, commands = str(damaged.value).split("outputs and content kept: ")
    assert message == (
        f"{state}/sparkles.db is damaged: file is not a database. There is no backup yet (`sparkles doctor` makes one). To begin anew,"
        " with "
    )
    assert subprocess.run(commands, shell=True).returncode == 0
    database = open_state(state)
    assert SqliteJobStore(database).list_jobs() == []
    database.close()
    assert (state / "sparkles.db.damaged").read_bytes() == content
    assert damaged.value.exit_code == 3


def damage(path, table):
    """Overwrites the root page of a table: the file still opens as a database."""
    with closing(sqlite3.connect(path)) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchone()
    with path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(os.urandom(4096))


def test_a_damaged_database_can_be_restored_as_the_message_says(state):
    """The commands of the message, run by a shell, bring back what the backup held."""
    database = open_state(state)
    backup = database.back_up()
    assert backup == state / "sparkles.db.backup"
    database.close()
    damage(state / "sparkles.db", "specs")
    database = open_state(state)
    with pytest.raises(Damaged, match="database disk image is malformed") as damaged:
        SqliteJobStore(database).list_outcomes("j")
    assert any("malformed" in each or "not in" in each or "Tree" in each for each in database.check())
    database.close()
    message = str(damaged.value)
    assert f"The newest backup is {backup}" in message
    commands = message.split("end every sparkles of this folder; ")[1]
    assert subprocess.run(commands, shell=True).returncode == 0
    database = open_state(state)
    assert len(SqliteJobStore(database).list_outcomes("j")) == 500
    assert database.check() == []
    database.close()


def test_a_damaged_row_is_named(state):
    """JSON that somebody edited by hand."""
    database = open_state(state)
    try:
        jobs = SqliteJobStore(database)
        database.run("UPDATE specs SET spec = CAST('{\"command\": 5}' AS BLOB) WHERE idx = 3")
        database.run("UPDATE specs SET params = '[1]' WHERE idx = 4")
        database.run("UPDATE specs SET params = '{' WHERE idx = 5")
        for index, what in [(3, "spec of task j/3: Expected"), (4, "parameters of task j/4"), (5, "parameters of task j/5")]:
            with pytest.raises(Damaged, match=what):
                jobs.get_spec("j", index)
        database.run("UPDATE jobs SET spec = X'00'")
        with pytest.raises(Damaged, match="spec of job j"):
            jobs.get_job("j")
    finally:
        database.close()


def test_a_backup_is_complete_while_others_write(state):
    """It is of one moment, and a second one replaces it."""
    database = open_state(state)
    try:
        jobs = SqliteJobStore(database)
        with database.atomic():
            create(jobs, "k", ["x"])
        target = database.back_up(state / "sparkles.db.backup-7")
        create(jobs, "l", ["x"])
        with closing(sqlite3.connect(target)) as copy:
            assert copy.execute("SELECT id FROM jobs ORDER BY sequence").fetchall() == [("j",), ("k",)]
        database.back_up(target)
        with closing(sqlite3.connect(target)) as copy:
            assert copy.execute("SELECT count(*) FROM jobs").fetchone() == (3,)
        assert [each.name for each in state.iterdir() if ".part-" in each.name] == []
    finally:
        database.close()


# Looking


def test_sizes_and_compaction(state):
    """Rows by table, bytes with log and backups; deleted rows give their space back."""
    database = open_state(state)
    try:
        sizes = database.sizes()
        assert (sizes["jobs"], sizes["tasks"], sizes["specs"], sizes["runs"]) == (1, 500, 500, 0)
        assert not [name for name in sizes if name.startswith("sqlite_")]
        before = database.size_bytes()
        database.back_up()
        assert database.size_bytes() > before + 50_000
        SqliteJobStore(database).delete_jobs(["j"])
        assert database.compact() > 50_000
        assert database.sizes()["tasks"] == 0
    finally:
        database.close()


def test_a_reference_to_nothing_is_found(state):
    """The check sees what SQLite allows while foreign keys are off."""
    with closing(sqlite3.connect(state / "sparkles.db", isolation_level=None)) as other:
        other.execute("DELETE FROM jobs")
    database = open_state(state)
    found = database.check()
    assert "row None of tasks refers to a row of jobs that is not there" in found
    database.close()


# Errors


def test_text_that_is_not_unicode_is_refused_by_name(state):
    """A path with bytes that are not UTF-8 cannot be stored; nothing else is stored either."""
    database = open_state(state)
    try:
        runs = SqliteRunStore(database)
        for fields in ({"workflow": "b\udc80d.lua"}, {"driver": None, "error": "\udcff"}):
            run = Run("r-1", **{"workflow": "w", "args": "{}", "state": RunState.RUNNING, "seed": 1, **fields})
            with pytest.raises(UsageError, match=r"holds bytes that are not UTF-8, at character \d"):
                runs.create_run(run)
        with pytest.raises(UsageError, match=r"'echo \\udcff' holds bytes that are not UTF-8"):
            create(SqliteJobStore(database), "k", ["echo ok", "echo \udcff"])
        assert [job.id for job in SqliteJobStore(database).list_jobs()] == ["j"]
    finally:
        database.close()


@pytest.mark.parametrize(
    ("name", "kind", "retryable", "text"),
    [
        ("SQLITE_FULL", StorageFull, False, "no space is left"),
        ("SQLITE_CORRUPT", Damaged, False, "is damaged"),
        ("SQLITE_CORRUPT_INDEX", Damaged, False, "is damaged"),
        ("SQLITE_NOTADB", Damaged, False, "is damaged"),
        ("SQLITE_BUSY", BackendError, True, "was locked"),
        ("SQLITE_BUSY_SNAPSHOT", BackendError, True, "was locked"),
        ("SQLITE_LOCKED", BackendError, True, "was locked"),
        ("SQLITE_READONLY", BackendError, False, "it is read-only"),
        ("SQLITE_READONLY_DBMOVED", BackendError, False, "was moved or deleted"),
        ("SQLITE_CANTOPEN", BackendError, True, "See the system's log"),
        ("SQLITE_IOERR_READ", BackendError, True, "See the system's log"),
        ("SQLITE_NOMEM", BackendError, True, "out of memory"),
        ("SQLITE_CONSTRAINT_CHECK", InternalError, None, "SQLITE_CONSTRAINT_CHECK"),
        ("SQLITE_ERROR", InternalError, None, "SQLITE_ERROR"),
        ("SQLITE_MISUSE", InternalError, None, "SQLITE_MISUSE"),
    ],
)
def test_every_kind_of_sqlite_error_has_its_own(tmp_path, name, kind, retryable, text):
    """By SQLite's result code, the extended ones with their family."""
    path = tmp_path / "sparkles.db"
    path.touch()
    error = sqlite3.OperationalError("it said so")
    error.sqlite_errorcode = getattr(sqlite3, name)
    error.sqlite_errorname = name
    translated = translate(error, path)
    assert type(translated) is kind
    assert text in str(translated)
    assert str(path) in str(translated)
    assert retryable is None or translated.retryable == retryable


def test_importing_the_stores_is_cheap():
    """sqlite-utils costs 46 ms: only what looks at sizes may pay that."""
    script = (
        "import sys; import sparkles.backends.local.job_store, sparkles.backends.local.schema;"
        "print([m for m in sys.modules if m.startswith(('sqlite_utils', 'psutil'))])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    assert done.stdout == "[]\n"
