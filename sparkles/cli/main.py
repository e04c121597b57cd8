"""The command group and the process's end: which exception gives which exit code. May import anything; loads next to nothing.

A command's module is imported when the command is invoked: the table below is all that `sparkles --help` needs. Surprise: this is the
only place that knows exit codes, and commands end by raising.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
from collections.abc import Iterator, MutableMapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from sparkles import __version__, hints
from sparkles.cli import render
from sparkles.errors import InternalError, NotFound, RunCancelled, SparklesError
from sparkles.suggest import did_you_mean

if TYPE_CHECKING:
    from sparkles.app import App
    from sparkles.config import Settings


class Entry(NamedTuple):
    """Where a command is, under which heading it is listed, and the first sentence of its help."""

    where: str
    section: str
    help: str


COMMANDS: dict[str, Entry] = {
    "run": Entry("workflows:run", "Workflows", "Runs a workflow, or goes on with the unfinished run of it."),
    "resume": Entry("workflows:resume", "Workflows", "Goes on with an unfinished run."),
    "plan": Entry("plans:plan", "Workflows", "Shows what run would do: each step reused, would run and why, or unknown."),
    "replay": Entry("plans:replay", "Workflows", "Runs a script against a run's record, up to the first thing not recorded."),
    "runs": Entry("runs:runs", "Workflows", "Lists runs, the newest first."),
    "show": Entry("runs:show", "Workflows", "Shows a run's steps, a job's description or a task's attempts."),
    "test": Entry("testing:test", "Workflows", "Runs the tests of workflows: files named *_test.lua."),
    "workflows": Entry("catalogue:workflows", "Workflows", "Lists the ready workflows with their parameters."),
    "sub": Entry("submit:sub", "Jobs", "Submits a job without a script, and waits for it."),
    "wait": Entry("watching:wait", "Jobs", "Waits until jobs have ended."),
    "watch": Entry("watching:watch", "Jobs", "Shows the progress of jobs until they have ended."),
    "status": Entry("jobs:status", "Jobs", "Shows how jobs stand and why tasks failed."),
    "list": Entry("jobs:list_", "Jobs", "Lists jobs, or the tasks of a job."),
    "logs": Entry("jobs:logs", "Jobs", "Shows what a task wrote."),
    "fetch": Entry("jobs:fetch", "Jobs", "Copies the results of a job to a folder."),
    "kill": Entry("changes:kill", "Jobs", "Ends jobs, tasks or runs."),
    "reset": Entry("changes:reset", "Jobs", "Lets ended tasks run again."),
    "clean": Entry("changes:clean", "Jobs", "Removes finished jobs and runs, and content that no job uses."),
    "init": Entry("setup:init", "Housekeeping", "Writes a first workflow and its surroundings."),
    "doctor": Entry("doctor:doctor", "Housekeeping", "Checks settings, state folder, database and machine."),
    "completion": Entry("setup:completion", "Housekeeping", "Prints the completion script of a shell."),
    "version": Entry("setup:version", "Housekeeping", "Prints the versions of sparkles and what it is made of."),
}


REHEARSING = ("plan", "replay", "test", "workflows")
"""Commands that run scripts without effects: their Ctrl-C is Python's own."""


class ReaderGone(Exception):
    """Whoever read standard output has gone."""


class LazyCommands(MutableMapping[str, click.Command]):
    """The commands by name, in declared order, each imported when it is looked up."""

    def __init__(self) -> None:
        self._loaded: dict[str, click.Command] = {}

    def __getitem__(self, name: str) -> click.Command:
        if name not in self._loaded:
            module, _, attribute = COMMANDS[name].where.partition(":")
            self._loaded[name] = with_global_options(getattr(importlib.import_module(f"sparkles.cli.{module}"), attribute))
        return self._loaded[name]

    def __setitem__(self, name: str, command: click.Command) -> None:
        self._loaded[name] = command

    def __delitem__(self, name: str) -> None:
        del self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)

    def __contains__(self, name: object) -> bool:
        return name in COMMANDS


class LazyGroup(click.Group):
    """The group; what it shows of its commands comes from the table."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In declared order."""
        return list(COMMANDS)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """By section."""
        for section in dict.fromkeys(entry.section for entry in COMMANDS.values()):
            with formatter.section(section):
                formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items() if entry.section == section])

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """With the nearest name for a misspelt one."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            ctx.fail(f"there is no command {args[0]!r}.{did_you_mean(args[0], COMMANDS)}")
        found = super().resolve_command(ctx, args)
        if found[0] in REHEARSING and not ctx.resilient_parsing:
            from sparkles.cli.signals import second_interrupt_ends

            ctx.with_resource(second_interrupt_ends(render.Plain()))
        return found

    def invoke(self, ctx: click.Context) -> Any:
        """A broken pipe is taken from click, which would end the process with 1. A word that names what was cleaned is told so."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise ReaderGone from None
        except NotFound as error:
            ctx.obj.tell_cleaned(error)
            raise

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        """Command names and global options, without importing a command."""
        from click.shell_completion import CompletionItem

        names = [CompletionItem(name, help=entry.help) for name, entry in COMMANDS.items() if name.startswith(incomplete)]
        return names + click.Command.shell_complete(self, ctx, incomplete)


GLOBAL_OPTIONS: dict[str, dict[str, Any]] = {
    "state": {"metavar": "FOLDER", "type": click.Path(file_okay=False), "help": "The state folder (default: .sparkles)."},
    "profile": {"metavar": "NAME", "help": "Settings of [profile.NAME] in sparkles.toml."},
    "backend": {"metavar": "local|cloud", "help": "Where jobs and files are kept."},
    "fleet": {"metavar": "processes|none", "help": "Where workers of the cloud backend run."},
    "project": {"metavar": "ID", "help": "The project of Google Cloud (google.project)."},
    "bucket": {"metavar": "NAME", "help": "The bucket of Cloud Storage (google.bucket)."},
    "database": {"metavar": "ID", "help": "The database of Datastore (google.database)."},
}
"""The options of `sparkles` itself, by name. Each may also stand behind the command, unless that has an option of the same name."""

IN_GOOGLE = ("project", "bucket", "database")
"""Those that are settings of the table [google]."""


def with_global_options(command: click.Command) -> click.Command:
    """The same command, which takes GLOBAL_OPTIONS too; its help does not repeat them."""
    taken = {word for param in command.params for word in param.opts}

    def keep(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
        if value is not None and ctx.obj is not None:
            ctx.obj.set(str(param.name), value)

    for name, attributes in GLOBAL_OPTIONS.items():
        if f"--{name}" not in taken:
            # Eager: `run` looks into the workflow's parameters, and completion into the state folder, while the rest is read.
            more = {"expose_value": False, "is_eager": True, "hidden": True, "callback": keep}
            command.params.append(click.Option([f"--{name}"], **{**attributes, **more}))
    return command


class Invocation:
    """What the global options say, and the App made from it on first use: the object on click's context."""

    def __init__(self, **options: str | None) -> None:
        """`options`: those of GLOBAL_OPTIONS, by name."""
        self.options = options
        hints.carry(self.words)

    def set(self, name: str, value: str) -> None:
        """An option that stands behind the command. What was made without it is made anew: `run` may have looked for the parameters of
        its workflow already."""
        self.close()
        for made in ("app", "settings"):
            vars(self).pop(made, None)
        self.options[name] = value
        hints.carry(self.words)

    @cached_property
    def settings(self) -> Settings:
        """Read from files and variables. Raises ConfigError."""
        from sparkles import config

        chosen = dict(self.options)
        state, profile = chosen.pop("state", None), chosen.pop("profile", None)
        options = {f"google.{name}" if name in IN_GOOGLE else name: value for name, value in chosen.items()}
        return config.load(state=state, profile=profile, options=options)

    @property
    def words(self) -> list[str]:
        """The global options as they were given, for a command line that goes on with the same."""
        return [word for name, value in self.options.items() if value for word in (f"--{name}", value)]

    def tell_cleaned(self, error: NotFound) -> None:
        """Adds to the error that the run or job which its word named was cleaned, where it was."""
        from sparkles.engine import cleaning

        if "app" not in vars(self):
            return
        try:
            found = cleaning.cleaned(self.app.runs, error.resource.partition("/")[0]) if self.app.has_state() else None
        except SparklesError:
            return  # a note that cannot be had hides no error; `clean` has closed its database, and asked before
        if found is not None:
            error.add_note(cleaning.cleaned_text(found))

    @cached_property
    def app(self) -> App:
        """The installation that the command works with."""
        from sparkles.app import App

        return App(self.settings)

    def close(self) -> None:
        """Closes the app if it was used."""
        hints.carry(())
        if "app" in vars(self):
            self.app.close()


@click.group(
    cls=LazyGroup,
    commands=LazyCommands(),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Example:  sparkles run examples/csv_submit.lua",
    params=[click.Option([f"--{name}"], **attributes) for name, attributes in GLOBAL_OPTIONS.items()],
)
@click.version_option(__version__, prog_name="sparkles", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context, /, **options: str | None) -> None:
    """Runs workflows written in Lua: sweeps of shell tasks, checkpointed, never done twice."""
    invocation = Invocation(**options)
    ctx.obj = invocation
    ctx.call_on_close(invocation.close)


def main(arguments: list[str] | None = None) -> int:
    """Runs a command. Returns the exit code: 0 done, 1 the work failed, 2 wrong input, 3 a store or the file system, 70 a bug,
    128 + N ended by signal N."""
    render.prepare_streams()
    code = _ended(arguments)
    return code if render.flush() or code else 128 + signal.SIGPIPE


def _ended(arguments: list[str] | None) -> int:
    try:
        code = cli.main(args=arguments, prog_name="sparkles", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except (BrokenPipeError, ReaderGone):
        render.close_stdout()
        return 128 + signal.SIGPIPE
    except click.exceptions.Exit as error:
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 128 + signal.SIGINT
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx is not None else "sparkles"
        render.error(f"{error.format_message()}\nSee `{command} --help`.")
        return 2
    except click.ClickException as error:
        render.error(error.format_message())
        return 2
    except InternalError as error:
        return _bug(error)
    except SparklesError as error:
        render.error(str(error), getattr(error, "__notes__", ()))
        if isinstance(error, RunCancelled) and error.signal:
            return 128 + error.signal
        return error.exit_code
    except OSError as error:
        # What sparkles itself expects of files is translated where it happens; this is a disk or a permission that nobody foresaw.
        render.error(f"{error.filename or 'the system'}: {error.strerror or error}")
        return 3
    except Exception as error:
        return _bug(error)


def _bug(error: Exception) -> int:
    import traceback

    text = "".join(traceback.format_exception(error))
    header = f"sparkles {__version__}, Python {sys.version.split()[0]}, {' '.join(sys.argv)}\n\n"
    path = _keep(header + text)
    where = f"the traceback is in {path}" if path else f"the traceback:\n{text}"
    render.error(f"This is a bug in sparkles: {type(error).__name__}: {error}\n{where}")
    return InternalError.exit_code


def _keep(text: str) -> str:
    """Writes a traceback to the state folder, or where there is none to the folder for temporary files; "" where neither takes it."""
    import tempfile

    name = f"bug-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    folders = []
    try:
        from sparkles import config

        state = config.load().state
        folders = [str(state)] if state.is_dir() else []
    except Exception:  # noqa: S110 - the settings may be what is broken
        pass
    for folder in [*folders, tempfile.gettempdir()]:
        try:
            path = os.path.join(folder, name)
            with open(path, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
        except OSError:
            continue
        return path
    return ""


if __name__ == "__main__":
    sys.exit(main())
