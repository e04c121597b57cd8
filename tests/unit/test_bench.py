"""The benchmarks that are run, those that are documented and the page they write to agree; a verdict says what it means."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ModuleType, ModuleType]]:
    """bench/common.py and bench/all.py, which import each other by their bare names."""
    monkeypatch.syspath_prepend(str(BENCH))
    before = set(sys.modules)
    yield importlib.import_module("common"), importlib.import_module("all")
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and Path(str(sys.modules[name].__file__)).parent == BENCH:
            del sys.modules[name]


def test_every_benchmark_is_run_and_documented(modules: tuple[ModuleType, ModuleType]) -> None:
    """A new script is not forgotten by `make bench` or by bench/README.md."""
    scripts = {path.stem for path in BENCH.glob("*.py") if "\ndef measure(" in path.read_text("utf-8")}
    assert {*modules[1].NAMES, *modules[1].BY_NAME} == scripts
    page = (BENCH / "README.md").read_text("utf-8")
    assert [name for name in scripts if f"| `{name}.py` |" not in page] == []


def test_the_table_replaces_the_one_before(
    modules: tuple[ModuleType, ModuleType], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Only what stands between the markers is written anew, however often."""
    common, runner = modules
    page = tmp_path / "performance.md"
    page.write_text(f"# P\n\n{runner.BEGIN}\nold\n{runner.END}\n\n## After\n")
    monkeypatch.setattr(runner, "PAGE", page)
    monkeypatch.setattr(runner, "ROOT", tmp_path)
    for value in (0.4, 0.6):
        runner.write([common.Row("re-run", value, "s", 0.5, "new run")])
    text = page.read_text()
    assert text.startswith(f"# P\n\n{runner.BEGIN}\nMeasured on ")
    assert text.endswith(
        f"| re-run | 0.6 s | at most 0.5 s | missed: 1.20 times the goal | new run |\n{runner.END}\n\n## After\n"
    )
    assert "0.4 s" not in text


def test_a_command_that_fails_gives_no_figure(modules: tuple[ModuleType, ModuleType], tmp_path: Path) -> None:
    """Another exit code than expected is an error with what the command printed."""
    common, _ = modules
    assert common.run(["/bin/sh", "-c", "exit 3"], tmp_path, expect=3).seconds > 0
    with pytest.raises(common.Failed, match=r"(?s)ended with 3 instead of 0:\nthe reason"):
        common.run(["/bin/sh", "-c", "echo the reason; exit 3"], tmp_path)
