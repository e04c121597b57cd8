"""Files of parameters (`run --params-file`): the sets that one holds, and where in it each value stands.

Every set is checked before the first run begins, so that row 40 of 50 is not found wrong after 39 runs.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from sparkles import rows
from sparkles.errors import UsageError

if TYPE_CHECKING:
    from sparkles.app import App
    from sparkles.lua.parameters import Problem

_MOST = 20
"""Mistakes that are shown; the others are counted."""


class ParameterSet(msgspec.Struct, frozen=True):
    """The parameters of one run; `place` is what a message about one begins with (`rows.csv:3: column `, `p.json: `)."""

    file: str
    place: str
    values: dict[str, str]


def load(path: str) -> list[ParameterSet]:
    """One set of a .json or .toml object, one per row of a .csv or .tsv.

    Raises:
        UsageError: The file is missing, malformed, or holds something else than texts, numbers and booleans; with the file's own line.
    """
    file = Path(path)
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    if file.suffix in (".csv", ".tsv"):
        found = [
            ParameterSet(path, f"{path}:{line}: column ", {key: str(value) for key, value in row.items()})
            for line, row in rows.numbered_csv(data, path)
        ]
        if not found:
            raise UsageError(f"{path}: expected a row of parameters for each run, found only the header")
        return found
    if file.suffix == ".json":
        values = rows.parse_json(data, path)
        json.loads(data.decode("utf-8-sig"), object_pairs_hook=lambda pairs: _once(path, pairs))
    elif file.suffix == ".toml":
        try:
            values = tomllib.loads(data.decode("utf-8-sig").replace("\r\n", "\n"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"{path}: not TOML: {error}") from None
    else:
        raise UsageError(f"{path}: expected a .json, .toml, .csv or .tsv file of parameters")
    if not isinstance(values, dict):
        raise UsageError(f"{path}: expected an object of parameters, found {_kind(values)}")
    return [ParameterSet(path, f"{path}: ", {key: _text(path, key, value) for key, value in values.items()})]


def check(app: App, workflow: str, sets: Sequence[ParameterSet], over: dict[str, str], base: dict[str, str]) -> None:
    """Raises UsageError with every mistake in the sets; `over` are the parameters that win over theirs, `base` those that do not."""
    found: dict[str, None] = {}
    for each in sets:
        refusal = app.refusal(workflow, {**base, **each.values, **over})
        if refusal is None:
            continue
        if not refusal.problems:
            raise refusal
        found.update(dict.fromkeys(_told(each, problem, over) for problem in refusal.problems))
    if found:
        told = list(found)
        more = [f"and {len(told) - _MOST} more mistakes"] if len(told) > _MOST else []
        raise UsageError("\n  ".join([*told[:_MOST], *more, "no run was begun"]))


def _told(given: ParameterSet, problem: Problem, over: dict[str, str]) -> str:
    """A mistake with its place; what holds for every row (a column too many or too few) is told without one."""
    if problem.given is None:
        return f"{given.file}: {problem.sentence}"
    if problem.name in over:
        return f"-p {problem.name}: {problem.sentence}"
    if problem.sentence.startswith("unknown parameter"):
        return f"{given.file}: {problem.name}: {problem.sentence}"
    return f"{given.place}{problem.name}: {problem.sentence}"


def _once(path: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise UsageError(f"{path}: {key} is given twice: {json.dumps(found[key])} and {json.dumps(value)}")
        found[key] = value
    return found


def _text(path: str, key: str, value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    hint = ""
    if isinstance(value, dict):
        hint = "; parameters are not nested"
    elif isinstance(value, list):
        hint = "; write a text that the workflow takes apart, such as 'a,b,c'"
    elif value is None:
        hint = "; leave it out for its default"
    else:
        hint = f"; write it in quotes: {key} = '{value}'"
    raise UsageError(f"{path}: {key}: expected text, a number or a boolean, found {_kind(value)}{hint}")


def _kind(value: Any) -> str:
    names = {"dict": "an object", "list": "a list", "NoneType": "null", "str": "text", "bool": "a boolean"}
    dates = {"datetime": "a date and time", "date": "a date", "time": "a time"}
    return {**names, **dates}.get(type(value).__name__, "a number")
