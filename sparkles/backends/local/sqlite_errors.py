"""SQLite's and the file system's errors as sparkles', each with what to do. May import errors."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import sqlite3
from pathlib import Path

from sparkles import hints
from sparkles.errors import BackendError, Damaged, InternalError, SparklesError, StorageFull, UsageError

_FULL = (errno.ENOSPC, errno.EDQUOT)

_NO_ROOM_BYTES = 256 * 1024
"""With less than this SQLite cannot grow its log and its index of the log."""


def translate(error: sqlite3.Error | UnicodeEncodeError, path: Path) -> SparklesError:
    """What an error of the database at `path` means for people, as an exception to raise from it."""
    if isinstance(error, UnicodeEncodeError):
        return UsageError(
            f"{error.object!r} holds bytes that are not UTF-8, at character {error.start + 1}: it cannot be stored. Rename the file"
        )
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        if "closed database" in str(error):
            return BackendError(f"{path} was closed already", "use", str(path))
        return InternalError(f"SQLite: {error}")
    primary = code & 0xFF
    if primary == sqlite3.SQLITE_FULL:
        return _full(path)
    if primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return damaged(path, str(error))
    if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return BackendError(
            f"{path} was locked by another process all the time that was waited for it; try again. If it stays locked, see who has it"
            f" open: fuser {path}",
            "lock",
            str(path),
            retryable=True,
        )
    if code == sqlite3.SQLITE_READONLY_DBMOVED or (primary == sqlite3.SQLITE_READONLY and not path.exists()):
        return BackendError(f"{path} was moved or deleted while it was in use", "write", str(path))
    if primary in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_PERM):
        return _unreachable(error, primary, path)
    if primary == sqlite3.SQLITE_NOMEM:
        return BackendError(f"{path}: out of memory", "use", str(path), retryable=True)
    return InternalError(f"{path}: SQLite: {error} ({error.sqlite_errorname})")


def os_error(error: OSError, what: str, path: Path) -> BackendError:
    """An error of the file system while doing `what` ("make the state folder") at `path`."""
    if error.errno in _FULL:
        return _full(path)
    why = error.strerror or str(error)
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        why = f"{why}. Make it writable, or name another state folder (--state)"
    elif error.errno in (errno.ENOTDIR, errno.EEXIST):
        blocking = next((each for each in (path, *path.parents) if os.path.lexists(each) and not each.is_dir()), path)
        link = f"a link to {os.readlink(blocking)}, which is not" if blocking.is_symlink() else "not"
        why = f"{blocking} is {link} a folder. Move it away, or name another state folder (--state)"
    return BackendError(f"cannot {what} {path}: {why}", what, str(path))


def damaged(path: Path, found: str) -> Damaged:
    """The database is damaged: says where the newest backup is and how to go back to it."""
    backups = sorted(path.parent.glob(f"{path.name}.backup*"), key=lambda each: each.stat().st_mtime)
    backups = [each for each in backups if ".part-" not in each.name]
    file, log, index = (shlex.quote(f"{path}{suffix}") for suffix in ("", "-wal", "-shm"))
    aside = f"mv {file} {shlex.quote(f'{path}.damaged')}; rm -f {log} {index}"
    if backups:
        remedy = (
            f"The newest backup is {backups[-1]} (made before a migration or by `{hints.command('doctor')}`). To go back to it: end every"
            f" sparkles of this folder; {aside}; cp {shlex.quote(str(backups[-1]))} {file}"
        )
    else:
        remedy = f"There is no backup yet (`{hints.command('doctor')}` makes one). To begin anew, with outputs and content kept: {aside}"
    return Damaged(f"{path} is damaged: {found}. {remedy}", "read", str(path))


def _full(path: Path) -> StorageFull:
    folder = path if path.is_dir() else path.parent
    return StorageFull(
        f"no space is left for {path}: nothing was stored. Free some space below {folder} (`{hints.command('clean')}` removes what no job"
        " uses) and run the same command again",
        "write",
        str(path),
    )


def _unreachable(error: sqlite3.Error, primary: int, path: Path) -> BackendError:
    folder = path.parent
    if not folder.is_dir():
        return BackendError(f"cannot open {path}: there is no folder {folder}", "open", str(path))
    if path.is_dir():
        return BackendError(f"cannot open {path}: it is a folder; a database was expected. Move it away", "open", str(path))
    try:
        if shutil.disk_usage(folder).free < _NO_ROOM_BYTES:
            return _full(path)
    except OSError:
        pass
    read_only = bool(os.statvfs(folder).f_flag & os.ST_RDONLY)
    for each in (folder, path, Path(f"{path}-wal"), Path(f"{path}-shm")):
        if each.exists() and (read_only or not os.access(each, os.W_OK)):
            why = "the file system is mounted read-only" if read_only else "it is not writable by this user"
            return BackendError(
                f"cannot write to {each}: {why}. Make it writable, or name another state folder (--state)", "write", str(path)
            )
    if primary == sqlite3.SQLITE_READONLY:
        return BackendError(
            f"cannot write to {path}: it is read-only. Make it writable, or name another state folder (--state)",
            "write",
            str(path),
        )
    return BackendError(
        f"{path}: {error} ({error.sqlite_errorname}). See the system's log for errors of its disk",
        "use",
        str(path),
        retryable=True,
    )
