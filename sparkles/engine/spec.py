"""What is common to a job's tasks, checked: draft -> JobSpec. Pure; may import commands, inputs and below.

A mistake is reported where it was made: at the setter's line of the script, or with the path of the field in a job.json.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from typing import Any, NoReturn

from sparkles.engine.commands import JobDraft, ResourcesDraft
from sparkles.engine.inputs import check_inside
from sparkles.engine.outputs import compile_glob
from sparkles.errors import SpecError, UsageError, WorkflowError
from sparkles.model import JobSpec, Json, OutputGlob, Resources, RetryPolicy
from sparkles.suggest import did_you_mean
from sparkles.units import parse_cpu, parse_size

SETTERS = {
    "name": "JobBuilder",
    "command": "setCommandTemplate",
    "tasks": "createTasksFor",
    "files": "addFiles",
    "outputs": "setOutputs",
    "image": "setImage",
    "resources": "setResources",
    "env": "setEnv",
    "secret_env": "setSecretEnv",
    "work_dir": "setWorkDir",
    "timeout_s": "setTimeout",
    "retry": "setRetry",
    "parallelism": "setParallelism",
    "priority": "setPriority",
    "properties": "setProperties",
    "zones": "setZones",
    "provisioning": "setProvisioning",
    "pod_template": "setPodTemplate",
    "cache": "setCache",
    "max_failures": "setMaxFailures",
}
"""Field of JobDraft -> the builder's method that sets it."""

_PATHS = {
    "timeout_s": "timeout",
    "secret_env": "secretEnv",
    "work_dir": "workDir",
    "pod_template": "podTemplate",
    "max_failures": "maxFailures",
}
"""Fields that a job.json calls otherwise."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*|k8s:[a-z0-9]([a-z0-9.-]*[a-z0-9])?/[A-Za-z0-9._-]+|gcp:[A-Za-z0-9_/.-]+")
_ZONE = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_PERCENT = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*%\s*")
_PROVISIONING = ("spot", "standard", "flex")
_RESERVATION = re.compile(r"reservation/[a-z0-9]([a-z0-9-]*[a-z0-9])?")


def setter_name(field: str) -> str:
    """The builder's method for a field of JobDraft: `timeout_s` -> `setTimeout`."""
    return SETTERS[field]


def path_of(field: str) -> str:
    """The field as messages and a job.json call it."""
    return _PATHS.get(field, field)


@contextmanager
def reported(draft: JobDraft, field: str) -> Iterator[None]:
    """Errors about `field` leave as `report` makes them."""
    try:
        yield
    except UsageError as error:
        report(draft, field, error)


def report(draft: JobDraft, field: str, error: UsageError) -> NoReturn:
    """Raises `error` again: at the author's line, after the setter's name, where the draft has its position."""
    setter = SETTERS[field]
    position = draft.positions.get(setter)
    if position is None or isinstance(error, WorkflowError):
        raise error
    path = path_of(field)
    message = str(error)
    for start in (f"{path}: ", f"{path}."):
        message = message.removeprefix(start)
    raise WorkflowError(f"{setter}: {message}", position) from error


def spec_of(draft: JobDraft, count: int) -> JobSpec:
    """The checked spec of a job of `count` tasks. Raises SpecError, or WorkflowError where the draft knows the position."""
    with reported(draft, "name"):
        _check_name(draft.name)
    with reported(draft, "outputs"):
        outputs = _outputs(draft)
    with reported(draft, "env"):
        check_env(draft.env, "env")
    with reported(draft, "secret_env"):
        _check_secret_env(draft.secret_env, draft.env)
    with reported(draft, "work_dir"):
        work_dir = draft.work_dir
        if work_dir not in ("", "."):
            work_dir = check_inside(work_dir, "workDir", "a folder")
    with reported(draft, "timeout_s"):
        if draft.timeout_s is not None and not (draft.timeout_s > 0 and math.isfinite(draft.timeout_s)):
            raise SpecError(f"timeout: expected a duration above 0, found {draft.timeout_s!r}")
    with reported(draft, "retry"):
        _check_retry(draft.retry)
    with reported(draft, "resources"):
        resources = resources_of(draft.resources, Resources(), "resources")
    with reported(draft, "parallelism"):
        if draft.parallelism is not None and draft.parallelism < 1:
            raise SpecError(f"parallelism: expected 1 or more, found {draft.parallelism}")
    with reported(draft, "priority"):
        if abs(draft.priority) >= 2**31:
            raise SpecError(f"priority: expected a number of 32 bits, found {draft.priority}")
    with reported(draft, "max_failures"):
        max_failures = _max_failures(draft.max_failures, count)
    for field, check in (
        ("image", _check_image),
        ("zones", _check_zones),
        ("provisioning", _check_provisioning),
        ("properties", _check_properties),
        ("pod_template", _check_pod_template),
    ):
        with reported(draft, field):
            check(getattr(draft, field))
    return JobSpec(
        name=draft.name,
        command=draft.command if draft.command is not None else "",
        outputs=outputs,
        env=draft.env,
        secret_env=draft.secret_env,
        work_dir="" if work_dir == "." else work_dir,
        timeout_s=draft.timeout_s,
        retry=draft.retry,
        resources=resources,
        parallelism=draft.parallelism,
        priority=draft.priority,
        properties=draft.properties,
        cache=draft.cache,
        max_failures=max_failures,
        image=draft.image,
        zones=draft.zones,
        provisioning=draft.provisioning,
        pod_template=draft.pod_template,
    )


def resources_of(draft: ResourcesDraft, base: Resources, path: str) -> Resources:
    """`base` with what the draft sets."""
    cpu, memory, disk, gpu = base.cpu, base.memory_bytes, base.disk_bytes, base.gpu
    field = "cpu"
    try:
        if draft.cpu is not None:
            cpu = parse_cpu(draft.cpu)
        field = "memory"
        if draft.memory is not None:
            memory = parse_size(draft.memory)
        field = "disk"
        if draft.disk is not None:
            disk = parse_size(draft.disk)
        field = "gpu"
        if draft.gpu is not None:
            gpu = draft.gpu
            if gpu < 0:
                raise ValueError(f"expected 0 or more, found {gpu}")
    except ValueError as error:
        raise SpecError(f"{path}.{field}: {error}") from None
    return Resources(cpu, memory, disk, gpu)


def check_env(env: Mapping[str, str], path: str) -> None:
    """Raises SpecError for a name that a program's environment cannot have or that is sparkles' own, and for a NUL in a value."""
    for name, value in env.items():
        if not _VARIABLE.fullmatch(name):
            raise SpecError(f"{path}: expected a variable's name of letters, digits and _, found {name!r}")
        if name.startswith("SPARKLES_"):
            raise SpecError(f"{path}.{name}: names that begin with SPARKLES_ are set by sparkles; choose another one")
        check_json(value, f"{path}.{name}")
        if "\0" in value:
            raise SpecError(f"{path}.{name}: a variable's value cannot hold a NUL")


def check_json(value: Json, path: str) -> None:
    """Raises SpecError for what a params.json or the record of a job cannot hold: other bytes than UTF-8, nan, too large a number."""
    kind = type(value)
    if kind is str:
        if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
            raise SpecError(f"{path}: expected text in UTF-8, found half a character (a lone surrogate)")
    elif kind is float:
        if not math.isfinite(value):
            raise SpecError(f"{path}: expected a finite number, found {value!r}, which JSON cannot hold; give it as text")
    elif kind is int:
        if not -(2**63) <= value < 2**63:
            raise SpecError(f"{path}: expected an integer of 64 bits, found {value}; give it as text")
    elif kind is bytes:
        raise SpecError(f"{path}: expected text in UTF-8, found other bytes: {value[:40]!r}")
    elif kind is list or kind is tuple:
        for number, item in enumerate(value, 1):
            check_json(item, f"{path}[{number}]")
    elif kind is dict:
        for key, item in value.items():
            check_json(key, f"{path}: a key")
            check_json(item, f"{path}.{key}")


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise SpecError(
            f"name: expected 1 to 63 letters, digits, '.', '_' and '-', the first of them a letter or digit, found {name[:100]!r}"
        )


def _outputs(draft: JobDraft) -> tuple[OutputGlob, ...]:
    found: dict[str, bool] = {}
    for number, output in enumerate(draft.outputs, 1):
        pattern = check_inside(output.pattern, f"outputs[{number}]", "a pattern")
        try:
            compile_glob(pattern)
        except SpecError as error:
            raise SpecError(f"outputs[{number}]: {error}") from None
        found[pattern] = found.get(pattern, False) or output.required
    return tuple(OutputGlob(pattern, required) for pattern, required in found.items())


def _check_secret_env(secret_env: Mapping[str, str], env: Mapping[str, str]) -> None:
    check_env(secret_env, "secretEnv")
    for name, reference in secret_env.items():
        if not _SECRET.fullmatch(reference):
            # The reference may be the secret itself by mistake: it is not shown.
            raise SpecError(
                f"secretEnv.{name}: expected a reference, env:NAME, k8s:secret/key or gcp:secret, and never the value itself"
            )
        if name in env:
            raise SpecError(f"secretEnv.{name}: the variable is set in env as well; set it in one place")


def _check_retry(retry: RetryPolicy) -> None:
    if retry.attempts < 1:
        raise SpecError(f"retry.attempts: expected 1 or more (tries in all), found {retry.attempts}")
    for number, code in enumerate(retry.exit_codes, 1):
        if not 1 <= code <= 255:
            raise SpecError(f"retry.exitCodes[{number}]: expected a code from 1 to 255, found {code}")
    for field, value in (("backoff", retry.backoff_s), ("maxBackoff", retry.max_backoff_s)):
        if not (value >= 0 and math.isfinite(value)):
            raise SpecError(f"retry.{field}: expected 0 seconds or more, found {value!r}")
    if not (retry.backoff_factor >= 1 and math.isfinite(retry.backoff_factor)):
        raise SpecError(f"retry.backoffFactor: expected 1 or more, found {retry.backoff_factor!r}")
    if retry.oom is not None:
        if not (retry.oom.factor >= 1 and math.isfinite(retry.oom.factor)):
            raise SpecError(f"retry.oom.memory: expected a factor of 1 or more, found {retry.oom.factor!r}")
        if retry.oom.max_bytes is not None and retry.oom.max_bytes < 1:
            raise SpecError(f"retry.oom.max: expected a size above 0, found {retry.oom.max_bytes}")


def _max_failures(value: int | str | None, count: int) -> int | None:
    if isinstance(value, str):
        match = _PERCENT.fullmatch(value)
        share = Fraction(match[1]) if match else None
        if share is None or share > 100:
            raise SpecError(f'maxFailures: expected a number or a share such as "10%", found {value!r}')
        return math.floor(share * count / 100)
    if value is not None and value < 0:
        raise SpecError(f"maxFailures: expected 0 or more, found {value}")
    return value


def _check_image(image: str) -> None:
    if any(letter.isspace() or not letter.isprintable() for letter in image):
        raise SpecError(f"image: expected the name of a container image, found {image!r}")


def _check_zones(zones: tuple[str, ...]) -> None:
    for number, zone in enumerate(zones, 1):
        if not _ZONE.fullmatch(zone):
            raise SpecError(f"zones[{number}]: expected a zone such as 'europe-west4-a', found {zone!r}")


def _check_provisioning(value: str) -> None:
    if value and value not in _PROVISIONING and not _RESERVATION.fullmatch(value):
        raise SpecError(
            f"provisioning: expected spot, standard, flex or reservation/NAME, found {value!r}.{did_you_mean(value, _PROVISIONING)}"
        )


def _check_properties(properties: Mapping[str, Any]) -> None:
    for name, value in properties.items():
        if not name or not name.isprintable():
            raise SpecError(f"properties: expected a name, found {name!r}")
        check_json(value, f"properties.{name}")


def _check_pod_template(template: Mapping[str, Any]) -> None:
    check_json(dict(template), "podTemplate")
