"""Set-up says plainly what is missing, and the test runner counts what happened."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The files that set-up looks at, with nothing installed."""
    (tmp_path / "requirements").mkdir()
    for name in ("requirements/install", "requirements/runtime.lock", "pyproject.toml"):
        shutil.copy2(ROOT / name, tmp_path / name)
    return tmp_path


def install(project: Path, python: str) -> subprocess.CompletedProcess[str]:
    """Runs set-up with a stand-in for the interpreter: a shell script whose first argument is -c or --version."""
    fake = project / "fake-python"
    fake.write_text(f"#!/bin/sh\n{python}\n")
    fake.chmod(0o755)
    command = [str(project / "requirements" / "install"), "runtime"]
    env = {"PATH": "/usr/bin:/bin", "PYTHON": str(fake)}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=30, check=False)


def test_no_venv_module_names_the_package(project: Path) -> None:
    """A Debian Python without its venv package is told which package to install."""
    done = install(project, 'case "$2" in *ensurepip*) exit 1;; *print*) echo 3.11;; esac')
    assert done.returncode == 1
    assert "(3.11) cannot make a virtual environment" in done.stderr
    assert "apt-get install python3-venv (or python3.11-venv)" in done.stderr
    assert not (project / ".venv").exists()


def test_an_old_python_is_refused(project: Path) -> None:
    """Without any Python 3.11, set-up says what it needs and how to name another interpreter."""
    done = install(project, "exit 1")
    assert done.returncode == 1
    assert "sparkles needs Python 3.11 or newer" in done.stderr
    assert "make PYTHON=" in done.stderr
    assert not (project / ".venv").exists()


@pytest.fixture(scope="module")
def run_all() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("run_all", str(ROOT / "tests" / "run-all"))
    spec = importlib.util.spec_from_loader("run_all", loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


REPORT = """<testsuites><testsuite>
<testcase classname="a" name="one"/>
<testcase classname="a" name="two"><failure message="x"/></testcase>
<testcase classname="a" name="three"><error message="x"/></testcase>
<testcase classname="a" name="four"><skipped message="no fish here"/></testcase>
</testsuite></testsuites>"""


@pytest.mark.parametrize(
    ("text", "code", "expected"),
    [
        (REPORT, 1, (1, 2, 1, "a::four: no fish here")),
        ("<testsuites/>", 5, (0, 0, 0, "could not run: there are no tests in it")),
        ('<testsuites><testcase name="x"/></testsuites>', 3, (1, 1, 0, "pytest ended with code 3")),
        ('<testsuites><testcase name="x"/></testsuites>', 0, (1, 0, 0, "")),
    ],
    ids=["mixed", "empty", "internal-error", "good"],
)
def test_reports_are_counted(
    run_all: ModuleType, tmp_path: Path, text: str, code: int, expected: tuple[int, int, int, str]
) -> None:
    """Failures, errors and skips are told apart, and an exit code that they do not explain is a failure."""
    report = tmp_path / "report.xml"
    report.write_text(text)
    assert run_all.read_report(report, code) == expected


@pytest.mark.parametrize(
    ("outcome", "everything", "failed"),
    [
        ((3, 0, 2, ""), False, 0),
        ((3, 0, 2, ""), True, 2),
        ((0, 0, 0, "could not run: no mypy"), True, 1),
        ((3, 0, 0, ""), True, 0),
    ],
)
def test_everything_means_no_skips(
    run_all: ModuleType, outcome: tuple[int, int, int, str], everything: bool, failed: int
) -> None:
    """Under SPARKLES_TEST_ALL=1 a skipped test, and a group that could not run, is a failure."""
    assert run_all.strict(run_all.Outcome(*outcome), everything=everything).failed == failed


@pytest.mark.parametrize(
    ("path", "needs", "why"),
    [
        ("tests", ("no_such_module",), "could not run: no_such_module is not installed here (requirements/install dev)"),
        ("tests/none", (), "could not run: there is no tests/none"),
    ],
)
def test_what_is_missing_is_named(run_all: ModuleType, path: str, needs: tuple[str, ...], why: str) -> None:
    """A group whose tool or folder is missing says so instead of running."""
    assert run_all.run(run_all.Group("none", pytest=(path,), needs=needs), quick=False) == (0, 0, 0, why)
