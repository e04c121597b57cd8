"""A job, built: draft -> spec and tasks as values, inputs stored, templates expanded. May import model and below.

Surprise: errors know two doors. What a script's builder set is reported at the setter's line (WorkflowError); what a job.json holds is
reported with the path of the field, tasks and files counted from 1 (SpecError, TemplateError).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec

from sparkles import template
from sparkles.engine.commands import JobDraft, TaskDraft
from sparkles.engine.inputs import FileSource, Inputs
from sparkles.engine.spec import check_env, check_json, report, reported, resources_of, setter_name, spec_of
from sparkles.errors import SpecError, TemplateError, UsageError
from sparkles.model import Command, Digest, InputFile, JobSpec, Json, Resources, TaskSpec

__all__ = ["BuiltJob", "FileSource", "build", "setter_name"]

_ENCODER = msgspec.json.Encoder(order="deterministic")


@dataclass(frozen=True)
class BuiltJob:
    """A job ready to be created. `digest` is of everything in it but where its inputs came from."""

    spec: JobSpec
    tasks: Sequence[TaskSpec]
    digest: Digest


def build(draft: JobDraft, files: FileSource) -> BuiltJob:
    """Checks a draft, stores its inputs through `files` and expands its template for each task.

    Raises:
        SpecError, TemplateError: Something in it is wrong; the message begins with the field's path.
        WorkflowError: As these, where the draft has the position of the setter that is to blame.
        BackendError: An input could not be stored.
    """
    drafts = [TaskDraft(params={})] if draft.tasks is None else draft.tasks
    with reported(draft, "tasks"):
        if not drafts:
            raise SpecError("tasks: expected at least one row, found none: a job without tasks does nothing")
    spec = spec_of(draft, len(drafts))
    inputs = Inputs(files)
    with reported(draft, "files"):
        common = inputs.resolve(draft.files, "files")
    builder = _Builder(draft, spec, inputs, common)
    tasks = [builder.task(index, each) for index, each in enumerate(drafts, 1)]
    return BuiltJob(spec, tasks, _digest(spec, tasks))


class _Builder:
    """Builds the tasks of one job one by one."""

    def __init__(self, draft: JobDraft, spec: JobSpec, inputs: Inputs, common: tuple[InputFile, ...]) -> None:
        self._draft = draft
        self._inputs = inputs
        self._common = common
        self._resources: Resources = spec.resources
        self._up = "../" * (spec.work_dir.count("/") + 1) if spec.work_dir else ""
        self._template: template.Template | None = None
        if draft.command is not None:
            with reported(draft, "command"):
                self._template = _parsed_at(draft.command, "command")

    def task(self, index: int, draft: TaskDraft) -> TaskSpec:
        own = draft.command is not None
        # To blame for the command: the row function where it gave one of its own, else the job's template.
        field = "tasks" if own or self._template is None else "command"
        try:
            parsed = self._template if draft.command is None else _parsed_at(draft.command, f"tasks[{index}].command")
            if parsed is None:
                raise SpecError(self._no_command(index))
            params = draft.params
            if index == 1 and not own:
                try:
                    parsed.check(params)
                except TemplateError as error:
                    raise TemplateError(f"command: {error}") from None
            files = self._common
            paths: Mapping[str, str] = {}
            try:
                if draft.files:
                    field = "tasks"
                    files = self._inputs.resolve(draft.files, f"tasks[{index}].files", files)
                    field = "tasks" if own else "command"
                if parsed.file_names:
                    parsed.check(params)
                    paths, files = self._inputs.named_by(parsed.file_names, params, files, self._up)
                command = parsed.expand(params, paths)
            except TemplateError as error:
                where = "command" if self._draft.tasks is None else f"tasks[{index}].command" if own else f"tasks[{index}]"
                raise TemplateError(f"{where}: {error}") from None
            if not (command if isinstance(command, tuple) else command.strip()):
                raise SpecError(f"tasks[{index}]: expected a command, found an empty text after its parameters were put in")
            if isinstance(command, tuple) and not command[0]:
                raise SpecError(f"tasks[{index}]: expected a program as the first argument, found an empty text")
            field = "tasks"
            for name, value in params.items():
                if type(value) is not str or not value.isascii():
                    check_json(value, f"tasks[{index}].params.{name}")
            if draft.env:
                check_env(draft.env, f"tasks[{index}].env")
            resources = None
            if draft.resources is not None:
                resources = resources_of(draft.resources, self._resources, f"tasks[{index}].resources")
            if draft.name and (len(draft.name) > 255 or not draft.name.isprintable()):
                raise SpecError(f"tasks[{index}].name: expected at most 255 printable characters, found {draft.name[:100]!r}")
        except UsageError as error:
            report(self._draft, field, error)
        return TaskSpec(command, params, files, draft.env, resources, draft.name)

    def _no_command(self, index: int) -> str:
        many = self._draft.tasks is not None and len(self._draft.tasks) > 1
        which = f"tasks[{index}].command" if many else "command"
        where = setter_name("command")
        return f'{which}: there is no command: call {where}, or give each task its own (in a job.json: "command")'


def _parsed_at(command: Command, path: str) -> template.Template:
    """The parsed template of the field `path`."""
    try:
        return _parsed(command)
    except UsageError as error:
        raise type(error)(f"{path}: {error}") from None


@lru_cache(maxsize=256)
def _parsed(command: Command) -> template.Template:
    if isinstance(command, tuple) and not command:
        raise SpecError("expected a program and its arguments, found an empty list")
    if not isinstance(command, tuple) and not command.strip():
        raise SpecError("expected a command, found an empty text")
    for text in command if isinstance(command, tuple) else (command,):
        if "\0" in text:
            raise SpecError(f"a command cannot hold a NUL (character {text.index(chr(0)) + 1})")
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise SpecError("expected text in UTF-8, found half a character (a lone surrogate)")
    return template.parse(command)


def _digest(spec: JobSpec, tasks: Sequence[TaskSpec]) -> Digest:
    """Streams: one task's encoding at a time. Newlines separate, because JSON has none inside."""
    encode = _ENCODER.encode
    state = hashlib.sha256(encode(spec))
    files: tuple[InputFile, ...] = ()
    encoded = encode([])
    for task in tasks:
        if task.files is not files:
            files = task.files
            found: list[Any] = [[file.dst, file.digest, file.executable, file.link] for file in files]
            encoded = encode(sorted(found))
        rest: list[Json] = [task.command, task.params, task.env, task.resources, task.name]
        state.update(b"\n" + encode(rest) + encoded)
    return Digest(state.hexdigest())
