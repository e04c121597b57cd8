"""The steps that read and write files of the driver's machine. May import ports and below.

A read records the content's digest and keeps the bytes in the store; what the script gets is parsed from them, so a replay gives the
same value though the file is gone. A write keeps the bytes before and after, and publishes by rename.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from sparkles import digest, rows
from sparkles.engine.attempt import is_full
from sparkles.engine.commands import Answer, Done, Raised, Read, StepError, Write, refused
from sparkles.engine.events import Noticed, Report
from sparkles.engine.files import RunFiles
from sparkles.engine.journal import Asking, Journal
from sparkles.engine.replay import Reuse, decide_read, decide_write
from sparkles.errors import RowsError, StorageFull, UsageError
from sparkles.model import Digest, Json, StepState
from sparkles.ports import Blobs


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


class FileSteps:
    """readCsv, readJson, readText, fileExists and their writing twins."""

    def __init__(self, files: RunFiles, blobs: Blobs, journal: Journal, report: Report, *, frozen: bool) -> None:
        self._files = files
        self._blobs = blobs
        self._journal = journal
        self._report = report
        self._frozen = frozen

    def read(self, strand: str, command: Read) -> Answer:
        """-> the parsed content. A file that is not there or does not parse is the script's mistake, with the file's own line."""
        asking = self._journal.ask_for(strand, command)
        try:
            path = self._files.resolve(command.path)
            if command.reader == "exists":
                return self._exists(asking, path)
            return self._content(asking, path, command)
        except (RowsError, UsageError) as error:
            return refused(error)
        except OSError as error:
            return refused(UsageError(f"{command.path}: cannot be read: {error.strerror}"))

    def _exists(self, asking: Asking, path: Path) -> Answer:
        present = self._files.exists_at_this_point(path)
        recorded = asking.recorded
        if recorded is not None and recorded.state is StepState.DONE and recorded.value is not None:
            saw = bool(digest.parse(recorded.value)["exists"])
            if saw == present or self._frozen:
                return Done(saw, reused=True)
            name = digest.parse(asking.parts)["path"]
            self._report(Noticed(text=f"{name} {'exists now' if present else 'is gone'}, unlike when this run first looked"))
        self._journal.finish(asking, {"exists": present})
        return Done(present)

    def _content(self, asking: Asking, path: Path, command: Read) -> Answer:
        recorded = asking.recorded
        present = self._files.at_this_point(path)
        if recorded is not None and recorded.state is StepState.DONE and recorded.value is not None and not recorded.error:
            saw = Digest(digest.parse(recorded.value)["digest"])
            explained = self._files.seen_later(path, present, recorded.sequence)
            decision = decide_read(command.path, saw, present, explained, self._frozen)
            if decision.notice:
                self._report(Noticed(text=decision.notice))
            if isinstance(decision, Reuse) and not self._blobs.missing([saw]):
                return Done(parsed(self._blobs.read(saw), command), reused=True)
        if present is None:
            raise UsageError(f"{command.path}: no such file (looked for {path})")
        value = parsed(self._blobs.read(present), command)
        self._journal.finish(asking, {"digest": present})
        return Done(value)

    def write(self, strand: str, command: Write) -> Answer:
        """-> nil, the content being at its place whole."""
        content = digest.of_bytes(command.content)
        asking = self._journal.ask_for(strand, command)
        try:
            target = self._files.resolve_target(command.path)
            recorded = asking.recorded
            if recorded is not None and recorded.state is StepState.DONE:
                self._files.passed(target, asking.key)
                decision = decide_write(command.path, content, self._files.present(target), self._files.later_writes(target))
                if decision.notice:
                    self._report(Noticed(text=decision.notice))
                if isinstance(decision, Reuse):
                    return Done(None, reused=True)
                _publish(target, command.content)
                return Done(None)
            before = self._files.at_this_point(target)
            self._files.passed(target, asking.key)
            self._blobs.put_bytes(command.content)
            value: Json = {"before": before, "after": content}
            self._journal.start(asking, value)
            _publish(target, command.content)
            self._journal.finish(asking, value)
            return Done(None)
        except UsageError as error:
            return refused(error)
        except OSError as error:
            message = f"{command.path}: cannot be written: {error.strerror}"
            if is_full(error):
                raise StorageFull(message, "write", command.path) from error
            return Raised(StepError(message, kind="WriteFailed"))


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
