"""Blobs in a folder: content in `cas/` (content.py), the files of attempts in `jobs/JOB/INDEX/aATTEMPT/`. May import ports, model
and errors.

Published outputs are hard links of stored files: they take no space, are read-only, and stay when the content is swept.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Sequence
from pathlib import Path

from sparkles.backends.local.content import ContentStore
from sparkles.backends.local.copying import storage_error
from sparkles.backends.local.layout import tree_bytes
from sparkles.backends.local.sweeping import names_in
from sparkles.backends.names import check_artifact_name, check_digest, check_job_id, check_ref
from sparkles.model import Artifact, AttemptRef
from sparkles.ports import Workspace


class DirectoryBlobs(ContentStore):
    """The Blobs of one state folder. Making one, and `folder`, touch no disk."""

    transfers = 1

    def __init__(self, state: Path) -> None:
        super().__init__(state)
        self._jobs = os.path.join(self._state, "jobs")
        self._checked_job: str | None = None

    def folder(self, ref: AttemptRef) -> Path:
        return Path(self._folder(ref))

    def settle(self) -> None:
        pass  # what is put is stored when `put` returns

    def locate(self, ref: AttemptRef) -> str:
        return str(self.folder(ref))

    def publish(self, ref: AttemptRef, outputs: Sequence[Artifact]) -> None:
        if not outputs:
            return
        root = os.path.join(self._folder(ref), "outputs")
        for output in outputs:
            check_artifact_name(output.name, "publish")
            check_digest(output.digest, "publish")
        made = ""
        for output in outputs:
            target = os.path.join(root, output.name)
            parent = os.path.dirname(target)
            try:
                if parent != made:
                    os.makedirs(parent, exist_ok=True)
                    made = parent
                self.link_out(output.digest, target)
            except OSError as error:
                raise storage_error(error, "publish", target) from error

    def read_log(self, ref: AttemptRef, offset: int = 0, limit: int | None = None) -> bytes:
        path = os.path.join(self._folder(ref), "output.log")
        try:
            with open(path, "rb") as log:
                if offset < 0:
                    offset = max(0, os.fstat(log.fileno()).st_size + offset)
                log.seek(offset)
                return log.read(-1 if limit is None else limit)
        except (FileNotFoundError, NotADirectoryError):
            return b""
        except OSError as error:
            raise storage_error(error, "read log", path) from error

    def log_size(self, ref: AttemptRef) -> int:
        try:
            return os.stat(os.path.join(self._folder(ref), "output.log")).st_size
        except OSError:
            return 0

    def list_jobs(self) -> list[str]:
        paths = {name: f"{self._jobs}/{name}" for name in names_in(self._jobs)}
        return sorted(name for name, path in paths.items() if os.path.isdir(path) and not os.path.islink(path))

    def job_bytes(self, job_id: str) -> int:
        check_job_id(job_id)
        return tree_bytes(Path(self._jobs, job_id))

    def delete_job(self, job_id: str, keep: Collection[AttemptRef] = ()) -> int:
        check_job_id(job_id)
        kept = {self._folder(ref) for ref in keep if ref.job == job_id}
        try:
            return _delete(os.path.join(self._jobs, job_id), kept)
        except OSError as error:
            raise storage_error(error, "delete", error.filename or self._jobs) from error

    def _folder(self, ref: AttemptRef) -> str:
        if ref.job != self._checked_job or ref.index < 1 or ref.attempt < 1:
            check_ref(ref)
            self._checked_job = ref.job
        return f"{self._jobs}/{ref.job}/{ref.index}/a{ref.attempt}"


def _delete(path: str, kept: Collection[str]) -> int:
    """Removes a tree except the folders in `kept`; returns the bytes of files that had no other link."""
    freed = 0
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.path in kept:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    freed += _delete(entry.path, kept)
                    continue
                try:
                    found = os.lstat(entry.path)
                    os.unlink(entry.path)
                except FileNotFoundError:
                    continue  # another process deletes the same job
                freed += found.st_size if found.st_nlink == 1 else 0
    except FileNotFoundError:
        return freed
    try:
        os.rmdir(path)
    except OSError as error:
        # Not empty: it holds what is kept.
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
            raise
    return freed


def _conforms(blobs: DirectoryBlobs) -> Workspace:
    return blobs
