"""What a workflow says of itself: the comment at its top and the parameters that it declares. May import engine and below.

The script is run up to its `params{...}` and no further; a script that asks for something before that declares nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparkles.errors import UsageError
from sparkles.lua.host import ScriptHost
from sparkles.lua.marshal import as_list, from_lua
from sparkles.model import Json


class Parameter:
    """One `-p` parameter: its type's name, default, choices and doc."""

    def __init__(self, name: str, spec: dict[str, Json]) -> None:
        self.name = name
        self.type = str(spec.get("type", "string"))
        self.required = "default" not in spec
        self.default = spec.get("default")
        self.choices: list[Json] = as_list(spec.get("choices") or [])
        self.doc = str(spec.get("doc", ""))


class _Found(Exception):
    def __init__(self, specs: dict[str, dict[str, Json]]) -> None:
        super().__init__()
        self.specs = specs


class _DeclaringHost(ScriptHost):
    """Stops at `params`."""

    def _typed_params(self, specs: bytes) -> tuple[bytes | None, bytes | None]:
        raise _Found(from_lua(specs))


def parameters(script: Path, shown_as: str, roots: Sequence[Path]) -> list[Parameter] | None:
    """The parameters in the order of the text, or None where the script declares none before its first step.

    Raises WorkflowError where the script does not compile, UsageError where it cannot be read.
    """
    host = _DeclaringHost(
        script, shown_as=shown_as, args={}, seed=0, roots=roots, interrupted=lambda: False, outcomes=lambda *_: []
    )
    try:
        host.resume(host.start(), None)
    except _Found as found:
        text = script.read_text("utf-8", "replace")
        return [Parameter(name, found.specs[name]) for name in sorted(found.specs, key=lambda name: _place(text, name))]
    return None


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
        "doc": parameter.doc,
    }
