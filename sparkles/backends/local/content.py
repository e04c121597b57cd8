"""Content in a folder, `cas/ab/DIGEST`, by the sha256 of its bytes. May import model and errors.

Stored files are read-only and their user's alone (0400; how wide a copy may be travels in its Artifact) and keep the mtime of
what they were made from. (size, mtime, inode) is the *signature* by which this process knows a file that it has hashed already;
a stored file without a known signature is hashed before it is used. Surprise: the atime of a stored file says when it was last
stored or asked for. It is set by hand, which works on noatime mounts too, and leaves the signature alone; `sweep` goes by it.
"""

from __future__ import annotations

import errno
import itertools
import os
import time
from collections.abc import Collection, Iterable
from pathlib import Path

from sparkles.backends.local.copying import CHUNK, SourceError, copy_hashed, copy_plain, hash_file, storage_error, write_all
from sparkles.backends.local.digests import DigestCache, settled
from sparkles.backends.local.sources import Signature, artifact, check_unchanged, open_input, open_output, signature
from sparkles.backends.local.sweeping import names_in, sweep_content
from sparkles.backends.names import check_artifact_name, check_digest
from sparkles.digest import of_bytes
from sparkles.errors import BackendError, Damaged, NotFound, UsageError
from sparkles.model import Artifact, Digest

STORED = 0o400
"""The mode of stored files."""

LISTED_FROM = 8
"""With more files of one folder than this, listing the folder is quicker than looking for each."""

_COUNT = itertools.count()


class ContentStore:
    """The content part of Blobs, which says what each method promises. The state folder need not exist yet; safe with several
    processes and threads."""

    def __init__(self, state: Path) -> None:
        self._state = os.path.abspath(state)
        self._cas = os.path.join(self._state, "cas")
        self._cache = DigestCache(Path(self._state, "digests.db"))
        self._verified: dict[Digest, Signature] = {}

    def close(self) -> None:
        """Closes the digest cache; the object stays usable."""
        self._cache.close()

    def __del__(self) -> None:
        if hasattr(self, "_cache"):
            self._cache.close()

    def put_file(self, path: Path) -> Artifact:
        where = os.path.abspath(path)
        source, before = open_input(where, str(path))
        try:
            known = self._cache.get(where, before) if os.path.isdir(self._state) else None
            if known is not None and self._touch(known, before.st_size):
                return artifact(str(path), known, before)
            temporary, target = self._temporary("put")
            try:
                found, size = copy_hashed(source, target)
                after = os.stat(where)
                check_unchanged(str(path), before, after, size)
                _seal(target, before.st_mtime_ns)
                self._keep(temporary, found, size)
            except SourceError as error:
                raise UsageError(f"{path}: cannot be read: {error.error.strerror}") from error
            except FileNotFoundError as error:
                if error.filename == where:
                    raise UsageError(f"{path}: was removed while it was read; submit again") from error
                raise storage_error(error, "put", self._cas) from error
            except OSError as error:
                raise storage_error(error, "put", self._cas) from error
            finally:
                os.close(target)
                _remove(temporary)
        finally:
            os.close(source)
        self._cache.put(where, before, found)
        return artifact(str(path), found, before)

    def known_file(self, path: Path) -> Artifact | None:
        where = os.path.abspath(path)
        try:
            found = os.stat(where)
        except OSError:
            return None
        known = self._cache.get(where, found) if os.path.isdir(self._state) else None
        if known is None or self.missing([known]):
            return None
        return artifact(str(path), known, found)

    def put_bytes(self, data: bytes) -> Digest:
        found = of_bytes(data)
        if self._touch(found, len(data)):
            return found
        temporary, target = self._temporary("put")
        try:
            write_all(target, data)
            _seal(target, None)
            self._keep(temporary, found, len(data))
        except OSError as error:
            raise storage_error(error, "put", self._cas) from error
        finally:
            os.close(target)
            _remove(temporary)
        return found

    def read(self, digest: Digest) -> bytes:
        source = self._open(digest, "read")
        try:
            found = os.fstat(source)
            data = b"".join(iter(lambda: os.read(source, CHUNK), b""))
        except OSError as error:
            raise storage_error(error, "read", self._path(digest)) from error
        finally:
            os.close(source)
        actual = of_bytes(data)
        if actual != digest:
            raise self._set_aside(digest, actual, "read")
        self._trust(digest, found)
        return data

    def missing(self, digests: Iterable[Digest]) -> set[Digest]:
        groups: dict[str, list[Digest]] = {}
        for digest in digests:
            check_digest(digest, "missing")
            groups.setdefault(digest[:2], []).append(digest)
        absent: set[Digest] = set()
        for prefix, group in groups.items():
            if len(group) > LISTED_FROM:
                absent |= set(group).difference(names_in(f"{self._cas}/{prefix}"))
            else:
                absent.update(digest for digest in group if not os.path.isfile(self._path(digest)))
        return absent

    def place(
        self, digest: Digest, target: Path, *, executable: bool = False, private: bool = False, link: bool = False
    ) -> None:
        # An executable input gets a copy even so: the stored file is not executable, and a link has no mode of its own.
        if link and not executable:
            self._link(digest, target)
            return
        source = self._open(digest, "place")
        try:
            self._copy_out(digest, source, str(target), (0o777 if executable else 0o666) & (0o700 if private else 0o777))
        finally:
            os.close(source)

    def verify_linked(self, digest: Digest) -> bool:
        try:
            source = self._open(digest, "verify")
        except NotFound:
            return False
        try:
            self._verify(digest, source, "verify")
        except Damaged:
            return False
        finally:
            os.close(source)
        return True

    def collect(self, path: Path, name: str) -> Artifact:
        check_artifact_name(name, "collect")
        where = str(path)
        source, before = open_output(where, name)
        try:
            digest, size = hash_file(source)
            after = os.fstat(source)
            if size != before.st_size or signature(before) != signature(after):
                raise BackendError(
                    f"collect: output {name} changed while it was read (size {before.st_size} -> {after.st_size}): a process of the task"
                    " still writes it",
                    "collect",
                    name,
                )
            if not self._touch(digest, size):
                self._move_in(where, source, before, digest)
        except OSError as error:
            raise storage_error(error, "collect", where) from error
        finally:
            os.close(source)
        return artifact(name, digest, before)

    def sweep(self, keep: Collection[Digest], older_than_s: float) -> tuple[int, int]:
        gone, files, size = sweep_content(self._cas, keep if isinstance(keep, (set, frozenset)) else set(keep), older_than_s)
        for digest in gone:
            self._verified.pop(digest, None)
        if gone:
            self._cache.forget(gone)
        return files, size

    def link_out(self, digest: Digest, target: str) -> None:
        """Makes `target` a read-only name of the content: a hard link, or a copy where the file system lets no link be made."""
        path = self._path(digest)
        try:
            os.link(path, target)
            return
        except FileExistsError:
            os.unlink(target)
            self.link_out(digest, target)
            return
        except FileNotFoundError as error:
            raise NotFound(f"publish: content {digest[:12]} is not stored in {self._cas}", "publish", digest) from error
        except OSError as error:
            # No hard links here, too many of this file (65,000 on ext4), or another device.
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP):
                raise
        source = self._open(digest, "publish")
        try:
            self._copy_out(digest, source, target, STORED)
        finally:
            os.close(source)

    def _path(self, digest: str) -> str:
        return f"{self._cas}/{digest[:2]}/{digest}"

    def _temporary(self, operation: str) -> tuple[str, int]:
        """A new, empty file in the store's own file system: its path and a descriptor to read and write."""
        path = f"{self._cas}/incoming/{os.getpid()}-{next(_COUNT)}-{os.urandom(4).hex()}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        try:
            try:
                return path, os.open(path, flags, 0o600)
            except FileNotFoundError:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                return path, os.open(path, flags, 0o600)
        except OSError as error:
            raise storage_error(error, operation, self._cas) from error

    def _touch(self, digest: Digest, size: int) -> bool:
        """Marks content as asked for now; False where it is not stored, or has another size and therefore is not what it
        was."""
        path = self._path(digest)
        try:
            found = os.stat(path)
            if found.st_size != size:
                return False
            os.utime(path, ns=(time.time_ns(), found.st_mtime_ns))
        except FileNotFoundError:
            return False
        except OSError as error:
            raise storage_error(error, "put", path) from error
        return True

    def _keep(self, temporary: str, digest: Digest, size: int) -> None:
        """Publishes a sealed temporary file under its digest, unless it is stored already."""
        if self._touch(digest, size):
            return
        path = self._path(digest)
        _rename_in(temporary, path)
        self._trust(digest, os.stat(path))

    def _move_in(self, where: str, source: int, before: os.stat_result, digest: Digest) -> None:
        """Makes the hashed file `where`, open as `source`, the stored one: by rename where nobody else can hold it, else by
        copy."""
        # A second hard link, or another owner, would keep a way to write to what is stored.
        if before.st_nlink == 1 and before.st_uid == os.geteuid():
            path = self._path(digest)
            os.fchmod(source, STORED)
            try:
                _rename_in(where, path)
            except OSError as error:
                if error.errno not in (errno.EXDEV, errno.EPERM):
                    raise storage_error(error, "collect", path) from error
            else:
                found = os.stat(path)
                if found.st_ino != before.st_ino:
                    _remove(path)
                    raise BackendError(
                        f"collect: {where} was replaced by another file while it was collected", "collect", where
                    )
                os.utime(path, ns=(time.time_ns(), found.st_mtime_ns))
                self._trust(digest, found)
                return
        temporary, target = self._temporary("collect")
        try:
            os.lseek(source, 0, os.SEEK_SET)
            copied, size = copy_hashed(source, target)
            if copied != digest:
                raise BackendError(
                    f"collect: {where} changed while it was collected: a process still writes it", "collect", where
                )
            _seal(target, before.st_mtime_ns)
            self._keep(temporary, digest, size)
        except SourceError as error:
            raise storage_error(error.error, "collect", where) from error
        except OSError as error:
            raise storage_error(error, "collect", self._cas) from error
        finally:
            os.close(target)
            _remove(temporary)

    def _open(self, digest: Digest, operation: str) -> int:
        check_digest(digest, operation)
        path = self._path(digest)
        try:
            return os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError as error:
            raise NotFound(f"{operation}: content {digest[:12]} is not stored in {self._cas}", operation, digest) from error
        except OSError as error:
            raise storage_error(error, operation, path) from error

    def _trust(self, digest: Digest, found: os.stat_result) -> None:
        """Remembers what verified content looks like, once a later write is sure to make it look different."""
        if settled(found):
            self._verified[digest] = signature(found)

    def _verify(self, digest: Digest, source: int, operation: str) -> None:
        """Raises Damaged, and sets the content aside, where the stored file open as `source` is not what it was."""
        try:
            found = os.fstat(source)
            if self._verified.get(digest) == signature(found):
                return
            actual, _ = hash_file(source)
        except OSError as error:
            raise storage_error(error, operation, self._path(digest)) from error
        if actual != digest:
            raise self._set_aside(digest, actual, operation)
        self._trust(digest, found)

    def _set_aside(self, digest: Digest, actual: str, operation: str) -> Damaged:
        """Moves damaged content away, so that it can be stored anew; the error to raise."""
        self._verified.pop(digest, None)
        aside = f"{self._cas}/damaged/{digest}.{time.time_ns()}"
        try:
            os.makedirs(os.path.dirname(aside), exist_ok=True)
            os.rename(self._path(digest), aside)
            then = f"it was moved to {aside}"
        except OSError as error:
            then = f"it could not be moved away ({error.strerror}): remove {self._path(digest)}"
        return Damaged(
            f"{operation}: stored content {digest[:12]} is damaged (its sha256 is {actual[:12]}): {then}", operation, digest
        )

    def _link(self, digest: Digest, target: Path) -> None:
        source = self._open(digest, "place")
        try:
            self._verify(digest, source, "place")
        finally:
            os.close(source)
        try:
            try:
                os.symlink(self._path(digest), target)
            except FileExistsError:
                os.unlink(target)
                os.symlink(self._path(digest), target)
        except OSError as error:
            raise storage_error(error, "place", str(target)) from error

    def _copy_out(self, digest: Digest, source: int, target: str, mode: int) -> None:
        """Copies open content to `target` by way of a temporary name beside it."""
        temporary = f"{os.path.dirname(target)}/.{os.getpid()}-{next(_COUNT)}.part"
        try:
            copy = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
        except OSError as error:
            raise storage_error(error, "place", target) from error
        try:
            found = os.fstat(source)
            if self._verified.get(digest) == signature(found):
                copy_plain(source, copy)
            else:
                actual, _ = copy_hashed(source, copy)
                if actual != digest:
                    raise self._set_aside(digest, actual, "place")
                self._trust(digest, found)
            os.rename(temporary, target)
        except SourceError as error:
            raise storage_error(error.error, "place", self._path(digest)) from error
        except OSError as error:
            raise storage_error(error, "place", target) from error
        finally:
            os.close(copy)
            _remove(temporary)


def _seal(target: int, mtime_ns: int | None) -> None:
    """Makes a written file read-only, with the mtime of what it was made from."""
    os.fchmod(target, STORED)
    if mtime_ns is not None:
        os.utime(target, ns=(time.time_ns(), mtime_ns))


def _rename_in(source: str, path: str) -> None:
    try:
        os.rename(source, path)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.rename(source, path)


def _remove(path: str) -> bool:
    try:
        os.unlink(path)
    except OSError:
        return False
    return True
