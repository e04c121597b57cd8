"""Workflows with the cloud backend, run as a user runs them: the real command, the real worker, the services' emulators."""

from __future__ import annotations

import hashlib
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cli import SPARKLES, Project
from tests.support.processes import marked

pytestmark = [pytest.mark.google, pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(300)]

EXAMPLES = Path(__file__).parents[2] / "examples"


def children_cpu_s():
    """CPU seconds of the commands that ended so far: unlike the clock, the same on a busy machine."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.fixture(scope="module")
def on_this_machine(tmp_path_factory):
    """What the example printed and wrote with the local backend."""
    local = Project(tmp_path_factory.mktemp("local"))
    local.timeout_s = 200
    shutil.copytree(EXAMPLES, local.folder / "examples")
    printed = local.run("run", "examples/csv_submit.lua").stdout
    yield printed, written(local)
    local.close()


def written(project):
    return [(project.folder / "examples" / name).read_bytes() for name in ("best.csv", "summary.txt")]


@pytest.mark.parametrize("cloud", ["firestore"], indirect=True)
def test_the_example_gives_the_same_winners_as_on_this_machine(cloud, on_this_machine):
    """Byte for byte; again it is answered from the record, without workers; afterwards nothing runs."""
    shutil.copytree(EXAMPLES, cloud.folder / "examples")
    first = cloud.run("run", "examples/csv_submit.lua")
    assert (first.stdout, written(cloud)) == on_this_machine
    assert marked(cloud.mark) == []

    before = children_cpu_s()
    again = cloud.run("run", "examples/csv_submit.lua")
    assert children_cpu_s() - before < 2
    assert again.stdout == first.stdout
    assert ", all reused;" in again.stderr


CHAIN = """
local made = run(JobBuilder("made")
  :setCommandTemplate([[printf '%s' {n} > 'a file with ünïcode & (odd) name.txt'; mkdir -p deep/er; echo deep {n} > deep/er/"new
line"; printf '%s' '' > empty]])
  :createTasksFor(product { n = { 1, 2, 3 } })
  :setOutputs { "*.txt", "deep/**", "empty" })
local inputs = {}
for index, task in ipairs(made.tasks) do
  for name, artifact in pairs(task.outputs) do
    table.insert(inputs, { src = artifact, dst = index .. "/" .. name })
  end
end
local read = run(JobBuilder("read"):setCommandTemplate([[
  find [0-9] -type f -print0 | LC_ALL=C sort -z | xargs -0 sh -c 'for each; do printf "%s=" "$each"; cat "$each"; done' sh > all
]])
  :addFiles(table.unpack(inputs)):setOutputs { "all" })
print(read.tasks[1].outputs["all"].digest)
"""


def test_outputs_of_odd_names_are_inputs_of_the_next_job(cloud, tmp_path):
    """The same bytes under the same names as on this machine; a fetch brings them; the second run reuses all of it."""
    local = Project(tmp_path / "local")
    local.timeout_s = cloud.timeout_s
    found = {}
    for name, project in (("local", local), ("cloud", cloud)):
        project.write("w.lua", CHAIN)
        digest = project.run("run", "w.lua").stdout
        project.run("fetch", "made*", "made")
        project.run("fetch", "read*", "read")
        files = {
            str(path.relative_to(project.folder / "made")): path.read_bytes()
            for path in (project.folder / "made").glob("[1-3]/**/*")
            if path.is_file()
        }
        found[name] = (digest, (project.folder / "read" / "1" / "all").read_text(), files)
    local.close()
    assert found["cloud"] == found["local"]
    assert "1/a file with ünïcode & (odd) name.txt" in found["cloud"][2]
    assert "4 tasks, all reused" in cloud.run("run", "w.lua").stderr


BIG = """
local job = JobBuilder("big")
  :setCommandTemplate("sha256sum big.bin | cut -c1-64 > sum; head -c 100000000 /dev/zero | tr '\\\\0' 'x'; echo; echo last line of {n}")
  :createTasksFor(product { n = { 1, 2 } })
  :addFiles { src = "big.bin", dst = "big.bin", link = true }
  :setOutputs { "sum" }
for _, task in ipairs(run(job).tasks) do print(task.state, task.outputs.sum.digest) end
"""


PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
"""
"""Runs a command from a small process: what a process has at its fork counts as its child's."""


def test_a_large_input_and_a_log_of_100_mb(cloud):
    """The input arrives whole, once in the bucket; the end of the log is there at once; all of it costs little memory."""
    data = os.urandom(1 << 20) * 60
    (cloud.folder / "big.bin").write_bytes(data)
    cloud.write("w.lua", BIG)
    wanted = hashlib.sha256(hashlib.sha256(data).hexdigest().encode() + b"\n").hexdigest()
    assert cloud.run("run", "w.lua").stdout == f"succeeded\t{wanted}\n" * 2
    assert len(cloud.objects("cas/")) == 2  # the input and what both tasks wrote
    assert cloud.run("logs", "LAST/2", "-n", "1").stdout == "last line of 2\n"
    with open(cloud.folder / "log", "wb") as log:
        command = [sys.executable, "-c", PEAK, SPARKLES, "logs", "LAST/2"]
        done = subprocess.run(
            command, cwd=cloud.folder, env=cloud.environment(), stdout=log, stderr=subprocess.PIPE, check=True
        )
    assert (cloud.folder / "log").stat().st_size == 100_000_000 + len("\nlast line of 2\n")
    assert int(done.stderr.split()[-1]) < 250_000  # kB


def test_two_hundred_tasks(cloud):
    """A sweep over several shards: every output is there, each task ran once."""
    cloud.write(
        "w.lua",
        """
local job = JobBuilder("many"):setCommandTemplate("echo {i} > out.txt"):setOutputs { "out.txt" }
local rows = {}
for i = 1, 200 do rows[i] = { i = i } end
job:createTasksFor(rows)
local submitted = submit(job)
wait(submitted)
fetch(submitted, "results")
""",
    )
    cloud.run("run", "w.lua")
    assert [(cloud.folder / "results" / str(i) / "out.txt").read_text() for i in range(1, 201)] == [
        f"{i}\n" for i in range(1, 201)
    ]
    assert {task["attempts"] for task in cloud.json("list", "LAST")} == {1}


GATE = """
print(run(JobBuilder(args.name):setCommandTemplate("until test -e {gate}; do sleep 0.05; done; echo {name}")
  :createTasksFor { { gate = args.gate, name = args.name } }).tasks[1].state)
"""


def test_two_drivers_work_in_one_installation_but_not_on_one_run(cloud):
    """Two runs at once end each with their own; a second driver of the same run is refused by name."""
    cloud.write("w.lua", GATE)
    gate = cloud.folder / "gate"
    drivers = [cloud.background("run", "w.lua", "-p", f"name={name}", "-p", f"gate={gate}") for name in ("one", "two")]
    for driver in drivers:
        driver.wait_for(": 1 task\n")
    refused = cloud.run("run", "w.lua", "-p", "name=one", "-p", f"gate={gate}", code=2)
    assert re.search(rf"run r-.* is driven by pid {drivers[0].process.pid} on host \S+ since", refused.stderr)
    gate.touch()
    for driver in drivers:
        driver.end()
        assert driver.stdout == "succeeded\n"
    assert {job["state"] for job in cloud.json("list")} == {"succeeded"}
    assert marked(cloud.mark) == []


def test_settings_come_from_the_file_a_profile_and_the_environment(cloud):
    """In that order; nothing but the file is needed."""
    cloud.write("w.lua", 'print(run(JobBuilder("one"):setCommandTemplate("echo hi")).tasks[1].state)\n')
    names = [
        name
        for name in cloud.variables
        if name.startswith("SPARKLES_GOOGLE_") or name in ("SPARKLES_BACKEND", "SPARKLES_FLEET")
    ]
    given = {name: cloud.variables.pop(name) for name in names}
    assert cloud.run("run", "w.lua").stderr.count("emulators in use") == 0
    assert cloud.objects() == []
    cloud.write(
        "sparkles.toml",
        f"""
[profile.shared]
backend = "cloud"
fleet = "processes"
google = {{ project = "{given["SPARKLES_GOOGLE_PROJECT"]}", bucket = "there-is-none", topic = "{given["SPARKLES_GOOGLE_TOPIC"]}" }}
""",
    )
    assert "bucket there-is-none does not exist" in cloud.run("--profile", "shared", "run", "--new", "w.lua", code=2).stderr
    bucket = {"SPARKLES_GOOGLE_BUCKET": given["SPARKLES_GOOGLE_BUCKET"], "SPARKLES_GOOGLE_PREFIX": cloud.prefix}
    assert cloud.run("--profile", "shared", "run", "--new", "w.lua", env=bucket).stdout == "succeeded\n"
    assert cloud.objects("jobs/") != []
    assert len(cloud.run("list").stdout.splitlines()) == 2  # the job of this machine, and the head


NOTES = """
local words = readText("in.txt")
writeText("out.txt", words:upper())
print(readText("out.txt"))
if args.more then
  run(JobBuilder("use"):setCommandTemplate("cat out.txt"):addFiles("out.txt"):createTasksFor { { n = 1 } })
end
"""


def test_what_a_run_reads_and_writes_stays_here(cloud):
    """Nothing of it is in the bucket, unless a task needs it; a replay finds it though the file is another one by now."""
    (cloud.folder / "in.txt").write_text("said\n")
    (cloud.folder / "w.lua").write_text(NOTES)
    first = cloud.run("run", "w.lua")
    assert first.stdout == "SAID\n\n"
    assert cloud.objects() == []
    (cloud.folder / "in.txt").write_text("changed\n")
    assert "replays to its end" in cloud.run("replay", "LAST").stdout
    (cloud.folder / "in.txt").write_text("said\n")
    cloud.run("run", "w.lua", "-p", "more=true")
    digest = hashlib.sha256(b"SAID\n").hexdigest()
    assert cloud.objects("cas/") == [f"cas/{digest}"]
