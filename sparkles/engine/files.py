"""Files as a run sees them: paths below the project root, and the content that a path had at this point of the replay.

May import ports and below. Surprise: while a run is being resumed, a file may hold what the run wrote *later* than the step that
reads it. The journal's write steps keep the content before and after each write, so that an earlier read or input gets what it saw.
"""

from __future__ import annotations

import glob
import os
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from sparkles import digest, hints
from sparkles.engine.inputs import FileSource, fixed_part
from sparkles.engine.journal import Journal
from sparkles.errors import UsageError
from sparkles.model import Artifact, Digest, StepKey
from sparkles.ports import Content


class _Write(msgspec.Struct):
    """A recorded write of one path: content before (None: no file) and after, in the order of the run."""

    key: StepKey
    sequence: int
    before: Digest | None
    after: Digest


class RunFiles:
    """The files that one run's script names. Relative paths start at the project root."""

    def __init__(self, root: Path, state: Path, blobs: Content, kept: Content | None = None) -> None:
        """`blobs` is for the inputs of jobs, `kept` for what the run reads and writes itself; by default the same."""
        self._root = root
        self._state = state
        self._blobs = blobs
        self._kept = blobs if kept is None else kept
        self._writes: dict[Path, deque[_Write]] = {}
        self._seen: dict[Path, dict[Digest, int]] = {}
        self._stored: dict[Path, Artifact] = {}

    def load(self, journal: Journal) -> None:
        """Takes in the recorded reads and writes of a run that is being resumed."""
        for step in journal.steps(("write",)):
            if step.value is None:
                continue
            value = digest.parse(step.value)
            path = self.resolve(str(digest.parse(step.parts)["path"]))
            write = _Write(step.key, step.sequence, value["before"], Digest(value["after"]))
            self._writes.setdefault(path, deque()).append(write)
        for step in journal.steps(("read",)):
            if step.value is None or step.error:
                continue
            value = digest.parse(step.value)
            if isinstance(value, dict) and value.get("digest"):
                path = self.resolve(str(digest.parse(step.parts)["path"]))
                self._seen.setdefault(path, {})[Digest(value["digest"])] = step.sequence

    def resolve(self, path: str) -> Path:
        """The absolute path of what a script calls `path`. Raises UsageError for a name that no file can have."""
        if not path or "\0" in path:
            raise UsageError(f"{path!r} is not a path")
        return Path(os.path.normpath(self._root / os.path.expanduser(path)))

    def resolve_outside(self, path: str) -> Path:
        """As `resolve`; refuses the state folder."""
        target = self.resolve(path)
        if target.is_relative_to(self._state):
            raise UsageError(f"{path}: inside sparkles' own state folder; write somewhere else")
        return target

    def resolve_target(self, path: str) -> Path:
        """As `resolve`, for a file to be written: refuses the state folder and folders in the file's place."""
        target = self.resolve_outside(path)
        if target.is_dir():
            raise UsageError(f"{path}: a folder, not a file")
        return target

    def present(self, path: Path) -> Digest | None:
        """The digest of the file now, its bytes being kept in the store; None where there is none. Raises UsageError for a folder."""
        if not path.exists():
            return None
        return self._kept.put_file(path).digest

    def at_this_point(self, path: Path) -> Digest | None:
        """The content that the path had at this point of the run: what is there now, unless a write that the replay has not reached yet
        put it there."""
        now = self.present(path)
        ahead = self._writes.get(path)
        if ahead and any(write.after == now for write in ahead):
            return ahead[0].before
        return now

    def exists_at_this_point(self, path: Path) -> bool:
        """Whether the path existed at this point of the run (a folder counts)."""
        ahead = self._writes.get(path)
        if ahead and path.exists():
            return ahead[0].before is not None
        return path.exists()

    def seen_later(self, path: Path, content: Digest | None, sequence: int) -> bool:
        """Whether a recorded read after `sequence` saw this content: then something the run did in between explains it."""
        return content is not None and self._seen.get(path, {}).get(content, 0) > sequence

    def later_writes(self, path: Path) -> list[Digest]:
        """What recorded writes that the replay has not reached yet put at `path`."""
        return [write.after for write in self._writes.get(path, ())]

    def passed(self, path: Path, key: StepKey) -> None:
        """The replay has reached the recorded write `key`."""
        ahead = self._writes.get(path)
        if ahead is not None:
            self._writes[path] = deque(write for write in ahead if write.key != key)

    # FileSource of engine.jobs

    def stored(self, path: str) -> Artifact:
        """Stores an input's bytes as they were at this point of the run."""
        target = self.resolve(path)
        if self._writes.get(target):
            content = self.at_this_point(target)
            if content is None:
                raise UsageError(f"{path}: no such file at this point of the run")
            if content != self.present(target):
                now = self._kept.put_file(target)
                data = self._kept.read(content)
                self._blobs.put_bytes(data)
                return msgspec.structs.replace(now, name=path, digest=content, size_bytes=len(data))
        return msgspec.structs.replace(self._blobs.put_file(target), name=path)

    def matches(self, pattern: str) -> list[str]:
        """The regular files that a glob names, sorted; `**` crosses folders; the state folder is left out. Each begins with the glob's
        fixed part (see `inputs.fixed_part`), wherever that leads."""
        found = []
        for each in glob.iglob(os.path.expanduser(pattern), root_dir=self._root, recursive=True):
            path = Path(os.path.normpath(self._root / each))
            if path.is_file() and not path.is_relative_to(self._state):
                found.append(path)
        return self.as_matches(found, pattern)

    def as_matches(self, found: Iterable[Path], pattern: str) -> list[str]:
        """The names of files that a glob matches, sorted, with its fixed part as it is written."""
        fixed = fixed_part(os.path.expanduser(pattern))
        start = os.path.normpath(self._root / fixed)
        return sorted(os.path.normpath(os.path.join(fixed, os.path.relpath(path, start))) for path in found)

    def artifact(self, ref: dict[str, Any]) -> Artifact:
        """An output of an earlier task, as scripts hold it: {job, index, name, digest, size}. Raises UsageError where its bytes are
        gone."""
        try:
            artifact = Artifact(
                str(ref["name"]),
                Digest(str(ref["digest"])),
                int(ref["size"]),
                bool(ref.get("executable", False)),
                bool(ref.get("private", False)),
            )
        except (KeyError, TypeError, ValueError):
            raise UsageError("expected a path or an artifact of an earlier task (result.tasks[i].outputs[name])") from None
        if self._blobs.missing([artifact.digest]):
            task = f"{ref.get('job')}/{ref.get('index')}"
            raise UsageError(
                f"{task}: output {artifact.name} is not stored any more; `{hints.command('reset', str(task))}` makes it again"
            )
        return artifact


class FilesFrom:
    """The same files for someone who stands in another folder than the root: relative paths start there. The record has absolute ones,
    as it is read from the root later."""

    def __init__(self, source: FileSource, folder: Path) -> None:
        self._source = source
        self._folder = folder

    def stored(self, path: str) -> Artifact:
        """See FileSource."""
        return self._source.stored(self._absolute(path))

    def matches(self, pattern: str) -> list[str]:
        """See FileSource."""
        return self._source.matches(self._absolute(pattern))

    def artifact(self, ref: dict[str, Any]) -> Artifact:
        """See FileSource."""
        return self._source.artifact(ref)

    def _absolute(self, path: str) -> str:
        return os.path.normpath(self._folder / os.path.expanduser(path)) if path else path
