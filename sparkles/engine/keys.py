"""What a command is keyed on: its kind and canonical arguments, in one place for whoever performs or plans it. Pure; imports commands.

Positions, and what only matters to people, count in no key.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sparkles import digest
from sparkles.engine import commands as ask
from sparkles.model import Command as ShellCommand
from sparkles.model import Json


def _words(command: ShellCommand) -> Json:
    return command if isinstance(command, str) else list(command)


_ARGUMENTS: dict[type[ask.Command], tuple[str, Callable[[Any], Json]]] = {
    ask.Now: ("now", lambda command: {}),
    ask.Uuid: ("uuid", lambda command: {}),
    ask.Random: ("random", lambda command: {"low": command.low, "high": command.high}),
    ask.Log: ("log", lambda command: {"text": command.text}),
    ask.Sleep: ("sleep", lambda command: {"seconds": command.seconds}),
    ask.StepBegin: ("step", lambda command: {"name": command.name, "args": command.args, "source": command.source}),
    ask.Read: ("read", lambda command: {"reader": command.reader, "path": command.path, "options": command.options}),
    ask.Write: (
        "write",
        lambda command: {"writer": command.writer, "path": command.path, "digest": digest.of_bytes(command.content)},
    ),
    ask.Fetch: ("fetch", lambda command: {"job": command.job, "dest": command.dest}),
    ask.Wait: (
        "wait",
        lambda command: {
            "jobs": list(command.jobs),
            "allowFailures": command.allow_failures,
            "timeout": command.timeout_s,
        },
    ),
    ask.Shell: (
        "shell",
        lambda command: {
            "command": _words(command.command),
            "env": command.env,
            "timeout": command.timeout_s,
            "allowFailure": command.allow_failure,
        },
    ),
    ask.Parallel: ("join", lambda command: {"children": [child.key for child in command.children]}),
}


def of(command: ask.Command) -> tuple[str, Json]:
    """The kind and the arguments of a step; submit is keyed on the job that it builds (submitting.ask_submit)."""
    kind, arguments = _ARGUMENTS[type(command)]
    return kind, arguments(command)


def of_own(command: ask.Command) -> tuple[str, Json] | None:
    """As `of`; None for what is keyed on more than its own arguments, or is no step."""
    return of(command) if type(command) in _ARGUMENTS else None
