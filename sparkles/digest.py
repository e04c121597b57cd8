"""Canonical JSON and the digests made from it. Pure; may import model and errors.

Canonical means: keys sorted, no white space, integers as integers, floats in the shortest digits that give them back (1.0 stays
1.0, so that 1 and 1.0 differ as they do in Lua), non-ASCII as UTF-8. A `bytes` (a Lua string that is not UTF-8) is written
{"$bytes": base64}, and a table whose only key begins with `$` is wrapped as {"$table": ...}, so that every value survives a round
trip.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

import msgspec

from sparkles.errors import InternalError
from sparkles.model import Command, Digest, JobSpec, Json, OutputGlob, TaskSpec

_ENCODER = msgspec.json.Encoder(order="deterministic")
_DECODER = msgspec.json.Decoder()


def plain(value: Json) -> Any:
    """The value with what JSON cannot hold replaced (see the module)."""
    kind = type(value)
    if kind is str or kind is int or kind is bool or value is None:
        return value
    if kind is float:
        if math.isfinite(value):
            return value
        return {"$float": repr(value)}
    if kind is bytes:
        return {"$bytes": base64.b64encode(value).decode("ascii")}
    if kind is dict:
        changed = {key: plain(item) for key, item in value.items()}
        if len(changed) == 1 and next(iter(changed)).startswith("$"):
            return {"$table": changed}
        return changed
    if kind is list or kind is tuple:
        return [plain(item) for item in value]
    raise InternalError(f"canonical JSON cannot hold a {kind.__name__}")


def unplain(value: Any) -> Json:
    """The value that `plain` was given."""
    if type(value) is dict:
        if len(value) == 1:
            ((key, item),) = value.items()
            if key == "$bytes":
                return base64.b64decode(item)
            if key == "$float":
                return float(item)
            if key == "$table":
                return {inner: unplain(each) for inner, each in item.items()}
        return {key: unplain(item) for key, item in value.items()}
    if type(value) is list:
        return [unplain(item) for item in value]
    return value


def canonical(value: Json) -> str:
    """The canonical JSON text of a value of JSON types (see the module); equal values give equal texts."""
    return _ENCODER.encode(plain(value)).decode("utf-8")


def parse(text: str | bytes) -> Json:
    """The value that `canonical` was given."""
    decoded = _DECODER.decode(text)
    return unplain(decoded) if type(decoded) in (dict, list) else decoded


def encode_value(value: msgspec.Struct) -> bytes:
    """The canonical JSON of a model value, defaults left out."""
    return _ENCODER.encode(value)


def of_bytes(data: bytes) -> Digest:
    """The sha256 of `data`, in hex."""
    return Digest(hashlib.sha256(data).hexdigest())


def of_value(value: Json) -> Digest:
    """The digest of a value's canonical JSON."""
    return of_bytes(canonical(value).encode("utf-8"))


def fingerprint(job: JobSpec, task: TaskSpec) -> Digest:
    """What decides a task's result: its command as expanded, set environment, input contents, image and declared outputs.

    Not resources, retries, time limits, priority, names or parameters as such: two tasks that do the same thing have the same
    fingerprint, in whatever job they stand. References of secret variables count, their values do not.
    """
    return fingerprinter(job)(task)


def fingerprinter(job: JobSpec) -> Callable[[TaskSpec], Digest]:
    """`fingerprint` for many tasks of one job: what is common is encoded once."""
    outputs: list[OutputGlob] = sorted(job.outputs, key=lambda glob: glob.pattern)
    common = [outputs, job.image, job.work_dir, job.secret_env]
    seed = hashlib.sha256(_ENCODER.encode(common))
    job_env = job.env

    def one(task: TaskSpec) -> Digest:
        env = {**job_env, **task.env} if task.env else job_env
        files: list[tuple[str, str, bool]] = (
            sorted((file.dst, file.digest, file.executable) for file in task.files) if task.files else []
        )
        command: Command = task.command
        state = seed.copy()
        state.update(_ENCODER.encode([command, env, files]))
        return Digest(state.hexdigest())

    return one


class Digests(Collection[Digest]):
    """Many digests, kept in 32 bytes each instead of the 120 that a text takes."""

    def __init__(self, digests: Iterable[Digest]) -> None:
        self._bytes = b"".join(map(bytes.fromhex, digests))

    def __len__(self) -> int:
        return len(self._bytes) // 32

    def __iter__(self) -> Iterator[Digest]:
        for at in range(0, len(self._bytes), 32):
            yield Digest(self._bytes[at : at + 32].hex())

    def __contains__(self, wanted: object) -> bool:
        return any(each == wanted for each in self)
