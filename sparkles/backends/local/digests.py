"""The digests of files that were hashed before, in `digests.db` of the state folder. May import model and local.layout.

A row is found again by (absolute path, size, mtime, ctime, inode). It is a cache: whatever is wrong with it, files are read
again and nothing fails; a damaged database is thrown away. Surprise: a file that was modified less than 2 s before it was
hashed gets no row. It could be modified again within the same tick of the file system's clock, and would look unchanged for
ever (git calls such an entry racily clean).
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Collection
from pathlib import Path

from sparkles.backends.local.layout import create_private
from sparkles.model import Digest

RACY_NS = 2_000_000_000
"""The coarsest mtime in use is FAT's, 2 s."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
    path BLOB PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, ctime_ns INTEGER NOT NULL, inode INTEGER NOT NULL,
    digest TEXT NOT NULL
) STRICT, WITHOUT ROWID
"""


def settled(found: os.stat_result) -> bool:
    """Whether the last modification is long enough ago for the next one to show in the mtime."""
    return time.time_ns() - found.st_mtime_ns > RACY_NS


class DigestCache:
    """Safe with several processes (SQLite's locks) and threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._db: sqlite3.Connection | None = None
        self._broken = False

    def get(self, path: str, found: os.stat_result) -> Digest | None:
        """The digest of the file at the absolute `path` that looks like `found`, or None where it must be read."""
        rows = self._run(
            "SELECT digest FROM files WHERE path = ? AND size = ? AND mtime_ns = ? AND ctime_ns = ? AND inode = ?",
            (path, found),
        )
        return Digest(rows[0][0]) if rows else None

    def put(self, path: str, found: os.stat_result, digest: Digest) -> None:
        """Remembers the digest of a file that looked like `found` before and after it was read."""
        if settled(found):
            self._run("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?)", (path, found), digest)

    def forget(self, digests: Collection[Digest]) -> None:
        """Drops the rows of content that is not stored any more."""
        with self._lock:
            try:
                db = self._open()
                if db is not None:
                    db.executemany("DELETE FROM files WHERE digest = ?", [(digest,) for digest in digests])
                    db.commit()
            except sqlite3.Error as error:
                self._fail(error)

    def close(self) -> None:
        """Closes the database; the next call opens it again."""
        with self._lock:
            if self._db is not None:
                self._db.close()
                self._db = None

    def _run(self, sql: str, key: tuple[str, os.stat_result], *more: str) -> list[tuple[str]]:
        path, found = key
        values = (os.fsencode(path), found.st_size, found.st_mtime_ns, found.st_ctime_ns, _signed(found.st_ino), *more)
        with self._lock:
            try:
                db = self._open()
                if db is None:
                    return []
                rows: list[tuple[str]] = db.execute(sql, values).fetchall()
                if more:
                    db.commit()
                return rows
            except sqlite3.Error as error:
                self._fail(error)
                return []

    def _open(self) -> sqlite3.Connection | None:
        if self._db is None and not self._broken:
            # 5 s: other processes hold the lock for one insert only; longer means that the disk hangs, and reading the file is
            # quicker.
            try:
                create_private(self._path)  # it names the user's files
            except OSError:
                pass  # SQLite says what is wrong
            self._db = sqlite3.connect(self._path, timeout=5.0, check_same_thread=False)
            # Without WAL (network disks) SQLite answers with the mode it keeps; both are safe.
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute(_SCHEMA)
            self._db.commit()
        return self._db

    def _fail(self, error: sqlite3.Error) -> None:
        """Throws a damaged database away; does without one where it cannot be opened or written."""
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_BUSY and self._db is not None:
            return
        if self._db is not None:
            self._db.close()
            self._db = None
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            for suffix in ("", "-wal", "-shm"):
                try:
                    os.unlink(f"{self._path}{suffix}")
                except OSError:
                    pass
            return
        self._broken = True


def _signed(number: int) -> int:
    """An inode as SQLite can hold it: 64 bits with a sign."""
    return number - (1 << 64) if number >= 1 << 63 else number
