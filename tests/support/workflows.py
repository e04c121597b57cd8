"""Small workflows for tests of the commands, and waiting for what they do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from tests.support.cli import Project

SWEEP = """
local job = JobBuilder("sweep")
  :setCommandTemplate([[echo "n is {n}"; printf '{"square": %d}' $(({n} * {n})) > "$SPARKLES_RESULTS"; cp "$SPARKLES_RESULTS" out.json]])
  :createTasksFor(product { n = { 1, 2, 3 } })
  :setOutputs { "out.json" }
  :setProperties { who = "me" }
local result = run(job)
log("the last square is %d", result.tasks[3].results.square)
"""

FAILING = """
local job = JobBuilder("failing")
  :setCommandTemplate("for i in 1 2 3; do echo line $i of {n}; done; test -e flag || test {n} -lt 3")
  :createTasksFor(product { n = { 1, 2, 3, 4 } })
run(job)
log("all well")
"""

SLEEPING = """
local job = JobBuilder("sleeping"):setCommandTemplate("sleep {t}"):createTasksFor(product { t = { 30, 31, 32 } })
run(job)
"""


def eventually(condition: Callable[[], Any], seconds: float = 15.0) -> Any:
    """The first true value of `condition`, asked every 50 ms."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)
    return found


def claimed(project: Project) -> int:
    return sum(each["counts"]["claimed"] for each in project.json("list"))
