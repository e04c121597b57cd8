"""Rows of tasks, specs and attempts as values, and back: the door between SQLite and model.py. May import model, digest, errors.

A task's spec is stored without its parameters, which stand beside it as canonical JSON: parameters may hold what JSON cannot (bytes, nan)
and are read without the spec when results are shown.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from sparkles import digest
from sparkles.backends.local.sqlite_errors import damaged
from sparkles.model import Artifact, Attempt, AttemptRef, FailureClass, InputFile, JobSpec, Task, TaskSpec, TaskState

TASK = (
    "idx, state, fingerprint, attempt, tries, losses, origin_job, origin_idx, origin_attempt, failure, exit_code, reason, worker,"
    " not_before_ms, memory_bytes, name"
)
"""The columns of `task_of`, in order; `TASK_T` with the alias t."""

TASK_T = ", ".join(f"t.{column.strip()}" for column in TASK.split(","))

_STATES = {str(state): state for state in TaskState}
_FAILURES = {str(failure): failure for failure in FailureClass}


class _Inputs(msgspec.Struct):
    files: tuple[InputFile, ...] = ()


class _Outputs(msgspec.Struct):
    outputs: tuple[Artifact, ...] = ()


_TASK_SPEC = msgspec.json.Decoder(TaskSpec)
_JOB_SPEC = msgspec.json.Decoder(JobSpec)
_ATTEMPT = msgspec.json.Decoder(Attempt)
_INPUTS = msgspec.json.Decoder(_Inputs)
_OUTPUTS = msgspec.json.Decoder(_Outputs)

_T = TypeVar("_T")


class Rows:
    """Decodes the rows of one database; what cannot be decoded is damage, named by file and row."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def _decode(self, decoder: msgspec.json.Decoder[_T], blob: bytes, what: str) -> _T:
        try:
            return decoder.decode(blob)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise damaged(self._path, f"{what}: {error}") from error

    def job_spec(self, blob: bytes, job_id: str) -> JobSpec:
        """The spec of a job."""
        return self._decode(_JOB_SPEC, blob, f"spec of job {job_id}")

    def task_spec(self, spec: bytes, params: str, job_id: str, index: int) -> TaskSpec:
        """The spec of a task with its parameters."""
        found = self._decode(_TASK_SPEC, spec, f"spec of task {job_id}/{index}")
        if params != "{}":
            # The only writer of a value that nobody else has seen yet: cheaper than a copy for each claim.
            msgspec.structs.force_setattr(found, "params", self.params(params, job_id, index))
        return found

    def params(self, params: str, job_id: str, index: int) -> dict[str, object]:
        """The parameters of a task."""
        try:
            value = digest.parse(params)
        except (msgspec.MsgspecError, ValueError) as error:
            raise damaged(self._path, f"parameters of task {job_id}/{index}: {error}") from error
        if type(value) is not dict:
            raise damaged(self._path, f"parameters of task {job_id}/{index}: expected an object")
        return value

    def attempt(self, record: bytes) -> Attempt:
        """The record of an attempt."""
        return self._decode(_ATTEMPT, record, "an attempt's record")

    def input_digests(self, spec: bytes) -> list[str]:
        """The digests of a task's inputs, without the rest of its spec."""
        return [file.digest for file in self._decode(_INPUTS, spec, "a task's spec").files]

    def output_digests(self, record: bytes) -> list[str]:
        """The digests of an attempt's outputs, without the rest of its record."""
        return [output.digest for output in self._decode(_OUTPUTS, record, "an attempt's record").outputs]


def task_of(job_id: str, row: Any) -> Task:
    """A row of the columns TASK."""
    (
        index,
        state,
        fingerprint,
        attempt,
        tries,
        losses,
        origin_job,
        origin_index,
        origin_attempt,
        failure,
        exit_code,
        reason,
        worker,
        not_before_ms,
        memory_bytes,
        name,
    ) = row
    origin = None
    if origin_job is not None:
        origin = AttemptRef(origin_job, origin_index, origin_attempt)
    elif origin_attempt is not None:
        origin = AttemptRef(job_id, index, origin_attempt)
    return Task(
        job_id,
        index,
        _STATES[state],
        fingerprint,
        attempt,
        tries,
        losses,
        origin,
        None if failure is None else _FAILURES[failure],
        exit_code,
        reason,
        worker,
        not_before_ms,
        memory_bytes,
        name,
    )


def spec_columns(spec: TaskSpec) -> tuple[bytes, str]:
    """A task's spec as the columns spec and params."""
    params = spec.params
    if not params:
        return digest.encode_value(spec), "{}"
    return digest.encode_value(msgspec.structs.replace(spec, params={})), digest.canonical(params)


def json_list(values: Collection[str] | Collection[int]) -> str:
    """Values for `IN (SELECT value FROM json_each(?))`: any number of them in one parameter."""
    return msgspec.json.encode(list(values)).decode("utf-8")
