"""`test`: runs the tests that stand beside workflows, and says of each how it went."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sparkles.cli import render
from sparkles.cli.arguments import json_option
from sparkles.errors import RunError, UsageError
from sparkles.suggest import did_you_mean

if TYPE_CHECKING:
    from sparkles.app import App
    from sparkles.cli.main import Invocation
    from sparkles.lua.test_host import Outcome


@click.command(epilog="Example:  sparkles test workflows -k 'writes a table'")
@click.argument("paths", metavar="[FILE|FOLDER]...", nargs=-1, type=click.Path(path_type=Path))
@click.option("-k", "--only", metavar="TEXT", help="Only tests whose file or name has this text.")
@json_option
@click.pass_obj
def test(invocation: Invocation, /, paths: tuple[Path, ...], only: str | None, as_json: bool) -> None:
    """Runs the tests of workflows: files named *_test.lua.

    Of the files and folders that are named, or below the current folder. A test runs a workflow with stubs in place of its jobs:
    nothing is submitted, written or recorded.
    """
    from sparkles.lua.test_host import find_tests

    files = find_tests(paths or [Path()])
    if not files:
        where = ", ".join(map(str, paths)) or "this folder"
        raise UsageError(f"no tests in {where} and below: their files end in _test.lua (see docs/testing.md)")
    passed = failed = 0
    seconds = 0.0
    for file in files:
        for outcome in _suite(invocation.app, file).run(_wanted(only, file)):
            passed += not outcome.error
            failed += bool(outcome.error)
            seconds += outcome.seconds
            if as_json:
                render.json_line(_plain(outcome))
            else:
                _show(outcome)
    if not passed and not failed:
        raise UsageError(f"no test has {only!r} in its file or name ({render.plural(len(files), 'file')} looked at)")
    if failed:
        raise RunError(f"{failed} of {render.plural(passed + failed, 'test')} failed; {seconds:.2f} s")
    render.say(f"{render.plural(passed, 'test')} passed; {seconds:.2f} s", "dim")


def _wanted(only: str | None, file: Path) -> Any:
    if only is None or only.casefold() in str(file).casefold():
        return lambda _name: True
    return lambda name: only.casefold() in name.casefold()


def _suite(app: App, file: Path) -> Any:
    from sparkles.lua.test_host import Suite

    def find(word: str, folder: Path) -> tuple[Path, str]:
        path = Path(os.path.normpath(folder / word))
        if path.is_file():
            return path, _shown(path)
        known = app.scripts.ready()
        if "/" not in word and word in known:
            return app.scripts.ready_folder / f"{word}.lua", word
        near = [*known, *(each.name for each in path.parent.glob("*.lua") if not each.name.endswith("_test.lua"))]
        raise UsageError(f"{word}: no such file beside the test, and no ready workflow.{did_you_mean(path.name, near)}")

    return Suite(file.resolve(), _shown(file), root=app.settings.root, find=find, roots=app.scripts.module_folders)


def _shown(path: Path) -> str:
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def _show(outcome: Outcome) -> None:
    if not outcome.error:
        render.line(f"{render.styled('ok', 'green', sys.stdout)}    {outcome.file}: {render.clean(outcome.name)}")
        return
    name = f"{outcome.file}: {render.clean(outcome.name)}" if outcome.name else outcome.file
    render.line(f"{render.styled('FAIL', 'red', sys.stdout)}  {name}")
    first, *more = outcome.error.split("\n")
    at = f"{outcome.at}: " if outcome.at and not first.startswith(outcome.at) else ""
    for text in [at + first, *more]:
        render.line(f"      {render.clean(text)}")
    trace = outcome.traceback.split("\n")
    if len(trace) > 1:
        for text in trace:
            render.line(f"        {text}")
    for text in outcome.talk:
        render.line(f"      | {render.clean(text)}")


def _plain(outcome: Outcome) -> dict[str, Any]:
    return {
        "file": outcome.file,
        "name": outcome.name or None,
        "position": outcome.position,
        "state": "failed" if outcome.error else "passed",
        "error": outcome.error or None,
        "at": outcome.at or None,
        "seconds": round(outcome.seconds, 4),
    }
