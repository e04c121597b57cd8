"""Files of others that are to be stored: an author's inputs, a task's outputs. May import model and errors.

Both are opened without blocking, so that a named pipe is refused rather than waited for. What is wrong with an input is the
user's to fix (UsageError); what is wrong with an output is the task's failure (BackendError).
"""

from __future__ import annotations

import errno
import os
import stat

from sparkles.errors import BackendError, UsageError
from sparkles.model import Artifact, Digest

Signature = tuple[int, int, int]
"""(size, mtime in ns, inode): what a file looks like while nobody writes to it."""


def signature(found: os.stat_result) -> Signature:
    """The signature of a file that was looked at."""
    return (found.st_size, found.st_mtime_ns, found.st_ino)


def artifact(name: str, digest: Digest, found: os.stat_result) -> Artifact:
    """What a regular file that looked like `found` is stored as. Private: others may not read it."""
    return Artifact(name, digest, found.st_size, bool(found.st_mode & 0o111), not found.st_mode & 0o004)


def open_input(where: str, shown: str) -> tuple[int, os.stat_result]:
    """Opens a regular file to be stored. Raises UsageError, naming what was found instead."""
    try:
        found = os.stat(where)
        if not stat.S_ISREG(found.st_mode):
            then = f"; name the files in it, or write {shown.rstrip('/')}/*" if stat.S_ISDIR(found.st_mode) else ""
            raise UsageError(f"{shown}: expected a file, found {_kind(found.st_mode)}{then}")
        source = os.open(where, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError as error:
        if os.path.islink(where):
            raise UsageError(f"{shown}: expected a file, found a link to {os.readlink(where)}, which does not exist") from error
        raise UsageError(f"{shown}: expected a file, found nothing: there is no such file") from error
    except PermissionError as error:
        raise UsageError(f"{shown}: expected a readable file: permission denied for user id {os.geteuid()}") from error
    except (OSError, ValueError) as error:
        raise UsageError(f"{shown}: expected a file: {getattr(error, 'strerror', None) or error}") from error
    return source, os.fstat(source)


def check_unchanged(shown: str, before: os.stat_result, after: os.stat_result, size: int) -> None:
    if size != before.st_size or after.st_size != before.st_size:
        now = after.st_size if after.st_size != before.st_size else size
        raise UsageError(f"{shown}: changed while it was read: size {before.st_size} -> {now}; submit again")
    if signature(before) != signature(after):
        raise UsageError(f"{shown}: changed while it was read: same size, but modified; submit again")


def open_output(where: str, name: str) -> tuple[int, os.stat_result]:
    """Opens a regular file that a task left, never through a link. Raises BackendError, naming what was found instead."""
    try:
        source = os.open(where, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise _not_collected(name, where, error) from error
    found = os.fstat(source)
    if not stat.S_ISREG(found.st_mode):
        os.close(source)
        raise BackendError(f"collect: output {name} is {_kind(found.st_mode)}; expected a regular file", "collect", name)
    return source, found


def _kind(mode: int) -> str:
    names = {
        stat.S_IFDIR: "a directory",
        stat.S_IFLNK: "a symbolic link",
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return names.get(stat.S_IFMT(mode), "a special file")


def _not_collected(name: str, where: str, error: OSError) -> BackendError:
    if error.errno == errno.ELOOP or os.path.islink(where):
        return BackendError(f"collect: output {name} is a symbolic link; expected a regular file", "collect", name)
    if error.errno == errno.ENXIO:
        return BackendError(f"collect: output {name} is a socket or a device; expected a regular file", "collect", name)
    return BackendError(f"collect: output {name}: {error.strerror} ({where})", "collect", name)
