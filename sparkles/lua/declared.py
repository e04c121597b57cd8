"""What a workflow says of itself: the comment at its top, its parameters, and what it says to values of these. May import engine and below.

The script is run up to its `params{...}` and no further; a script that asks for something before that, other than to log, declares nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sparkles.engine import commands as ask
from sparkles.engine.commands import Asked, Done, Ended
from sparkles.errors import UsageError, WorkflowError
from sparkles.lua.host import ScriptHost
from sparkles.lua.marshal import as_list, from_lua
from sparkles.lua.parameters import Problem
from sparkles.model import Json


class Parameter:
    """One `-p` parameter: its type's name, default, choices and doc."""

    def __init__(self, name: str, spec: dict[str, Json]) -> None:
        self.name = name
        self.type = str(spec.get("type", "string"))
        self.required = "default" not in spec
        self.default = spec.get("default")
        self.choices: list[Json] = as_list(spec.get("choices") or [])
        self.min = spec.get("min")
        self.max = spec.get("max")
        self.doc = str(spec.get("doc", ""))


class _Found(Exception):
    def __init__(self, specs: dict[str, dict[str, Json]]) -> None:
        super().__init__()
        self.specs = specs


class _DeclaringHost(ScriptHost):
    """Stops at `params`."""

    def _typed_params(self, specs: bytes) -> tuple[bytes | None, bytes | None]:
        raise _Found(from_lua(specs))


class _Passed(Exception):
    """What was given is right."""


class _CheckingHost(ScriptHost):
    """Stops behind `params`, and keeps what it says to what was given."""

    reached = False
    problems: Sequence[Problem] = ()

    def _typed_params(self, specs: bytes) -> tuple[bytes | None, bytes | None]:
        self.reached = True
        return super()._typed_params(specs)

    def _checked_params(self, refused: bytes) -> bytes | None:
        message = super()._checked_params(refused)
        if message is None:
            raise _Passed
        return message

    def _refused(self, problems: list[Problem]) -> bytes:
        self.problems = problems
        return super()._refused(problems)


class Refusal(WorkflowError):
    """What a workflow says to parameters that are wrong; `problems` is empty where the mistake is in its `params{...}`."""

    def __init__(self, message: str, position: str = "", traceback: str = "", problems: Sequence[Problem] = ()) -> None:
        WorkflowError.__init__(self, message, position, traceback)
        self.args = (message, position, traceback, problems)
        self.problems = problems


def refusal(
    script: Path, shown_as: str, roots: Sequence[Path], given: dict[str, str], interrupted: Callable[[], bool]
) -> Refusal | None:
    """What the script's `params{...}` says to these parameters; None where it has nothing against them, or does not come that far."""
    try:
        text = script.read_bytes()
    except OSError:
        return None  # the run says so
    if b"params" not in text and b"require" not in text:
        return None  # what it computes before its first step is not computed twice
    host = _CheckingHost(
        script, shown_as=shown_as, args=given, seed=0, roots=roots, interrupted=interrupted, outcomes=lambda *_: []
    )
    try:
        stopped = _past_logs(host)
    except (_Passed, WorkflowError):
        return None
    if not isinstance(stopped, Ended) or stopped.error is None or not (host.reached or stopped.error.usage):
        return None
    return Refusal(stopped.error.message, stopped.position, stopped.traceback, host.problems)


def parameters(script: Path, shown_as: str, roots: Sequence[Path]) -> list[Parameter] | None:
    """The parameters in the order of the text, or None where the script declares none before its first step.

    Raises WorkflowError where the script does not compile, UsageError where it cannot be read.
    """
    host = _DeclaringHost(
        script, shown_as=shown_as, args={}, seed=0, roots=roots, interrupted=lambda: False, outcomes=lambda *_: []
    )
    try:
        _past_logs(host)
    except _Found as found:
        text = script.read_text("utf-8", "replace")
        return [Parameter(name, found.specs[name]) for name in sorted(found.specs, key=lambda name: _place(text, name))]
    return None


def _past_logs(host: ScriptHost) -> Asked | Ended:
    """Runs a script to the first thing that it asks for other than to log."""
    stopped = host.resume(host.start(), None)
    while isinstance(stopped, Asked) and isinstance(stopped.command, ask.Log):
        stopped = host.resume(stopped.strand, Done())
    return stopped


def _place(text: str, name: str) -> int:
    """Where a parameter's table begins in the text; a Lua table itself keeps no order."""
    match = re.search(rf"\b{re.escape(name)}\b[\"'\]]*\s*=\s*{{", text)
    return match.start() if match else len(text)


def doc(script: Path) -> list[str]:
    """The lines of the comment at a script's top, without their dashes; none where it begins with something else."""
    lines: list[str] = []
    try:
        text = script.read_text("utf-8", "replace")
    except OSError as error:
        raise UsageError(f"{script}: {error.strerror}") from None
    for line in text.removeprefix("\ufeff").split("\n"):
        if line.startswith("#!") and not lines:
            continue
        if not line.startswith("--"):
            break
        lines.append(line[2:].removeprefix(" ").rstrip())
    return lines


def plain(parameter: Parameter) -> dict[str, Any]:
    """For `--json`."""
    return {
        "name": parameter.name,
        "type": parameter.type,
        "required": parameter.required,
        "default": parameter.default,
        "choices": parameter.choices or None,
        "min": parameter.min,
        "max": parameter.max,
        "doc": parameter.doc,
    }
