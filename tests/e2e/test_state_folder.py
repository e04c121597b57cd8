"""The state folder, by the real command: who may read it, when it is made, where the project's root is, and what damage to it does."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import subprocess
from pathlib import Path

import pytest

from tests.support.cli import SPARKLES, Project, environment
from tests.support.needs import small_disk

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# Who may read it

COPIES = """\
local made = run(JobBuilder("make")
  :addFiles("key.pem", "plain.txt", "tool.sh")
  :setCommandTemplate([[
    stat -c %a . key.pem plain.txt tool.sh > modes
    cat key.pem > key.copy; chmod 600 key.copy
    cat plain.txt > open.copy; chmod 644 open.copy]])
  :setOutputs{"modes", "key.copy", "open.copy"})
local outputs = made.tasks[1].outputs
local used = run(JobBuilder("use")
  :addFiles(outputs["key.copy"], outputs["open.copy"])
  :setCommandTemplate("stat -c %a key.copy open.copy > modes")
  :setOutputs{"modes"})
fetch(made, "made")
fetch(used, "used")
"""


@pytest.mark.parametrize("there", [False, True], ids=["made by sparkles", "made by hand"])
def test_what_others_may_not_read_stays_so(project: Project, there: bool) -> None:
    """Under the usual umask the state folder is its user's alone, or where it was there, all that is in it; copies are no wider than
    their source, in tasks, in later tasks and in what is fetched."""
    for name, wanted in (("key.pem", 0o600), ("plain.txt", 0o644), ("tool.sh", 0o700)):
        project.write(name, f"content of {name}\n").chmod(wanted)
    project.write("w.lua", COPIES)
    state = project.folder / ".sparkles"
    if there:
        state.mkdir()
        state.chmod(0o755)
    project.run("run", "w.lua", umask=0o022)
    assert mode(state) == (0o755 if there else 0o700)
    others = [path for path in state.iterdir() if mode(path) & 0o077 and path.name != ".gitignore"]
    assert others == []
    for path in (state / "cas").rglob("*"):
        assert path.is_dir() or mode(path) == 0o400
    assert (project.folder / "made/1/modes").read_text().split() == ["755", "600", "644", "700"]
    assert (project.folder / "used/1/modes").read_text().split() == ["600", "644"]
    assert mode(project.folder / "made/1/key.copy") == 0o600
    assert mode(project.folder / "made/1/open.copy") == 0o644


def test_a_narrow_umask(project: Project) -> None:
    """Everything works, and nothing is readable for others."""
    project.write("plain.txt", "x\n")
    project.write("w.lua", COPIES.replace('"key.pem", "plain.txt", "tool.sh"', '"plain.txt", {src="plain.txt", dst="key.pem"}'))
    project.run("run", "w.lua", umask=0o077)
    wide = [path for path in (project.folder / ".sparkles").rglob("*") if mode(path) & 0o077]
    assert wide == []
    assert os.listdir(project.folder / "made/1")


# When it is made


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("words", ["list", "runs", "status", "clean", "clean --yes", "doctor", "version", "workflows"])
@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
def test_looking_makes_nothing(project: Project, words: str, as_json: bool) -> None:
    """Where nothing was run, commands that list say so on stderr and print nothing."""
    done = project.run(*words.split(), *(["--json"] if as_json else []))
    assert everything(project.folder) == []
    if words.split()[0] in ("list", "runs", "status", "clean"):
        assert done.stdout == ""
        assert done.stderr == f"no state folder here: nothing was run yet (looked for {project.folder}/.sparkles/sparkles.db)\n"


@pytest.mark.parametrize(
    "words",
    [
        *("show LAST", "logs LAST", "fetch LAST out", "list LAST", "status LAST", "wait LAST", "watch LAST", "kill LAST"),
        *("reset LAST", "clean LAST", "resume LAST", "replay LAST"),
    ],
)
def test_what_needs_a_job_or_a_run_says_that_there_is_none(project: Project, words: str) -> None:
    """And makes nothing."""
    done = project.run(*words.split(), code=2)
    assert "no state folder here: nothing was run yet" in done.stderr
    assert everything(project.folder) == []


def test_a_plan_makes_nothing(project: Project) -> None:
    """Neither does a script that is not there, or one that is wrong from its first line."""
    project.write("data.csv", "n\n1\n2\n")
    project.write("w.lua", 'run(JobBuilder("j"):setCommandTemplate("echo {n}"):createTasksFor(readCsv("data.csv")))')
    before = everything(project.folder)
    assert "0 of 2 tasks reused, 2 would run" in project.run("plan", "w.lua").stdout
    assert [step["tasksNew"] for step in project.json("plan", "w.lua")] == [0, 2, 0]
    project.run("run", "v.lua", code=2)
    project.run("sub", "--dry-run", "--csv", "data.csv", "--", "echo {n}")
    assert everything(project.folder) == before


@pytest.mark.parametrize("words", ["list", "runs", "status", "clean", "show LAST", "logs LAST/1"])
def test_a_state_folder_that_is_named_and_is_none(project: Project, words: str) -> None:
    """An error that names it: a typing mistake would look like an empty project."""
    other = project.folder / "other"
    other.mkdir()
    project.write("file", "")
    for name, why in (("stat", "it is not there"), ("other", "it holds no sparkles.db")):
        done = project.run("--state", name, *words.split(), code=2)
        assert f"--state {project.folder}/{name}: expected a state folder of sparkles; {why}" in done.stderr
    assert everything(project.folder) == ["file", "other"]


def test_two_drivers_make_the_folder_at_once(project: Project) -> None:
    """Eight of them: each run succeeds, and the folder is as one would have made it."""
    started = [project.start("sub", "--seq", "2", "--", f"echo {number} {{i}}") for number in range(8)]
    for process in started:
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == 0, stderr
    assert len(project.json("list")) == 8
    assert mode(project.folder / ".sparkles") == 0o700


def test_a_state_folder_behind_a_link(project: Project, tmp_path: Path) -> None:
    """A link to a folder elsewhere is the state folder; one to nowhere is named."""
    (project.folder / ".sparkles").symlink_to(tmp_path / "scratch")
    done = project.run("sub", "--", "echo x", code=3)
    assert f"cannot make the state folder {project.folder}/.sparkles" in done.stderr
    assert f"a link to {tmp_path}/scratch" in done.stderr
    (tmp_path / "scratch").mkdir()
    project.run("sub", "--", "echo x")
    assert (tmp_path / "scratch" / "sparkles.db").is_file()
    assert len(project.json("list")) == 1


# Where the root is


def test_a_root_far_above_is_named(project: Project, tmp_path: Path) -> None:
    """Once by each command that runs something, where it is neither the current folder nor the script's own; never by those that look."""
    project.run("sub", "--", "true")
    deep = Project(project.folder / "a" / "b")
    project.write("above.txt", "x")
    deep.write("w.lua", 'log("%s", readText("above.txt")); fail("stop")')
    line = f"project root: {project.folder} (it has .sparkles)"
    for words, code in ((["run", "w.lua"], 1), (["resume", "LAST"], 1), (["sub", "--", "true"], 0)):
        assert deep.run(*words, code=code).stderr.count(line) == 1
    for words in (["list"], ["runs"], ["status"]):
        assert line not in deep.run(*words).stderr
    assert "project root" not in project.run("run", "a/b/w.lua", code=1).stderr
    project.write("own.lua", 'log("%s", readText("above.txt"))')
    assert "project root" not in deep.run("run", "../../own.lua").stderr


@pytest.mark.parametrize("how", ["--state", "SPARKLES_HOME"])
def test_another_state_folder_does_not_move_the_root(project: Project, tmp_path: Path, how: str) -> None:
    """A script's paths start where they always do."""
    project.write("in.txt", "here\n")
    project.write("w.lua", 'log("%s", readText("in.txt")); writeText("out.txt", "x"); shell("pwd > where")')
    state = str(tmp_path / "elsewhere" / "state")
    words, env = (["--state", state], {}) if how == "--state" else ([], {"SPARKLES_HOME": state})
    project.run(*words, "run", "w.lua", env=env)
    assert (project.folder / "out.txt").exists()
    assert (project.folder / "where").read_text().strip() == str(project.folder)
    assert not (project.folder / ".sparkles").exists()
    assert (tmp_path / "elsewhere" / "state" / "sparkles.db").exists()
    assert not (tmp_path / "elsewhere" / "out.txt").exists()


def test_a_project_that_cannot_be_written(project: Project) -> None:
    """The sentence names the folder and the way out, which works."""
    with small_disk(project.folder / "disk", 1 << 20) as disk:
        (disk / "w.lua").write_text('log("well")')
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        env = environment(project.folder)
        how = {"cwd": disk, "env": env, "capture_output": True, "text": True, "timeout": 60, "check": False}
        done = subprocess.run([SPARKLES, "run", "w.lua"], **how)
        assert done.returncode == 3
        assert f"cannot make the state folder {disk}/.sparkles: Read-only file system" in done.stderr
        assert "name another state folder (--state)" in done.stderr
        assert subprocess.run([SPARKLES, "list"], **how).returncode == 0
        assert subprocess.run([SPARKLES, "--state", str(project.folder / "s"), "run", "w.lua"], **how).stdout == "well\n"


# Damage

CHAIN = """\
local made = run(JobBuilder("make")
  :setCommandTemplate("echo made {n} >> ../../../../../../made.log; echo content {n} > out.txt")
  :createTasksFor(product { n = { 1, 2, 3 } })
  :setOutputs { "out.txt" })
local used = run(JobBuilder("use")
  :setCommandTemplate("cat out.txt && test -e ../../../../../../flag")
  :addFiles(made.tasks[2].outputs["out.txt"]))
log("well")
"""


def stored(project: Project, text: str) -> Path:
    """The stored file that holds this text."""
    (found,) = [path for path in (project.folder / ".sparkles/cas").rglob("*") if path.is_file() and path.read_text() == text]
    return found


def made(project: Project) -> list[str]:
    return sorted((project.folder / "made.log").read_text().splitlines())


@pytest.fixture
def chain(project: Project) -> Project:
    """A run that failed in its second job, which takes an output of the first."""
    project.write("w.lua", CHAIN)
    project.run("run", "w.lua", code=1)
    project.write("flag", "")
    assert made(project) == ["made 1", "made 2", "made 3"]
    return project


def test_an_output_that_is_gone_is_made_again_by_a_resumed_run(chain: Project) -> None:
    """Only by the task that made it; the wait is performed anew, and what comes after it works."""
    stored(chain, "content 2\n").unlink()
    steps = {(each["kind"], each["what"].partition("-")[0]): each for each in chain.json("plan", "w.lua")}
    submit, wait, use = steps["submit", "make"], steps["wait", "make"], steps["submit", "use"]
    assert (submit["tasksReused"], submit["tasksNew"]) == (2, 1)
    assert [(each["why"], each["example"]) for each in submit["reasons"]] == [("its outputs are not stored any more", 2)]
    assert (wait["verdict"], wait["why"].partition(" of ")[0]) == ("would run", "tasks")
    assert "make their outputs again" in wait["why"]
    assert use["verdict"] == "reused"  # with the bytes that were there
    done = chain.run("run", "w.lua")
    assert "outputs of task 2 are not stored any more; they are made again" in done.stderr
    assert done.stdout == "well\n"
    assert made(chain) == ["made 1", "made 2", "made 2", "made 3"]


def test_an_output_that_is_damaged_is_found_when_it_is_used_and_made_again(chain: Project) -> None:
    """The task that uses it fails, with what is damaged and what to do; that done, the run comes to its end."""
    path = stored(chain, "content 2\n")
    path.chmod(0o600)
    path.write_text("content X\n")
    done = chain.run("run", "w.lua", code=1)
    assert "/2/out.txt) is damaged" in done.stderr
    assert "Run the same command again: it is stored anew, or made again" in done.stderr
    assert chain.run("run", "w.lua").stdout == "well\n"
    assert made(chain) == ["made 1", "made 2", "made 2", "made 3"]


def test_an_input_that_is_damaged_is_stored_anew(project: Project) -> None:
    """From the file that it came from."""
    project.write("in.txt", "content\n")
    project.write(
        "w.lua", 'run(JobBuilder("j"):addFiles("in.txt"):setCommandTemplate("cat in.txt; test -e ../../../../../../flag"))'
    )
    project.run("run", "w.lua", code=1)
    path = stored(project, "content\n")
    path.chmod(0o600)
    path.write_text("contend\n")
    project.write("flag", "")
    assert "is damaged" in project.run("run", "w.lua", code=1).stderr
    project.run("run", "w.lua")


def test_the_error_says_which_command_brings_an_output_back(project: Project) -> None:
    """Where no wait is performed any more: for `fetch`, and for a script that got the output from elsewhere."""
    project.write("w.lua", 'run(JobBuilder("make"):setCommandTemplate("echo x > out.txt"):setOutputs { "out.txt" })')
    project.run("run", "w.lua")
    (job,) = project.json("list")
    project.write(
        "other.lua",
        'run(JobBuilder("use"):setCommandTemplate("cat out.txt"):addFiles(readJson("ref.json")))',
    )
    path = stored(project, "x\n")
    ref = {"job": job["job"], "index": 1, "name": "out.txt", "digest": path.name, "size": 2}
    project.write("ref.json", json.dumps(ref))
    path.unlink()
    command = f"sparkles reset {job['job']}/1"
    for words in (["fetch", "LAST", "out"], ["run", "other.lua"]):
        done = project.run(*words, code=2)
        assert "out.txt" in done.stderr
        assert f"`{command}` makes it again" in done.stderr
    project.run(*command.split()[1:])
    project.run("wait", job["job"])
    project.run("fetch", "make", "out")
    assert project.run("run", "other.lua").returncode == 0


# A full disk

LARGE = """\
run(JobBuilder("large")
  :setCommandTemplate("head -c 4000000 /dev/urandom > out.bin; echo {n}")
  :createTasksFor(product { n = { 1, 2, 3 } })
  :setOutputs { "out.bin" })
shell("head -c 500000 /dev/zero | tr '\\\\0' x")
"""


def fill(disk: Path) -> None:
    """Takes all of a disk that is free."""
    with (disk / "filler").open("ab", buffering=0) as stream, contextlib.suppress(OSError):
        while True:
            stream.write(b"x" * 4096)
    assert os.statvfs(disk).f_bavail == 0


@pytest.mark.parametrize("reserve", [True, False], ids=["with its reserve", "without"])
def test_clean_works_on_a_full_disk(tmp_path: Path, reserve: bool) -> None:
    """It needs no room to make room: rows, folders and content go, and the reserve is set aside again."""
    with small_disk(tmp_path / "disk", 32 << 20) as disk:
        project = Project(disk / "project")
        project.write("w.lua", LARGE)
        project.run("run", "w.lua")
        project.run("run", "w.lua", "--new")
        state = project.folder / ".sparkles"
        kept = state / "reserve"
        assert kept.stat().st_size == 1 << 20
        if not reserve:
            # An older state folder, or one whose reserve somebody took; the cache of digests is larger than what is needed.
            kept.unlink()
            (state / "digests.db").write_bytes(b"x" * (1 << 20))
        fill(disk)
        assert "no space is left" in project.run("run", "w.lua", "--new", code=3).stderr
        project.run("clean", "--dry-run", code=None)
        fill(disk)
        (value,) = project.json("clean", "--yes")
        assert (len(value["runs"]), value["contentFiles"]) == (2, 3)
        assert value["contentBytes"] == 12_000_000
        assert value["folderBytes"] >= 1_000_000
        assert project.json("runs") == project.json("list") == []
        assert os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize > 10 << 20
        assert kept.exists()
        project.run("run", "w.lua")


def test_a_large_job_is_removed_on_a_full_disk_after_the_small_ones(tmp_path: Path) -> None:
    """The log of one large removal does not fit; each job that goes makes room for the next."""
    with small_disk(tmp_path / "disk", 64 << 20) as disk:
        project = Project(disk / "project")
        for count in (2000, 20, 20):
            project.run("sub", "--detach", "--seq", str(count), "--", "head -c 3000 /dev/zero; true {i}")
        for job in project.json("list"):
            project.run("kill", job["job"])
            project.run("wait", job["job"], code=None)
        fill(disk)
        (value,) = project.json("clean", "--yes")
        assert len(value["jobs"]) == 3
        assert project.json("list") == []


def test_commands_that_messages_name_find_the_same_state_folder(project: Project) -> None:
    """Whatever global options were given, before the command or behind it, stand in every hint."""
    project.write("w.lua", 'run(JobBuilder("bad"):setCommandTemplate("exit 3"))')
    told = project.run("run", "w.lua", "--state", "my state", code=1).stderr
    (job,) = project.json("--state", "my state", "list")
    (run,) = project.json("runs", "--state", "my state")
    assert f"more: sparkles --state 'my state' logs {job['job']}/1" in told
    assert told.splitlines()[-1].endswith("sparkles --state 'my state' run w.lua")
    told = project.run("--state", "other", "sub", "--", "echo hello; exit 4", code=1).stderr
    hints = [line.rpartition(": sparkles ")[2] for line in told.splitlines() if ": sparkles " in line]
    assert [hint.split()[:3] for hint in hints] == [["--state", "other", "logs"], ["--state", "other", "reset"]]
    assert project.run(*hints[0].split()).stdout == "hello\n"
    assert "1 task pending again" in project.run(*hints[1].split()).stderr
    told = project.run("show", "nosuch", "--state", "my state", code=2).stderr
    assert "`sparkles --state 'my state' runs` and `sparkles --state 'my state' list`" in told
    told = project.run("--state", "my state", "reset", job["job"]).stderr
    assert told.strip().endswith(f"sparkles --state 'my state' resume {run['run']}")
