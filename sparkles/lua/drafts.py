"""What a builder was given, as a JobDraft: the rules about values that types do not say. May import engine and below.

Each setter has one function, used twice: when the script calls the setter, so that a mistake is reported at that line, and at submit.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from sparkles import units
from sparkles.engine.commands import FileDraft, JobDraft, ResourcesDraft, TaskDraft
from sparkles.errors import SpecError
from sparkles.lua.marshal import as_list
from sparkles.model import Json, OomRetry, OutputGlob, RetryPolicy
from sparkles.suggest import nearest

_Number = TypeVar("_Number", int, float)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*|k8s:[^/\s]+/[^/\s]+|gcp:\S+")
_TASKS = msgspec.msgpack.Decoder(list[TaskDraft])


def duration(value: Json, path: str = "") -> float:
    """Seconds from a number or from text such as "90s" or "1h30m". Raises SpecError."""
    return _unit(units.parse_duration, value, path)


def size(value: Json, path: str) -> int:
    """Bytes from a number or from text such as "1.5Gi" or "800M". Raises SpecError."""
    return _unit(units.parse_size, value, path)


def _unit(parse: Callable[[Any], _Number], value: Json, path: str) -> _Number:
    try:
        return parse(value if not isinstance(value, bytes) else repr(value))
    except ValueError as error:
        raise SpecError(f"{path}: {error}" if path else str(error)) from None


def shown(value: Json) -> str:
    """A value as a message quotes it."""
    if isinstance(value, str):
        return f"'{value}'"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    return {dict: "table", list: "list", type(None): "null", bytes: "text that is not UTF-8"}.get(type(value), "a value")


def resources(value: dict[str, Any], path: str) -> ResourcesDraft:
    """A table of resources; texts stay texts once they are known to be right."""
    cpu = value.get("cpu")
    if cpu is not None:
        _unit(units.parse_cpu, cpu, f"{path}.cpu")
    for field in ("memory", "disk"):
        if value.get(field) is not None:
            size(value[field], f"{path}.{field}")
    gpu = value.get("gpu")
    if gpu is not None and gpu < 0:
        raise SpecError(f"{path}.gpu: expected 0 or more, got {gpu}")
    return ResourcesDraft(cpu=cpu, memory=value.get("memory"), disk=value.get("disk"), gpu=gpu)


def _command(value: Json) -> dict[str, Any]:
    if isinstance(value, str):
        if not value.strip():
            raise SpecError("template: expected a command, got ''")
        return {"command": value}
    argv = as_list(value)
    if not argv:
        raise SpecError("template: expected a command, got an empty list")
    return {"command": tuple(argv)}


def _relative(pattern: Json, path: str) -> str:
    if not isinstance(pattern, str):
        raise SpecError(f"{path}: expected text that is UTF-8")
    if not pattern or pattern.startswith("/") or ".." in pattern.split("/"):
        raise SpecError(f"{path}: expected a path inside the task's directory, got '{pattern}'")
    return pattern


def _outputs(value: Json) -> dict[str, Any]:
    globs = [OutputGlob(_relative(each["pattern"], "patterns"), each["required"]) for each in as_list(value)]
    return {"outputs": tuple(globs)}


def _env(value: dict[str, Any]) -> dict[str, Any]:
    return {"env": {_variable(name, "vars"): _text(text, f"vars.{name}") for name, text in value.items()}}


def _text(value: Json, path: str) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise SpecError(f"{path}: expected text that is UTF-8 and has no zero bytes")
    return value


def _variable(name: str, path: str) -> str:
    if not _VARIABLE.fullmatch(name):
        raise SpecError(f"{path}: expected names of letters, digits and '_', got '{name}'")
    if name.startswith("SPARKLES_"):
        raise SpecError(f"{path}.{name}: names that begin with SPARKLES_ are set by sparkles itself")
    return name


def _secret_env(value: dict[str, Any]) -> dict[str, Any]:
    for name, reference in value.items():
        _variable(name, "refs")
        if not isinstance(reference, str) or not _SECRET.fullmatch(reference):
            # The text is not quoted: an author who took this for setEnv has put the secret itself there.
            raise SpecError(f'refs.{name}: expected a reference, "env:NAME", "k8s:SECRET/KEY" or "gcp:SECRET"')
    return {"secret_env": value}


def _retry(value: dict[str, Any]) -> dict[str, Any]:
    policy: dict[str, Any] = {}
    attempts = value.get("attempts")
    if attempts is not None:
        if attempts < 1:
            raise SpecError(f"retry.attempts: expected 1 or more, got {attempts}")
        policy["attempts"] = attempts
    for code in as_list(value.get("exitCodes", [])):
        if not 1 <= code <= 255:
            raise SpecError(f"retry.exitCodes: expected codes from 1 to 255, got {code}")
    policy["exit_codes"] = tuple(as_list(value.get("exitCodes", [])))
    if "backoff" in value:
        policy["backoff_s"] = duration(value["backoff"], "retry.backoff")
    if "maxBackoff" in value:
        policy["max_backoff_s"] = duration(value["maxBackoff"], "retry.maxBackoff")
    if "backoffFactor" in value:
        factor = float(value["backoffFactor"])
        if not math.isfinite(factor) or factor < 1:
            raise SpecError(f"retry.backoffFactor: expected 1 or more, got {shown(value['backoffFactor'])}")
        policy["backoff_factor"] = factor
    if "oom" in value:
        policy["oom"] = _oom(value["oom"])
    return {"retry": RetryPolicy(**policy)}


def _oom(value: dict[str, Any]) -> OomRetry:
    times = value.get("memory", 2.0)
    match = re.fullmatch(r"x(\d+(?:\.\d+)?)", times) if isinstance(times, str) else None
    factor = float(match[1]) if match else times
    if not isinstance(factor, int | float) or not math.isfinite(factor) or factor <= 1:
        raise SpecError(f'retry.oom.memory: expected a factor above 1 such as "x2", got {shown(times)}')
    return OomRetry(float(factor), size(value["max"], "retry.oom.max") if "max" in value else None)


def _timeout(value: Json) -> dict[str, Any]:
    seconds = duration(value, "timeout")
    if seconds <= 0:
        raise SpecError(f"timeout: expected more than 0 seconds, got {shown(value)}")
    return {"timeout_s": seconds}


def _parallelism(value: int) -> dict[str, Any]:
    if value < 1:
        raise SpecError(f"tasks: expected 1 or more, got {value}")
    return {"parallelism": value}


def _provisioning(value: Json) -> dict[str, Any]:
    if not isinstance(value, str) or not re.fullmatch(r"spot|standard|flex|reservation/[A-Za-z0-9._/-]+", value):
        raise SpecError(
            f'provisioning: expected "spot", "standard", "flex" or "reservation/NAME", got {shown(value)}{_hint(value)}'
        )
    return {"provisioning": value}


def _hint(value: Json) -> str:
    near = nearest(value, ("spot", "standard", "flex")) if isinstance(value, str) else None
    return f". Did you mean '{near}'?" if near else ""


def _max_failures(value: Json) -> dict[str, Any]:
    if isinstance(value, str):
        match = re.fullmatch(r"(\d+(?:\.\d+)?)%", value)
        if match is None or float(match[1]) > 100:
            raise SpecError(f'limit: expected a count or a share such as "10%", got {shown(value)}')
    elif value < 0:
        raise SpecError(f"limit: expected 0 or more, got {value}")
    return {"max_failures": value}


def _image(value: Json) -> dict[str, Any]:
    if not isinstance(value, str) or not re.fullmatch(r"\S+", value):
        raise SpecError(f"image: expected the name of an image, got {shown(value)}")
    return {"image": value}


def _work_dir(value: Json) -> dict[str, Any]:
    return {"work_dir": _relative(value, "path")}


_SETTERS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "setCommandTemplate": _command,
    "setOutputs": _outputs,
    "setImage": _image,
    "setResources": lambda value: {"resources": resources(value, "resources")},
    "setEnv": _env,
    "setSecretEnv": _secret_env,
    "setWorkDir": _work_dir,
    "setTimeout": _timeout,
    "setRetry": _retry,
    "setParallelism": _parallelism,
    "setPriority": lambda value: {"priority": value},
    "setProperties": lambda value: {"properties": {name: _label(item, f"properties.{name}") for name, item in value.items()}},
    "setZones": lambda value: {"zones": tuple(_text(zone, "zones") for zone in as_list(value))},
    "setProvisioning": _provisioning,
    "setPodTemplate": lambda value: {"pod_template": value},
    "setCache": lambda value: {"cache": value},
    "setMaxFailures": _max_failures,
}


def _label(value: Json, path: str) -> str | int | float | bool:
    if isinstance(value, bytes):
        raise SpecError(f"{path}: expected text that is UTF-8")
    plain: str | int | float | bool = value
    return plain


def fields_of(setter: str, value: Json) -> dict[str, Any]:
    """The fields of JobDraft that a setter sets. Raises SpecError, its message beginning with the path of the argument."""
    return _SETTERS[setter](value)


def job_draft(sent: dict[str, Any], tasks: bytes | None) -> JobDraft:
    """The draft from what `submit` sent: {name, set: {setter: value}, files, positions} and the tasks' bytes.

    Raises SpecError where text of a task is not UTF-8.
    """
    fields: dict[str, Any] = {}
    for setter, value in sent["set"].items():
        fields.update(fields_of(setter, value))
    if tasks is not None:
        fields["tasks"] = _task_drafts(tasks)
    return JobDraft(
        name=sent["name"],
        files=tuple(_file(each) for each in as_list(sent["files"])),
        positions=sent["positions"],
        **fields,
    )


def _file(value: dict[str, Any]) -> FileDraft:
    return FileDraft(
        src=value.get("src", ""), dst=value.get("dst"), link=value.get("link", False), artifact=value.get("artifact")
    )


def _task_drafts(tasks: bytes) -> list[TaskDraft]:
    try:
        drafts = _TASKS.decode(tasks)
    except msgspec.ValidationError as error:
        # Types were checked in Lua; what is left is text that is not UTF-8 where a task needs text.
        raise SpecError(
            f"createTasksFor: rows{str(error).rpartition('$')[2].rstrip('`')}: expected text that is UTF-8"
        ) from None
    return drafts


def check_row(task: dict[str, Any]) -> None:
    """Raises SpecError where what a row function gave a task is not right."""
    if "resources" in task:
        resources(task["resources"], "resources")
    for name, text in task.get("env", {}).items():
        _text(text, f"env.{_variable(name, 'env')}")
