"""Files for a job that is only shown: they are looked at, and nothing is stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sparkles.engine.files import RunFiles
from sparkles.errors import UsageError
from sparkles.model import Artifact, Digest

_NO_DIGEST = Digest("0" * 64)


class DryFiles:
    """A FileSource (engine.inputs) whose digests mean nothing."""

    def __init__(self, root: Path, state: Path) -> None:
        self._files = RunFiles(root, state, _NO_BLOBS)

    def stored(self, path: str) -> Artifact:
        """The file as it would be stored. Raises UsageError where there is no such file."""
        target = self._files.resolve(path)
        if not target.is_file():
            raise UsageError(f"{path}: expected a file, found {'a directory' if target.is_dir() else 'nothing'}")
        return Artifact(path, _NO_DIGEST, target.stat().st_size)

    def matches(self, pattern: str) -> list[str]:
        """As RunFiles does."""
        return self._files.matches(pattern)

    def artifact(self, ref: dict[str, Any]) -> Artifact:
        """The artifact as it is named; whether it is stored is not looked at."""
        return Artifact(str(ref.get("name", "")), Digest(str(ref.get("digest") or _NO_DIGEST)), int(ref.get("size") or 0))


_NO_BLOBS: Any = None
"""RunFiles resolves paths and patterns without it."""
