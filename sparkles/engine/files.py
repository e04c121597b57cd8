"""Files as a run sees them: paths below the project root, and the content that a path had at this point of the replay.

May import ports and below. Surprise: while a run is being resumed, a file may hold what the run wrote *later* than the step that
reads it. The journal's write steps keep the content before and after each write, so that an earlier read or input gets what it saw
(`engine.history` has the rules). Where that would leave a new step without its file, what is on the disk counts.
"""

from __future__ import annotations

import glob
import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from sparkles import digest, hints
from sparkles.engine.history import History, Point
from sparkles.engine.inputs import FileSource, fixed_part
from sparkles.engine.journal import Asking, Journal
from sparkles.errors import UsageError
from sparkles.model import Artifact, Digest, RunId, Step, StepKey
from sparkles.ports import Content


def there_before(fetch: Step) -> list[str] | None:
    """What a recorded fetch found in its folder; None where that is not recorded."""
    value = digest.parse(fetch.value) if fetch.value is not None else None
    return value.get("there") if isinstance(value, dict) else None


class RunFiles:
    """The files that one run's script names. Relative paths start at the project root."""

    def __init__(self, root: Path, state: Path, blobs: Content, kept: Content | None = None) -> None:
        """`blobs` is for the inputs of jobs, `kept` for what the run reads and writes itself; by default the same."""
        self._root = root
        self._state = state
        self._blobs = blobs
        self._kept = blobs if kept is None else kept
        self._journal: Journal | None = None
        self._history = History()
        self._point = Point()
        self._elsewhere: dict[tuple[Path, Digest], RunId | None] = {}
        self._submits: dict[tuple[str, str], list[int]] = {}
        self._seen: dict[Path, dict[Digest, int]] = {}
        self._stored: dict[Path, Artifact] = {}

    def load(self, journal: Journal) -> None:
        """Takes in the recorded reads, writes and fetches of a run that is being resumed or forked."""
        self._journal = journal
        for step in journal.steps(("write",)):
            if step.value is None:
                continue
            value = digest.parse(step.value)
            path = self.resolve(str(digest.parse(step.parts)["path"]))
            at_ms = step.ended_at_ms or step.started_at_ms
            self._history.add_write(path, step.key, step.sequence, at_ms, value["before"], Digest(value["after"]))
        for step in (*journal.steps(("fetch",)), *journal.inherited(("fetch",))):
            dest = self.resolve(str(digest.parse(step.parts)["dest"]))
            self._history.add_fetch(dest, step.key, step.sequence, frozenset(there_before(step) or ()))
        if self._history:
            for step in journal.steps(("submit",)):
                name = str(digest.parse(step.parts)["spec"]["name"])
                self._submits.setdefault((step.key.strand, name), []).append(step.sequence)
        for step in journal.steps(("read",)):
            if step.value is None or step.error:
                continue
            value = digest.parse(step.value)
            if isinstance(value, dict) and value.get("digest"):
                path = self.resolve(str(digest.parse(step.parts)["path"]))
                self._seen.setdefault(path, {})[Digest(value["digest"])] = step.sequence

    def stand_at(self, asking: Asking) -> None:
        """What is asked next of the files is asked by this step."""
        strand = asking.key.strand
        recorded = asking.recorded
        reached = self._journal.reached(strand) if self._journal is not None else 0
        self._point = Point(strand, reached if recorded is None else recorded.sequence, recorded is not None)

    def stand_before_job(self, strand: str, name: str) -> None:
        """What is asked next of the files is asked for a job's inputs. Its step is known only once they are: the strand's next recorded
        job of this name is taken for it."""
        reached = self._journal.reached(strand) if self._journal is not None else 0
        recorded = self._submits.get((strand, name), [])
        following = recorded[bisect_right(recorded, reached) :]
        self._point = Point(strand, following[0] if following else reached, bool(following))

    def stand_at_end(self) -> None:
        """What is asked next of the files is asked when the script has ended."""
        self._point = Point()

    def resolve(self, path: str) -> Path:
        """The absolute path of what a script calls `path`. Raises UsageError for a name that no file can have."""
        if not path or "\0" in path:
            raise UsageError(f"{path!r} is not a path")
        return Path(os.path.normpath(self._root / os.path.expanduser(path)))

    def name_of(self, path: Path) -> str:
        """What people call it: its path below the project root."""
        return str(path.relative_to(self._root)) if path.is_relative_to(self._root) else str(path)

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

    def at_this_point(self, path: Path, *, new: bool = False) -> Digest | None:
        """The content that the path had at this point of the run: what is there now, unless a write or fetch that the replay has not
        reached yet put it there.

        Args:
            new: Whether nothing is recorded of what asks. Then the step that made the file may be one that the script asked for no more,
                and what is there counts where there would be none.
        """
        now = self.present(path)
        found = self._history.content(path, now, self._point)
        return now if found is None and new else found

    def exists_at_this_point(self, path: Path) -> bool:
        """Whether the path existed at this point of the run (a folder counts)."""
        if path.is_dir() and self._history.has_below(path):
            files = [each for each in path.rglob("*") if each.is_file()]
            return not files or any(map(self._was_there, files))
        return path.exists() and self._was_there(path)

    def _was_there(self, path: Path) -> bool:
        """Whether a file that is there was there at this point of the run."""
        return not self._history.knows(path) or self._history.content(path, self.present(path), self._point) is not None

    def seen_later(self, path: Path, content: Digest | None, sequence: int) -> bool:
        """Whether a recorded read after `sequence` saw this content: then something the run did in between explains it."""
        return content is not None and self._seen.get(path, {}).get(content, 0) > sequence

    def written_later(self, path: Path, content: Digest) -> bool:
        """Whether a recorded write that the replay has not reached yet put this content at `path`."""
        return self._history.later(path, content)

    def overwritten(self, path: Path, key: StepKey, content: Digest) -> bool:
        """Whether one of the script's writes before `key` put it there, after `key` had been performed."""
        return self._history.overwrote(path, key, content)

    def passed(self, path: Path, key: StepKey) -> None:
        """The replay has reached the recorded write `key`."""
        self._history.reached_write(path, key)

    def wrote(self, path: Path, key: StepKey, before: Digest | None, after: Digest) -> None:
        """A write was performed."""
        self._history.performed(path, key, before, after)

    def fetched(self, strand: str, dest: Path) -> None:
        """The replay has reached a fetch to `dest`."""
        self._history.reached_fetch(strand, dest)

    def written_elsewhere(self, path: Path, content: Digest) -> RunId | None:
        """The newest other run that wrote this content there."""
        if (path, content) not in self._elsewhere:
            self._elsewhere[path, content] = self._find_elsewhere(path, content)
        return self._elsewhere[path, content]

    def _find_elsewhere(self, path: Path, content: Digest) -> RunId | None:
        for run, steps in self._journal.of_other_runs(("write",)) if self._journal is not None else ():
            for step in steps:
                if step.value is None or content not in step.value:
                    continue
                if digest.parse(step.value)["after"] == content and self.resolve(digest.parse(step.parts)["path"]) == path:
                    return run
        return None

    def left_behind(self) -> Iterator[tuple[Path, Digest]]:
        """The files that hold what the script does not ask for at this point, or any more, and what it wrote there instead."""
        for path in list(self._history.mixed()):
            now = self.present(path) if path.is_file() else None
            content = self._history.content(path, now, self._point)
            if content is not None and content != now:
                yield path, content

    # FileSource of engine.jobs

    def stored(self, path: str) -> Artifact:
        """Stores an input's bytes as they were at this point of the run."""
        target = self.resolve(path)
        if self._history.knows(target):
            content = self.at_this_point(target, new=True)
            if content is not None and content != self.present(target):
                now = self._kept.put_file(target)
                data = self._kept.read(content)
                self._blobs.put_bytes(data)
                return msgspec.structs.replace(now, name=path, digest=content, size_bytes=len(data))
        return msgspec.structs.replace(self._blobs.put_file(target), name=path)

    def matches(self, pattern: str) -> list[str]:
        """The regular files that a glob names, sorted; `**` crosses folders; the state folder is left out. Each begins with the glob's
        fixed part (see `inputs.fixed_part`), wherever that leads. What the run made later is left out too, unless all of it is."""
        found = []
        for each in glob.iglob(os.path.expanduser(pattern), root_dir=self._root, recursive=True):
            if each.endswith("/"):
                continue  # `FILE/**` names FILE so
            path = Path(os.path.normpath(self._root / each))
            if path.is_file() and not path.is_relative_to(self._state):
                found.append(path)
        there = list(filter(self._was_there, found)) if self._history else found
        return self.as_matches(there or found, pattern)

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
