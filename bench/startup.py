"""How long a person waits: `sparkles --help`, and from `sparkles run` to the first instruction of the first task."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from common import SPARKLES, Row, alternate, run, scratch, show

SCRIPT = """local job = JobBuilder("first")
  :setCommandTemplate("date +%s%N")
  :setCache(false)
wait(submit(job))
"""


def measure() -> list[Row]:
    with scratch() as known:
        (known / "first.lua").write_text(SCRIPT)
        run([SPARKLES, "run", "first.lua"], known)
        print("start-up")
        times = alternate(
            9,
            {
                "python3 -c pass": lambda: run([sys.executable, "-c", "pass"], known).seconds,
                "sparkles --help": lambda: run([SPARKLES, "--help"], known).seconds,
                "first task, new project": first_task_new,
                "first task, known project": lambda: first_task(known),
            },
        )
    start = f"Python's start {times['python3 -c pass']:.3f} s"
    return [
        Row("`sparkles --help`", times["sparkles --help"], "s", 0.1, start),
        Row(
            "from `run` to the first task, new project", times["first task, new project"], "s", 0.3, "the state folder is made"
        ),
        Row("from `run` to the first task, known project", times["first task, known project"], "s", 0.3),
    ]


def first_task_new() -> float:
    with scratch() as folder:
        (folder / "first.lua").write_text(SCRIPT)
        return first_task(folder)


def first_task(folder: Path) -> float:
    """Seconds from starting the command to what the task's own clock said."""
    before = time.time_ns()
    run([SPARKLES, "run", "first.lua"], folder)
    logs = sorted((folder / ".sparkles" / "jobs").rglob("output.log"), key=lambda path: path.stat().st_mtime_ns)
    return (int(logs[-1].read_text()) - before) / 1e9


if __name__ == "__main__":
    show(measure())
