"""What differs between two things that were asked for, in words. Pure; may import model and digest.

A difference is a short name of the part (command, parameter alpha, input data.csv, image, environment X) and, where it helps, the two
sides. It explains why a step or a task runs although something like it was recorded.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from sparkles import digest
from sparkles.model import Command, Digest, InputFile, JobSpec, Json, TaskSpec


class Difference(msgspec.Struct, frozen=True):
    """`part` differs; `before` and `after` are its sides as text ("" where there is none)."""

    part: str
    before: str = ""
    after: str = ""

    def lines(self) -> list[str]:
        """As a diff: the sides under the part's name."""
        found = [self.part]
        before, after = self.before.splitlines(), self.after.splitlines()
        if len(before) > 1 or len(after) > 1:
            changed = difflib.unified_diff(before, after, lineterm="", n=0)
            found += [f"  {line}" for line in changed if not line.startswith(("---", "+++", "@@"))]
        else:
            found += [f"  -{line}" for line in before] + [f"  +{line}" for line in after]
        return found


def shown(value: Json, width: int = 200) -> str:
    """A value as one line for people."""
    if isinstance(value, str):
        text = value
    elif isinstance(value, bytes):
        text = repr(value)
    else:
        text = digest.canonical(value)
    return text if len(text) <= width else text[: width - 1] + "…"


def _command(command: Command) -> str:
    return command if isinstance(command, str) else " ".join(command)


def of_maps(name: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Difference]:
    """The keys that differ, as `name KEY`."""
    found = []
    for key in sorted({*before, *after}):
        if key not in after:
            found.append(Difference(f"{name} {key}", shown(before[key]), ""))
        elif key not in before:
            found.append(Difference(f"{name} {key}", "", shown(after[key])))
        elif before[key] != after[key] or type(before[key]) is not type(after[key]):
            found.append(Difference(f"{name} {key}", shown(before[key]), shown(after[key])))
    return found


def of_tasks(job_before: JobSpec, before: TaskSpec, job_after: JobSpec, after: TaskSpec) -> list[Difference]:
    """Why the second task has another fingerprint than the first: parameters first, then what they do not explain."""
    found = of_maps("parameter", before.params, after.params)
    if before.command != after.command:
        found.append(Difference("command", _command(before.command), _command(after.command)))
    found += _inputs(before.files, after.files)
    if job_before.image != job_after.image:
        found.append(Difference("image", job_before.image, job_after.image))
    found += of_maps("environment", {**job_before.env, **before.env}, {**job_after.env, **after.env})
    found += of_maps("secret", job_before.secret_env, job_after.secret_env)
    if job_before.work_dir != job_after.work_dir:
        found.append(Difference("working directory", job_before.work_dir, job_after.work_dir))
    outputs = [sorted((glob.pattern, glob.required) for glob in job.outputs) for job in (job_before, job_after)]
    if outputs[0] != outputs[1]:
        found.append(Difference("outputs", *(", ".join(pattern for pattern, _ in each) for each in outputs)))
    return found


def _inputs(before: Sequence[InputFile], after: Sequence[InputFile]) -> list[Difference]:
    old = {file.dst: file for file in before}
    new = {file.dst: file for file in after}
    found = []
    for dst in sorted({*old, *new}):
        left, right = old.get(dst), new.get(dst)
        if left is None or right is None or (left.digest, left.executable) != (right.digest, right.executable):
            found.append(Difference(f"input file {dst}", _content(left), _content(right)))
    return found


def _content(file: InputFile | None) -> str:
    if file is None:
        return ""
    mode = ", executable" if file.executable else ""
    return f"{_sized(file.digest, file.size_bytes)}{mode}"


def of_parts(kind: str, before: Json, after: Json) -> list[Difference]:
    """Which arguments of a step differ from a recorded one's."""
    if not isinstance(before, dict) or not isinstance(after, dict):
        return [] if before == after else [Difference(kind, shown(before), shown(after))]
    found = []
    for each in of_maps(kind, before, after):
        key = each.part.partition(" ")[2]
        left, right = before.get(key), after.get(key)
        if isinstance(left, dict) and isinstance(right, dict):
            found += of_maps(f"{kind} {key}", left, right)
        else:
            found.append(each)
    return found


def of_contents(before: Digest, before_bytes: int | None, after: Digest, after_bytes: int) -> Difference:
    """Two contents of a file; a size is None where the bytes are gone."""
    sides = [_sized(before, before_bytes), _sized(after, after_bytes)]
    return Difference("content", *sides)


def _sized(content: Digest, size: int | None) -> str:
    return f"sha256 {content[:12]}" + ("" if size is None else f", {size} bytes")
