"""What is in the wheel, and that the locked requirements are those of pyproject.toml."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def normal(requirement: str) -> str:
    """`sqlite_utils>=3.38` -> `sqlite-utils`."""
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match
    return re.sub(r"[-_.]+", "-", match.group()).lower()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "-w",
        str(target),
        str(ROOT),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=100)
    (built,) = target.glob("sparkles-*.whl")
    return built


@pytest.mark.slow
def test_the_wheel_carries_what_runs_need(wheel: Path) -> None:
    """Every module, Lua file and ready workflow is in it; tests (those of workflows too), benchmarks and examples are not."""
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {path.relative_to(ROOT).as_posix() for path in (ROOT / "sparkles").rglob("*") if path.suffix in (".py", ".lua")}
    ready = [path.name for path in (ROOT / "workflows").glob("*.lua") if not path.name.endswith("_test.lua")]
    expected |= {"sparkles/workflows/" + name for name in ready}
    assert expected <= names
    assert not [name for name in names if name.endswith("_test.lua")]
    assert {name.split("/")[0] for name in names} <= {"sparkles", wheel.name.split("-py3")[0] + ".dist-info"}
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.mark.slow
def test_the_wheel_works_from_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    """Installed into a new environment, it says its version with nothing of this checkout on the path."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "env")], check=True, timeout=60)
    python = str(tmp_path / "env" / "bin" / "python")
    install = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True, capture_output=True, timeout=100)
    paths = [path for path in sys.path if path.endswith("site-packages")]
    code = (
        f"import sys; sys.path += {paths!r}; import sparkles, sparkles.cli.main; "
        "print(sparkles.__file__, flush=True); sys.exit(sparkles.cli.main.main())"
    )
    done = subprocess.run(
        [python, "-c", code, "version"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    place, *rest = done.stdout.splitlines()
    assert place.startswith(str(tmp_path))
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert wheel.name.split("-")[1] in " ".join(rest)


@pytest.mark.parametrize("lock", ["runtime", "dev"])
def test_locks_hold_what_the_project_asks_for(lock: str) -> None:
    """Each lock pins every package that pyproject.toml asks for, each with a hash; `make lock` computes them anew."""
    text = (ROOT / "requirements" / f"{lock}.lock").read_text("utf-8")
    blocks = re.split(r"\n(?=[a-z0-9])", "\n".join(line for line in text.splitlines() if not line.startswith("#")))
    pinned = {normal(block.strip()) for block in blocks if block.strip()}
    groups = PROJECT["dependency-groups"]
    asked = [*PROJECT["project"]["dependencies"], *groups["build"], *(each for each in groups["dev"] if isinstance(each, str))]
    if lock == "runtime":
        asked = [*PROJECT["project"]["dependencies"], *groups["build"]]
    assert {normal(each) for each in asked} <= pinned
    for block in blocks:
        if block.strip():
            assert "==" in block, f"not pinned: {block.splitlines()[0]}"
            assert "--hash=sha256:" in block, f"no hash: {block.splitlines()[0]}"


def test_the_dev_lock_agrees_with_the_runtime_lock() -> None:
    """What users run is what the tests run."""
    versions = [
        dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / "requirements" / f"{lock}.lock").read_text("utf-8"), re.MULTILINE))
        for lock in ("runtime", "dev")
    ]
    runtime, dev = versions
    assert {name: dev.get(name) for name in runtime} == runtime
