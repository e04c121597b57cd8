"""Parameters of a workflow on the command line: its own help page, their completion, and files of them."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sparkles.errors import UsageError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from sparkles.app import App
    from sparkles.lua.declared import Parameter


class ParameterType(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.3 only
    """KEY=VALUE; completes the keys that the workflow on the line declares."""

    name = "KEY=VALUE"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """`key=` for each declared parameter, and the choices of one that has them."""
        from sparkles.cli.arguments import complete

        # Where the line ends within -p, click gives up before it looks at arguments and leaves them here.
        workflow = ctx.params.get("workflow") or next((word for word in ctx.args if not word.startswith("-")), None)
        if not workflow:
            return []

        def find(app: App) -> list[tuple[str, str]]:
            found = []
            for each in declared_by(app, workflow):
                found.append((f"{each.name}=", each.doc))
                found += [(f"{each.name}={choice}", each.doc) for choice in each.choices]
            return found

        return complete(ctx, find, incomplete)


PARAMETER = ParameterType()


def declared_by(app: App, workflow: str) -> list[Parameter]:
    """The parameters of a workflow, in the order of its text; none where it declares none."""
    from sparkles.lua import declared

    path, _ = app.scripts.find(workflow)
    return declared.parameters(path, workflow, app.scripts.module_folders(path)) or []


def load(path: str) -> list[dict[str, str]]:
    """The sets of parameters that a file holds: one of a .json or .toml object, one per row of a .csv.

    Raises:
        UsageError: The file is missing, malformed, or holds something else than texts, numbers and booleans; with the file's own line.
    """
    file = Path(path)
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    from sparkles import rows

    if file.suffix in (".csv", ".tsv"):
        sets = rows.parse_csv(data, path)
        if not sets:
            raise UsageError(f"{path}: expected a row of parameters for each run, found only the header")
        return [{key: str(value) for key, value in each.items()} for each in sets]
    if file.suffix == ".json":
        values = rows.parse_json(data, path)
    elif file.suffix == ".toml":
        try:
            values = tomllib.loads(data.decode("utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"{path}: not TOML: {error}") from None
    else:
        raise UsageError(f"{path}: expected a .json, .toml or .csv file of parameters")
    if not isinstance(values, dict):
        raise UsageError(f"{path}: expected an object of parameters, found {_kind(values)}")
    return [{key: _text(path, key, value) for key, value in values.items()}]


def _text(path: str, key: str, value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    raise UsageError(f"{path}: {key}: expected text, a number or a boolean, found {_kind(value)}")


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", type(None): "null", str: "text", bool: "a boolean"}
    return names.get(type(value), "a number")


def help_page(app: App, workflow: str) -> list[str]:
    """A workflow's own help: what it says of itself, how it is run, its parameters."""
    from sparkles.lua import declared

    path, _ = app.scripts.find(workflow)
    lines = [f"Usage: sparkles run {workflow} [-p KEY=VALUE]...", ""]
    lines += [f"  {text}".rstrip() for text in declared.doc(path)] or [
        "  (the script says nothing of itself: begin it with a comment)"
    ]
    found = declared_by(app, workflow)
    if not found:
        return [*lines, "", "It declares no parameters (params{...} before its first step)."]
    return [*lines, "", "Parameters:", *table(found)]


def table(parameters: Sequence[Parameter]) -> list[str]:
    """A line for each parameter: how it is given, its type, its default, its doc."""
    rows = [(f"-p {each.name}=", each.type, _default(each), _doc(each)) for each in parameters]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    lines = []
    for row in rows:
        cells = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False))
        lines.append(f"  {cells}  {row[3]}".rstrip())
    return lines


def _default(parameter: Parameter) -> str:
    from sparkles import digest

    if parameter.required:
        return "required"
    value = parameter.default
    return value if isinstance(value, str) and value else digest.canonical(value)


def _doc(parameter: Parameter) -> str:
    choices = f" ({', '.join(map(str, parameter.choices))})" if parameter.choices else ""
    return parameter.doc + choices
