"""The files of a workflow under test: those that the test gives and those that the workflow writes, in memory, over real ones.

May import model and below. Real files are only read. An input's digest is made from its path and size, so that a test does not hash
large data: nothing in a test compares contents by digest.
"""

from __future__ import annotations

import glob
import os
import posixpath
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparkles import digest
from sparkles.engine.outputs import compile_glob
from sparkles.errors import UsageError
from sparkles.model import Artifact, Digest


class StubFiles:
    """A FileSource (engine.inputs) without a store."""

    def __init__(self, given: Mapping[str, bytes], folders: Sequence[Path]) -> None:
        """
        Args:
            given: Contents by path, as the test wrote them.
            folders: Where real files are looked for, one after the other.
        """
        self._folders = [Path(os.path.abspath(folder)) for folder in folders]
        self._contents = {_normal(path): content for path, content in given.items()}
        self.written: dict[str, bytes] = {}
        """What the workflow wrote, by path as it named it."""

    def _real(self, path: str) -> Path | None:
        for folder in self._folders:
            found = folder / os.path.expanduser(path)
            if found.exists():
                return found
        return None

    def exists(self, path: str) -> bool:
        """Whether there is a file or a folder."""
        normal = _normal(path)
        in_memory = normal in self._contents or any(name.startswith(normal + "/") for name in self._contents)
        return in_memory or self._real(path) is not None

    def read(self, path: str) -> bytes:
        """A file's content. Raises UsageError where there is none."""
        content = self._contents.get(_normal(path))
        if content is not None:
            return content
        real = self._real(path)
        if real is None:
            raise UsageError(f'{path}: no such file (a test gives one with files{{["{path}"] = "..."}})')
        try:
            return real.read_bytes()
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror}") from None

    def write(self, path: str, content: bytes) -> None:
        """Keeps what the workflow writes."""
        self._contents[_normal(path)] = content
        self.written[path] = content

    def bring(self, path: str, content: bytes) -> None:
        """Puts a file there that `fetch` brings; it does not count as written."""
        self._contents[_normal(path)] = content

    def stored(self, path: str) -> Artifact:
        """See inputs.FileSource."""
        normal = _normal(path)
        content = self._contents.get(normal)
        if content is not None:
            return Artifact(path, digest.of_bytes(content), len(content))
        real = self._real(path)
        if real is None:
            raise UsageError(f'{path}: no such file (a test gives one with files{{["{path}"] = "..."}})')
        if not real.is_file():
            raise UsageError(f"{path}: expected a file, found a directory")
        size = real.stat().st_size
        return Artifact(path, digest.of_value([normal, size]), size, os.access(real, os.X_OK))

    def matches(self, pattern: str) -> list[str]:
        """See inputs.FileSource."""
        wanted = compile_glob(_normal(pattern))
        found = {name for name in self._contents if wanted.fullmatch(name)}
        for folder in self._folders:
            for each in glob.iglob(os.path.expanduser(pattern), root_dir=folder, recursive=True):
                if (folder / each).is_file():
                    found.add(_normal(each))
        return sorted(found)

    def artifact(self, ref: dict[str, Any]) -> Artifact:
        """See inputs.FileSource; whatever a stub gave as an output is there."""
        try:
            return Artifact(
                str(ref["name"]),
                Digest(str(ref["digest"])),
                int(ref.get("size", 0)),
                bool(ref.get("executable", False)),
                bool(ref.get("private", False)),
            )
        except (KeyError, TypeError, ValueError):
            raise UsageError("expected a path or an artifact of an earlier task (result.tasks[i].outputs[name])") from None


def _normal(path: str) -> str:
    return posixpath.normpath(path)
