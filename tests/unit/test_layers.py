"""Imports point down only, and what is heavy is imported where it is used."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "sparkles"

LEVELS = {
    **dict.fromkeys(("", "errors", "model", "states", "digest", "template", "rows", "suggest", "units", "hints"), 0),
    **dict.fromkeys(("ports", "wire", "config"), 1),
    "engine": 2,
    **dict.fromkeys(("lua", "backends"), 3),
    **dict.fromkeys(("app", "cloud", "installation", "rehearse", "scripts", "worker_process"), 4),
    **dict.fromkeys(("cli", "__main__"), 5),
}
"""The level of each part: a module of the package, or a folder of modules. "" is the package itself."""

PURE = {"errno", "os", "pathlib", "shutil", "socket", "sqlite3", "subprocess", "tempfile", "threading"}
"""What does I/O and therefore has no place in level 0."""

HEAVY = ("google", "kubernetes", "lupa", "rich", "sqlite_utils", "sqlite3", "hypothesis")

MODULES = sorted(PACKAGE.rglob("*.py"))


def part_of(module: str) -> str:
    """`sparkles.engine.replay` -> `engine`."""
    return [*module.split("."), ""][1]


def imports_of(path: Path) -> set[str]:
    """Every module that the file names in an import, at the top or inside a function."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import; write the full name"
            module = node.module or ""
            found.add(module)
            if module == "sparkles":
                found |= {
                    f"sparkles.{alias.name}" for alias in node.names if (PACKAGE / alias.name).with_suffix(".py").exists()
                }
    return found


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_down(path: Path) -> None:
    """No module imports from a level above its own; lua and backends do not know each other, nor do the folders of backends."""
    own = part_of(name_of(path))
    assert own in LEVELS, f"{path}: which level is it of? Add {own!r} to LEVELS and to docs/architecture.md"
    for module in imports_of(path):
        if not module.startswith("sparkles"):
            continue
        other = part_of(module)
        assert other in LEVELS, f"{path} imports {module}, which has no level"
        assert LEVELS[other] <= LEVELS[own], f"{path} (level {LEVELS[own]}) imports {module} (level {LEVELS[other]})"
        assert {own, other} != {"lua", "backends"}, f"{path} imports {module}: the script host and the backends are strangers"


@pytest.mark.parametrize("path", [path for path in MODULES if LEVELS.get(part_of(name_of(path))) == 0], ids=name_of)
def test_level_0_does_no_io(path: Path) -> None:
    """The values at the bottom touch no file, process, socket or database."""
    assert not {module.split(".")[0] for module in imports_of(path)} & PURE


@pytest.mark.parametrize("argv", [["-c", "import sparkles"], ["-m", "sparkles", "--help"]], ids=["import", "--help"])
def test_starting_loads_nothing_heavy(argv: list[str]) -> None:
    """`import sparkles` and `sparkles --help` load no cloud SDK, no Lua, no rich and no database."""
    done = subprocess.run([sys.executable, "-X", "importtime", *argv], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    loaded = {
        line.rsplit("|", 1)[1].strip().split(".")[0] for line in done.stderr.splitlines() if line.startswith("import time:")
    }
    assert "sparkles" in loaded
    assert not loaded & set(HEAVY)
