"""The documentation holds: the README's commands do what it says, its script is the example, links lead somewhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md"), *ROOT.glob("bench/*.md")])
COMMANDS = (ROOT / "docs" / "commands.md").read_text("utf-8")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """What the commands of the documentation need, in a folder that they may write to."""
    project = tmp_path / "project"
    shutil.copytree(
        ROOT / "examples", project / "examples", ignore=shutil.ignore_patterns("best.csv", "summary.txt", "__pycache__")
    )
    shutil.copytree(ROOT / "workflows", project / "workflows")
    return project


def run(command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs a shell command as a reader would who has activated the environment; no settings of the caller reach it."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("SPARKLES_")}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    env["XDG_CONFIG_HOME"] = str(cwd / "no-config")
    return subprocess.run(
        ["/bin/sh", "-c", command], cwd=cwd, env=env, capture_output=True, text=True, timeout=100, check=False
    )


def sessions(text: str) -> list[list[tuple[str, str]]]:
    """The console blocks of a page, each as (command, what it prints)."""
    found = []
    for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL):
        parts = re.split(r"^\$ (.*)\n", block, flags=re.MULTILINE)[1:]
        found.append(list(zip(parts[::2], parts[1::2], strict=True)))
    return found


@pytest.mark.e2e
def test_the_readme_prints_what_it_says(copy: Path) -> None:
    """Each command of the README's console blocks prints exactly what stands below it."""
    blocks = sessions(README)
    assert blocks
    for block in blocks:
        for command, expected in block:
            if command.startswith(". "):
                continue  # activates an environment; `run` has done it
            done = run(command, copy)
            assert done.returncode == 0, done.stderr
            printed = done.stdout + done.stderr
            position = -1
            for line in expected.splitlines():
                position = printed.find(line + "\n", position + 1)
                assert position >= 0, f"{command}: no line {line!r} (in this order) in:\n{printed}"


@pytest.mark.e2e
def test_the_demo_twice(copy: Path) -> None:
    """`make demo` runs the example; the second time nothing runs and the same files stand."""
    assert re.match(r"# sparkles\n\n    make demo\n    make demo\n", README)
    recipe = (ROOT / "Makefile").read_text("utf-8").split("\ndemo:")[1].split("\n\n")[0]
    command = recipe[recipe.index(".venv/bin/") + len(".venv/bin/") :].strip()
    assert command == "sparkles run examples/csv_submit.lua"
    first = run(command, copy)
    assert first.returncode == 0, first.stderr
    best = (copy / "examples" / "best.csv").read_bytes()
    assert len(best.splitlines()) == 11
    assert b"0.4,1.0" in best or b"290.009" in best
    assert "290.0 g after the second" in (copy / "examples" / "summary.txt").read_text("utf-8")
    before = {path: path.stat().st_mtime_ns for path in (copy / ".sparkles" / "jobs").rglob("result.json")}
    second = run(command, copy)
    assert second.returncode == 0, second.stderr
    assert (copy / "examples" / "best.csv").read_bytes() == best
    assert {path: path.stat().st_mtime_ns for path in (copy / ".sparkles" / "jobs").rglob("result.json")} == before


def test_the_script_of_the_readme_is_the_example() -> None:
    """The README shows examples/first.lua, whole."""
    (script,) = re.findall(r"```lua\n(.*?)```", README, re.DOTALL)
    assert script == (ROOT / "examples" / "first.lua").read_text("utf-8")


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link names a file or folder of the project, and every anchor a heading of it."""
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or not target.is_relative_to(ROOT) or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_pages_have_no_pictograms(page: Path) -> None:
    """Text is text: no emoji."""
    assert [char for char in page.read_text("utf-8") if unicodedata.category(char) == "So"] == []


def test_every_command_has_a_section_and_an_example() -> None:
    """docs/commands.md and the command line name the same commands; each section shows one being used."""
    from sparkles.cli.main import cli

    sections = dict(re.findall(r"^### (\S+)\n(.*?)(?=^##|\Z)", COMMANDS, re.MULTILINE | re.DOTALL))
    visible = {name for name, command in cli.commands.items() if not command.hidden}
    assert set(sections) == visible
    for name, text in sections.items():
        assert f"    sparkles {name}" in text, f"docs/commands.md: {name} has no example"


def test_every_decision_is_in_the_index() -> None:
    """docs/README.md links each page of docs/decisions, and every other page of docs."""
    index = (ROOT / "docs" / "README.md").read_text("utf-8")
    pages = [page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md") if page.name != "README.md"]
    assert [page for page in pages if f"({page})" not in index] == []
