"""The command line describes itself truly: table, help, examples, documentation, exit codes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from sparkles.cli import main
from sparkles.cli.main import COMMANDS, cli

DOCS = (Path(__file__).resolve().parents[2] / "docs" / "commands.md").read_text("utf-8")
SECTIONS = dict(re.findall(r"^### (\S+)\n(.*?)(?=^##|\Z)", DOCS, re.MULTILINE | re.DOTALL))
SHOWS_NO_VALUES = {"completion"}
"""Commands without --json: a script."""


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_agrees_with_the_command(name: str) -> None:
    """What `sparkles --help` prints without importing a command is the first sentence of that command's help."""
    command = cli.commands[name]
    assert isinstance(command, click.Command)
    assert command.name == name
    assert (command.help or "").split("\n\n")[0].replace("\n", " ") == COMMANDS[name].help
    assert not command.hidden


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_help_an_example_and_a_place_in_the_docs(name: str) -> None:
    """Help ends with an example of this command, which the documentation has a section for."""
    command = cli.commands[name]
    text = command.get_help(click.Context(command, info_name=name, parent=click.Context(cli, info_name="sparkles")))
    assert re.search(rf"Example:\s+sparkles {name}\b", text.splitlines()[-1]), text
    assert f"    sparkles {name}" in SECTIONS[name]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_described_here_and_in_the_docs(name: str) -> None:
    """Each option has a help text and stands in the command's section, a global one at the top; every command that shows something
    has --json."""
    command = cli.commands[name]
    options = [each for each in command.params if isinstance(each, click.Option)]
    assert [each.opts[-1] for each in options if not each.help] == []
    general = DOCS.split("## Workflows")[0]
    for option in options:
        longest = max(option.opts, key=len)
        where = (
            general if longest == "--json" or option.hidden else SECTIONS[name] + (SECTIONS["run"] if name == "resume" else "")
        )
        assert f"`{longest}" in where or f" {longest}" in where, f"docs/commands.md: {name} does not mention {longest}"
    assert ("--json" in [opt for each in options for opt in each.opts]) == (name not in SHOWS_NO_VALUES)


def test_the_docs_name_no_option_that_is_not_there() -> None:
    """An option that a section of docs/commands.md shows exists in that command."""
    for name, text in SECTIONS.items():
        known = {opt for each in [*cli.commands[name].params, *cli.params] for opt in each.opts} | {"--help"}
        # What a task's own command takes stands after " -- ".
        shown = re.sub(r" -- .*", "", text)
        assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", shown)) <= known, name


def test_help_loads_next_to_nothing() -> None:
    """`sparkles --help` imports no command, no store and no library but click."""
    code = "import sys; from sparkles.cli.main import main; main(['--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    loaded = set(done.stderr.split())
    assert {name for name in loaded if name.startswith("sparkles.cli.")} == {"sparkles.cli.main", "sparkles.cli.render"}
    assert not loaded & {"sqlite3", "lupa", "rich", "psutil", "msgspec", "sqlite_utils", "sparkles.app", "sparkles.model"}
    assert all(f"  {name} " in done.stdout for name in COMMANDS)


def test_a_bug_is_one_sentence_and_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """An exception that nobody foresaw gives exit code 70, one sentence, and its traceback in a file of the state folder."""
    (tmp_path / ".sparkles").mkdir()
    monkeypatch.chdir(tmp_path)

    @click.command()
    def broken() -> None:
        raise ZeroDivisionError("on purpose")

    monkeypatch.setitem(cli.commands._loaded, "version", broken)
    assert main.main(["version"]) == 70
    told = capsys.readouterr().err
    assert told.startswith("error: This is a bug in sparkles: ZeroDivisionError: on purpose\n")
    assert "Traceback" not in told
    (kept,) = (tmp_path / ".sparkles").glob("bug-*.txt")
    assert str(kept) in told
    assert "raise ZeroDivisionError" in kept.read_text("utf-8")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["rum"], 2, "error: there is no command 'rum'. Did you mean 'run'?\nSee `sparkles --help`.\n"),
        (["run"], 2, "error: name a workflow: a .lua file or a ready one, or --fork RUN\n"),
        (["run", "--nwe", "w.lua"], 2, "error: No such option '--nwe'. Did you mean '--new'?\nSee `sparkles run --help`.\n"),
        (
            ["run", "-p", "alpha", "w.lua"],
            2,
            "error: Invalid value for '-p' / '--param': expected KEY=VALUE, found 'alpha'\nSee `sparkles run --help`.\n",
        ),
        (
            ["wait", "LAST", "--timeout", "soon"],
            2,
            "error: Invalid value for '--timeout': expected a duration such as 90s, 1.5m or 24h, found 'soon'\n"
            "See `sparkles wait --help`.\n",
        ),
        (["sub"], 2, "error: expected a command after --, or --file JOB.JSON\nSee `sparkles sub --help`.\n"),
        (["sub", "--csv", "none.csv", "--", "echo"], 2, "error: none.csv: no such file\n"),
        (["list", "--failed"], 2, "error: --state, --failed and --params choose among the tasks of a job: name the JOB\nSee"),
        (["status", "LAST"], 2, "error: no state folder here: nothing was run yet (looked for "),
        (["run", "w.lua"], 2, "error: w.lua: no such file (looked for "),
    ],
)
def test_mistakes_are_told_in_a_sentence(
    arguments: list[str], code: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """A mistake of the user's gives exit code 2 and says what was expected."""
    (tmp_path / ".sparkles").mkdir()  # or a folder above might have one
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main.main(arguments) == code
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith(message)


@pytest.mark.parametrize("behind", [False, True], ids=["before the command", "behind it"])
def test_global_options_stand_before_the_command_or_behind_it(behind: bool, tmp_path, monkeypatch) -> None:
    """Both give the same settings, and the command that goes on repeats them; behind a workflow's parameters too."""
    script = tmp_path / "w.lua"
    script.write_text("local p = params{alpha = {type = 'number', default = 1}}\n")
    monkeypatch.chdir(tmp_path)
    options = ["--backend", "cloud", "--fleet=none"]
    line = ["run", "w.lua", "--alpha", "2"]
    seen = {}

    def execute(invocation, execute, again, everything, **rest):
        seen.update(settings=invocation.settings, again=again)

    monkeypatch.setattr("sparkles.cli.workflows._execute", execute)
    cli.main([*line, *options] if behind else [*options, *line], standalone_mode=False)
    assert (seen["settings"].backend, seen["settings"].fleet) == ("cloud", "none")
    assert seen["settings"].sources["fleet"] == "--fleet"
    assert seen["again"] == "sparkles --backend cloud --fleet none run w.lua -p alpha=2"


def test_an_option_of_the_command_itself_wins_behind_it() -> None:
    """`list --state` chooses tasks, `sparkles --state` a folder."""
    words = {opt: option for option in cli.commands["list"].params for opt in option.opts}
    assert words["--state"].name == "states"
    assert "--backend" in words
