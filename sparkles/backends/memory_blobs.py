"""Blobs and Notifier in memory: the reference that the contract suites hold the others against. May import ports, model and
errors.

Content is a dict. Only what has to be a file is one, in a temporary folder that goes with the object: the folders of attempts
with their logs and outputs, and what a linked input points to.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import time
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from sparkles.backends.names import check_artifact_name, check_digest, check_job_id, check_ref
from sparkles.backends.wakeup import WakeupPipe
from sparkles.digest import of_bytes
from sparkles.errors import BackendError, Damaged, NotFound, UsageError
from sparkles.model import Artifact, AttemptRef, Digest
from sparkles.ports import Notifier, Workspace


class MemoryBlobs:
    """`contents` and `asked_at` (seconds since the epoch) are open, so that a test can damage content or let it age."""

    transfers = 1

    def __init__(self) -> None:
        self.contents: dict[Digest, bytes] = {}
        self.asked_at: dict[Digest, float] = {}
        self._home = tempfile.TemporaryDirectory(prefix="sparkles-")
        self._root = Path(self._home.name)

    def close(self) -> None:
        """Removes the temporary folder."""
        self._home.cleanup()

    def put_file(self, path: Path) -> Artifact:
        try:
            before = path.stat()
            if not stat.S_ISREG(before.st_mode):
                raise UsageError(f"{path}: expected a file, found {'a directory' if path.is_dir() else 'a special file'}")
            data = path.read_bytes()
            after = path.stat()
        except (OSError, ValueError) as error:
            raise UsageError(f"{path}: expected a readable file: {getattr(error, 'strerror', None) or error}") from error
        if len(data) != before.st_size or (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            raise UsageError(f"{path}: changed while it was read: size {before.st_size} -> {after.st_size}; submit again")
        return _artifact(str(path), self.put_bytes(data), before)

    def known_file(self, path: Path) -> Artifact | None:
        return None  # it remembers no paths

    def put_bytes(self, data: bytes) -> Digest:
        digest = of_bytes(data)
        self.contents.setdefault(digest, bytes(data))
        self.asked_at[digest] = time.time()
        return digest

    def read(self, digest: Digest) -> bytes:
        return self._checked(digest, "read")

    def missing(self, digests: Iterable[Digest]) -> set[Digest]:
        asked = set(digests)
        for digest in asked:
            check_digest(digest, "missing")
        return asked - self.contents.keys()

    def place(
        self, digest: Digest, target: Path, *, executable: bool = False, private: bool = False, link: bool = False
    ) -> None:
        data = self._checked(digest, "place")
        try:
            target.unlink(missing_ok=True)
            if link and not executable:
                target.symlink_to(self._linked(digest, data))
                return
            target.write_bytes(data)
            mode = target.stat().st_mode | (0o111 if executable else 0)
            target.chmod(mode & (0o700 if private else 0o777))
        except OSError as error:
            raise BackendError(f"place: {target}: {error.strerror}", "place", str(target)) from error

    def collect(self, path: Path, name: str) -> Artifact:
        check_artifact_name(name, "collect")
        try:
            found = path.lstat()
            if not stat.S_ISREG(found.st_mode):
                raise BackendError(f"collect: output {name} is not a regular file", "collect", name)
            data = path.read_bytes()
        except OSError as error:
            raise BackendError(f"collect: output {name}: {error.strerror}", "collect", name) from error
        return _artifact(name, self.put_bytes(data), found)

    def verify_linked(self, digest: Digest) -> bool:
        shared = self._root / "linked" / digest
        try:
            data = self._checked(digest, "verify")
        except (NotFound, Damaged):
            return False
        if shared.exists() and shared.read_bytes() != data:
            # The link is what "stored" means to those who hold it: both go, as one file would.
            shared.unlink()
            del self.contents[digest]
            return False
        return True

    def folder(self, ref: AttemptRef) -> Path:
        check_ref(ref)
        return self._root / "jobs" / ref.job / str(ref.index) / f"a{ref.attempt}"

    def settle(self) -> None:
        pass  # what is put is stored when `put` returns

    def locate(self, ref: AttemptRef) -> str:
        return str(self.folder(ref))

    def publish(self, ref: AttemptRef, outputs: Sequence[Artifact]) -> None:
        for output in outputs:
            check_artifact_name(output.name, "publish")
        for output in outputs:
            target = self.folder(ref) / "outputs" / output.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            target.write_bytes(self._checked(output.digest, "publish"))
            target.chmod(0o400)

    def read_log(self, ref: AttemptRef, offset: int = 0, limit: int | None = None) -> bytes:
        try:
            data = (self.folder(ref) / "output.log").read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return b""
        first = max(0, len(data) + offset) if offset < 0 else offset
        return data[first:] if limit is None else data[first : first + limit]

    def log_size(self, ref: AttemptRef) -> int:
        return len(self.read_log(ref))

    def list_jobs(self) -> list[str]:
        return sorted({path.parts[-3] for path in (self._root / "jobs").glob("*/*/a*")})

    def job_bytes(self, job_id: str) -> int:
        check_job_id(job_id)
        files = [path for path in (self._root / "jobs" / job_id).rglob("*") if path.is_file()]
        return sum(path.stat().st_size for path in files if "outputs" not in path.parts)

    def delete_job(self, job_id: str, keep: Collection[AttemptRef] = ()) -> int:
        check_job_id(job_id)
        kept = {self.folder(ref) for ref in keep if ref.job == job_id}
        freed = 0
        for attempt in list((self._root / "jobs" / job_id).glob("*/a*")):
            if attempt not in kept:
                freed += sum(file.stat().st_size for file in attempt.rglob("*") if file.is_file())
                shutil.rmtree(attempt)
        return freed

    def sweep(self, keep: Collection[Digest], older_than_s: float) -> tuple[int, int]:
        limit = time.time() - older_than_s
        gone = [digest for digest in self.contents if digest not in keep and self.asked_at[digest] <= limit]
        return len(gone), sum(len(self.contents.pop(digest)) for digest in gone)

    def _checked(self, digest: Digest, operation: str) -> bytes:
        check_digest(digest, operation)
        if digest not in self.contents:
            raise NotFound(f"{operation}: content {digest[:12]} is not stored", operation, digest)
        data = self.contents[digest]
        if of_bytes(data) != digest:
            del self.contents[digest]
            raise Damaged(f"{operation}: stored content {digest[:12]} is damaged; it was set aside", operation, digest)
        return data

    def _linked(self, digest: Digest, data: bytes) -> Path:
        shared = self._root / "linked" / digest
        if not shared.exists() or shared.read_bytes() != data:
            shared.parent.mkdir(exist_ok=True)
            shared.unlink(missing_ok=True)
            shared.write_bytes(data)
            shared.chmod(0o400)
        return shared


def _artifact(name: str, digest: Digest, found: os.stat_result) -> Artifact:
    return Artifact(name, digest, found.st_size, bool(found.st_mode & 0o111), not found.st_mode & 0o004)


class MemoryNotifier:
    """Hints between the threads of one process that share this object."""

    def __init__(self) -> None:
        self._pipe = WakeupPipe(*os.pipe())
        self._closed = False

    def notify(self) -> None:
        if not self._closed:
            self._pipe.hint()

    def wait(self, timeout_s: float) -> bool:
        if self._closed:
            time.sleep(max(timeout_s, 0.0))
            return False
        return self._pipe.wait(timeout_s) or False

    def fileno(self) -> int:
        return -1 if self._closed else self._pipe.reader

    def close(self) -> None:
        self._closed = True
        self._pipe.close()


def _conform(blobs: MemoryBlobs, notifier: MemoryNotifier) -> tuple[Workspace, Notifier]:
    return blobs, notifier
