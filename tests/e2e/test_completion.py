"""Completion in real shells."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from tests.support.cli import SPARKLES, Project, environment
from tests.support.needs import requires

pytestmark = [pytest.mark.e2e]


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    project = Project(tmp_path / "project")
    project.write("workflow.lua", "log('hi')")
    project.write("other.txt", "")
    (project.folder / "folder").mkdir()
    project.run("run", "workflow.lua")
    project.run("sub", "-n", "alpha", "--", "true")
    project.run("sub", "-n", "beta", "--", "true")
    yield project
    project.close()


def complete(project: Project, line: str, word: str) -> list[str]:
    """What click gives bash for a line whose last word is `word`."""
    words = line.split()
    env = environment(
        project.folder,
        _SPARKLES_COMPLETE="bash_complete",
        COMP_WORDS=line,
        COMP_CWORD=str(len(words) - 1 if word else len(words)),
    )
    done = subprocess.run([SPARKLES], cwd=project.folder, env=env, capture_output=True, text=True, timeout=30, check=True)
    return [each.split(",", 1)[1] for each in done.stdout.splitlines() if each]


def test_parameters_that_a_workflow_declares_are_completed(project: Project) -> None:
    """Names with their equals sign, and the choices of those that have them."""
    project.write(
        "typed.lua", 'params{alpha = {type = "number", default = 1}, mode = {choices = {"fast", "slow"}, default = "fast"}}'
    )
    assert complete(project, "sparkles run typed.lua -p mo", "mo") == ["mode=", "mode=fast", "mode=slow"]
    assert complete(project, "sparkles run typed.lua -p mode=fast -p a", "a") == ["alpha="]
    assert complete(project, "sparkles run workflow.lua -p a", "a") == []
    assert complete(project, "sparkles run typed.lua --a", "--a") == ["--alpha"]
    assert complete(project, "sparkles plan typed.lua --alpha 1 --m", "--m") == ["--mode"]
    assert complete(project, "sparkles run typed.lua --mode ", "") == ["fast", "slow"]
    assert complete(project, "sparkles run typed.lua --mode s", "s") == ["slow"]


def test_what_is_completed(project: Project) -> None:
    """Commands, options, jobs, runs, workflows."""
    assert complete(project, "sparkles re", "re") == ["resume", "replay", "reset"]
    assert complete(project, "sparkles run --f", "--f") == ["--fork", "--frozen"]
    (alpha,) = complete(project, "sparkles status al", "al")
    assert alpha.startswith("alpha-")
    assert {each.split("-")[0] for each in complete(project, "sparkles logs ", "")} == {"alpha", "beta", "LAST"}
    (run,) = [each for each in complete(project, "sparkles resume ", "") if each != "LAST"]
    assert run == project.json("runs")[0]["run"]
    assert run in complete(project, "sparkles kill r", "r")
    scripts = complete(project, "sparkles run ", "")
    assert "workflow.lua" in scripts
    assert "folder/" in scripts
    assert "other.txt" not in scripts


def test_completion_leaves_nothing_behind(tmp_path: Path) -> None:
    """In a folder without state nothing is offered and nothing is made; a broken settings file is no traceback."""
    project = Project(tmp_path / "empty")
    assert complete(project, "sparkles status ", "") == []
    project.write("sparkles.toml", "not toml [")
    assert complete(project, "sparkles status ", "") == []
    assert sorted(path.name for path in project.folder.iterdir()) == ["sparkles.toml"]


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_in_a_shell(shell: str, project: Project) -> None:
    """After the script was read as the documentation says, the tab key completes a job's id."""
    program = shutil.which(shell)
    requires(program is not None, f"{shell} is not installed (apt-get install {shell})")
    script = project.run("completion", shell).stdout
    path = project.write(f"completion.{shell}", script)
    env = environment(project.folder, PATH=f"{Path(SPARKLES).parent}:/usr/local/bin:/usr/bin:/bin", PS1="", TERM="dumb")
    quiet = {"bash": ["--norc", "--noprofile", "-i"], "zsh": ["-f", "-i"], "fish": ["--no-config", "-i"]}[shell]
    child = pexpect.spawn(
        program or shell, quiet, cwd=str(project.folder), env=env, encoding="utf-8", timeout=20, dimensions=(24, 200)
    )
    try:
        child.sendline("echo rea''dy")
        child.expect("ready")
        if shell == "zsh":
            child.sendline("autoload -Uz compinit && compinit -u -D")
        child.sendline(f"source {path}; echo re''ad")
        child.expect("read")
        time.sleep(0.2)
        child.send("sparkles status alp\t")
        child.expect(r"alpha-[0-9a-f]{8}")
        job = next(each["job"] for each in project.json("list") if each["name"] == "alpha")
        assert child.after == job
    finally:
        child.close(force=True)
