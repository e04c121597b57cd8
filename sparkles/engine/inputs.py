"""A task's input files: from what an author named to stored content with a place in the task. May import model and below.

Surprise: a file found by a pattern keeps its path below the pattern's fixed part, so that `data/**` brings a tree as it is and
`data/*.csv` its files by their base names.
"""

from __future__ import annotations

import glob
import posixpath
import re
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from sparkles.engine.commands import FileDraft
from sparkles.errors import SpecError, TemplateError, UsageError
from sparkles.model import Artifact, InputFile, Json
from sparkles.suggest import did_you_mean

FOLDER = "inputs"
"""Where `{^name}` puts files, in the scratch directory."""

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_MAGIC = re.compile(r"[*?\[]")
_MAX_NAME = 255
"""Bytes in one name of a path, on every file system in use."""


class FileSource(Protocol):
    """Where inputs come from. Paths are relative to the project root."""

    def stored(self, path: str) -> Artifact:
        """Stores a file's bytes; the artifact's name is the path that the record keeps.

        Raises:
            UsageError: It is missing, unreadable, not a file, or changing.
        """

    def matches(self, pattern: str) -> list[str]:
        """The files that a pattern names, sorted; `**` crosses folders."""

    def artifact(self, ref: dict[str, Any]) -> Artifact:
        """An output of an earlier task. Raises UsageError where it is not stored."""


def check_inside(text: str, path: str, what: str) -> str:
    """A relative path or pattern without `.` parts.

    Raises:
        SpecError: It is absolute, has a `..`, a backslash, a NUL, half a character or too long a name, or names nothing.
    """
    why = ""
    if not text:
        why = "found an empty text"
    elif "\0" in text or "\\" in text:
        why = f"found {text!r}: it holds a {'NUL' if chr(0) in text else 'backslash'}"
    elif text.startswith("/"):
        why = f"found {text!r}: it is absolute"
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if not why:
        if ".." in parts:
            why = f"found {text!r}: it leaves the task's directory"
        elif not parts:
            why = f"found {text!r}: it names the directory itself"
        elif any(len(part.encode("utf-8", "surrogatepass")) > _MAX_NAME for part in parts):
            why = f"found a name of more than {_MAX_NAME} bytes"
        elif any("\ud800" <= letter <= "\udfff" for letter in text):
            why = f"found {text!r}: it is not UTF-8"
    if why:
        raise SpecError(f"{path}: expected {what}, relative to the task's directory; {why}")
    return "/".join(parts)


class Inputs:
    """Resolves the files of one job's tasks; each file is stored once, however many tasks name it."""

    def __init__(self, source: FileSource) -> None:
        self._source = source
        self._stored: dict[str, Artifact] = {}

    def resolve(self, drafts: Iterable[FileDraft], path: str, common: tuple[InputFile, ...] = ()) -> tuple[InputFile, ...]:
        """The inputs that `drafts` name, after those in `common`.

        Args:
            path: The field of the drafts, for messages; they are counted from 1.

        Raises:
            SpecError: A file cannot be an input, or two inputs want the same place.
        """
        placed = {file.dst: file for file in common}
        for number, draft in enumerate(drafts, 1):
            where = f"{path}[{number}]"
            for file in self._named(draft, where):
                _place(placed, file, where)
        _check_folders(placed, path)
        return tuple(placed.values())

    def named_by(
        self, names: Iterable[str], params: Mapping[str, Json], files: tuple[InputFile, ...], up: str
    ) -> tuple[dict[str, str], tuple[InputFile, ...]]:
        """What `{^name}` stands for: the path of each file, seen from the working directory (`up` leads to the scratch directory),
        and the task's inputs with these files added.

        Raises:
            TemplateError: A parameter does not name a file that can be an input.
        """
        placed = {file.dst: file for file in files}
        paths = {}
        for name in names:
            value = params.get(name)
            try:
                artifact, src = self._of_value(value)
            except UsageError as error:
                raise TemplateError(f"{{^{name}}}: {error}") from None
            base = posixpath.basename(artifact.name)
            dst = f"{FOLDER}/{base}"
            number = 1
            while (there := placed.get(dst)) is not None and not _same(there, artifact):
                number += 1
                dst = f"{FOLDER}/{number}/{base}"
            if there is None:
                placed[dst] = _input(dst, artifact, src)
            paths[name] = up + dst
        _check_folders(placed, "files")
        return paths, tuple(placed.values())

    def _of_value(self, value: Json) -> tuple[Artifact, str]:
        if isinstance(value, dict) and "digest" in value:
            return self._source.artifact(value), shown_artifact(value)
        if not isinstance(value, str) or not value:
            found = "nil" if value is None else repr(value)
            raise SpecError(f"expected a path or an artifact of an earlier task, found {found}")
        artifact = self._store(value)
        return artifact, artifact.name

    def _named(self, draft: FileDraft, path: str) -> list[InputFile]:
        if draft.artifact is not None:
            try:
                artifact = self._source.artifact(draft.artifact)
            except UsageError as error:
                raise SpecError(f"{path}: {error}") from None
            found = [(artifact, shown_artifact(draft.artifact), posixpath.basename(artifact.name))]
        else:
            found = self._files(draft.src, path)
        single = draft.dst is not None and not draft.dst.endswith("/")
        if single and len(found) > 1:
            raise SpecError(
                f'{path}.dst: {draft.dst!r} is one file, and {draft.src} names {len(found)}; end it with "/" to name a folder'
            )
        inputs = []
        for artifact, src, below in found:
            dst = below if draft.dst is None else draft.dst if single else draft.dst + below
            inputs.append(_input(check_inside(dst, f"{path}.dst", "a path"), artifact, src, link=draft.link))
        return inputs

    def _files(self, src: str, path: str) -> list[tuple[Artifact, str, str]]:
        """(stored file, its path, its path below the pattern's fixed part) of each file that `src` names."""
        if not src:
            raise SpecError(f"{path}.src: expected a path, a pattern or an artifact, found an empty text")
        try:
            if not _MAGIC.search(src) or self._source.matches(glob.escape(src)):
                return [(self._store(src), src, posixpath.basename(src.rstrip("/")))]
            _check_local(src)
            names = self._source.matches(src)
            if not names:
                raise SpecError(f"{src}: the pattern matches no file")
            fixed = fixed_part(posixpath.expanduser(src))
            return [(self._store(name), name, _below(name, fixed)) for name in names]
        except UsageError as error:
            raise SpecError(f"{path}: {error}") from None

    def _store(self, src: str) -> Artifact:
        artifact = self._stored.get(src)
        if artifact is None:
            _check_local(src)
            try:
                artifact = self._source.stored(src)
            except UsageError as error:
                raise SpecError(self._explained(src, error)) from None
            self._stored[src] = artifact
        return artifact

    def _explained(self, src: str, error: UsageError) -> str:
        bare = src.rstrip("/")
        if self._source.matches(glob.escape(src)):
            return str(error)  # it is there, and something else is wrong with it
        if bare and self._source.matches(f"{glob.escape(bare)}/**"):
            return f"{src}: a directory; name its files or use a glob such as '{bare}/**'"
        folder, base = posixpath.split(bare)
        beside = self._source.matches(posixpath.join(glob.escape(folder), "*"))
        return f"{error}.{did_you_mean(base, map(posixpath.basename, beside))}".removesuffix(".")


def _input(dst: str, artifact: Artifact, src: str, *, link: bool = False) -> InputFile:
    return InputFile(dst, artifact.digest, artifact.size_bytes, artifact.executable, link, src, artifact.private)


def _check_local(src: str) -> None:
    match = _URL.match(src)
    if match is None:
        return
    if match[1].lower() == "gs":
        raise SpecError(
            f"{src}: objects of a bucket are not read as inputs yet: copy it to this machine (gcloud storage cp) and name the file"
        )
    raise SpecError(
        f"{src}: expected a path on this machine, found a {match[1]}:// URL; fetch it first, in a task or with shell"
    )


def fixed_part(pattern: str) -> str:
    """The folder that a pattern begins with, without `.` parts; "." where there is none: `../ext/a*/**` has `../ext`."""
    match = _MAGIC.search(pattern)
    return posixpath.normpath(pattern[: pattern.rfind("/", 0, match.start() if match else len(pattern)) + 1] or ".")


def _below(name: str, fixed: str) -> str:
    """The path of a match below the fixed part of its pattern."""
    return name if fixed == "." else name.removeprefix(fixed.rstrip("/") + "/")


def shown_artifact(ref: Mapping[str, Any]) -> str:
    """Where an artifact came from, as `InputFile.src` has it: JOB/INDEX/NAME."""
    return f"{ref.get('job')}/{ref.get('index')}/{ref.get('name')}"


def _same(file: InputFile, artifact: Artifact | InputFile) -> bool:
    return file.digest == artifact.digest and file.executable == artifact.executable


def _place(placed: dict[str, InputFile], file: InputFile, path: str) -> None:
    there = placed.setdefault(file.dst, file)
    if not _same(there, file):
        raise SpecError(
            f"{path}.dst: {there.src} and {file.src} would both be {file.dst!r} in the task; give one of them another dst"
        )


def _check_folders(placed: Mapping[str, InputFile], path: str) -> None:
    """Refuses a file that stands where another input needs a folder."""
    for dst, file in placed.items():
        folder = posixpath.dirname(dst)
        while folder:
            if folder in placed:
                raise SpecError(
                    f"{path}: {placed[folder].src} would be the file {folder!r} and {file.src} the file {dst!r} below it"
                )
            folder = posixpath.dirname(folder)
