"""The state folder's SQLite database: connections, transactions, migrations, errors in words. May import errors and schema.

One connection a thread, in autocommit mode; every writer goes through `atomic()` (BEGIN IMMEDIATE), so that a transaction never finds
out at its end that another was first. sqlite-utils looks at the database where people ask for it; it is not on the hot path.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sparkles.backends.local.schema import MIGRATIONS
from sparkles.errors import BackendError, Damaged, SchemaTooNew, SparklesError, StorageFull

FILE = "sparkles.db"

BUSY_MS = 30_000
"""A writer waits this long for another's transaction: those are milliseconds, but a slow network disk has held a lock for 12 s."""

_WITHOUT_WAL = frozenset(
    ("nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "lustre", "9p", "afs", "beegfs", "ceph", "glusterfs")
)
"""File systems without the shared memory that WAL needs (https://www.sqlite.org/wal.html: all processes must be on one host)."""


def mount_type(path: Path, mounts: str) -> str:
    """The type of the file system that holds `path`, from the text of /proc/mounts; "" where it is not in it."""
    best, found = -1, ""
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        point = fields[1].encode("latin-1", "replace").decode("unicode_escape")
        inside = point == "/" or str(path) == point or str(path).startswith(point.rstrip("/") + "/")
        if inside and len(point) >= best:
            best, found = len(point), fields[2]
    return found


def can_use_wal(folder: Path) -> tuple[bool, str]:
    """Whether WAL works in a folder, and the type of its file system."""
    try:
        kind = mount_type(folder.resolve(), Path("/proc/mounts").read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return True, ""
    return kind not in _WITHOUT_WAL, kind


class Database:
    """One SQLite file, usable from every thread of this process."""

    def __init__(self, path: Path, *, wal: bool | None = None) -> None:
        """Opens, or makes, the file; it is not migrated by this. `wal` None: where the file system lets it."""
        self.path = path
        self.notice = ""
        allowed, kind = can_use_wal(path.parent) if wal is None else (wal, "")
        self._journal_mode = "WAL" if allowed else "DELETE"
        if not allowed and wal is None:
            self.notice = (
                f"{path.parent} is on {kind}, where SQLite's WAL cannot work: the journal mode is DELETE, which is slower"
            )
        self._local = threading.local()
        self._all: list[sqlite3.Connection] = []
        self._lock = threading.Lock()

    @property
    def connection(self) -> sqlite3.Connection:
        """This thread's connection."""
        found: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if found is None:
            found = self._connect()
            self._local.connection = found
        return found

    def _connect(self) -> sqlite3.Connection:
        with self.translated("open"):
            connection = sqlite3.connect(
                self.path, isolation_level=None, cached_statements=256, timeout=BUSY_MS / 1000, check_same_thread=False
            )
            connection.execute(f"PRAGMA journal_mode = {self._journal_mode}")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA temp_store = MEMORY")
        with self._lock:
            self._all.append(connection)
        return connection

    def close(self) -> None:
        """Closes every connection; the database may be opened again by using it."""
        with self._lock:
            for connection in self._all:
                connection.close()
            self._all.clear()
        self._local = threading.local()

    def read(self, sql: str, arguments: Sequence[Any] = ()) -> list[Any]:
        """The rows of a query."""
        try:
            return self.connection.execute(sql, arguments).fetchall()
        except sqlite3.Error as error:
            raise self.error_of(error, "read") from error

    def read_one(self, sql: str, arguments: Sequence[Any] = ()) -> Any:
        """The first row of a query, or None."""
        try:
            return self.connection.execute(sql, arguments).fetchone()
        except sqlite3.Error as error:
            raise self.error_of(error, "read") from error

    def write(self, sql: str, arguments: Sequence[Any] = ()) -> int:
        """One statement as a transaction of its own. Returns how many rows changed."""
        try:
            return self.connection.execute(sql, arguments).rowcount
        except sqlite3.Error as error:
            raise self.error_of(error, "write") from error

    @contextmanager
    def atomic(self) -> Iterator[sqlite3.Connection]:
        """A write transaction: all or nothing, and alone from its first statement on."""
        connection = self.connection
        with self.translated("write"):
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    @contextmanager
    def translated(self, operation: str) -> Iterator[None]:
        """Turns sqlite3's errors into sparkles' own."""
        try:
            yield
        except sqlite3.Error as error:
            raise self.error_of(error, operation) from error

    def error_of(self, error: sqlite3.Error, operation: str) -> SparklesError:
        """The error that sqlite3's stands for, with what to do."""
        text = str(error)
        code = getattr(error, "sqlite_errorname", "") or ""
        where = str(self.path)
        if code.startswith("SQLITE_FULL") or "disk is full" in text:
            return StorageFull(
                f"{where}: no space is left on the device; free some and run again: nothing is lost", operation, where
            )
        if code.startswith("SQLITE_IOERR") and _is_full(self.path.parent):
            return StorageFull(
                f"{where}: no space is left on the device; free some and run again: nothing is lost", operation, where
            )
        if code.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
            return Damaged(f"{where}: the database is damaged ({text}). {self.how_to_restore()}", operation, where)
        if code.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
            return BackendError(
                f"{self.path.parent}: the state folder cannot be written ({text}); make it writable, or choose another with --state",
                operation,
                where,
            )
        if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            return BackendError(f"{where}: another process held the database for {BUSY_MS // 1000} s", operation, where, True)
        return BackendError(f"{where}: {text}", operation, where)

    def how_to_restore(self) -> str:
        """The way back after damage: the newest backup, or a fresh start that keeps all files."""
        backups = sorted(self.path.parent.glob(f"{FILE}.backup*"), key=lambda path: path.stat().st_mtime)
        if backups:
            return f"A backup is there: move {self.path.name} away and copy {backups[-1]} in its place."
        return (
            f"There is no backup. Move {self.path.name} away: sparkles begins a new one; task files stay in {self.path.parent}."
        )

    def backup(self, target: Path) -> None:
        """Copies the whole database, consistent while others write, by way of a temporary name."""
        temporary = target.with_name(target.name + ".part")
        with self.translated("back up"):
            copy = sqlite3.connect(temporary)
            try:
                self.connection.backup(copy)
            finally:
                copy.close()
        temporary.replace(target)

    def check(self) -> list[str]:
        """What SQLite's own check finds wrong; empty where nothing is."""
        return [row[0] for row in self.read("PRAGMA quick_check") if row[0] != "ok"]

    def sizes(self) -> dict[str, int]:
        """Rows by table, for people."""
        from sqlite_utils import Database as Inspected

        return {table.name: table.count for table in Inspected(self.connection).tables if not table.name.startswith("sqlite_")}


def _is_full(folder: Path) -> bool:
    try:
        facts = os.statvfs(folder)
    except OSError:
        return False
    return facts.f_bavail * facts.f_frsize < 64 * 1024


def pending(database: Database) -> list[str]:
    """The names of migrations that the database lacks. Changes nothing."""
    have = _applied(database)
    return [name for number, name, _ in MIGRATIONS if number > have]


def verify(database: Database) -> None:
    """Raises SchemaTooNew or BackendError where the schema is not the one this sparkles knows. Changes nothing."""
    have, newest = _applied(database), MIGRATIONS[-1][0]
    if have > newest:
        raise SchemaTooNew(
            f"{database.path}: written by a newer sparkles (schema {have}, this one knows up to {newest}); upgrade sparkles,"
            " or choose another state folder with --state",
            "open",
            str(database.path),
        )
    if have < newest:
        raise BackendError(f"{database.path}: schema {have}, expected {newest}", "open", str(database.path))


def migrate(database: Database) -> None:
    """Brings the schema up to date; what holds data is backed up first, beside the database."""
    have, newest = _applied(database), MIGRATIONS[-1][0]
    if have >= newest:
        verify(database)
        return
    if have:
        database.backup(database.path.with_name(f"{FILE}.backup-{have}"))
    for number, name, sql in MIGRATIONS:
        if number <= have:
            continue
        with database.atomic() as connection:
            row = connection.execute("PRAGMA user_version").fetchone()
            if row[0] >= number:
                continue  # another process was first
            for statement in _statements(sql):
                connection.execute(statement)
            connection.execute("INSERT INTO migrations VALUES (?, ?, ?)", (number, name, round(time.time() * 1000)))
            connection.execute(f"PRAGMA user_version = {number}")


def _applied(database: Database) -> int:
    return int(database.read_one("PRAGMA user_version")[0])


def _statements(sql: str) -> list[str]:
    """A migration's statements; the record of migrations comes with the first of them."""
    first = (
        "CREATE TABLE IF NOT EXISTS migrations (number INTEGER PRIMARY KEY, name TEXT NOT NULL, at_ms INTEGER NOT NULL) STRICT"
    )
    return [first, *(each for each in sql.split(";") if each.strip())]


def open_state(folder: Path) -> Database:
    """The database of a state folder, which is made (with a .gitignore of its own) where it is not there.

    Raises:
        StorageFull, Damaged, SchemaTooNew, BackendError: With the folder and what to do.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        ignore = folder / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n", encoding="utf-8")
    except FileExistsError:
        raise BackendError(f"{folder}: expected sparkles' state folder, found a file", "open", str(folder)) from None
    except OSError as error:
        if error.errno in (28, 122):
            raise StorageFull(
                f"{folder}: no space is left on the device; free some and run again", "open", str(folder)
            ) from error
        raise BackendError(
            f"{folder}: the state folder cannot be made or written ({error.strerror}); choose another with --state",
            "open",
            str(folder),
        ) from error
    database = Database(folder / FILE)
    migrate(database)
    return database
