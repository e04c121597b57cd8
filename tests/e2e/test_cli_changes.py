"""The commands that change what is there, run as a user runs them: kill, signals, clean."""

from __future__ import annotations

import signal
import subprocess
import time

import pytest

from tests.support.cli import Project
from tests.support.workflows import SLEEPING, SWEEP, claimed, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def test_kill_a_task_and_a_job(project: Project) -> None:
    """A running task's program is ended; the others go on until the job is killed."""
    job = project.run("sub", "--seq", "3", "--detach", "--cpu", "0.1", "--", "sleep 3{i}").stdout.strip()
    eventually(lambda: claimed(project) == 3)
    assert project.run("kill", f"{job}/2").stderr == f"{job}/2: 1 task cancelled\n"
    assert [each["state"] for each in project.json("list", job)] == ["claimed", "cancelled", "claimed"]
    assert project.json("kill", job) == [{"killed": job, "driver": False, "tasks": 2}]
    eventually(lambda: not subprocess.run(["pgrep", "-f", "^sleep 3[123]$"], capture_output=True, check=False).stdout)
    assert "nothing to end" in project.run("kill", job).stderr
    assert "there is no run and no job 'nosuch'" in project.run("kill", "nosuch", code=2).stderr


def test_kill_a_run(project: Project) -> None:
    """The driver ends, its tasks are cancelled, nothing is left running, and the run can be resumed."""
    project.write("w.lua", SLEEPING)
    driver = project.start("run", "w.lua")
    eventually(lambda: claimed(project))
    (run,) = project.json("runs")
    assert (run["state"], run["driven"], run["driver"]["pid"]) == ("running", True, driver.pid)
    busy = project.run("run", "w.lua", code=2).stderr
    assert f"pid {driver.pid}" in busy
    (value,) = project.json("kill", run["run"])
    assert value == {"killed": run["run"], "driver": True, "tasks": 3}
    _, told = driver.communicate(timeout=20)
    assert driver.returncode == 143, told
    assert project.json("runs")[0]["state"] == "cancelled"
    assert project.json("list")[0]["counts"]["cancelled"] == 3
    assert project.json("doctor")[0]["state"]["workers"] == []
    told = project.run("reset", "LAST").stderr
    assert told.strip().endswith(f"they run when its run is resumed: sparkles resume {run['run']}")
    assert "is not being driven; go on with: sparkles resume" in project.run("wait", "LAST", code=2).stderr


def test_kill_a_run_whose_driver_is_dead(project: Project) -> None:
    """After kill -9 the run is shown as interrupted; `kill` marks it cancelled and cancels its tasks."""
    project.write("w.lua", SLEEPING)
    driver = project.start("run", "w.lua")
    eventually(lambda: claimed(project))
    driver.kill()
    driver.communicate()
    (run,) = project.json("runs")
    assert (run["state"], run["driven"]) == ("interrupted", False)
    (value,) = project.json("kill", run["run"])
    assert (value["driver"], value["tasks"]) == (False, 3)
    assert project.json("runs")[0]["state"] == "cancelled"
    eventually(lambda: project.json("doctor")[0]["state"]["workers"] == [])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals_end_a_run_resumably(project: Project, number: signal.Signals, code: int) -> None:
    """128 + the signal, and how to come back; the run is interrupted in the record, not cancelled, and goes on when asked."""
    project.write(
        "w.lua", "run(JobBuilder('s'):setCommandTemplate('sleep 0.3; echo {n}'):createTasksFor(product{n={1,2,3,4,5,6}}))"
    )
    driver = project.start("run", "w.lua")
    eventually(lambda: claimed(project))
    driver.send_signal(number)
    _, told = driver.communicate(timeout=20)
    assert driver.returncode == code, told
    assert "resume with: sparkles run w.lua" in told
    (run,) = project.json("runs")
    assert run["state"] == "interrupted"
    assert project.json("show", run["run"])[0]["state"] == "interrupted"
    (value,) = project.json("run", "w.lua")
    assert (value["run"], value["state"]) == (run["run"], "succeeded")


def test_an_interrupted_run_can_be_killed(project: Project) -> None:
    """Ctrl-C leaves it to be resumed; `kill` says that it is not meant to be: the one is interrupted, the other cancelled."""
    project.write("w.lua", SLEEPING)
    driver = project.start("run", "w.lua")
    eventually(lambda: claimed(project))
    driver.send_signal(signal.SIGINT)
    assert driver.stderr is not None
    while "Ctrl-C again" not in driver.stderr.readline():
        assert driver.poll() is None
    driver.send_signal(signal.SIGINT)
    driver.communicate(timeout=20)
    (run,) = project.json("runs")
    assert run["state"] == "interrupted"
    assert project.json("kill", run["run"]) == [{"killed": run["run"], "driver": False, "tasks": 3}]
    assert project.json("runs")[0]["state"] == "cancelled"


def test_what_was_cleaned_is_told(project: Project) -> None:
    """With its day: a job and a run that are asked for, in a run's steps, and where a fork starts from a run without its jobs."""
    project.write("w.lua", SWEEP)
    project.run("run", "w.lua")
    (run,) = project.json("runs")
    (job,) = project.json("list")
    day = time.strftime("%Y-%m-%d")
    project.run("clean", "--yes", job["job"])
    for word in (job["job"], f"{job['job']}/2", job["name"]):
        told = project.run("show", word, code=2).stderr.splitlines()
        assert told[0].startswith("error: there is no ")
        assert told[1:] == [f"job {job['job']} ({job['name']}) was cleaned on {day}"]
    assert f"was cleaned on {day}" in project.run("status", job["job"], code=2).stderr
    assert f"{job['job']} (3 tasks; its record was cleaned on {day})" in project.run("show", run["run"]).stdout
    forked = project.run("run", "--fork", run["run"], "w.lua").stderr
    assert f"run {run['run']}: its job was cleaned: {job['job']} ({day}); what no other job has run runs again" in forked
    newer = project.json("runs")[0]["run"]
    project.run("clean", "--yes", run["run"])
    told = project.run("resume", run["run"], code=2).stderr.splitlines()
    assert told[1:] == [f"run {run['run']} (w.lua) was cleaned on {day}"]
    assert f"run {run['run']} (w.lua) was cleaned on {day}" in project.run("run", "--fork", run["run"], "w.lua", code=2).stderr
    assert f"(its record was cleaned on {day})" in project.run("show", newer).stdout
    assert "cleaned" not in project.run("show", "never-was", code=2).stderr


def test_clean_of_a_wrong_name_says_so(project: Project) -> None:
    """As every other command does; and of what was cleaned, that it was. Nothing else goes."""
    project.run("sub", "-n", "one", "--", "true")
    kept = project.json("list")[0]["job"]
    unknown = "error: there is no run and no job 'nosuch' (`sparkles runs` and `sparkles list` lists them)."
    for more in (("--yes",), ("--dry-run",), ("LAST", "--yes"), ("--json",)):
        assert project.run("clean", "nosuch", *more, code=2).stderr.splitlines() == [unknown]
    assert "there is no job 'zz*'" in project.run("clean", "zz*", code=2).stderr
    project.run("sub", "-n", "two", "--", "true")
    gone = project.json("list")[0]["job"]
    project.run("clean", gone, "--yes")
    told = project.run("clean", gone, "--yes", code=2).stderr.splitlines()
    assert len(told) == 2
    assert told[1].startswith(f"job {gone} (two) was cleaned on ")
    assert [each["job"] for each in project.json("list")] == [kept]


def test_clean(project: Project) -> None:
    """Shows and asks; with --yes removes rows, folders and content; what a kept job uses stays."""
    project.write("w.lua", SWEEP)
    project.write("other.lua", SWEEP.replace("sweep", "other"))
    project.run("run", "w.lua")
    project.run("run", "other.lua")
    first, second = (each["run"] for each in reversed(project.json("runs")))
    jobs = {each["run"]: each["job"] for each in project.json("list")}
    told = project.run("clean", code=2).stderr
    assert "2 runs and 2 jobs with 6 tasks" in told
    assert "nobody can be asked here: say --yes" in told
    assert project.json("clean", "--dry-run", first)[0]["jobs"] == [jobs[first]]
    assert len(project.json("list")) == 2
    assert project.json("clean", "--older-than", "1h")[0]["jobs"] == []
    state = project.folder / ".sparkles"
    outputs = [path for path in (state / "cas").glob("??/*") if path.is_file()]
    assert len(outputs) == 3
    (value,) = project.json("clean", first, "--yes")
    assert (value["runs"], value["jobs"], value["contentFiles"]) == ([first], [jobs[first]], 0)
    # The second run's tasks reuse those of the first: their files are still needed.
    assert project.run("logs", f"{jobs[second]}/3").stdout == "n is 3\n"
    assert project.json("fetch", jobs[second], "results")[0]["files"] == 10
    (value,) = project.json("clean", "--yes")
    assert (value["runs"], value["contentFiles"]) == ([second], 3)
    assert project.json("list") == project.json("runs") == []
    assert [path for path in (state / "jobs").rglob("*") if path.is_file()] == []
    project.run("run", "w.lua")


def test_clean_leaves_what_works(project: Project) -> None:
    """A driven run and a running job are refused, even with --yes; others are removed beside them."""
    project.write("w.lua", SWEEP)
    project.run("run", "w.lua")
    project.write("s.lua", SLEEPING)
    driver = project.start("run", "s.lua")
    eventually(lambda: claimed(project))
    running = project.json("runs")[0]["run"]
    assert (
        f"run {running} is being driven; end it first: sparkles kill {running}"
        in project.run("clean", running, "--yes", code=2).stderr
    )
    assert "belongs to run" in project.run("clean", "LAST", "--yes", code=2).stderr
    (value,) = project.json("clean", "--yes")
    assert (len(value["runs"]), value["kept"]) == (1, 1)
    project.run("kill", running)
    driver.communicate(timeout=20)
    detached = project.run("sub", "--detach", "--", "sleep 30").stdout.strip()
    eventually(lambda: claimed(project))
    assert "not ended yet" in project.run("clean", detached, code=2).stderr
    assert f"end it first: sparkles kill {detached}" in project.run("clean", detached, "--yes", code=3).stderr
