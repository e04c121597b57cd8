"""A job as a job.json describes it: spec and tasks -> what jobfile.load_job reads. Pure; may import inputs, template and below.

What comes of it makes the same job again: the same commands, parameters, files and limits. Surprise: a task whose command is not the
job's template with its parameters put in has a command of its own, in which what looks like a placeholder is escaped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sparkles import template
from sparkles.engine.inputs import FOLDER, shown_artifact
from sparkles.errors import TemplateError
from sparkles.model import Command, InputFile, JobSpec, Json, OomRetry, Resources, RetryPolicy, TaskSpec

_ARTIFACT = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*-[0-9a-f]{8})/([1-9][0-9]*)/(.+)")
"""Where an input came from that is an output of an earlier task: JOB/INDEX/NAME."""


def describe_spec(spec: JobSpec) -> dict[str, Any]:
    """What is common to the job's tasks; defaults left out."""
    found: dict[str, Any] = {
        "name": spec.name,
        "command": _command(spec.command) or None,
        "outputs": [{"pattern": each.pattern, "required": True} if each.required else each.pattern for each in spec.outputs],
        "env": spec.env,
        "secretEnv": spec.secret_env,
        "workDir": spec.work_dir,
        "timeout": spec.timeout_s,
        "retry": _retry(spec.retry),
        "resources": _resources(spec.resources, Resources()),
        "parallelism": spec.parallelism,
        "priority": spec.priority,
        "properties": spec.properties,
        "image": spec.image,
        "zones": list(spec.zones),
        "provisioning": spec.provisioning,
        "podTemplate": spec.pod_template,
    }
    found = {name: value for name, value in found.items() if value}
    if not spec.cache:
        found["cache"] = False
    if spec.max_failures is not None:
        found["maxFailures"] = spec.max_failures
    return found


def describe(spec: JobSpec, tasks: Iterable[TaskSpec]) -> dict[str, Any]:
    """The whole job. Inputs that all tasks have are the job's; paths are as they were given."""
    found = describe_spec(spec)
    parsed = template.parse(spec.command) if spec.command else None
    up = "../" * (spec.work_dir.count("/") + 1) if spec.work_dir else ""
    entries: list[dict[str, Any]] = []
    files: list[list[dict[str, Any]]] = []
    for task in tasks:
        named = _named(parsed, task, up) if parsed is not None else None
        entry: dict[str, Any] = {
            "params": task.params,
            "command": _escaped(task.command) if named is None else None,
            "env": task.env,
            "resources": None
            if task.resources is None
            else _resources(task.resources, spec.resources) or {"cpu": task.resources.cpu},
            "name": task.name,
        }
        entries.append({key: value for key, value in entry.items() if value})
        files.append([_file(each) for each in task.files if each.link or named is None or each.dst not in named])
    common = files[0] if files and all(each == files[0] for each in files) else []
    if common:
        found["files"] = common
    else:
        for entry, own in zip(entries, files, strict=True):
            if own:
                entry["files"] = own
    if entries != [{}]:
        found["tasks"] = entries
    return found


def _named(parsed: template.Template, task: TaskSpec, up: str) -> set[str] | None:
    """The inputs that the template's `{^name}` bring; None where the task's command does not come of the template."""
    places: dict[str, str] = {}
    for name in parsed.file_names:
        place = _place(task.files, task.params.get(name))
        if place is None:
            return None
        places[name] = place
    try:
        same = parsed.expand(task.params, {name: up + place for name, place in places.items()}) == task.command
    except TemplateError:
        return None
    return set(places.values()) if same else None


def _place(files: Sequence[InputFile], value: Json) -> str | None:
    src = shown_artifact(value) if isinstance(value, dict) else value
    return next((each.dst for each in files if each.src == src and each.dst.startswith(f"{FOLDER}/")), None)


def _file(file: InputFile) -> dict[str, Any]:
    found: dict[str, Any] = {"dst": file.dst}
    if match := _ARTIFACT.fullmatch(file.src):
        found["artifact"] = {"job": match[1], "index": int(match[2]), "name": match[3], "digest": file.digest}
        found["artifact"]["size"] = file.size_bytes
        found["artifact"].update({name: True for name in ("executable", "private") if getattr(file, name)})
    else:
        found["src"] = file.src
    if file.link:
        found["link"] = True
    return found


def _command(command: Command) -> str | list[str]:
    return command if isinstance(command, str) else list(command)


def _escaped(command: Command) -> str | list[str]:
    return template.escape(command) if isinstance(command, str) else [template.escape(each) for each in command]


def _resources(resources: Resources, base: Resources) -> dict[str, Any]:
    """What differs from `base`: a task's resources replace what they set of the job's."""
    pairs = (
        ("cpu", resources.cpu, base.cpu),
        ("memory", resources.memory_bytes, base.memory_bytes),
        ("disk", resources.disk_bytes, base.disk_bytes),
        ("gpu", resources.gpu, base.gpu),
    )
    return {name: value for name, value, before in pairs if value != before}


def _retry(retry: RetryPolicy) -> Mapping[str, Any]:
    default = RetryPolicy()
    found: dict[str, Any] = {}
    for name, field in (
        ("attempts", "attempts"),
        ("backoff", "backoff_s"),
        ("backoffFactor", "backoff_factor"),
        ("maxBackoff", "max_backoff_s"),
    ):
        if getattr(retry, field) != getattr(default, field):
            found[name] = getattr(retry, field)
    if retry.exit_codes:
        found["exitCodes"] = list(retry.exit_codes)
    if retry.oom is not None:
        found["oom"] = _oom(retry.oom)
    return found


def _oom(oom: OomRetry) -> Mapping[str, Any]:
    return {"memory": oom.factor} if oom.max_bytes is None else {"memory": oom.factor, "max": oom.max_bytes}
