"""Parameters of a workflow on the command line: as options of their own, on the workflow's help page, and their completion."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Iterator, Sequence
from typing import TYPE_CHECKING

import click

from sparkles.suggest import did_you_mean

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from sparkles.app import App
    from sparkles.lua.declared import Parameter

_UNFINISHED = "sparkles.unfinished"
"""Of a context of completion: the parameter whose value the line stops at."""


class ParameterType(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.3 only
    """KEY=VALUE; completes the keys that the workflow on the line declares."""

    name = "KEY=VALUE"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """`key=` for each declared parameter, and the choices of one that has them."""
        # Where the line ends within -p, click gives up before it looks at arguments and leaves them here.
        workflow = ctx.params.get("workflow") or next((word for word in ctx.args if not word.startswith("-")), None)

        def words(each: Parameter) -> list[str]:
            return [f"{each.name}=", *(f"{each.name}={choice}" for choice in each.choices)]

        return _complete(ctx, workflow, words, incomplete)


PARAMETER = ParameterType()


class WorkflowCommand(click.Command):
    """A command with the argument `workflow` and the option `-p`: behind the workflow `--name value` stands for `-p name=value`, for
    every parameter that the workflow declares and whose name is not that of an option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See click; first puts `-p` for what the workflow declares."""
        return super().parse_args(ctx, list(self._translated(ctx, args)))

    def taken(self) -> set[str]:
        """The words that are options of the command itself."""
        return {word for option in self.params if isinstance(option, click.Option) for word in option.opts}

    def _translated(self, ctx: click.Context, args: Sequence[str]) -> Iterator[str]:
        options = {word: option for option in self.params if isinstance(option, click.Option) for word in option.opts}
        declared: list[Parameter] | None = None
        workflow = ""
        words = deque(args)
        while words:
            word = words.popleft()
            if word == "--":
                yield from (word, *words)
                return
            name, equals, value = word.partition("=")
            if name in options or not word.startswith("--") or not workflow:
                yield word
                if words and _wants_a_value(options, word):
                    yield words.popleft()
                elif not word.startswith("-"):
                    workflow = workflow or word
                continue
            if ctx.resilient_parsing:  # completion, which has no use for the value
                ctx.meta[_UNFINISHED] = "" if equals or words else name[2:]
                if words and not equals:
                    words.popleft()
                continue
            if declared is None:
                declared = declared_by(ctx.obj.app, workflow)
            parameter = self._named(ctx, workflow, name, declared)
            if not equals:
                value = _value(ctx, parameter, words)
            yield from ("-p", f"{parameter.name}={value}")

    def _named(self, ctx: click.Context, workflow: str, name: str, declared: Sequence[Parameter]) -> Parameter:
        for each in declared:
            if each.name == name[2:]:
                return each
        options = [f"--{each.name}" for each in declared]
        if not options:
            raise click.UsageError(f"No such option: {name}. {workflow} declares no parameters; give one with -p.", ctx)
        near = did_you_mean(name, [*options, *self.taken()])
        listed = "" if near else f" Parameters: {', '.join(options)}."
        raise click.UsageError(f"No such option: {name}, and {workflow} has no such parameter.{near}{listed}", ctx)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Options, those of the workflow too, and the choices of the one at which the line stops."""
        workflow, unfinished = ctx.params.get("workflow"), ctx.meta.get(_UNFINISHED)
        if unfinished:
            return _complete(
                ctx, workflow, lambda each: [str(choice) for choice in each.choices if each.name == unfinished], incomplete
            )
        found = super().shell_complete(ctx, incomplete)
        if incomplete.startswith("-"):
            taken = self.taken()
            found += _complete(
                ctx, workflow, lambda each: [f"--{each.name}"] if f"--{each.name}" not in taken else [], incomplete
            )
        return found


def _wants_a_value(options: dict[str, click.Option], word: str) -> bool:
    """Whether the next word is the value of this one: `--fork`, `-p`, `-qp`, but not `--fork=RUN` and `-pKEY=VALUE`."""
    if word.startswith("--"):
        return word in options and not options[word].is_flag
    if not word.startswith("-"):
        return False
    for place, letter in enumerate(word[1:], 2):
        option = options.get(f"-{letter}")
        if option is not None and not option.is_flag:
            return place == len(word)
    return False


def _value(ctx: click.Context, parameter: Parameter, words: deque[str]) -> str:
    """The value of a parameter from the words behind its name; a boolean may stand alone."""
    if parameter.type == "boolean" and (not words or words[0].startswith("-")):
        return "true"
    if not words:
        raise click.BadOptionUsage(f"--{parameter.name}", f"Option '--{parameter.name}' requires a value.", ctx)
    return words.popleft()


def _complete(
    ctx: click.Context, workflow: str | None, words: Callable[[Parameter], list[str]], incomplete: str
) -> list[CompletionItem]:
    """What `words` gives for each parameter of a workflow, as far as it begins with what is typed."""
    from sparkles.cli.arguments import complete

    if not workflow:
        return []
    script = workflow
    return complete(
        ctx, lambda app: [(word, each.doc) for each in declared_by(app, script) for word in words(each)], incomplete
    )


def declared_by(app: App, workflow: str) -> list[Parameter]:
    """The parameters of a workflow, in the order of its text; none where it declares none."""
    from sparkles.lua import declared

    path, _ = app.scripts.find(workflow)
    return declared.parameters(path, workflow, app.scripts.module_folders(path)) or []


def help_page(app: App, workflow: str, taken: Container[str]) -> list[str]:
    """A workflow's own help: what it says of itself, how it is run, its parameters. `taken` are the options of the command."""
    from sparkles.lua import declared

    path, _ = app.scripts.find(workflow)
    found = declared_by(app, workflow)
    lines = [f"Usage: sparkles run {workflow} {'[--NAME VALUE]...' if found else '[-p KEY=VALUE]...'}", ""]
    lines += [f"  {text}".rstrip() for text in declared.doc(path)] or [
        "  (the script says nothing of itself: begin it with a comment)"
    ]
    if not found:
        return [*lines, "", "It declares no parameters (params{...} before its first step)."]
    return [
        *lines,
        "",
        "Parameters:",
        *table(found, taken),
        "",
        "--NAME VALUE is short for -p NAME=VALUE. Options of run: sparkles run --help",
    ]


def table(parameters: Sequence[Parameter], taken: Container[str]) -> list[str]:
    """A line for each parameter: how it is given, its type, its default, its doc."""
    rows = [(_given(each, taken), each.type, _default(each), _doc(each)) for each in parameters]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    lines = []
    for row in rows:
        cells = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False))
        lines.append(f"  {cells}  {row[3]}".rstrip())
    return lines


def _given(parameter: Parameter, taken: Container[str]) -> str:
    """`--csv`, or `-p json=` where the option of the command has the name."""
    option = f"--{parameter.name}"
    return option if option not in taken else f"-p {parameter.name}="


def _default(parameter: Parameter) -> str:
    from sparkles import digest

    if parameter.required:
        return "required"
    value = parameter.default
    return value if isinstance(value, str) and value else digest.canonical(value)


def _doc(parameter: Parameter) -> str:
    low, high = parameter.min, parameter.max
    wanted = ", ".join(map(str, parameter.choices))
    if low is not None or high is not None:
        wanted = (
            f"{low} to {high}"
            if low is not None and high is not None
            else f"{low} or more"
            if high is None
            else f"{high} or less"
        )
    return " ".join(filter(None, (parameter.doc, f"({wanted})" if wanted else "")))
