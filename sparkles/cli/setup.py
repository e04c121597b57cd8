"""`init`, `completion` and `version`."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sparkles import __version__
from sparkles.cli import render
from sparkles.cli.arguments import json_option
from sparkles.errors import UsageError

if TYPE_CHECKING:
    from sparkles.cli.main import Invocation

_WORKFLOW = """\
-- A first workflow: one task a row of params.csv.
--
--     sparkles run workflow.lua
--
-- Run it again and everything is answered from the record; add a row to params.csv and one task runs.

local job = JobBuilder("areas")
  :setCommandTemplate([[printf '{"area": %d}' $(({width} * {height})) > "$SPARKLES_RESULTS"]])
  :createTasksFor(readCsv("params.csv"))

local result = wait(submit(job))

for _, task in ipairs(result.tasks) do
  log("%s by %s is %d", task.params.width, task.params.height, task.results.area)
end
"""

_PARAMS = "width,height\n2,3\n4,5\n6,7\n"

_SETTINGS = """\
# Settings of this project; the folder with this file is its root. All are optional: `sparkles doctor` prints what holds, and why.

[local]
# cpu = 4              # what all tasks on this machine may use together (default: the machine's)
# memory = "8Gi"

[defaults]
# cpu = 1              # what a task asks for if it does not say
# memory = "1Gi"
# timeout = "24h"
"""


@click.command(epilog="Example:  sparkles init my-project")
@click.argument("folder", metavar="[DIR]", default=".", type=click.Path(path_type=Path))
@json_option
@click.pass_obj
def init(invocation: Invocation, /, folder: Path, as_json: bool) -> None:
    """Writes a first workflow and its surroundings.

    workflow.lua, params.csv, sparkles.toml, and .luarc.json for the completion of editors. A file that exists stays as it is.
    """
    stub = Path(__file__).resolve().parents[1] / "lua" / "sparkles.d.lua"
    luarc = {"runtime.version": "Lua 5.4", "workspace.library": [str(stub)], "diagnostics.globals": []}
    texts = {
        "workflow.lua": _WORKFLOW,
        "params.csv": _PARAMS,
        "sparkles.toml": _SETTINGS,
        ".luarc.json": json.dumps(luarc, indent=2) + "\n",
    }
    written, kept = [], []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            try:
                with (folder / name).open("x", encoding="utf-8") as file:
                    file.write(text)
            except FileExistsError:
                kept.append(name)
            else:
                written.append(name)
    except OSError as error:
        raise UsageError(f"{error.filename or folder}: cannot be written: {error.strerror}") from error
    if as_json:
        render.json_line({"folder": str(folder), "written": written, "kept": kept})
        return
    for name in written:
        render.line(str(folder / name))
    if kept:
        render.say(f"there already, left as they are: {', '.join(kept)}")
    if "workflow.lua" in written:
        render.say(f"next: {f'cd {folder} && ' if str(folder) != '.' else ''}sparkles run workflow.lua")


@click.command(epilog="Example:  sparkles completion bash >> ~/.bashrc")
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
@click.pass_context
def completion(ctx: click.Context, /, shell: str) -> None:
    """Prints the completion script of a shell.

    For fish: sparkles completion fish > ~/.config/fish/completions/sparkles.fish
    """
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    if found is None:
        raise UsageError(f"no completion for {shell} in this version of click")
    render.line(found(ctx.find_root().command, {}, "sparkles", "_SPARKLES_COMPLETE").source())


@click.command(epilog="Example:  sparkles version --json")
@json_option
@click.pass_obj
def version(invocation: Invocation, /, as_json: bool) -> None:
    """Prints the versions of sparkles and what it is made of."""
    found = versions()
    if as_json:
        render.json_line(found)
        return
    for name, value in found.items():
        render.line(f"{name} {value}")


def versions() -> dict[str, str]:
    """Name -> version."""
    import sqlite3
    from importlib.metadata import version as installed

    from lupa import lua54

    lua = ".".join(map(str, lua54.LUA_VERSION))
    return {
        "sparkles": __version__,
        "python": platform.python_version(),
        "lua": lua,
        "lupa": installed("lupa"),
        "sqlite": sqlite3.sqlite_version,
        "platform": f"{platform.system()} {platform.machine()}",
    }
