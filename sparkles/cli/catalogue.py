"""`workflows`: the ready workflows with what they say of themselves."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from sparkles.cli import render
from sparkles.cli.arguments import WORKFLOW, json_option
from sparkles.cli.parameters import table

if TYPE_CHECKING:
    from sparkles.app import App
    from sparkles.cli.main import Invocation
    from sparkles.lua.declared import Parameter


@click.command(epilog="Example:  sparkles workflows sweep")
@click.argument("workflow", required=False, type=WORKFLOW)
@json_option
@click.pass_obj
def workflows(invocation: Invocation, /, workflow: str | None, as_json: bool) -> None:
    """Lists the ready workflows with their parameters.

    With WORKFLOW, a ready one or a .lua file: its whole description.
    """
    from sparkles.cli.workflows import run

    app = invocation.app
    names = [workflow] if workflow else app.scripts.ready()
    for number, name in enumerate(names):
        described, parameters = _look(app, name)
        if as_json:
            render.json_line(_plain(name, described, parameters))
            continue
        if number:
            render.line()
        render.line(_bold(name) if workflow else f"{_bold(name)}: {_first(described)}")
        if workflow:
            for text in described:
                render.line(f"  {text}".rstrip())
            render.line()
        for line in table(parameters or (), run.taken()):
            render.line(line)


def _look(app: App, name: str) -> tuple[list[str], list[Parameter] | None]:
    from sparkles.lua import declared

    path, _ = app.scripts.find(name)
    return declared.doc(path), declared.parameters(path, name, app.scripts.module_folders(path))


def _bold(name: str) -> str:
    return render.styled(name, "bold", sys.stdout)


def _first(lines: list[str]) -> str:
    """The first sentence of a description, or its first line."""
    text = " ".join(lines[: lines.index("")] if "" in lines else lines)
    sentence, stop, _ = text.partition(". ")
    return sentence + stop.strip()


def _plain(name: str, described: list[str], parameters: list[Parameter] | None) -> dict[str, Any]:
    from sparkles.lua import declared

    return {
        "name": name,
        "doc": _first(described),
        "description": "\n".join(described),
        "parameters": None if parameters is None else [declared.plain(each) for each in parameters],
    }
