"""Content as a planner sees it: hashed, never stored. Keeps the promises of ports.Content; may import ports and below."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from sparkles import digest
from sparkles.errors import UsageError
from sparkles.model import Artifact, Digest
from sparkles.ports import Content


class LookingBlobs:
    """Answers `put_file` and `put_bytes` without storing anything; what it was shown can be read back while it lives."""

    def __init__(self, blobs: Content) -> None:
        self._blobs = blobs
        self._paths: dict[Digest, Path] = {}
        self._bytes: dict[Digest, bytes] = {}

    def put_file(self, path: Path) -> Artifact:
        """The file's digest; raises UsageError as the real one does."""
        known = self._blobs.known_file(path)
        if known is not None:
            return known
        if not path.is_file():
            raise UsageError(f"{path}: expected a file, found {'a directory' if path.is_dir() else 'none'}")
        try:
            with path.open("rb") as stream:
                found = Digest(hashlib.file_digest(stream, "sha256").hexdigest())
            facts = path.stat()
        except OSError as error:
            raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
        self._paths[found] = path
        return Artifact(str(path), found, facts.st_size, bool(facts.st_mode & 0o111))

    def known_file(self, path: Path) -> Artifact | None:
        """As the real one."""
        return self._blobs.known_file(path)

    def put_bytes(self, data: bytes) -> Digest:
        """The digest of the bytes."""
        found = digest.of_bytes(data)
        self._bytes[found] = data
        return found

    def read(self, content: Digest) -> bytes:
        """What was shown, or stored before."""
        if content in self._bytes:
            return self._bytes[content]
        if content in self._paths:
            return self._paths[content].read_bytes()
        return self._blobs.read(content)

    def missing(self, digests: Iterable[Digest]) -> set[Digest]:
        """Those that were neither shown nor stored."""
        return self._blobs.missing([each for each in digests if each not in self._bytes and each not in self._paths])


def _conforms(blobs: LookingBlobs) -> Content:
    return blobs
