"""One SQLite file: connections, transactions, and SQLite's errors as sparkles'. May import errors.

Each thread has a connection of its own, opened on first use. Connections are in autocommit mode: a single statement is a
transaction by itself, several stand in `atomic()`. Surprise: synchronous=NORMAL with WAL keeps every commit through the death of
any process and never damages the file; a power failure may take back the last commits, which replay then performs again.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from sparkles.backends.local import layout, mounts
from sparkles.backends.local.sqlite_errors import damaged, os_error, translate
from sparkles.errors import BackendError, StorageFull

BUSY_TIMEOUT_S = 30.0
"""The longest write is the creation of a job: 3 s for 100,000 tasks on a slow disk. Longer than ten times that, something hangs."""

_PARAMETERS = Sequence[Any]


class Database:
    """The file at `path`, whose folder exists; the file is made on first use. Safe with threads and processes, not across fork.

    `notice` is a line for people where the file system allows no write-ahead log, else "".
    """

    def __init__(self, path: Path, *, wal: bool | None = None) -> None:
        """`wal`: whether to use the write-ahead log; None: where the file system can."""
        if sqlite3.sqlite_version_info < (3, 37):
            raise BackendError(
                f"this Python has SQLite {sqlite3.sqlite_version}; sparkles needs 3.37 or newer (STRICT tables). Use a newer Python",
                "open",
                str(path),
            )
        self.path = path
        self.notice = ""
        if wal is None:
            kind, point = mounts.find_kind(os.fspath(path.parent))
            wal = not mounts.is_networked(kind)
            if not wal:
                self.notice = (
                    f"{path.parent} is on {kind} ({point}), where SQLite's write-ahead log cannot work: recording is slower there."
                    " A state folder on a local disk (--state) avoids that"
                )
        self._wal = wal
        self._local = threading.local()
        self._lock = threading.Lock()
        self._opened: list[tuple[threading.Thread, sqlite3.Connection]] = []
        self._closed = False

    # Statements

    def connection(self) -> sqlite3.Connection:
        """This thread's connection, for the hot path: what it raises is sqlite3's own, to be given to `translate`."""
        try:
            found: sqlite3.Connection = self._local.connection
        except AttributeError:
            found = self._local.connection = self._open()
        return found

    def all(self, sql: str, parameters: _PARAMETERS = ()) -> list[Any]:
        """Every row of a query."""
        try:
            return self.connection().execute(sql, parameters).fetchall()
        except (sqlite3.Error, UnicodeEncodeError) as error:
            raise translate(error, self.path) from error

    def one(self, sql: str, parameters: _PARAMETERS = ()) -> Any:
        """The first row of a query as a tuple, or None."""
        try:
            return self.connection().execute(sql, parameters).fetchone()
        except (sqlite3.Error, UnicodeEncodeError) as error:
            raise translate(error, self.path) from error

    def each(self, sql: str, parameters: _PARAMETERS = ()) -> Iterator[Any]:
        """The rows of a query one by one, for what does not fit in memory; all of one moment."""
        try:
            yield from self.connection().execute(sql, parameters)
        except (sqlite3.Error, UnicodeEncodeError) as error:
            raise translate(error, self.path) from error

    def run(self, sql: str, parameters: _PARAMETERS = ()) -> int:
        """Executes one statement, which is a transaction by itself outside of `atomic`. Returns the number of rows it changed."""
        try:
            return self.connection().execute(sql, parameters).rowcount
        except (sqlite3.Error, UnicodeEncodeError) as error:
            raise translate(error, self.path) from error

    @contextmanager
    def atomic(self) -> Iterator[sqlite3.Connection]:
        """A transaction that writes: all or nothing, alone among writers from its start. Inside another one it joins it.

        Raises:
            StorageFull, Damaged: As they say; nothing was stored.
            BackendError: The file cannot be written; or, `retryable`, another process held the lock all the time.
        """
        try:
            connection = self.connection()
            if connection.in_transaction:
                yield connection
                return
            # IMMEDIATE: a transaction that reads first and then writes would fail where another one wrote in between.
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            finally:
                # SQLite has rolled back by itself after some errors, a full disk among them.
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
        except (sqlite3.Error, UnicodeEncodeError) as error:
            raise translate(error, self.path) from error

    def empty_log(self) -> None:
        """Writes the log into the file and gives its space back, as far as readers let it. Does nothing without WAL."""
        self.run("PRAGMA wal_checkpoint(TRUNCATE)")

    # The file

    def back_up(self, target: Path | None = None) -> Path:
        """Copies the database as it is at one moment, while others go on; `target` appears complete or not at all.

        Without a target it is `sparkles.db.backup`, which `sparkles doctor` makes.
        """
        target = target or self.path.with_name(f"{self.path.name}.backup")
        # Of this call alone: where two threads share a file, one removes what the other writes (SQLITE_IOERR_FSTAT and its kind).
        part = target.with_name(f"{target.name}.part-{os.getpid()}-{threading.get_ident()}")
        try:
            with closing(sqlite3.connect(part, isolation_level=None)) as copy:
                self.connection().backup(copy)
            os.replace(part, target)
        except sqlite3.Error as error:
            raise translate(error, self.path) from error
        except OSError as error:
            raise os_error(error, f"back up {self.path}", target) from error
        finally:
            part.unlink(missing_ok=True)
        return target

    def check(self) -> list[str]:
        """What SQLite's own check of the whole file finds, a sentence each; empty where it is sound. Reads every page."""
        try:
            rows = self.connection().execute("PRAGMA integrity_check(20)").fetchall()
            rows += [
                (f"row {row} of {table} refers to a row of {other} that is not there",)
                for table, row, other, _ in self._orphans()
            ]
        except sqlite3.DatabaseError as error:
            return [str(translate(error, self.path))]
        return [text for (text,) in rows if text != "ok"]

    def compact(self) -> int:
        """Gives the space of deleted rows back to the file system, where there is room for the copy that takes. Returns how many bytes
        the file shrank by."""
        before = self.path.stat().st_size
        for statement in ("VACUUM", "PRAGMA wal_checkpoint(TRUNCATE)"):
            try:
                self.run(statement)
            except StorageFull:
                continue
        return max(0, before - self.path.stat().st_size)

    def sizes(self) -> dict[str, int]:
        """Rows of each table, for `sparkles doctor` and `sparkles clean`."""
        import sqlite_utils  # here because its import costs 46 ms

        with closing(sqlite3.connect(self.path, timeout=BUSY_TIMEOUT_S)) as connection:
            try:
                return {
                    table.name: table.count for table in sqlite_utils.Database(connection).tables if "sqlite_" not in table.name
                }
            except sqlite3.Error as error:
                raise translate(error, self.path) from error

    def size_bytes(self) -> int:
        """What the database takes on disk: its file, its log and its backups."""
        return sum(each.stat().st_size for each in self.path.parent.glob(f"{self.path.name}*"))

    def close(self) -> None:
        """Closes every thread's connection; the database is not to be used any more. Harmless when repeated."""
        with self._lock:
            self._closed = True
            for _, connection in self._opened:
                connection.close()
            self._opened.clear()

    # Connections

    def _open(self) -> sqlite3.Connection:
        with self._lock:
            if self._closed:
                raise BackendError(f"{self.path} was closed already", "open", str(self.path))
            # Threads that ended leave their connections to the next one that opens.
            for thread, connection in self._opened:
                if not thread.is_alive():
                    connection.close()
            self._opened = [pair for pair in self._opened if pair[0].is_alive()]
            try:
                connection = sqlite3.connect(
                    self.path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False, cached_statements=256
                )
            except sqlite3.Error as error:
                raise translate(error, self.path) from error
            try:
                self._set_up(connection)
            except BaseException:
                connection.close()
                raise
            self._opened.append((threading.current_thread(), connection))
            return connection

    def _set_up(self, connection: sqlite3.Connection) -> None:
        try:
            mode = self._journal_mode(connection)
            # With a rollback journal NORMAL could damage the file in a power failure; with WAL it cannot.
            connection.execute(f"PRAGMA synchronous = {'NORMAL' if mode == 'wal' else 'FULL'}")
            connection.execute("PRAGMA foreign_keys = ON")
            # Debian's SQLite overwrites what is deleted with zeros; nothing here is secret enough to pay for that.
            connection.execute("PRAGMA secure_delete = OFF")
            # The log of a job of 100,000 tasks is cut down again after it was copied.
            connection.execute("PRAGMA journal_size_limit = 67108864")
        except sqlite3.Error as error:
            raise translate(error, self.path) from error

    def _journal_mode(self, connection: sqlite3.Connection) -> str:
        """Sets the journal mode unless it is set, and returns it. The mode is kept in the file."""
        wanted = "wal" if self._wal else "delete"
        until = time.monotonic() + BUSY_TIMEOUT_S
        while True:
            try:
                (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
                if mode != wanted:
                    (mode,) = connection.execute(f"PRAGMA journal_mode = {wanted}").fetchone()
                break
            except sqlite3.OperationalError as error:
                # Changing the mode does not wait for the lock as other statements do; it is changed once in a file's life.
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                    raise
                time.sleep(0.005)
        if mode != wanted and not self.notice:
            self.notice = f"{self.path} keeps journal mode {mode.upper()} where {wanted.upper()} was asked for"
        return str(mode)

    def _orphans(self) -> list[Any]:
        return self.connection().execute("PRAGMA foreign_key_check").fetchall()


def open_state(folder: Path) -> Database:
    """The database of a state folder, at this version's schema. The folder is made if it is missing, with a .gitignore.

    Raises:
        BackendError: The folder or the file cannot be made, read or written; the sentence says which and why.
        StorageFull, Damaged, SchemaTooNew: As they say.
    """
    from sparkles.backends.local import schema

    path = folder / layout.DATABASE
    # One that is missing was moved away, as the way out of damage says; an empty one would be taken for new.
    if layout.is_emptied(folder):
        raise damaged(path, "it is an empty file, and beside it is what was run")
    layout.make(folder)
    database = Database(path)
    try:
        schema.migrate(database)
    except BaseException:
        database.close()
        raise
    return database
