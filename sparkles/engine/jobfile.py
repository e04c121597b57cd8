"""`sparkles sub --file job.json`: the file -> JobDraft, and its published JSON Schema. May import commands, rows and below.

`python -m sparkles.engine.jobfile` writes the schema to docs/job.schema.json. Surprise: tasks and files are counted from 1 in messages,
as everywhere else, though JSON itself has no opinion.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from sparkles import digest
from sparkles.engine.commands import FileDraft, JobDraft, ResourcesDraft, TaskDraft
from sparkles.errors import SpecError
from sparkles.model import Json, OomRetry, OutputGlob, RetryPolicy
from sparkles.rows import parse_json
from sparkles.suggest import did_you_mean
from sparkles.units import parse_duration, parse_size

_SIZE = "bytes, or a text such as 4Gi or 800M"
_DURATION = "seconds, or a text such as 90s, 1.5m or 24h"


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The base: a key that is not known is an error. Keys are spelled as scripts spell them: `maxFailures`."""


class ArtifactEntry(_Entry, frozen=True):
    """An output of an earlier task."""

    job: str
    index: Annotated[int, Meta(ge=1)]
    name: str
    digest: str
    size: int = 0
    executable: bool = False
    private: bool = False


class FileEntry(_Entry, frozen=True):
    """An input file: `src` or `artifact`."""

    src: Annotated[str, Meta(description="A path or a glob, relative to the project root.")] = ""
    dst: Annotated[
        str | None, Meta(description="The path in the task; a folder where it ends with /. Default: the base name.")
    ] = None
    link: Annotated[bool, Meta(description="A read-only link instead of a copy, for large inputs.")] = False
    artifact: ArtifactEntry | None = None


class OutputEntry(_Entry, frozen=True):
    """Files that a task leaves."""

    pattern: Annotated[str, Meta(description="A glob relative to the task's directory; ** crosses folders.")]
    required: Annotated[bool, Meta(description="A task without such a file has failed.")] = False


class ResourcesEntry(_Entry, frozen=True):
    """What each task needs."""

    cpu: Annotated[int | float | str | None, Meta(description="Cores; 0.5 and 500m are half a core.")] = None
    memory: Annotated[int | float | str | None, Meta(description=_SIZE)] = None
    disk: Annotated[int | float | str | None, Meta(description=_SIZE)] = None
    gpu: Annotated[int | None, Meta(extra_json_schema={"minimum": 0})] = None


class OomEntry(_Entry, frozen=True):
    """What is tried after a task ran out of memory."""

    memory: Annotated[int | float | str, Meta(description="A factor: x2, or 2.")] = "x2"
    max: Annotated[int | float | str | None, Meta(description=_SIZE)] = None


class RetryEntry(_Entry, frozen=True):
    """How often a task is tried."""

    attempts: Annotated[int, Meta(description="Tries in all; 1: no retry.", extra_json_schema={"minimum": 1})] = 1
    exit_codes: Annotated[list[int], Meta(description="Only these exit codes are tried again; empty: any.")] = []
    backoff: Annotated[int | float | str, Meta(description=f"Before the second try: {_DURATION}")] = 1.0
    backoff_factor: Annotated[int | float, Meta(description="Each pause is this many times the one before.")] = 2.0
    max_backoff: Annotated[int | float | str, Meta(description=f"The longest pause: {_DURATION}")] = 300.0
    oom: OomEntry | None = None


class TaskEntry(_Entry, frozen=True):
    """One task of a sweep."""

    params: Annotated[dict[str, Any], Meta(description="What the placeholders of the command stand for.")] = {}
    command: Annotated[str | list[str] | None, Meta(description="Instead of the job's command.")] = None
    files: Annotated[list[str | FileEntry], Meta(description="In addition to the job's files.")] = []
    env: Annotated[dict[str, str], Meta(description="In addition to the job's variables.")] = {}
    resources: Annotated[ResourcesEntry | None, Meta(description="Replaces what it sets of the job's resources.")] = None
    name: str = ""


class JobFile(_Entry, frozen=True):
    """A job for `sparkles sub --file`."""

    name: Annotated[str, Meta(extra_json_schema={"pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"})]
    command: Annotated[
        str | list[str] | None, Meta(description="A template: a text for /bin/sh, or a list of arguments without a shell.")
    ] = None
    tasks: Annotated[
        list[TaskEntry] | None, Meta(description="Left out: one task without parameters.", extra_json_schema={"minItems": 1})
    ] = None
    files: Annotated[list[str | FileEntry], Meta(description="Inputs of every task.")] = []
    outputs: Annotated[list[str | OutputEntry], Meta(description="What is kept of a task's files.")] = []
    env: Annotated[dict[str, str], Meta(description="Environment variables; they count in the fingerprint.")] = {}
    secret_env: Annotated[
        dict[str, str], Meta(description="Variable -> env:NAME, k8s:secret/key or gcp:secret; only the reference is stored.")
    ] = {}
    work_dir: Annotated[str, Meta(description="Where the command starts, below the task's directory.")] = ""
    timeout: Annotated[int | float | str | None, Meta(description=f"The longest an attempt may run: {_DURATION}")] = None
    retry: RetryEntry | None = None
    resources: ResourcesEntry | None = None
    parallelism: Annotated[
        int | None, Meta(description="Tasks of this job that run at a time.", extra_json_schema={"minimum": 1})
    ] = None
    priority: Annotated[int, Meta(description="Greater is served first.")] = 0
    properties: Annotated[dict[str, str | int | float | bool], Meta(description="Labels, shown by status.")] = {}
    cache: Annotated[bool, Meta(description="false: run every task, whatever is known.")] = True
    max_failures: Annotated[
        int | str | None, Meta(description="More failed tasks than this, or than this share (10%), end the job.")
    ] = None
    image: Annotated[str, Meta(description="The container image; for the cluster.")] = ""
    zones: Annotated[list[str], Meta(description="For the cluster.")] = []
    provisioning: Annotated[
        str, Meta(extra_json_schema={"pattern": "^(|spot|standard|flex|reservation/.+)$", "description": "For the cluster."})
    ] = ""
    pod_template: Annotated[dict[str, Any], Meta(description="Merged into the worker's pod; for the cluster.")] = {}
    schema: str = msgspec.field(name="$schema", default="")


_STRUCTS: dict[str, type[_Entry]] = {
    "": JobFile,
    "tasks[]": TaskEntry,
    "tasks[].files[]": FileEntry,
    "tasks[].files[].artifact": ArtifactEntry,
    "tasks[].resources": ResourcesEntry,
    "files[]": FileEntry,
    "files[].artifact": ArtifactEntry,
    "outputs[]": OutputEntry,
    "resources": ResourcesEntry,
    "retry": RetryEntry,
    "retry.oom": OomEntry,
}
"""Which keys an object may have, by its path without indexes."""

_AT = re.compile(r"(.*?)(?: - at `(?:key in )?\$(.*)`)?", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`")
_TYPE = re.compile(r"Expected `(.*)`, got `(.*)`")
_TYPES: dict[type, str] = {str: "str", int: "int", float: "float", bool: "bool", dict: "object", list: "array"}
_WORDS = {
    "str": "text",
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "object": "an object",
    "array": "a list",
}


def load_job(data: bytes, source: str) -> JobDraft:
    """The draft of a job.json, or of what `sparkles show JOB --json` printed; `source` is the file's name, with which every message
    begins.

    Raises:
        RowsError: It is not JSON.
        SpecError: A key is unknown, missing, or its value is not of the right kind; with the path of the field.
    """
    value = parse_json(data, source)
    if isinstance(value, dict) and "job" in value and "spec" in value:
        value, source = digest.unplain(value["spec"]), f"{source}: spec"
    try:
        return _draft(msgspec.convert(value, JobFile))
    except msgspec.ValidationError as error:
        raise SpecError(f"{source}: {_explained(str(error), value)}") from None
    except SpecError as error:
        raise SpecError(f"{source}: {error}") from None


def job_schema() -> dict[str, Any]:
    """The JSON Schema of a job.json (draft 2020-12)."""
    schema = msgspec.json.schema(JobFile)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A job for sparkles",
        **schema,
    }


def schema_text() -> str:
    """The schema as docs/job.schema.json holds it."""
    return json.dumps(job_schema(), indent=2, ensure_ascii=False) + "\n"


def _explained(message: str, value: Json) -> str:
    """A msgspec message about `value` as `path: expected ..., found ...`."""
    match = _AT.fullmatch(message)
    why, at = (match[1], match[2] or "") if match else (message, "")
    path = re.sub(r"\[(\d+)\]", lambda index: f"[{int(index[1]) + 1}]", at.removeprefix("."))
    keys = _keys(path)
    if found := _UNKNOWN.fullmatch(why):
        name = f"{path}.{found[1]}" if path else found[1]
        return f"{name}: there is no such key (keys: {', '.join(keys)}).{did_you_mean(found[1], keys)}"
    if found := _MISSING.fullmatch(why):
        return f"{path}.{found[1]}: missing" if path else f"{found[1]}: missing"
    if found := _TYPE.fullmatch(why):
        wanted = [_WORDS.get(word, word) for word in found[1].split(" | ") if word != "null"]
        if path.endswith("[...]"):
            path = _with_key(path, value, set(found[1].split(" | ")))
        why = f"expected {' or '.join(dict.fromkeys(wanted))}, found {_WORDS.get(found[2], found[2])}"
    return f"{path}: {why}" if path else why


def _with_key(path: str, value: Json, allowed: set[str]) -> str:
    """The path with the key that msgspec leaves open (`env[...]` -> `env.A`): the first whose value is of no allowed type."""
    outer = path.removesuffix("[...]")
    for part in re.findall(r"[^.\[\]]+", outer):
        value = value[int(part) - 1] if part.isdigit() and isinstance(value, list) else value[part]
    return next((f"{outer}.{key}" for key, item in value.items() if _TYPES.get(type(item)) not in allowed), path)


def _keys(path: str) -> list[str]:
    struct = _STRUCTS.get(re.sub(r"\[\d+\]", "[]", path))
    return [field.encode_name for field in msgspec.structs.fields(struct) if field.encode_name != "$schema"] if struct else []


def _draft(job: JobFile) -> JobDraft:
    return JobDraft(
        name=job.name,
        command=_command(job.command),
        tasks=None if job.tasks is None else [_task(task) for task in job.tasks],
        files=_files(job.files),
        outputs=tuple(
            OutputGlob(each) if isinstance(each, str) else OutputGlob(each.pattern, each.required) for each in job.outputs
        ),
        env=job.env,
        secret_env=job.secret_env,
        work_dir=job.work_dir,
        timeout_s=None if job.timeout is None else _seconds(job.timeout, "timeout"),
        retry=RetryPolicy() if job.retry is None else _retry(job.retry),
        resources=ResourcesDraft() if job.resources is None else _resources(job.resources),
        parallelism=job.parallelism,
        priority=job.priority,
        properties=job.properties,
        cache=job.cache,
        max_failures=job.max_failures,
        image=job.image,
        zones=tuple(job.zones),
        provisioning=job.provisioning,
        pod_template=job.pod_template,
    )


def _task(task: TaskEntry) -> TaskDraft:
    return TaskDraft(
        task.params,
        _command(task.command),
        _files(task.files) if task.files else (),
        task.env,
        None if task.resources is None else _resources(task.resources),
        task.name,
    )


def _command(command: str | list[str] | None) -> str | tuple[str, ...] | None:
    return tuple(command) if isinstance(command, list) else command


def _files(files: list[str | FileEntry]) -> tuple[FileDraft, ...]:
    return tuple(
        FileDraft(src=each)
        if isinstance(each, str)
        else FileDraft(each.src, each.dst, each.link, None if each.artifact is None else msgspec.structs.asdict(each.artifact))
        for each in files
    )


def _resources(entry: ResourcesEntry) -> ResourcesDraft:
    return ResourcesDraft(entry.cpu, entry.memory, entry.disk, entry.gpu)


def _retry(entry: RetryEntry) -> RetryPolicy:
    return RetryPolicy(
        attempts=entry.attempts,
        exit_codes=tuple(entry.exit_codes),
        backoff_s=_seconds(entry.backoff, "retry.backoff"),
        backoff_factor=float(entry.backoff_factor),
        max_backoff_s=_seconds(entry.max_backoff, "retry.maxBackoff"),
        oom=None if entry.oom is None else _oom(entry.oom),
    )


def _oom(entry: OomEntry) -> OomRetry:
    memory = entry.memory
    try:
        factor = float(memory.removeprefix("x")) if isinstance(memory, str) else float(memory)
    except ValueError:
        raise SpecError(f"retry.oom.memory: expected a factor such as x2, found {memory!r}") from None
    try:
        return OomRetry(factor, None if entry.max is None else parse_size(entry.max))
    except ValueError as error:
        raise SpecError(f"retry.oom.max: {error}") from None


def _seconds(value: int | float | str, path: str) -> float:
    try:
        return parse_duration(value)
    except ValueError as error:
        raise SpecError(f"{path}: {error}") from None


if __name__ == "__main__":
    Path("docs/job.schema.json").write_text(schema_text(), encoding="utf-8")
