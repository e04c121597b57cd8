"""Bytes of files, copied and hashed on the way, and what the file system answers put in our words. May import errors and model.

A copy is a reflink where the file system has them (FICLONE: btrfs, XFS, ZFS, bcachefs): no bytes move and no space is used
until one side is written.
"""

from __future__ import annotations

import errno
import hashlib
import os
import sys

from sparkles.errors import BackendError, StorageFull
from sparkles.model import Digest

CHUNK = 1 << 20
_FICLONE = 0x40049409  # linux/fs.h
_NO_REFLINK: set[tuple[int, int]] = set()
"""Pairs of devices between which a reflink was refused: not asked again by this process."""


def storage_error(error: OSError, operation: str, path: str) -> BackendError:
    """What went wrong with the file or folder at `path` of the state folder, as an error of ours."""
    folder = path if os.path.isdir(path) else os.path.dirname(path)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        what = "the disk quota is used up" if error.errno == errno.EDQUOT else "no space is left on the device"
        return StorageFull(f"{operation}: {what} of {folder} ({_free(folder)}); make room there and try again", operation, path)
    if error.errno == errno.EROFS:
        return BackendError(f"{operation}: {path}: the file system is read-only; expected to write there", operation, path)
    if error.errno in (errno.EACCES, errno.EPERM):
        return BackendError(f"{operation}: {path}: permission denied for user id {os.geteuid()}", operation, path)
    retryable = error.errno in (errno.EINTR, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
    return BackendError(f"{operation}: {path}: {error.strerror or error}", operation, path, retryable)


def _free(folder: str) -> str:
    while folder and not os.path.isdir(folder) and folder != "/":
        folder = os.path.dirname(folder)
    try:
        found = os.statvfs(folder or ".")
    except OSError:
        return "free space unknown"
    if found.f_files and not found.f_favail:
        return f"{found.f_bavail * found.f_frsize} bytes free, but not one inode"
    return f"{found.f_bavail * found.f_frsize} bytes free"


def reflink(source: int, target: int) -> bool:
    """Makes the empty file `target` share the bytes of `source` (descriptors); False where the file system cannot."""
    if sys.platform != "linux":
        return False
    import fcntl

    devices = (os.fstat(source).st_dev, os.fstat(target).st_dev)
    if devices in _NO_REFLINK:
        return False
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        _NO_REFLINK.add(devices)
        return False
    return True


def hash_file(source: int) -> tuple[Digest, int]:
    """The digest and the size of what `source` holds from its start."""
    state = hashlib.sha256()
    size = 0
    os.lseek(source, 0, os.SEEK_SET)
    while data := os.read(source, CHUNK):
        state.update(data)
        size += len(data)
    return Digest(state.hexdigest()), size


class SourceError(Exception):
    """Reading failed, not writing: `error` is what the system said."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error)
        self.error = error


def copy_hashed(source: int, target: int) -> tuple[Digest, int]:
    """Copies `source` from its start into the empty `target`; returns digest and size of what was copied.

    Raises:
        SourceError: `source` could not be read.
        OSError: `target` could not be written.
    """
    if reflink(source, target):
        return hash_file(target)
    state = hashlib.sha256()
    size = 0
    while data := _read(source):
        state.update(data)
        write_all(target, data)
        size += len(data)
    return Digest(state.hexdigest()), size


def copy_plain(source: int, target: int) -> int:
    """Copies `source` from its start into the empty `target` where its content is known; returns the size."""
    if reflink(source, target):
        return os.fstat(target).st_size
    size = 0
    while data := _read(source):
        write_all(target, data)
        size += len(data)
    return size


def _read(source: int) -> bytes:
    try:
        return os.read(source, CHUNK)
    except OSError as error:
        raise SourceError(error) from error


def write_all(target: int, data: bytes) -> None:
    """Writes all of `data`: one write() takes 2 GiB at most, and a signal or a full disk can cut it short."""
    written = os.write(target, data)
    if written < len(data):
        rest = memoryview(data)[written:]
        while rest:
            rest = rest[os.write(target, rest) :]
