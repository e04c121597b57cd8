"""Content and files as a planner sees them: hashed, never stored; written in mind only. May import ports and below."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from sparkles import digest
from sparkles.engine.files import RunFiles
from sparkles.engine.outputs import compile_glob
from sparkles.engine.planned import Unplannable
from sparkles.errors import UsageError
from sparkles.model import Artifact, Digest, StepKey
from sparkles.ports import Content


class LookingBlobs:
    """Answers `put_file` and `put_bytes` without storing anything; what it was shown can be read back while it lives. What is stored is
    looked for in `kept` and in `blobs`."""

    def __init__(self, blobs: Content, kept: Content) -> None:
        self._blobs = blobs
        self._kept = kept
        self._paths: dict[Digest, Path] = {}
        self._bytes: dict[Digest, bytes] = {}
        self._expected: set[Digest] = set()

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
        return Artifact(str(path), found, facts.st_size, bool(facts.st_mode & 0o111), not facts.st_mode & 0o004)

    def known_file(self, path: Path) -> Artifact | None:
        """As the real one."""
        return self._blobs.known_file(path)

    def settle(self) -> None:
        """There is nothing to wait for."""

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
        kept = self._kept is not self._blobs and not self._kept.missing([content])
        return (self._kept if kept else self._blobs).read(content)

    def expect(self, digests: Iterable[Digest]) -> None:
        """What tasks that run again will have made."""
        self._expected.update(digests)

    def missing(self, digests: Iterable[Digest]) -> set[Digest]:
        """Those that were neither shown nor stored, and that nobody is expected to make."""
        known = (self._bytes, self._paths, self._expected)
        gone = [each for each in digests if not any(each in those for those in known)]
        if self._kept is not self._blobs:
            gone = list(self._kept.missing(gone))
        return self._blobs.missing(gone)


def _conforms(blobs: LookingBlobs) -> Content:
    return blobs


class NotThere(Unplannable):
    """A file is missing, and a step that has not run may make it."""

    def __init__(self, until: str) -> None:
        super().__init__(until)
        self.until = until


class LookingFiles(RunFiles):
    """A run's files with what the plan's own steps would write: kept in memory, by path."""

    def __init__(self, root: Path, state: Path, blobs: LookingBlobs) -> None:
        super().__init__(root, state, blobs)
        self._looking = blobs
        self._planned: dict[Path, bytes] = {}
        self._makers: list[tuple[str, Path]] = []

    def will_write(self, path: Path, key: StepKey, content: bytes) -> None:
        """A step would put this there."""
        self._planned[path] = content
        self.wrote(path, key, None, digest.of_bytes(content))

    def may_make(self, what: str, below: Path) -> None:
        """A step that has not run, called `what`, may make files in a folder: one that is missing there is not known to be missing."""
        self._makers.append((what, below))

    def _missing(self, path: Path) -> None:
        for what, below in self._makers:
            if path.is_relative_to(below):
                raise NotThere(what)

    def present(self, path: Path) -> Digest | None:
        """See RunFiles."""
        return self._looking.put_bytes(self._planned[path]) if path in self._planned else super().present(path)

    def at_this_point(self, path: Path, *, new: bool = False) -> Digest | None:
        """See RunFiles. Raises NotThere."""
        if path in self._planned:
            return self._looking.put_bytes(self._planned[path])
        found = super().at_this_point(path, new=new)
        if found is None:
            self._missing(path)
        return found

    def exists_at_this_point(self, path: Path) -> bool:
        """See RunFiles. Raises NotThere."""
        if path in self._planned or any(each.is_relative_to(path) for each in self._planned):
            return True
        found = super().exists_at_this_point(path)
        if not found:
            self._missing(path)
        return found

    def stored(self, path: str) -> Artifact:
        """See RunFiles. Raises NotThere."""
        target = self.resolve(path)
        content = self._planned.get(target)
        if content is not None:
            return Artifact(path, self._looking.put_bytes(content), len(content))
        if not target.exists():
            self._missing(target)
        return super().stored(path)

    def matches(self, pattern: str) -> list[str]:
        """See RunFiles. Raises NotThere where nothing matches yet."""
        target = self.resolve(pattern)
        wanted = compile_glob(str(target))
        planned = [path for path in self._planned if wanted.fullmatch(str(path))]
        found = sorted({*super().matches(pattern), *self.as_matches(planned, pattern)})
        if not found:
            self._missing(target)
        return found
