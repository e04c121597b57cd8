"""The `-p key=value` parameters of a workflow, typed as its `params{...}` declares. Pure; may import level 0 and marshal.

Two kinds of mistake: one in a declaration is its author's (SpecError), one in what was given is the user's (Problem). What only Lua can
tell, `pattern` and `check`, is asked in functions.lua.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

import msgspec

from sparkles import rows
from sparkles.errors import SpecError
from sparkles.lua.marshal import as_list
from sparkles.model import Json
from sparkles.suggest import nearest

_BOOLEANS = {"yes": True, "1": True, "no": False, "0": False}
_TYPES = ("string", "number", "integer", "boolean")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Problem(msgspec.Struct, frozen=True):
    """What is wrong with one parameter, as a sentence; `given` is its text, None where it was not given."""

    name: str
    given: str | None
    sentence: str


def sentence(problems: Iterable[Problem]) -> str:
    """All of them, as the command line shows them: a line each."""
    return "\n  ".join(
        each.sentence if each.given is None else f"-p {each.name}={_short(each.given)}: {each.sentence}" for each in problems
    )


def typed(specs: dict[str, dict[str, Any]], given: dict[str, str]) -> tuple[dict[str, Json], list[Problem]]:
    """The value of each declared parameter, without those whose default is null; and what is wrong with what was given.

    Raises:
        SpecError: A declaration is wrong.
    """
    values: dict[str, Json] = {}
    problems: list[Problem] = []
    for name, spec in specs.items():
        _check_declaration(name, spec)
        if name not in given:
            if "default" in spec:
                values[name] = spec["default"]
            else:
                doc = f" ({spec['doc']})" if spec.get("doc") else ""
                problems.append(Problem(name, None, f"'{name}'{doc} has no value; give it with -p {name}=..."))
            continue
        try:
            value = _value(spec.get("type", "string"), given[name])
        except ValueError as error:
            problems.append(Problem(name, given[name], str(error)))
            continue
        why = _refused(spec, value)
        if why:
            problems.append(Problem(name, given[name], f"{why}, found '{_short(given[name])}'"))
        values[name] = value
    for name, text in given.items():
        if name not in specs:
            near = nearest(name, specs)
            hint = f". Did you mean '{near}'?" if near else f" (parameters: {', '.join(sorted(specs)) or 'none'})"
            problems.append(Problem(name, text, f"unknown parameter{hint}"))
    return values, problems


def checked(specs: dict[str, dict[str, Any]], given: dict[str, str], refused: dict[str, str]) -> list[Problem]:
    """What Lua found wrong, name to sentence. Raises SpecError where it is a default that is wrong."""
    for name, why in refused.items():
        if name not in given:
            raise SpecError(f"{name}.default: {why}")
    return [Problem(name, given[name], why) for name, why in refused.items()]


def _value(kind: str, text: str) -> Json:
    """A text as a value of a type. Raises ValueError with what was expected and found."""
    if kind == "boolean" and text.lower() in _BOOLEANS:
        return _BOOLEANS[text.lower()]
    if not text.strip() and kind != "string":
        raise ValueError(f"expected {_article(kind)}, found nothing")
    value = rows.typed(kind, text)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"expected a finite number, found '{text}'")
    return value


def _article(kind: str) -> str:
    return {"number": "a number", "integer": "an integer", "boolean": "true or false"}.get(kind, "text")


def _check_declaration(name: str, spec: dict[str, Any]) -> None:
    """Raises SpecError."""
    if not _IDENTIFIER.fullmatch(name):
        raise SpecError(f"'{name}': expected a name of letters, digits and _ that begins with no digit")
    kind = spec.get("type", "string")
    if kind not in _TYPES:
        near = nearest(str(kind), _TYPES)
        hint = f". Did you mean '{near}'?" if near else ""
        raise SpecError(f"{name}.type: expected string, number, integer or boolean, got '{kind}'{hint}")
    for bound in ("min", "max"):
        if bound in spec and kind not in ("number", "integer"):
            raise SpecError(f"{name}.{bound}: only a number or an integer has one, and {name} is a {kind}")
        if bound in spec and spec[bound] != spec[bound]:
            raise SpecError(f"{name}.{bound}: expected a number, got nan")
    if "pattern" in spec and kind != "string":
        raise SpecError(f"{name}.pattern: only a string has one, and {name} is {_article(kind)}")
    if "min" in spec and "max" in spec and spec["min"] > spec["max"]:
        raise SpecError(f"{name}: min {spec['min']} is greater than max {spec['max']}")
    if "choices" in spec:
        choices = as_list(spec["choices"])
        if not choices:
            raise SpecError(f"{name}.choices: expected one or more values, got none")
        for place, choice in enumerate(choices, 1):
            if not _is(kind, choice):
                raise SpecError(f"{name}.choices[{place}]: expected {kind}, got {_kind(choice)}")
    default = spec.get("default")
    if default is not None:
        if not _is(kind, default):
            raise SpecError(f"{name}.default: expected {kind}, got {_kind(default)}")
        why = _refused(spec, default)
        if why:
            raise SpecError(f"{name}.default: {why}, got {_shown(default)}")


def _refused(spec: dict[str, Any], value: Json) -> str:
    """Why a value of the right type is not one of those that are wanted, or ""."""
    if "choices" in spec:
        choices = as_list(spec["choices"])
        if value not in choices:
            return f"expected one of {', '.join(map(_shown, choices))}"
    low, high = spec.get("min"), spec.get("max")
    if (low is not None and value < low) or (high is not None and value > high):
        if low is not None and high is not None:
            return f"expected {_shown(low)} to {_shown(high)}"
        return f"expected {_shown(low)} or more" if low is not None else f"expected {_shown(high)} or less"
    return ""


def _is(kind: str, value: Json) -> bool:
    if kind == "boolean":
        return isinstance(value, bool)
    if kind == "string":
        return isinstance(value, str | bytes)
    if isinstance(value, float) and not math.isfinite(value):
        return False
    return isinstance(value, int if kind == "integer" else (int, float)) and not isinstance(value, bool)


def _kind(value: Json) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return str(value)
    return "string" if isinstance(value, str | bytes) else "table" if value is not None else "null"


def _shown(value: Json) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
