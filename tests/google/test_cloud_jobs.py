"""Jobs in the cloud from submission to removal: followed, killed, tried again, forked, cleaned."""

from __future__ import annotations

import json
import re
import signal

import pytest

from sparkles.backends.google.blobs import GoogleBlobs
from tests.support.cloud import CloudProject
from tests.support.worker import until

pytestmark = [pytest.mark.google, pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(300)]

GATED = """
local job = JobBuilder("gated"):setCommandTemplate([[
  echo begun {n}
  until test -e "{gate}"; do sleep 0.05; done
  echo passed {n} | tee out-{n}.txt
]]):createTasksFor(product { n = { 1, 2 }, gate = { args.gate } }):setOutputs { "out-*.txt" }
print(run(job).tasks[2].state)
"""


def job_of(command):
    """The job that a command in the background has submitted."""
    command.wait_for(" task")
    return re.search(r"^(\S+): \d+ tasks?$", command.stderr, re.M).group(1)


def counts(cloud, job):
    (value,) = cloud.json("status", job)
    return {name: count for name, count in value["counts"].items() if count}


def test_logs_are_followed_while_they_grow_and_jobs_are_watched(cloud):
    """`logs -f` shows what comes, and ends with the task; `watch` and `wait` end with the job; nothing is left running."""
    cloud.write("w.lua", GATED)
    gate = cloud.folder / "gate"
    driver = cloud.background("run", "w.lua", "-p", f"gate={gate}")
    job = job_of(driver)
    following = cloud.background("logs", "-f", f"{job}/2")
    watching = cloud.background("watch", job)
    following.wait_for("begun 2\n")
    assert "passed" not in following.stdout
    watching.wait_for("0/2, 2 running")
    waiting = cloud.run("wait", job, "--timeout", "0.2s", code=1)
    assert f"{job} did not end within 0.2 s\n{job} goes on" in waiting.stderr
    gate.touch()
    following.end()
    assert following.stdout == "begun 2\npassed 2\n"
    assert f"{job}: 2 tasks succeeded" in watching.end()
    assert driver.end().startswith("succeeded\n")
    until(lambda: not cloud.processes())


def test_killed_tasks_end_and_are_reset_and_go_on_when_the_run_is_resumed(cloud):
    """`kill` of a task ends its program; of a run its driver and workers; `reset` and `resume` run what is missing, and only that."""
    cloud.write("w.lua", GATED)
    gate = cloud.folder / "gate"
    driver = cloud.background("run", "w.lua", "-p", f"gate={gate}")
    job = job_of(driver)
    cloud.background("logs", "-f", f"{job}/1").wait_for("begun 1\n")
    sleeping = len([line for _, line in cloud.processes() if "begun 1" in line])
    assert sleeping
    cloud.run("kill", f"{job}/1")
    until(lambda: not [line for _, line in cloud.processes() if "begun 1" in line])
    until(lambda: counts(cloud, job) == {"cancelled": 1, "claimed": 1, "running": 1})
    assert [line for _, line in cloud.processes() if "begun 2" in line]
    (task,) = cloud.json("list", job, "--state", "cancelled")
    assert task["index"] == 1
    run = re.search(r"run (r-\w+)", driver.stderr).group(1)
    assert f"run {run}: its driver ended" in cloud.run("kill", run).stderr
    driver.process.wait(30)
    until(lambda: not cloud.processes())
    assert counts(cloud, job) == {"cancelled": 2}
    gate.touch()
    assert f"{job}: 1 task pending again; they run when its run is resumed" in cloud.run("reset", f"{job}/1").stderr
    assert cloud.run("resume", run).stdout == "succeeded\n"
    assert counts(cloud, job) == {"succeeded": 2}
    until(lambda: not cloud.processes())


def test_ctrl_c_lets_running_tasks_finish_and_twice_gives_them_back(cloud):
    """Once: what runs is recorded; twice: it is pending again. Then the same command goes on."""
    cloud.write("w.lua", GATED)
    gate = cloud.folder / "gate"
    driver = cloud.background("run", "w.lua", "-p", f"gate={gate}")
    job = job_of(driver)
    cloud.background("logs", "-f", f"{job}/1").wait_for("begun 1\n")
    cloud.background("logs", "-f", f"{job}/2").wait_for("begun 2\n")
    driver.process.send_signal(signal.SIGINT)
    driver.wait_for("Ctrl-C again")
    driver.process.send_signal(signal.SIGINT)
    driver.end(code=130)
    until(lambda: not [line for pid, line in cloud.processes() if "logs" not in line])
    assert counts(cloud, job) == {"pending": 2}
    gate.touch()
    assert cloud.run("run", "w.lua", "-p", f"gate={gate}").stdout == "succeeded\n"
    assert [task["attempts"] for task in cloud.json("list", job)] == [2, 2]


def test_jobs_without_a_script(cloud):
    """`sub` with a table; the same again is reused; a job that was left behind is served by `wait`; a detached worker leaves."""
    cloud.write("p.csv", "a,b\nx y,1\nü,2\n")
    done = cloud.run("sub", "-n", "letters", "--csv", "p.csv", "--output", "*.txt", "--", "echo {a}{b} > {b}.txt; cat {b}.txt")
    assert "2 tasks succeeded" in done.stderr
    assert cloud.run("logs", "letters*/2").stdout == "ü2\n"
    again = cloud.run("sub", "-n", "letters", "--csv", "p.csv", "--output", "*.txt", "--", "echo {a}{b} > {b}.txt; cat {b}.txt")
    assert "2 tasks reused" in again.stderr
    failed = cloud.run("sub", "-n", "bad", "--", "echo oh no; exit 4", code=1)
    assert "| oh no" in failed.stderr
    detached = cloud.run("sub", "-n", "later", "--detach", "--", "echo later").stdout.strip()
    until(lambda: counts(cloud, detached) == {"succeeded": 1}, 60)
    until(lambda: not cloud.processes(), 60)
    cloud.write("job.json", json.dumps({"name": "file", "tasks": [{"command": "echo from a file"}]}))
    cloud.run("sub", "--file", "job.json")
    assert cloud.run("logs", "LAST").stdout == "from a file\n"


FORKED = """
local function sum(name, n)
  return run(JobBuilder(name):setCommandTemplate("echo $(({n} + {plus})) | tee $SPARKLES_RESULTS")
    :createTasksFor({ { n = n, plus = args.plus or 1 } })).tasks[1].results
end
local first = sum("first", 1)
print(sum("second", first))
"""


def test_plan_replay_and_fork(cloud):
    """Before: what would run. After: all reused; the record replays; a fork runs a job anew."""
    cloud.write("w.lua", FORKED)
    assert "1 would run" in cloud.run("plan", "w.lua").stdout
    assert not (cloud.folder / ".sparkles").exists()
    assert cloud.objects() == []
    assert cloud.run("run", "w.lua").stdout == "3\n"
    (run,) = cloud.json("runs")
    assert "1 would run" not in cloud.run("plan", "w.lua").stdout
    assert "the script replays to its end" in cloud.run("replay", run["run"]).stdout
    assert "1 task run" in cloud.run("run", "w.lua", "--fork", run["run"], "--rerun", "second").stderr
    jobs = [job["job"].split("-")[0] for job in cloud.json("list")]
    assert sorted(jobs) == ["first", "first", "second", "second"]
    assert cloud.run("run", "w.lua", "-p", "plus=2").stdout == "5\n"


def test_what_is_removed_and_what_stays(cloud):
    """`clean` asks, goes by age, removes a job's objects and its subscriptions, and leaves every content that another job uses."""
    for name, text in (("one", "mine"), ("two", "shared"), ("three", "shared")):
        cloud.write(f"{name}.txt", text)
        options = ["-q", "-n", name, "--file-input", f"{name}.txt=in.txt", "--output", "out"]
        cloud.run("sub", *options, "--", f"cat in.txt > out; echo {name}")
    one, two, three = (cloud.json("status", f"{name}*")[0]["job"] for name in ("one", "two", "three"))
    assert "nobody can be asked here: say --yes" in cloud.run("clean", code=2).stderr
    assert "; 3 stay (not ended, or not that old)" in cloud.run("clean", "--older-than", "1h").stderr
    gate = cloud.folder / "gate"
    running = cloud.background("sub", "-n", "four", "--", f"until test -e {gate}; do sleep 0.05; done")
    watching = cloud.background("watch", job_of(running))
    until(lambda: watching.process.pid in cloud.subscribers(), 30)
    watching.process.kill()
    watching.process.wait()
    gate.touch()
    running.end()
    assert cloud.subscribers() == [watching.process.pid]
    cloud.run("clean", one, two, "four*", "--yes")
    assert cloud.subscribers() == []
    assert [job["job"] for job in cloud.json("list")] == [three]
    assert {name.split("/")[1] for name in cloud.objects("jobs/")} == {three}
    assert cloud.run("logs", three).stdout == "three\n"
    cloud.run("fetch", three, "results")
    assert (cloud.folder / "results" / "1" / "out").read_text() == "shared"
    store, clients = cloud.jobs()
    blobs = GoogleBlobs(clients[1], cloud.folder / "cache")
    # What is younger than an hour may be the input of a job that somebody just submits: it stays, and is collected later.
    assert len(cloud.objects("cas/")) == 2
    assert blobs.sweep(store.list_digests(), 0)[0] == 1
    blobs.close()
    for client in clients:
        client.close()


def test_two_folders_share_an_installation(cloud, tmp_path):
    """Jobs are seen from both and outcomes are reused across; `clean` of one leaves the jobs of the other's runs."""
    other = CloudProject(tmp_path / "other")
    other.variables |= {name: cloud.variables[name] for name in ("SPARKLES_GOOGLE_PREFIX", "SPARKLES_GOOGLE_TOPIC")}
    for project in (cloud, other):
        project.write("w.lua", FORKED)
    assert "nothing was run yet" in other.run("runs").stderr
    cloud.run("run", "w.lua")
    assert other.json("list") == cloud.json("list")
    assert "1 of 1 tasks reused" in other.run("plan", "w.lua").stdout
    assert "; 2 jobs of other state folders' runs stay" in other.run("clean", "--yes").stderr
    assert len(cloud.json("list")) == 2
    assert "2 tasks, all reused" in other.run("run", "w.lua").stderr
    cloud.run("clean", "--yes")
    assert len(other.json("list")) == 2
    other.run("fetch", "first*", "results")
    assert (other.folder / "results" / "1" / "results.json").read_text() == "2\n"
    other.close()
