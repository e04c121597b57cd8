"""docs/google.md: what its walk-through on a laptop shows is what the commands print, ids, times and addresses aside."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e.test_docs import sessions
from tests.support import emulators
from tests.support.cli import SPARKLES

pytestmark = [pytest.mark.google, pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(300)]

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "google.md").read_text("utf-8")
LAPTOP = PAGE.split("## On a laptop, without an account\n")[1].split("\n## ")[0]

CHANCE = (
    (r"\b\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\b", "TIME"),
    (r"\b127\.0\.0\.1:\d+", "ADDRESS"),
    (r"\b(r|squares)-[0-9a-f]{8}\b", r"\1-ID"),
    (r"\b\d+(\.\d+)? (ms|s|min)\b", r"N \2"),
    (r"\b\d+(\.\d+)? (B|KiB|MiB)\b", "SIZE"),
    (r"[ \t]+", " "),
)
"""What differs from day to day, and what it is compared as; a table's columns are as wide as what is in them."""


def plain(text: str) -> list[str]:
    for pattern, instead in CHANCE:
        text = re.sub(pattern, instead, text)
    return [line.rstrip() for line in text.splitlines()]


def test_the_walk_through_prints_what_it_says(cloud):
    """Each command in its order; the lines below it come in theirs."""
    shutil.copytree(ROOT / "examples", cloud.folder / "examples")
    # As the page has it: the installation that nobody named.
    environ = cloud.environment(SPARKLES_GOOGLE_PREFIX="", SPARKLES_GOOGLE_TOPIC="")
    environ["PATH"] = f"{Path(SPARKLES).parent}:{environ['PATH']}"
    blocks = sessions(LAPTOP)
    assert sum(len(block) for block in blocks) >= 9
    for command, expected in (each for block in blocks for each in block):
        done = subprocess.run(
            ["/bin/sh", "-c", command], cwd=cloud.folder, env=environ, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        printed = plain(done.stderr + done.stdout)
        position = 0
        for line in plain(expected):
            assert line in printed[position:], f"{command}: no line {line!r} (in this order) in:\n" + "\n".join(printed)
            position = printed.index(line, position) + 1


def test_what_make_emulators_prints():
    """The lines of the page that are to be pasted are those that the program prints, with its own names."""
    block = re.search(r"```sh\n(# To use them.*?)```", LAPTOP, re.DOTALL)[1]
    source = (ROOT / "tests" / "support" / "emulators.py").read_text("utf-8")
    for line in block.splitlines():
        if line.startswith("#"):
            assert f'"{line}"' in source
    names = re.findall(r"^export ([A-Z_]+)=", block, re.MULTILINE)
    assert names[:3] == [emulators.VARIABLES[service] for service in emulators.SERVICES]
    assert f"SPARKLES_GOOGLE_PROJECT={emulators.PROJECT} SPARKLES_GOOGLE_BUCKET={emulators.BUCKET}" in block
