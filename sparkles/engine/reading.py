"""The steps that read and write files of the driver's machine. May import ports and below.

A read records the content's digest and keeps the bytes in the store; what the script gets is parsed from them, so a replay gives the
same value though the file is gone. A write keeps the bytes before and after, and publishes by rename.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from sparkles import digest, rows
from sparkles.engine.attempt import is_full
from sparkles.engine.commands import Answer, Done, Raised, Read, StepError, Write, refused
from sparkles.engine.events import Noticed, Report
from sparkles.engine.files import RunFiles
from sparkles.engine.journal import Asking, Journal
from sparkles.engine.replay import Execute, Reuse, decide_exists, decide_read, decide_write
from sparkles.errors import RowsError, StorageFull, UsageError
from sparkles.model import Digest, Json, Step, StepKey, StepState
from sparkles.ports import Content


def parsed(data: bytes, command: Read) -> Json:
    """What a script gets of a file's bytes. Raises RowsError, with the file's own line."""
    if command.reader == "csv":
        return rows.parse_csv(
            data, command.path, types=command.options.get("types") or {}, delimiter=command.options.get("delimiter")
        )
    if command.reader == "json":
        return rows.parse_json(data, command.path)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data


NO_FILE: dict[str, Json] = {"digest": None}
"""The recorded outcome of a read that found no file."""


class Looked(msgspec.Struct, frozen=True):
    """A recorded read, looked at again: what it saw, what is there at this point of the run, and what follows."""

    decision: Reuse | Execute
    recorded: Any
    present: Any


def look_at(files: RunFiles, recorded: Step | None, path: Path, name: str, frozen: bool) -> Looked:
    """Whether a read of a file's content stands; `recorded` and `present` are digests, None where there is none."""
    value = _of_done(recorded)
    present = files.at_this_point(path, new=value is None)
    if recorded is None or value is None:
        return Looked(Execute("never ran"), None, present)
    saw = Digest(value["digest"]) if value["digest"] is not None else None
    if saw is None:
        # It found no file; what it finds now is new, and nothing has to be said of it.
        explained = files.seen_later(path, present, recorded.sequence)
        return Looked(Execute("exists now"), None, None if explained else present)
    explained = files.seen_later(path, present, recorded.sequence)
    return Looked(decide_read(name, saw, present, explained, frozen), saw, present)


def look_whether(files: RunFiles, recorded: Step | None, path: Path, name: str, frozen: bool) -> Looked:
    """As `look_at`, for whether there is such a file at all."""
    present = files.exists_at_this_point(path)
    value = _of_done(recorded)
    saw = bool(value["exists"]) if value is not None else None
    return Looked(decide_exists(name, saw, present, frozen), saw, present)


def look_at_written(files: RunFiles, key: StepKey, target: Path, name: str, content: Digest) -> Reuse | Execute:
    """Whether a recorded write stands; the replay has reached it now."""
    files.passed(target, key)
    present = files.present(target)
    later = present is not None and files.written_later(target, present)
    earlier = present is not None and files.overwritten(target, key, present)
    settled = present in (None, content) or later or earlier
    other = None if settled or present is None else files.written_elsewhere(target, present)
    return decide_write(name, content, present, later=later, earlier=earlier, other=other or "")


def _of_done(step: Step | None) -> dict[str, Any] | None:
    if step is None or step.state is not StepState.DONE or step.value is None or step.error:
        return None
    found: dict[str, Any] = digest.parse(step.value)
    return found


class FileSteps:
    """readCsv, readJson, readText, fileExists and their writing twins."""

    def __init__(self, files: RunFiles, kept: Content, journal: Journal, report: Report, *, frozen: bool) -> None:
        self._files = files
        self._kept = kept
        self._journal = journal
        self._report = report
        self._frozen = frozen

    def read(self, strand: str, command: Read) -> Answer:
        """-> the parsed content. A file that is not there or does not parse is the script's mistake, with the file's own line."""
        asking = self._journal.ask_for(strand, command)
        try:
            path = self._files.resolve(command.path)
            self._files.stand_at(asking)
            if command.reader == "exists":
                return self._exists(asking, path)
            return self._content(asking, path, command)
        except (RowsError, UsageError) as error:
            return refused(error)
        except OSError as error:
            return refused(UsageError(f"{command.path}: cannot be read: {error.strerror}"))

    def _exists(self, asking: Asking, path: Path) -> Answer:
        looked = look_whether(self._files, asking.recorded, path, digest.parse(asking.parts)["path"], self._frozen)
        if isinstance(looked.decision, Reuse):
            return Done(looked.recorded, reused=True)
        if looked.decision.notice:
            self._report(Noticed(text=looked.decision.notice))
        self._journal.finish(asking, {"exists": looked.present})
        return Done(looked.present)

    def _content(self, asking: Asking, path: Path, command: Read) -> Answer:
        looked = look_at(self._files, asking.recorded, path, command.path, self._frozen)
        if looked.decision.notice:
            self._report(Noticed(text=looked.decision.notice))
        saw, present = looked.recorded, looked.present
        if isinstance(looked.decision, Reuse) and saw is not None and not self._kept.missing([saw]):
            return Done(parsed(self._kept.read(saw), command), reused=True)
        if present is None:
            # On record, so that a replay knows the script to have gone on without the file, though the run made it later.
            if asking.recorded is None:
                self._journal.finish(asking, NO_FILE)
            raise UsageError(f"{command.path}: no such file (looked for {path})")
        value = parsed(self._kept.read(present), command)
        self._journal.finish(asking, {"digest": present})
        return Done(value)

    def write(self, strand: str, command: Write) -> Answer:
        """-> nil, the content being at its place whole."""
        content = digest.of_bytes(command.content)
        asking = self._journal.ask_for(strand, command)
        try:
            target = self._files.resolve_target(command.path)
            self._files.stand_at(asking)
            recorded = asking.recorded
            if recorded is not None and recorded.state is StepState.DONE:
                decision = look_at_written(self._files, asking.key, target, command.path, content)
                if decision.notice:
                    self._report(Noticed(text=decision.notice))
                if isinstance(decision, Reuse):
                    return Done(None, reused=True)
                # On record anew, with the time: what the script wrote there later has been written over by this.
                return self._perform(asking, target, command.content, digest.parse(recorded.value or "{}").get("before"))
            before = self._files.at_this_point(target)
            return self._perform(asking, target, command.content, before)
        except UsageError as error:
            return refused(error)
        except (FileExistsError, NotADirectoryError):
            above = next((str(each) for each in target.parents if each.exists()), "what is above it")
            return refused(UsageError(f"{command.path}: cannot be written: {above} is a file, and a folder is needed there"))
        except OSError as error:
            message = f"{command.path}: cannot be written: {error.strerror}"
            if is_full(error):
                raise StorageFull(message, "write", command.path) from error
            return Raised(StepError(message, kind="WriteFailed"))

    def _perform(self, asking: Asking, target: Path, content: bytes, before: Digest | None) -> Done:
        after = self._kept.put_bytes(content)
        value: Json = {"before": before, "after": after}
        self._journal.start(asking, value)
        _publish(target, content)
        self._journal.finish(asking, value)
        self._files.wrote(target, asking.key, before, after)
        return Done(None)

    def catch_up(self, asking: Asking | None = None) -> None:
        """Before something looks at the files itself, or at the end: where an edited script left a write out that the record has, the
        file gets what the script wrote instead."""
        if asking is None:
            self._files.stand_at_end()
        else:
            self._files.stand_at(asking)
        for path, content in self._files.left_behind():
            name = self._files.name_of(path)
            text = f"{name} holds what the script does not write any more; it is written again"
            try:
                _publish(path, self._kept.read(content))
            except OSError as error:
                text = f"{name} holds what the script does not write any more, and cannot be written: {error.strerror}"
            self._report(Noticed(text=text))


def _publish(target: Path, content: bytes) -> None:
    """Writes beside the target and renames: a reader sees the old file or the new one, never a part."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{target.name[:40]}.", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            umask = os.umask(0)
            os.umask(umask)
            os.fchmod(stream.fileno(), 0o666 & ~umask)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
