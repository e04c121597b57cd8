"""Argument types and options that several commands share, with their completion in the shell.

Surprise: completion runs before any callback, so it reads the global options from click's root context, and makes no state folder.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sparkles.units import plural

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from sparkles.app import App

    ParamType = click.ParamType[Any]  # generic since click 8.3 only
else:
    ParamType = click.ParamType

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

_MOST = 200


def complete(ctx: click.Context, find: Callable[[App], list[tuple[str, str]]], incomplete: str) -> list[CompletionItem]:
    """What `find` gives (word, help) that begins with `incomplete`; nothing where anything is wrong."""
    from click.shell_completion import CompletionItem

    from sparkles import config
    from sparkles.app import App
    from sparkles.errors import SparklesError

    options = ctx.find_root().params
    chosen = {key: options[key] for key in options if key in config.KEYS}
    try:
        settings = config.load(state=options.get("state"), profile=options.get("profile"), options=chosen)
        app = App(settings)
        try:
            found = find(app)
        finally:
            app.close()
    except (SparklesError, OSError):
        return []
    return [CompletionItem(word, help=text) for word, text in found if word.startswith(incomplete)][:_MOST]


def _has_state(app: App) -> bool:
    return (app.settings.state / "sparkles.db").is_file()


def _jobs(app: App) -> list[tuple[str, str]]:
    jobs = app.jobs.list_jobs(limit=_MOST) if _has_state(app) else []
    return [(job.id, plural(job.count, "task")) for job in jobs] + ([("LAST", "the newest job")] if jobs else [])


def _runs(app: App) -> list[tuple[str, str]]:
    runs = app.runs.list_runs(limit=_MOST) if _has_state(app) else []
    return [(run.id, f"{run.workflow}, {run.state}") for run in runs]


class Word(ParamType):
    """A word that names a job, a run or a task; the command selects, completion lists."""

    def __init__(self, name: str, find: Callable[[App], list[tuple[str, str]]]) -> None:
        self.name = name
        self._find = find

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Ids that begin with what is typed."""
        return complete(ctx, self._find, incomplete)


JOB = Word("JOB", _jobs)
RUN = Word("RUN", lambda app: [*_runs(app), ("LAST", "the newest run")])
ANY = Word("RUN|JOB", lambda app: [*_jobs(app), *_runs(app)])


class WorkflowType(ParamType):
    """A .lua file or the name of a ready workflow."""

    name = "WORKFLOW"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Ready workflows, and folders and .lua files."""
        import os

        from click.shell_completion import CompletionItem

        folder, _, start = incomplete.rpartition("/")
        found = complete(ctx, lambda app: [(name, "a ready workflow") for name in app.scripts.ready()], incomplete)
        try:
            entries = sorted(
                os.scandir(folder + "/" if folder or incomplete.startswith("/") else "."), key=lambda each: each.name
            )
        except OSError:
            return found
        for entry in entries:
            if not entry.name.startswith(start) or (entry.name.startswith(".") and not start):
                continue
            path = f"{folder}/{entry.name}" if "/" in incomplete else entry.name
            if entry.is_dir():
                found.append(CompletionItem(path + "/"))
            elif entry.name.endswith(".lua"):
                found.append(CompletionItem(path))
        return found


WORKFLOW = WorkflowType()


class Duration(ParamType):
    """Seconds from 90s, 1.5m, 24h, 7d."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds."""
        from sparkles.units import parse_duration

        try:
            return parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


DURATION = Duration()

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON: one object a line.")


def pairs(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """KEY=VALUE words as a dict; the same key twice is a mistake."""
    found: dict[str, str] = {}
    for word in values:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise click.BadParameter(f"expected KEY=VALUE, found {word!r}", ctx, param)
        if key in found:
            raise click.BadParameter(f"{key} is given twice: {found[key]!r} and {value!r}", ctx, param)
        found[key] = value
    return found


def run_options(command: Decorated) -> Decorated:
    """Options that `run` and `resume` share."""
    for option in (
        json_option,
        click.option("-q", "--quiet", is_flag=True, help="Show log lines and errors only."),
        click.option("--keep-failed", is_flag=True, help="Do not try failed tasks again."),
        click.option("--frozen", is_flag=True, help="Keep what was read from files, though they changed since."),
        click.option("--no-cache", is_flag=True, help="Run tasks although their result is known."),
    ):
        command = option(command)
    return command
