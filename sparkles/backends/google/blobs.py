"""Content and logs in Cloud Storage: what a driver needs of Blobs. May import bucket, uploads, names, engine.cleaning, ports and below.

`cas/` holds content by sha256, written only where it is absent; every reader checks the digest. Files are uploaded in the background, and
`settle` waits for them: whoever makes a job visible calls it first. Surprise: content that is old and is asked for again is touched,
because `sweep` goes by when an object was last written.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import BinaryIO

from sparkles.backends.google import names
from sparkles.backends.google.bucket import THREADS, Bucket
from sparkles.backends.google.uploads import Uploads
from sparkles.backends.local.copying import storage_error
from sparkles.backends.local.digests import DigestCache
from sparkles.backends.local.sources import check_unchanged, open_input
from sparkles.backends.names import check_digest, check_job_id, check_ref
from sparkles.digest import of_bytes
from sparkles.engine.cleaning import GRACE_S
from sparkles.errors import Damaged, UsageError
from sparkles.model import Artifact, AttemptRef, Digest
from sparkles.ports import Blobs

TOUCH_AFTER_S = 1800.0
"""Below the time for which `clean` spares content that no job refers to (an hour), so that a submission's inputs stay."""

SMALL_BYTES = 8 << 20
"""A file up to this is read once and uploaded from memory; a larger one is read twice."""

_PIECE = 1 << 20


class GoogleBlobs:
    """The Blobs of one installation, as a driver sees it. `cache` is a folder of this machine for the digests of files."""

    transfers = THREADS

    def __init__(self, bucket: Bucket, cache: Path) -> None:
        self._bucket = bucket
        self._digests = DigestCache(cache / "digests.db")
        self._cache = cache
        self._present: dict[Digest, float] = {}
        self._uploads = Uploads(bucket.pool)

    def close(self) -> None:
        """Closes the digest cache."""
        self._digests.close()

    # Content

    def put_file(self, path: Path) -> Artifact:
        """See Content. Returns once the digest is known; the upload goes on (`settle`)."""
        where = os.path.abspath(path)
        source, before = open_input(where, str(path))
        with open(source, "rb") as file:
            executable, private = bool(before.st_mode & 0o111), not before.st_mode & 0o004
            known = self._digests.get(where, before) if self._cache.is_dir() else None
            if known is not None:
                if not self._known(known):
                    self._uploads.begin(lambda: self._put_known(known, Path(where), path, before))
                return Artifact(str(path), known, before.st_size, executable, private)
            try:
                if before.st_size <= SMALL_BYTES:
                    data = file.read(SMALL_BYTES + 1)
                    found, size = of_bytes(data), len(data)
                else:
                    found, size = _hash(file)
                check_unchanged(str(path), before, os.stat(where), size)
            except FileNotFoundError as error:
                raise UsageError(f"{path}: was removed while it was read; submit again") from error
            except OSError as error:
                raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
        if not self._known(found):
            if size <= SMALL_BYTES:
                self._uploads.begin(lambda: self._put(found, data), size)
            else:
                self._uploads.begin(lambda: self._put_known(found, Path(where), path, before))
        self._cache.mkdir(parents=True, exist_ok=True)
        self._digests.put(where, before, found)
        return Artifact(str(path), found, size, executable, private)

    def known_file(self, path: Path) -> Artifact | None:
        """See Content."""
        where = os.path.abspath(path)
        try:
            found = os.stat(where)
        except OSError:
            return None
        known = self._digests.get(where, found) if self._cache.is_dir() else None
        if known is None or self.missing([known]):
            return None
        return Artifact(str(path), known, found.st_size, bool(found.st_mode & 0o111), not found.st_mode & 0o004)

    def put_bytes(self, data: bytes) -> Digest:
        """See Content."""
        found = of_bytes(data)
        if not self._known(found):
            self._put(found, bytes(data))
        return found

    def settle(self) -> None:
        """Waits for the uploads that were begun. Raises what kept one from being done."""
        self._uploads.settle()

    def read(self, digest: Digest) -> bytes:
        """See Content."""
        check_digest(digest, "read")
        self.settle()
        data = self._bucket.get(names.content(digest))
        if of_bytes(data) != digest:
            raise self._damaged(digest)
        return data

    def missing(self, digests: Iterable[Digest]) -> set[Digest]:
        """See Content. Asks for each once in half an hour; many are asked for at a time."""
        self.settle()
        asked = set(digests)
        for digest in asked:
            check_digest(digest, "missing")
        unknown = [digest for digest in asked if not self._known(digest)]
        return {digest for digest, there in zip(unknown, self._bucket.each(self._is_there, unknown), strict=True) if not there}

    def _known(self, digest: Digest) -> bool:
        """Whether this process has seen the content lately: `clean` of another may remove what is not used for an hour."""
        return time.time() - self._present.get(digest, 0.0) <= TOUCH_AFTER_S

    def place(
        self, digest: Digest, target: Path, *, executable: bool = False, private: bool = False, link: bool = False
    ) -> None:
        """See Blobs; `link` makes a copy like any other."""
        check_digest(digest, "place")
        self.settle()
        temporary = target.with_name(f".{target.name[:60]}.{secrets.token_hex(4)}")
        try:
            os.close(
                os.open(
                    temporary,
                    os.O_WRONLY | os.O_CREAT | os.O_EXCL,
                    (0o777 if executable else 0o666) & (0o700 if private else 0o777),
                )
            )
            self._bucket.get_file(names.content(digest), temporary)
            with open(temporary, "rb") as file:
                found, _ = _hash(file)
            if found != digest:
                raise self._damaged(digest)
            temporary.replace(target)
        except OSError as error:
            raise storage_error(error, "place", str(target)) from error
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def sweep(self, keep: Collection[Digest], older_than_s: float) -> tuple[int, int]:
        """See Blobs."""
        cut = len("cas/")
        unused = [each for each in self._bucket.listing("cas/") if each[0][cut:] not in keep]
        before = self._bucket.now() - older_than_s
        old = [(name, size) for name, size, written in unused if written <= before]
        for name, _ in old:
            self._present.pop(Digest(name[cut:]), None)
        removed = self._bucket.delete(name for name, _ in old)
        return removed, sum(size for _, size in old)

    # Attempts

    def locate(self, ref: AttemptRef) -> str:
        """See Blobs."""
        check_ref(ref)
        return self._bucket.url(names.attempt(ref))

    def log_size(self, ref: AttemptRef) -> int:
        """See Blobs."""
        check_ref(ref)
        size = self._bucket.size(names.attempt(ref, "output.log"))
        return size if size is not None else max((at + size for at, size in self._pieces(ref)), default=0)

    def read_log(self, ref: AttemptRef, offset: int = 0, limit: int | None = None) -> bytes:
        """See Blobs; while the program runs, from the pieces that its worker has uploaded so far."""
        check_ref(ref)
        name = names.attempt(ref, "output.log")
        whole = self._bucket.size(name)
        pieces = self._pieces(ref) if whole is None else []
        total = whole if whole is not None else max((at + size for at, size in pieces), default=0)
        start = max(0, total + offset) if offset < 0 else offset
        end = total if limit is None else min(total, start + limit)
        if whole is not None:
            return self._bucket.get(name, start=start, end=end)
        wanted = [(at, size) for at, size in pieces if at < end and at + size > start]
        below = names.attempt(ref, "log/")
        found = b"".join(self._bucket.each(lambda piece: self._bucket.get(f"{below}{piece[0]:08d}"), wanted))
        skip = max(0, start - wanted[0][0]) if wanted else 0
        return found[skip : skip + max(0, end - start)]

    def _pieces(self, ref: AttemptRef) -> list[tuple[int, int]]:
        """(offset, bytes) of the pieces of a log, in order."""
        below = names.attempt(ref, "log/")
        return sorted((int(piece.removeprefix(below)), size) for piece, size, _ in self._bucket.listing(below))

    def list_jobs(self) -> list[str]:
        """See Blobs; without those that have an object younger than what `clean` spares: a job that is just being submitted has objects
        first."""
        newest: dict[str, float] = {}
        for name, _, written in self._bucket.listing("jobs/"):
            job = name.split("/")[1]
            newest[job] = max(newest.get(job, 0.0), written)
        before = self._bucket.now() - GRACE_S
        return sorted(job for job, written in newest.items() if written < before)

    def job_bytes(self, job_id: str) -> int:
        """See Blobs."""
        check_job_id(job_id)
        return sum(size for _, size, _ in self._bucket.listing(f"jobs/{job_id}/"))

    def delete_job(self, job_id: str, keep: Collection[AttemptRef] = ()) -> int:
        """See Blobs."""
        check_job_id(job_id)
        kept = tuple(names.attempt(ref) for ref in keep if ref.job == job_id)
        found = [
            (name, size) for name, size, _ in self._bucket.listing(f"jobs/{job_id}/") if not name.startswith(kept or ("\0",))
        ]
        self._bucket.delete(name for name, _ in found)
        return sum(size for _, size in found)

    # Uploads

    def _put(self, digest: Digest, data: bytes) -> None:
        name = names.content(digest)
        if not self._bucket.put(name, data, absent=True):
            self._touch(name)
        self._present[digest] = time.time()

    def _put_known(self, digest: Digest, where: Path, shown: Path, before: os.stat_result) -> None:
        """Uploads a file whose digest is known, unless its content is there: then nothing of it is sent or read."""
        name = names.content(digest)
        if not self._touch(name):
            try:
                with open(where, "rb") as file:
                    reader = _Hashing(file)
                    mine = self._bucket.put_stream(name, reader, before.st_size)
            except OSError as error:
                raise UsageError(f"{shown}: cannot be read: {error.strerror}; submit again") from error
            if mine and reader.digest() != digest:
                self._bucket.delete([name])
                raise UsageError(f"{shown}: changed while it was uploaded; submit again")
        self._present[digest] = time.time()

    def _is_there(self, digest: Digest) -> bool:
        there = self._touch(names.content(digest))
        if there:
            self._present[digest] = time.time()
        return there

    def _touch(self, name: str) -> bool:
        """Whether the object exists; one that is old counts as new from now on."""
        written = self._bucket.written_at(name)
        if written is not None and self._bucket.now() - written > TOUCH_AFTER_S:
            self._bucket.touch(name)
        return written is not None

    def _damaged(self, digest: Digest) -> Damaged:
        url = self._bucket.url(names.content(digest))
        self._present.pop(digest, None)
        self._bucket.delete([names.content(digest)])  # so that it can be stored anew
        return Damaged(
            f"{url} does not hold the content of its name; it was removed, and what made it has to run again", "read", url
        )


class _Hashing:
    """A file that is hashed as it is read, by whoever uploads it. A repeated upload reads it again from its start."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._hash.update(data)
        return data

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = 0) -> int:
        if offset == 0 and whence == 0:
            self._hash = hashlib.sha256()
        return self._file.seek(offset, whence)

    def digest(self) -> str:
        return self._hash.hexdigest()


def _hash(file: BinaryIO) -> tuple[Digest, int]:
    state = hashlib.sha256()
    size = 0
    while piece := file.read(_PIECE):
        state.update(piece)
        size += len(piece)
    return Digest(state.hexdigest()), size


def _conforms(blobs: GoogleBlobs) -> Blobs:
    return blobs
