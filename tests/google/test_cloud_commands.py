"""Every command that looks at jobs and runs shows of a job in the cloud what it shows of one on this machine."""

from __future__ import annotations

import re

import pytest

from tests.support.cli import Project
from tests.support.cloud import CloudProject
from tests.support.workflows import SWEEP

pytestmark = [pytest.mark.google, pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(300)]

FAILING = """
local script = [[
for i in $(seq 30); do echo line $i of {n}; done
case {n} in
  1) exit 3;;
  2) sleep 60;;
  3) kill -9 $$;;
  4) touch other.txt;;
  5) touch need.txt;;
  6) test $SPARKLES_ATTEMPT -gt 1 || exit 9; touch need.txt;;
  7) touch need.txt; echo '{' > $SPARKLES_RESULTS;;
esac]]
run(JobBuilder("failing"):setCommandTemplate(script):createTasksFor(product { n = { 1, 2, 3, 4, 5, 6, 7 } })
  :setTimeout("1.5s"):setRetry { attempts = 2, exitCodes = { 9 } }:setOutputs { { "need.txt", required = true } })
"""

COMMANDS = (
    "list",
    "list failing*",
    "list failing* --failed --params n=1",
    "status sweep* failing* --json",
    "status failing*",
    "logs sweep*/2",
    "logs failing*/6 --attempt 1 -n 1",
    "show sweep*/2",
    "show failing*/6",
    "runs",
    "show RUN",
    "replay RUN",
    "plan failing.lua",
    "wait failing*",
    "watch failing*",
    "fetch sweep* results",
    "logs sweep*",
    "show nothing",
    "fetch failing*/4 results",
)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A sweep and a failed job, on this machine and in the cloud; and how the failed run ended."""
    local, cloud = Project(tmp_path_factory.mktemp("local")), CloudProject(tmp_path_factory.mktemp("cloud"))
    local.timeout_s = cloud.timeout_s
    projects = {"local": local, "cloud": cloud}
    for project in projects.values():
        project.write("sweep.lua", SWEEP)
        project.write("failing.lua", FAILING)
        project.run("run", "sweep.lua")
        project.failed = project.run("run", "failing.lua", code=1)
    yield projects
    for project in projects.values():
        project.close()


def told(text):
    """What does not depend on the moment, the id, the place and the measured usage."""
    text = re.sub(r"^emulators in use: .*\n", "", text, flags=re.M)
    text = re.sub(r"\b(sweep|failing)-[0-9a-f]{8}", r"\1-ID", text)
    text = re.sub(r"\br-[0-9a-f]{8}", "r-ID", text)
    text = re.sub(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+Z)?", "WHEN", text)
    text = re.sub(r"\b\d+(\.\d+)? (ms|s|min)\b", "TIME", text)
    text = re.sub(r"\d+(\.\d+)? [kM]B", "SIZE", text)
    text = re.sub(r"TIME +SIZE", "TIME", text)  # memory, measured where a program runs long enough
    text = re.sub(r"^.*(\d+/7|\d+/3), .*\n", "", text, flags=re.M)  # progress
    text = re.sub(r"/a(\d)/$", r"/a\1", text, flags=re.M)
    text = re.sub(r"(gs://\S+?|/\S+?)/((t\w+|\.sparkles)/)?jobs/", "FOLDER/jobs/", text)
    return re.sub(r" {2,}", "  ", text)


def test_a_failed_run_ends_as_on_this_machine(both):
    """Class, command, exit code, the last 20 lines of the log, and what shows more."""
    here, there = (told(both[name].failed.stderr) for name in ("local", "cloud"))
    assert there == here
    assert "task failing-ID/1 failed: class exit, exit code 3, attempt 1" in there
    assert there.count("  | line") == 20
    assert "more: sparkles logs failing-ID/1" in there


@pytest.mark.parametrize("line", COMMANDS)
def test_what_is_shown_is_the_same(both, line):
    """Both streams and the exit code."""
    shown = {}
    for name, project in both.items():
        run = re.search(r"run (r-\w+)", project.failed.stderr).group(1)
        done = project.run(*line.replace("RUN", run).split(), code=None)
        shown[name] = (done.returncode, told(done.stdout), told(done.stderr))
    assert shown["cloud"] == shown["local"]
