"""The JSON that drivers and cloud workers share, in Python and in Go (consume/internal/wire). May import errors, model and digest.

Every document carries `schema`. A reader refuses a greater number than its own by name and never guesses; a smaller one does not exist
yet. Defaults are left out, so a task that waits is `{}`. docs/wire.md shows each document; tests/golden/wire holds one of each, read by
the tests of both languages. Surprise: unknown fields are refused as well: a field that one side does not know is a newer schema.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from sparkles import digest
from sparkles.errors import Damaged, SchemaTooNew
from sparkles.model import Attempt, AttemptRef, Digest, FailureClass, Job, TaskSpec, TaskState, Value, Worker

SCHEMA = 1
"""Of all documents together: drivers and workers of one installation are upgraded together."""


class ManifestPart(Value, frozen=True):
    """Where one gzip member of the manifest is: bytes from `offset`, `size_bytes` of them, whose sha256 is `digest`."""

    offset: int
    size_bytes: int
    digest: Digest


class Manifest(Value, frozen=True):
    """How to read the tasks' definitions: gzip members of `part_tasks` lines each (the last may be shorter), one object."""

    part_tasks: int
    parts: tuple[ManifestPart, ...]


class JobDocument(Value, frozen=True):
    """A job, its manifest and how its tasks are spread over shards (`shard_size` tasks each, in order of index). `fingerprints` is the
    digest of the object of that name, or ""."""

    schema: int
    job: Job
    manifest: Manifest
    shard_size: int
    fingerprints: str = ""


class ManifestRow(Value, frozen=True):
    """One line of the manifest: a task's definition, which never changes. `same_files`: its inputs are those of the line before it in the
    same member, and are not said again; a sweep's thousands of common inputs stand there once in a thousand lines."""

    spec: TaskSpec
    fingerprint: Digest
    same_files: bool = False


class TaskRow(Value, frozen=True):
    """What changes about a task: the fields of model.Task, its claim's token and whether its program was started, and the records of its
    ended attempts.

    `records` are the task's own ended attempts, oldest first. Of a record that is large, or not among the newest, only a summary is kept
    here (without results, outputs and tail): `stored` has its attempt's number, and the whole is in its result.json, which exists before
    any shard names the attempt. `borrowed` is the record of `origin` where that is another task's (a summary where `stored` has 0), so that
    a job stays readable when the other one is deleted.
    """

    state: TaskState = TaskState.PENDING
    attempt: int = 0
    tries: int = 0
    losses: int = 0
    origin: AttemptRef | None = None
    failure: FailureClass | None = None
    exit_code: int | None = None
    reason: str = ""
    worker: str = ""
    token: str = ""
    started: bool = False
    not_before_ms: int = 0
    memory_bytes: int | None = None
    records: tuple[Attempt, ...] = ()
    stored: tuple[int, ...] = ()
    borrowed: Attempt | None = None


class ShardDocument(Value, frozen=True):
    """Tasks `first` to `first + len(tasks) - 1` of a job. `seq` grows by one with each write: it orders events.

    pool, owner, priority and sequence are the job's: what the shard's indexed properties are made from.
    """

    schema: int
    job: str
    number: int
    first: int
    tasks: tuple[TaskRow, ...]
    seq: int = 0
    pool: str = ""
    owner: str = ""
    priority: int = 0
    sequence: int = 0


class WorkerDocument(Value, frozen=True):
    """A worker's row, the version of the program, and in a few words for people what keeps the worker from going on; "": nothing."""

    schema: int
    worker: Worker
    version: str = ""
    trouble: str = ""


class Change(Value, frozen=True):
    """What a task is now."""

    index: int
    state: TaskState
    attempt: int


class Event(Value, frozen=True):
    """A hint that a shard was written: `seq` is the shard's after it. It may come twice, late, out of order or never."""

    schema: int
    job: str
    shard: int
    seq: int
    changes: tuple[Change, ...] = ()


Document = TypeVar("Document", JobDocument, ShardDocument, WorkerDocument, Event)

_DECODERS: dict[type[Any], msgspec.json.Decoder[Any]] = {
    kind: msgspec.json.Decoder(kind) for kind in (JobDocument, ShardDocument, WorkerDocument, Event, ManifestRow, Attempt)
}


class _Head(msgspec.Struct):
    schema: int = 0


_HEAD = msgspec.json.Decoder(_Head)


def encode(document: Value) -> bytes:
    """Canonical JSON, defaults left out. Readers depend on neither order nor white space."""
    return digest.encode_value(document)


def decode(data: bytes, kind: type[Document], where: str) -> Document:
    """Reads a document; `where` names it in errors.

    Raises:
        SchemaTooNew: It was written by a newer sparkles.
        Damaged: It is not what it should be; with the path of the field.
    """
    try:
        schema = _HEAD.decode(data).schema
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Damaged(f"{where}: expected a document of sparkles, found something else: {error}", "read", where) from None
    if schema > SCHEMA:
        raise SchemaTooNew(
            f"{where} was written by a newer sparkles (its documents have schema {schema}, this version reads {SCHEMA});"
            " upgrade this one",
            "read",
            where,
        )
    try:
        found: Document = _DECODERS[kind].decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Damaged(f"{where}: {error}", "read", where) from None
    return found


def encode_row(row: ManifestRow) -> bytes:
    """A line of a manifest. Parameters are canonical JSON, so that bytes in them survive, and params.json is them verbatim."""
    if row.spec.params:
        row = replace(row, spec=replace(row.spec, params=digest.plain(row.spec.params)))
    return encode(row)


def decode_row(data: bytes, where: str, before: ManifestRow | None = None) -> ManifestRow:
    """Reads a line of a manifest; `before` is what the line before it was. Raises Damaged."""
    row = _decode_plain(data, ManifestRow, where)
    if row.same_files:
        if before is None:
            raise Damaged(f"{where}: expected the inputs of the first task, found `same_files`", "read", where)
        row = replace(row, spec=replace(row.spec, files=before.spec.files), same_files=False)
    if not row.spec.params:
        return row
    return replace(row, spec=replace(row.spec, params=digest.unplain(row.spec.params)))


def decode_attempt(data: bytes, where: str) -> Attempt:
    """Reads a result.json. Raises Damaged."""
    return _decode_plain(data, Attempt, where)


Plain = TypeVar("Plain", ManifestRow, Attempt)


def _decode_plain(data: bytes, kind: type[Plain], where: str) -> Plain:
    try:
        found: Plain = _DECODERS[kind].decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Damaged(f"{where}: {error}", "read", where) from None
    return found
