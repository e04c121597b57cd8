"""The `-p key=value` parameters of a workflow, typed as its `params{...}` declares. Pure; may import errors and suggest."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from sparkles.errors import SpecError
from sparkles.lua.marshal import as_list
from sparkles.model import Json
from sparkles.suggest import nearest


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        number = float(text)
        if not math.isfinite(number):
            raise ValueError(text) from None
        return number


def _boolean(text: str) -> bool:
    return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[text.lower()]


_TYPES: dict[str, Callable[[str], Json]] = {"string": str, "number": _number, "integer": int, "boolean": _boolean}


def typed(specs: dict[str, dict[str, Any]], given: dict[str, str]) -> dict[str, Json]:
    """The value of each declared parameter; one without value and default of null is left out.

    Raises:
        SpecError: A declaration is wrong, or what was given is unknown, missing or of another type.
    """
    values: dict[str, Json] = {}
    for name, spec in specs.items():
        kind = spec.get("type", "string")
        if kind not in _TYPES:
            near = nearest(str(kind), _TYPES)
            hint = f". Did you mean '{near}'?" if near else ""
            raise SpecError(f"{name}.type: expected string, number, integer or boolean, got '{kind}'{hint}")
        if name in given:
            try:
                values[name] = _TYPES[kind](given[name])
            except (ValueError, KeyError):
                raise SpecError(f"-p {name}={given[name]}: expected {kind}") from None
        elif "default" in spec:
            if not _is(kind, spec["default"]):
                raise SpecError(f"{name}.default: expected {kind}")
            values[name] = spec["default"]
        else:
            doc = f" ({spec['doc']})" if spec.get("doc") else ""
            raise SpecError(f"'{name}'{doc} has no value; give it with -p {name}=...")
        choices = as_list(spec.get("choices", []))
        if choices and values[name] not in choices:
            listed = ", ".join(str(choice) for choice in choices)
            raise SpecError(f"-p {name}={values[name]}: expected one of {listed}")
    for name in given:
        if name not in specs:
            near = nearest(name, specs)
            hint = f". Did you mean '{near}'?" if near else f" (parameters: {', '.join(sorted(specs)) or 'none'})"
            raise SpecError(f"-p {name}={given[name]}: unknown parameter{hint}")
    return values


def _is(kind: str, value: Json) -> bool:
    if value is None:
        return True
    if kind == "boolean":
        return isinstance(value, bool)
    if kind == "string":
        return isinstance(value, str | bytes)
    return isinstance(value, int if kind == "integer" else (int, float)) and not isinstance(value, bool)
