"""Every command, run as a user runs it."""

from __future__ import annotations

import csv
import json
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cli import SPARKLES, Project, environment
from tests.support.needs import requires
from tests.support.pace import quiet_children_s
from tests.support.workflows import FAILING, SWEEP, claimed, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


# Workflows


def test_run_prints_logs_to_stdout_and_talk_to_stderr(project: Project) -> None:
    """Log lines are data; run id, job lines and the end are talk; `-q` leaves the data."""
    project.write("w.lua", SWEEP)
    done = project.run("run", "w.lua")
    assert done.stdout == "the last square is 9\n"
    lines = done.stderr.splitlines()
    assert lines[0].startswith("run r-")
    assert lines[1].endswith(": 3 tasks")
    assert ": 3 tasks succeeded; " in lines[2]
    assert "succeeded: 3 steps run; 3 tasks run; " in lines[-1]
    again = project.run("run", "w.lua", "-q")
    assert (again.stdout, again.stderr) == ("the last square is 9\n", "")


def test_run_says_what_was_reused(project: Project) -> None:
    """A second run reuses tasks, and --no-cache runs them again."""
    project.write("w.lua", SWEEP)
    project.run("run", "w.lua")
    (value,) = project.json("run", "w.lua")
    assert value["state"] == "succeeded"
    assert value["tasks"] == {"run": 0, "reused": 3}
    (value,) = project.json("run", "w.lua", "--no-cache")
    assert value["tasks"] == {"run": 3, "reused": 0}
    told = project.run("run", "w.lua").stderr
    assert "all 3 tasks reused; --no-cache runs them again" in told
    assert "3 tasks, all reused" in told


def test_a_failed_run_says_what_failed_and_how_to_go_on(project: Project) -> None:
    """The task, its command, class and exit code, its last lines, and two commands that work."""
    project.write("w.lua", FAILING)
    done = project.run("run", "w.lua", code=1)
    told = done.stderr.split("error: ", 1)[1].splitlines()
    job = project.json("list")[0]["job"]
    assert told[0].startswith(f"w.lua:5: job {job}: 2 of 4 tasks failed (exit 1: 2)")
    assert told[1] == f"task {job}/3 failed: class exit, exit code 1, attempt 1"
    assert told[2].startswith("  command  for i in 1 2 3; do echo line $i of 3; done;")
    assert told[3] == "  params   n=3"
    assert told[4:7] == [f"  | line {number} of 3" for number in (1, 2, 3)]
    assert told[7] == f"more: sparkles logs {job}/3"
    assert told[8].endswith("can go on, failed tasks are tried again: sparkles run w.lua")
    assert project.run("logs", f"{job}/3").stdout == "line 1 of 3\nline 2 of 3\nline 3 of 3\n"


def test_resume_by_command_and_by_id(project: Project) -> None:
    """`run` goes on with the failed run; --keep-failed does not try again; `resume` refuses a run that has succeeded."""
    project.write("w.lua", FAILING)
    (first,) = project.json("run", "w.lua", code=1)
    (kept,) = project.json("resume", "LAST", "--keep-failed", code=1)
    assert kept["run"] == first["run"]
    assert {each["attempts"] for each in project.json("list", "LAST", "--failed")} == {1}
    project.write("w.lua", FAILING.replace("test -e flag || ", "true || "))
    (second,) = project.json("run", "w.lua")
    assert (second["run"], second["state"]) == (first["run"], "succeeded")
    done = project.run("resume", first["run"], code=2)
    assert "has succeeded; `sparkles run w.lua` begins another" in done.stderr


def test_parameters(project: Project) -> None:
    """-p reaches the script; the same run is found only with the same parameters."""
    project.write("w.lua", "log('%s', args.alpha)")
    assert project.run("run", "w.lua", "-p", "alpha=a=b").stdout == "a=b\n"
    project.run("run", "w.lua", "-p", "alpha=2")
    assert [each["params"] for each in project.json("runs")] == [{"alpha": "2"}, {"alpha": "a=b"}]
    assert "alpha is given twice" in project.run("run", "w.lua", "-p", "alpha=1", "-p", "alpha=2", code=2).stderr


def test_mistakes_of_a_script_exit_2_and_begin_with_its_line(project: Project) -> None:
    """A syntax error, and a misspelt name: the author's line, nothing submitted, no traceback."""
    project.write("syntax.lua", "local x =\n")
    assert project.run("run", "syntax.lua", code=2).stderr.splitlines()[-1].startswith("error: syntax.lua:2: ")
    project.write("name.lua", "log('hi')\nsumbit(1)\n")
    told = project.run("run", "name.lua", code=2).stderr
    assert "error: name.lua:2: " in told
    assert "submit" in told
    assert told.splitlines()[-1] == "what is done is kept; mend it and run again: sparkles run name.lua"
    assert project.json("list") == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("sweep", "--csv", "header.csv", "-p", "command=echo {a}"),
            "csv: expected a row for each task, found only a header in header.csv",
        ),
        (
            ("map_reduce", *(f"-p{each}" for each in ("files=no/*.txt", "map=x", "reduce=x", "keep=x", "output=x"))),
            "files: no file matches 'no/*.txt'",
        ),
        (("below.lua",), "w.txt/o.txt: cannot be written: "),
        (("own.lua",), "rows: expected at least one"),
    ],
    ids=["only a header", "no file", "a file where a folder is needed", "the author's own"],
)
def test_what_was_given_is_wrong_with_exit_code_2(project: Project, words: tuple[str, ...], message: str) -> None:
    """Where only the script can find it, too; `fail` alone is the work that failed, with 1."""
    project.write("header.csv", "a\n")
    project.write("w.txt", "")
    project.write("below.lua", 'writeText("w.txt/o.txt", "x")')
    project.write("own.lua", 'fail("rows: expected at least one", {badInput = true})')
    told = project.run("run", *words, code=2).stderr
    assert re.search(rf"^error: \S+:[0-9]+: {re.escape(message)}", told, re.MULTILINE), told
    project.write("fail.lua", 'fail("it did not converge")')
    project.run("run", "fail.lua", code=1)


def test_runs_and_show(project: Project) -> None:
    """A run's steps with their places, a job's description, a task's attempts and files."""
    project.write("w.lua", SWEEP)
    project.run("run", "w.lua")
    (run,) = project.json("runs")
    assert (run["workflow"], run["state"], run["steps"], run["driven"]) == ("w.lua", "succeeded", 3, False)
    (value,) = project.json("show", run["run"])
    assert [(step["kind"], step["position"]) for step in value["steps"]] == [
        ("submit", "w.lua:7"),
        ("wait", "w.lua:7"),
        ("log", "w.lua:8"),
    ]
    job = value["jobs"][0]
    table = project.run("show", run["run"]).stdout
    assert f"{job} (3 tasks)" in table
    assert "the last square is 9" in table
    (described,) = project.json("show", "LAST")
    assert described["spec"]["outputs"] == ["out.json"]
    (task,) = project.json("show", "LAST/3")
    assert task["params"] == {"n": 3}
    assert task["results"] == {"square": 9}
    assert list(task["outputs"]) == ["out.json"]
    assert [(each["attempt"], each["class"], each["exitCode"]) for each in task["tries"]] == [(1, None, 0)]
    assert Path(task["tries"][0]["folder"], "output.log").read_text() == "n is 3\n"
    assert f"{job}/3" in project.run("show", "LAST/3").stdout


# Jobs


def test_sub_with_a_csv(project: Project) -> None:
    """One task a row; a second time everything is reused, and one line says so."""
    project.write("params.csv", "a,b\n1,x y\n2,$HOME\n")
    project.run("sub", "-n", "two", "--csv", "params.csv", "--", "echo {a} {b}")
    assert project.run("logs", "LAST/2").stdout == "2 $HOME\n"
    again = project.run("sub", "-n", "two", "--csv", "params.csv", "--", "echo {a} {b}")
    assert "all 2 tasks reused; --no-cache runs them again" in again.stderr
    project.write("params.csv", "a,b\n1,x y\n2,$HOME\n3,z\n")
    again = project.run("sub", "-n", "two", "--csv", "params.csv", "--", "echo {a} {b}")
    assert "2 of 3 tasks reused; --no-cache runs them again" in again.stderr
    project.write("params.csv", "a,b\n1\n")
    told = project.run("sub", "--csv", "params.csv", "--", "echo {a}", code=2).stderr
    assert told == "error: params.csv:2: expected 2 fields (a, b), found 1\n"


def test_sub_in_a_folder_below_the_root(project: Project) -> None:
    """Relative paths start at the current folder, those that a placeholder's parameter names too; what is shown of the job can be
    submitted again from the root."""
    project.write("sparkles.toml", "")
    project.write("f.txt", "of the root")
    project.write("sub/f.txt", "of the folder ")
    project.write("sub/g.txt", "given")
    project.write("sub/p.csv", "f\nf.txt\n")
    below = Project(project.folder / "sub")
    words = ("sub", "--csv", "p.csv", "--file-input", "g.txt")
    assert below.run(*words, "--dry-run", "--", "cat {^f} g.txt").stdout == "cat inputs/f.txt g.txt\n"
    below.run(*words, "--", "cat {^f} g.txt")
    assert project.run("logs", "LAST").stdout == "of the folder given"
    project.write("again.json", project.run("show", "LAST", "--json").stdout)
    project.run("sub", "--file", "again.json")
    assert project.run("logs", "LAST").stdout == "of the folder given"
    (project.folder / "sub" / "f.txt").unlink()
    assert f"{project.folder}/sub/f.txt: " in below.run(*words, "--", "cat {^f}", code=2).stderr


def test_sub_words_are_a_program_without_a_shell(project: Project) -> None:
    """Several words: each argument arrives as it is; one word: /bin/sh. --dry-run shows both and leaves nothing behind."""
    project.run("sub", "--seq", "2", "--", "printf", "%s|", "{i}", "a b", "$HOME")
    assert project.run("logs", "LAST/2").stdout == "2|a b|$HOME|"
    assert project.json("list")[0]["name"] == "printf"
    fresh = Project(project.folder.parent / "fresh")
    fresh.write("in.txt", "x")
    done = fresh.run("sub", "--seq", "2", "--file-input", "in.txt", "--dry-run", "--", "cat in.txt; echo {i}")
    assert done.stdout == "cat in.txt; echo 1\ncat in.txt; echo 2\n"
    assert not (fresh.folder / ".sparkles").exists()


def test_sub_from_a_file_and_its_options(project: Project) -> None:
    """--file takes the whole job; options of the other way are refused beside it; inputs and outputs are staged."""
    job = {"name": "filed", "command": "cat {^f}", "tasks": [{"params": {"f": "data/in.txt"}}]}
    project.write("data/in.txt", "content\n")
    project.write("job.json", json.dumps(job))
    project.run("sub", "--file", "job.json")
    assert project.run("logs", "LAST").stdout == "content\n"
    assert "leave out --cpu" in project.run("sub", "--file", "job.json", "--cpu", "1", code=2).stderr
    project.write("job.json", json.dumps({**job, "comand": "x"}))
    told = project.run("sub", "--file", "job.json", code=2).stderr
    assert told.startswith("error: job.json: comand: there is no such key")
    sub = Project(project.folder / "data")
    sub.run("sub", "-n", "staged", "--file-input", "in.txt=sub/", "--output", "*.out", "--", "cp sub/in.txt a.out")
    project.run("fetch", "LAST", "results")
    assert (project.folder / "results" / "1" / "a.out").read_text() == "content\n"


def test_sub_fails_as_a_run_does(project: Project) -> None:
    """Exit code 1 with the failed task; wait judges the same; reset starts a worker that runs it again."""
    done = project.run("sub", "--seq", "3", "-n", "odd", "--", "test -e ../../../../../../flag || test {i} -eq 2", code=1)
    job = project.json("list")[0]["job"]
    assert f"task {job}/1 failed: class exit, exit code 1, attempt 1" in done.stderr
    assert done.stderr.splitlines()[-1] == f"try again what failed: sparkles reset {job}"
    assert "2 of 3 tasks failed" in project.run("wait", "LAST", code=1).stderr
    told = project.run("reset", "LAST").stderr
    assert "2 tasks pending again; a worker (pid " in told
    assert "2 of 3 tasks failed" in project.run("wait", "LAST", code=1).stderr
    assert {each["attempts"] for each in project.json("list", "LAST", "--failed")} == {2}
    assert "1 task pending again" in project.run("reset", "LAST", "2").stderr
    project.run("wait", "LAST", code=1)
    assert "expected indexes from 1 to 3" in project.run("reset", "LAST", "4", code=2).stderr


def test_detached_watched_and_waited_for(project: Project) -> None:
    """--detach prints the id and returns; the worker goes on, and is gone when nothing is pending."""
    job = project.run("sub", "--seq", "2", "--detach", "--", "sleep 0.5").stdout.strip()
    (value,) = project.json("status", job)
    assert value["state"] in ("pending", "running")
    assert "2 tasks succeeded" in project.run("watch", job).stderr
    project.run("wait", job)
    eventually(lambda: project.json("doctor")[0]["state"]["workers"] == [])


def test_a_job_named_last(project: Project) -> None:
    """LAST is the newest job of any name; the one that is called so is named by its id, or the beginning of it."""
    named = project.run("sub", "--detach", "-n", "LAST", "--", "echo named").stdout.strip()
    assert project.json("wait", "LAST")[0]["job"] == named
    newer = project.run("sub", "--detach", "-n", "newer", "--", "echo newer").stdout.strip()
    project.run("wait", "LAST")
    assert project.json("show", "LAST")[0]["job"] == newer
    assert project.run("logs", "LAST/1").stdout == "newer\n"
    for word in (named, named[:-2], "LAST-*"):
        assert project.json("status", word)[0]["job"] == named
    assert project.json("show", named)[0]["name"] == "LAST"
    project.run("clean", "--yes", named)
    assert [each["job"] for each in project.json("list")] == [newer]


def test_logs_as_json(project: Project) -> None:
    """One object with the text; of a reused task, whose it is."""
    project.run("sub", "-n", "first", "--", r"printf 'one\ntw\303\266\n\377'")
    first = project.json("list")[0]["job"]
    whole = {"job": first, "index": 1, "state": "succeeded", "attempt": 1, "reusedFrom": None, "text": "one\ntwö\n\ufffd"}
    assert project.json("logs", first) == [whole]
    assert project.json("logs", first, "-n", "1") == [{**whole, "text": "\ufffd"}]
    project.run("sub", "-n", "again", "--", r"printf 'one\ntw\303\266\n\377'")
    again = project.json("list")[0]["job"]
    assert project.json("logs", "LAST/1") == [{**whole, "job": again, "reusedFrom": f"{first}/1"}]
    assert "leave out --follow" in project.run("logs", first, "-f", "--json", code=2).stderr
    waiting = project.run(
        "sub", "--detach", "--cpu", "0.1", "--parallelism", "1", "--seq", "2", "--", "sleep 30; echo {i}"
    ).stdout.strip()
    project.run("kill", waiting)
    (value,) = project.json("logs", f"{waiting}/2")
    assert (value["state"], value["attempt"], value["text"]) == ("cancelled", None, None)


def test_reset_takes_what_it_says(project: Project) -> None:
    """Failed and cancelled tasks by default; with --state those; with indexes any that has ended, a task of JOB/INDEX too."""
    gate = project.folder / "gate"
    gate.touch()
    job = project.run(
        "sub", "--detach", "--seq", "4", "--no-cache", "--", f"test -e {gate} && exit $(({{i}} % 2))"
    ).stdout.strip()
    project.run("wait", job, code=1)
    attempts = lambda: [each["attempts"] for each in project.json("list", job)]  # noqa: E731
    assert attempts() == [1, 1, 1, 1]
    assert project.json("reset", job)[0]["tasks"] == 2
    project.run("wait", job, code=1)
    assert attempts() == [2, 1, 2, 1]
    assert project.json("reset", job, "--state", "succeeded")[0]["tasks"] == 2
    project.run("wait", job, code=1)
    assert attempts() == [2, 2, 2, 2]
    assert project.json("reset", job, "1-2", "4")[0]["tasks"] == 3
    project.run("wait", job, code=1)
    assert attempts() == [3, 3, 2, 3]
    assert project.json("reset", f"{job}/2")[0]["tasks"] == 1
    project.run("wait", job, code=1)
    assert attempts() == [3, 4, 2, 3]
    assert project.json("reset", job, "2", "--state", "failed")[0]["tasks"] == 0
    assert "no task is failed among those named" in project.run("reset", job, "2", "--state", "failed").stderr
    assert "expected succeeded, failed, cancelled, found 'done'" in project.run("reset", job, "--state", "done", code=2).stderr


def test_watch_as_json(project: Project) -> None:
    """A line for each change, the last one with the end; what had ended before is one line."""
    gate = project.folder / "gate"
    job = project.run(
        "sub", "--detach", "-n", "two", "--seq", "2", "--", f"while [ ! -e {gate} ]; do sleep 0.02; done; exit {{i}}"
    )
    name = job.stdout.strip()
    watching = project.start("watch", name, "--json")
    assert watching.stdout is not None
    first = json.loads(watching.stdout.readline())
    assert (first["job"], first["count"], first["counts"]["failed"]) == (name, 2, 0)
    gate.touch()
    rest, said = watching.communicate(timeout=60)
    values = [first, *map(json.loads, rest.splitlines())]
    assert len({json.dumps(each["counts"], sort_keys=True) for each in values}) == len(values)
    assert (values[-1]["state"], values[-1]["counts"]["failed"]) == ("failed", 2)
    assert [each["state"] for each in values[:-1]] == sorted(each["state"] for each in values[:-1])
    assert sorted(each["at"] for each in values) == [each["at"] for each in values]
    assert (watching.returncode, said) == (0, "")
    (again,) = project.json("watch", name)
    assert again["counts"] == values[-1]["counts"]


def test_a_shown_job_is_submitted_again(project: Project) -> None:
    """What `show --json` prints is a job.json: the same tasks, so that all of them are reused; its `spec` alone is one as well."""
    project.write("data/x.txt", "x")
    script = """
    local fit = run(JobBuilder("fit"):setCommandTemplate("echo m > m.bin"):setOutputs{"m.bin"})
    run(JobBuilder("use"):setCommandTemplate("cat {^f} m.bin > o.txt && echo '{{kept}}' {n} >> o.txt")
      :addFiles(fit.tasks[1].outputs["m.bin"])
      :createTasksFor({{f="data/x.txt", n=1}, {f="data/x.txt", n=2.5}}, function(row, i)
        return i == 2 and {command="cat m.bin; echo '{{x}}' {n} > o.txt", env={A="1"}} or nil
      end):setOutputs{{"o.txt", required=true}}:setMaxFailures("50%"))
    """
    project.write("w.lua", script)
    project.run("run", "w.lua")
    (shown,) = project.json("show", "use")
    assert shown["spec"]["maxFailures"] == 1
    for name, value in (("shown.json", shown), ("spec.json", shown["spec"])):
        project.write(name, json.dumps(value))
        assert "all 2 tasks reused" in project.run("sub", "--file", name).stderr
        (again,) = project.json("show", "LAST")
        assert again["spec"] == shown["spec"]
    (run,) = project.json("runs")
    (steps,) = [each["steps"] for each in project.json("show", run["run"])]
    assert [each["arguments"]["spec"].get("maxFailures") for each in steps if each["kind"] == "submit"] == [None, 1]


def test_wait_serves_a_job_that_nobody_serves(project: Project) -> None:
    """The worker of a killed `sub` leaves with tasks pending; `wait` runs them."""
    started = project.start("sub", "--seq", "3", "-n", "left", "--parallelism", "1", "--", "sleep 0.4")
    eventually(lambda: claimed(project))
    started.kill()
    started.communicate()
    job = project.json("list")[0]
    assert job["counts"]["pending"]
    eventually(lambda: not project.json("status", "LAST")[0]["workers"])
    assert f"none; goes on with: sparkles wait {job['job']}" in project.run("status", "LAST").stdout
    project.run("wait", "LAST")
    assert project.json("list")[0]["state"] == "succeeded"


def test_wait_gives_up(project: Project) -> None:
    """--timeout ends the waiting with exit code 1; the job goes on until it is killed."""
    job = project.run("sub", "--detach", "--", "sleep 30").stdout.strip()
    told = project.run("wait", job, "--timeout", "0.3", code=1).stderr
    assert told.splitlines()[-2:] == [f"error: {job} did not end within 0.3 s", f"{job} goes on"]
    assert "1 task cancelled" in project.run("kill", job).stderr
    assert f"job {job}: 1 of 1 task was cancelled" in project.run("wait", job, code=1).stderr
    assert project.json("status", job)[0]["state"] == "cancelled"


def test_status_groups_failures(project: Project) -> None:
    """By class and exit code, with an example's parameters and last lines."""
    project.run("sub", "--seq", "5", "-n", "mixed", "--property", "who=me", "--", "echo bad {i}; exit $(({i} % 3))", code=1)
    (value,) = project.json("status", "LAST")
    groups = [(each["class"], each["exitCode"], each["count"], each["example"]["index"]) for each in value["failures"]]
    assert groups == [("exit", 1, 2, 1), ("exit", 2, 2, 2)]
    assert value["failures"][0]["example"]["log"] == ["bad 1"]
    assert value["properties"] == {"who": "me"}
    assert (value["counts"]["succeeded"], value["counts"]["failed"]) == (1, 4)
    shown = project.run("status", "mixed").stdout
    assert "2 tasks failed: exit, exit code 2" in shown
    assert "    | bad 2" in shown
    assert "who=me" in shown


def test_list_chooses(project: Project) -> None:
    """By state and by parameters, exactly and by pattern; JSON lines are what scripts see."""
    project.write("p.csv", "alpha,name\n0.1,x\n0.2,y\n1.5,x\n")
    project.run("sub", "-n", "choose", "--csv", "p.csv", "--", "test {name} = x", code=1)
    assert [each["index"] for each in project.json("list", "LAST")] == [1, 2, 3]
    assert [each["index"] for each in project.json("list", "LAST", "--failed")] == [2]
    assert [each["index"] for each in project.json("list", "LAST", "--params", "alpha=0.*", "--state", "succeeded")] == [1]
    assert [each["index"] for each in project.json("list", "LAST", "-n", "2")] == [1, 2]
    (value,) = project.json("list", "LAST", "--failed")
    assert value["params"] == {"alpha": "0.2", "name": "y"}
    assert (value["state"], value["class"], value["exitCode"]) == ("failed", "exit", 1)
    assert project.run("list", "LAST", "--params", "nothing=1").stderr.startswith("no task of choose-")


def test_logs(project: Project) -> None:
    """All of it, the last lines, bytes as they are, an earlier attempt; a task without output says so."""
    project.run("sub", "-n", "wordy", "--retry", "2", "--", r"seq 1 2000; printf '\377\000tail'; exit 3", code=1, env={})
    whole = subprocess.run([SPARKLES, "logs", "LAST"], cwd=project.folder, capture_output=True, check=True, timeout=30).stdout
    expected = "".join(f"{number}\n" for number in range(1, 2001)).encode() + b"\xff\x00tail"
    assert whole == expected
    last = subprocess.run(
        [SPARKLES, "logs", "LAST", "-n", "2"], cwd=project.folder, capture_output=True, check=True, timeout=30
    )
    assert last.stdout == b"2000\n\xff\x00tail"
    assert project.json("show", "LAST/1")[0]["attempts"] == 2
    first = project.run("logs", "LAST/1", "--attempt", "1", "-n", "0")
    assert first.stdout == ""
    assert "has 2 attempts, no attempt 3" in project.run("logs", "LAST/1", "--attempt", "3", code=2).stderr
    project.run("sub", "--", "true")
    silent = project.run("logs", "LAST")
    assert (silent.stdout, "wrote nothing" in silent.stderr) == ("", True)


def test_logs_follow_a_running_task(project: Project) -> None:
    """-f shows lines while the task runs, and ends with it."""
    job = project.run("sub", "--detach", "-n", "slow", "--", "echo one; sleep 3; echo two").stdout.strip()
    follower = project.start("logs", "-f", f"{job}/1")
    assert follower.stdout is not None
    assert follower.stdout.readline() == "one\n"
    (value,) = project.json("status", job)
    assert value["state"] == "running"
    rest, told = follower.communicate(timeout=30)
    assert rest == "two\n"
    assert f"{job}/1 succeeded: exit code 0" in told
    assert follower.returncode == 0


def test_fetch(project: Project) -> None:
    """A folder a task, a table of all; a second time nothing is written; a file in the way is an error."""
    project.write("w.lua", SWEEP)
    project.run("run", "w.lua")
    (value,) = project.json("fetch", "LAST", "results")
    assert value["files"] == 10
    results = project.folder / "results"
    assert json.loads((results / "2" / "out.json").read_text()) == {"square": 4}
    assert (results / "3" / "output.log").read_text() == "n is 3\n"
    with (results / "tasks.csv").open() as file:
        assert [row["n"] for row in csv.DictReader(file)] == ["1", "2", "3"]
    assert project.run("fetch", "LAST", "results").stderr == "results is up to date\n"
    (results / "2" / "out.json").write_text("changed")
    assert project.json("fetch", "LAST", "results")[0]["files"] == 1
    assert "expected a folder, found a file" in project.run("fetch", "LAST", "w.lua", code=2).stderr


def test_fetch_too_early(project: Project) -> None:
    """It says that nothing came of what has not ended, in a script with the line; a later one brings it."""
    project.write(
        "w.lua",
        """local j = submit(JobBuilder("j"):setCommandTemplate("sleep 0.5; echo {n} > n"):setOutputs{"n"}:createTasksFor{{n = 1}, {n = 2}})
fetch(j, "early")
wait(j)
fetch(j, "late")
""",
    )
    done = project.run("run", "w.lua")
    assert [line.partition("j-")[0] for line in done.stderr.splitlines() if " fetch: " in line] == ["w.lua:2: fetch: "]
    assert ": 2 of 2 tasks not ended; nothing of theirs is fetched: wait(job) comes first" in done.stderr
    assert not (project.folder / "early" / "1").exists()
    assert (project.folder / "late" / "2" / "n").read_text() == "2\n"

    project.run("sub", "--detach", "-n", "slow", "--", "sleep", "60")
    try:
        early = project.run("fetch", "slow*", "out").stderr
        assert early.endswith(": 1 of 1 task not ended; nothing of theirs is fetched\n")
        early = project.run("fetch", "slow*/1", "one").stderr
        assert early.endswith("/1 has not ended; nothing of it is fetched\n")
        assert "up to date" not in early
    finally:
        project.run("kill", "slow*")


# Housekeeping


def test_init_writes_what_runs(project: Project) -> None:
    """The workflow that init writes runs; a second init changes nothing."""
    done = project.run("init", "new")
    new = Project(project.folder / "new")
    names = ["workflow.lua", "params.csv", "sparkles.toml", ".luarc.json"]
    assert done.stdout.splitlines() == [f"new/{name}" for name in names]
    assert new.run("run", "workflow.lua").stdout == "2 by 3 is 6\n4 by 5 is 20\n6 by 7 is 42\n"
    new.write("workflow.lua", "log('mine')")
    (value,) = new.json("init")
    assert (value["written"], value["kept"]) == ([], names)
    assert (new.folder / "workflow.lua").read_text() == "log('mine')"
    (stub,) = json.loads((new.folder / ".luarc.json").read_text())["workspace.library"]
    assert Path(stub).is_file()


def test_doctor(project: Project) -> None:
    """Says where settings come from, backs up, counts; makes no state folder; a damaged database is exit code 3 and named."""
    (value,) = project.json("doctor")
    assert (value["state"]["exists"], value["problems"]) == (False, [])
    assert not (project.folder / ".sparkles").exists()
    project.write("sparkles.toml", "[local]\ncpu = 1\n")
    project.run("sub", "--", "true")
    (value,) = project.json("doctor")
    settings = {each["key"]: (each["value"], each["source"]) for each in value["settings"]}
    assert settings["local.cpu"] == (1.0, str(project.folder / "sparkles.toml"))
    assert settings["defaults.cpu"] == (1.0, "built in")
    assert (value["state"]["rows"]["jobs"], value["state"]["rows"]["tasks"]) == (1, 1)
    backup = Path(value["state"]["backup"])
    assert backup.name == "sparkles.db.backup"
    with sqlite3.connect(backup) as copy:
        assert copy.execute("SELECT count(*) FROM jobs").fetchone() == (1,)
    copy.close()
    assert project.run("doctor").stdout.endswith("nothing is wrong\n")
    database = project.folder / ".sparkles" / "sparkles.db"
    for more in ("-wal", "-shm"):
        Path(f"{database}{more}").unlink(missing_ok=True)
    database.write_bytes(b"not a database, but long enough to be looked at" * 100)
    done = project.run("doctor", code=3)
    assert "damaged" in done.stdout
    assert str(backup) in done.stdout
    for command in (["list"], ["runs"], ["sub", "--", "true"]):
        told = project.run(*command, code=3).stderr
        assert "damaged" in told
        assert str(backup) in told


def test_a_state_folder_that_cannot_be_used(project: Project) -> None:
    """A file in its place is refused, wherever it was named; nothing is made."""
    project.write("state", "a file")
    told = project.run("--state", "state", "sub", "--", "true", code=2).stderr
    assert told.startswith("error: Invalid value for '--state': Directory 'state' is a file.\n")
    told = project.run("sub", "--", "true", code=3, env={"SPARKLES_HOME": "state"}).stderr
    assert told.startswith("error: ")
    assert str(project.folder / "state") in told
    assert sorted(path.name for path in project.folder.iterdir()) == ["state"]


def test_version_and_its_options(project: Project) -> None:
    """`version` names what sparkles is made of; --version is one line."""
    (value,) = project.json("version")
    assert set(value) == {"sparkles", "python", "lua", "lupa", "sqlite", "platform"}
    assert value["lua"].startswith("5.4")
    assert project.run("--version").stdout == f"sparkles {value['sparkles']}\n"


def test_a_reader_that_leaves_ends_nothing_badly(project: Project) -> None:
    """`sparkles ... | head -1` is quiet; a run whose standard output is gone goes on to its end."""
    project.run("sub", "--seq", "2000", "-n", "many", "--max-failures", "0", "--", "exit 1", code=1)
    done = subprocess.run(
        ["/bin/sh", "-c", f"{SPARKLES} list LAST --json | head -1"],
        cwd=project.folder,
        env=environment(project.folder),
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""
    project.write("w.lua", "for i = 1, 200 do log('%d', i) end shell('echo over > over.txt')")
    done = subprocess.run(
        ["/bin/sh", "-c", f"{SPARKLES} run w.lua | head -1"],
        cwd=project.folder,
        env=environment(project.folder),
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout == "1\n"
    assert (project.folder / "over.txt").read_text() == "over\n"
    assert project.json("runs")[0]["state"] == "succeeded"


def test_output_that_the_encoding_lacks(project: Project) -> None:
    """A locale without the letters: escapes, no exception."""
    project.write("w.lua", "log('sch\\u{f6}n')")
    done = project.run("run", "w.lua", env={"PYTHONIOENCODING": "ascii", "LC_ALL": "C"})
    assert done.stdout == "sch\\xf6n\n"


def test_help_is_quick(project: Project) -> None:
    """`sparkles --help`, whole process: under 0.1 s of processor time, as on a quiet machine."""
    assert quiet_children_s(lambda: project.run("--help")) < 0.1


def test_what_a_run_does_not_load(project: Project) -> None:
    """Without a terminal: no rich, no psutil, no sqlite_utils; with nothing to wait for, none on a terminal either."""
    project.write("w.lua", SWEEP)
    for command in (
        f"{sys.executable} -X importtime -m sparkles run w.lua",
        f"script -qec '{sys.executable} -X importtime -m sparkles run w.lua' /dev/null",
    ):
        if command.startswith("script"):
            requires(shutil.which("script"), "there is no script command (apt-get install bsdutils)")
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            cwd=project.folder,
            env=environment(project.folder),
            capture_output=True,
            text=True,
            timeout=30,
            stdin=subprocess.DEVNULL,
            check=True,
        )
        loaded = {
            line.rsplit("|", 1)[1].strip()
            for line in (done.stdout + done.stderr).splitlines()
            if line.startswith("import time")
        }
        assert "sparkles.cli.progress" in loaded
        assert not loaded & {"rich", "psutil", "sqlite_utils"}


def test_a_replayed_run_is_quick(project: Project) -> None:
    """A run that reuses everything, whole process and its worker: under 0.35 s of processor time, as on a quiet machine."""
    project.write("w.lua", SWEEP)
    project.run("run", "w.lua")
    assert quiet_children_s(lambda: project.run("run", "w.lua")) < 0.35
