"""Rules about the project's files as such: what they may not mention, how modules begin, how long they grow."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

LONG: dict[str, str] = {
    "sparkles/model.py": "every value that crosses a layer, on one page of words",
    "sparkles/engine/worker.py": "one loop on one thread; its pure parts stand in capacity, reservation, retry and outputs",
    "sparkles/lua/api.py": "one table: each function of the scripts declared once",
}
"""Python files that may have more than LIMIT lines, and why each is still one noun."""

LIMIT = 400

TEST_LIMIT = 700
"""Of a file of tests: the suite of a port is one list of promises, however long."""

# Written in pieces, so that this file does not mention what it looks for.
MACHINE = re.compile(r"(?<![\w.~}-])/(?:wo" + r"rk|ro" + r"ot|Users|ho" + r"me/(?!user\b|me\b|you\b))/|\.py" + r"env/")
REGISTRIES = re.compile(
    r"\b(?:py"
    + r"pi\.org|python"
    + r"hosted\.org|test\.pypi|proxy\.golang|registry\.npm|crates\.io|deb\.debian|extra-in"
    + r"dex|index-u"
    + r"rl)",
    re.IGNORECASE,
)
GENERATED = re.compile(r"\.(?:csv|png|gz|db|svg)$")


def tracked() -> list[Path]:
    """The files that git knows or would add; those of an unpacked archive where there is no git."""
    done = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=False
    )
    if done.returncode == 0:
        paths = [ROOT / name for name in done.stdout.decode().split("\0") if name]
    else:
        paths = [path for path in ROOT.rglob("*") if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)]
    return [path for path in paths if path.is_file() and not GENERATED.search(path.name)]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


PYTHON = sorted(path for path in tracked() if path.suffix == ".py" or name_of(path) == "tests/run-all")


def test_no_file_mentions_a_machine_or_a_registry() -> None:
    """The project says nothing about the machine it was written on, nor where packages are fetched from."""
    found = []
    for path in tracked():
        for number, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), 1):
            found += [
                f"{name_of(path)}:{number}: {match.group()}"
                for match in (MACHINE.search(line), REGISTRIES.search(line))
                if match
            ]
    assert not found


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("cd /wo" + "rk/main", True),
        ("/ro" + "ot/.cache", True),
        ("see https://example.org/wo" + "rk/one", False),
        ("the wo" + "rk/life balance", False),
        ("/home/user/project", False),
        ('f"{folder}/wo' + 'rk/{name}"', False),
    ],
)
def test_the_machine_pattern(line: str, found: bool) -> None:
    """The pattern finds what it is for and leaves addresses and prose alone."""
    assert bool(MACHINE.search(line)) is found


@pytest.mark.parametrize("path", PYTHON, ids=name_of)
def test_a_module_says_what_it_is(path: Path) -> None:
    """Every Python file opens with a docstring, except an empty package marker."""
    text = path.read_text("utf-8")
    if path.name == "__init__.py" and not text.strip():
        return
    assert ast.get_docstring(ast.parse(text)), f"{name_of(path)} does not say what it is"


def test_files_stay_short() -> None:
    """A file is one noun: more lines than its limit need a reason in LONG, and a reason that is not needed any more goes."""
    over = set()
    for path in PYTHON:
        limit = TEST_LIMIT if name_of(path).startswith("tests/") else LIMIT
        if (count := len(path.read_text("utf-8").splitlines())) > limit:
            over.add(f"{name_of(path)}: {count} lines of {limit}")
    assert {each for each in over if each.split(":")[0] not in LONG} == set()
    assert set(LONG) - {each.split(":")[0] for each in over} == set()
