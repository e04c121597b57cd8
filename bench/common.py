"""What every benchmark shares: the real command in a scratch folder, alternating repeats, medians, ratios and rows of a table.

A benchmark is a module with `measure() -> list[Row]`. Times are seconds of wall clock of whole processes, start and end included.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import psutil

ROOT = Path(__file__).resolve().parent.parent
SPARKLES = str(Path(sys.executable).parent / "sparkles")
PEERS = ROOT / "bench" / ".peers"
"""The environment that bench/peers makes."""

SLOTS = 2


class Row(NamedTuple):
    """One line of the table. `goal` and `value` are in `unit`; None as goal: for comparison only. `detail` is how it came about."""

    what: str
    value: float
    unit: str
    goal: float | None = None
    detail: str = ""

    @property
    def verdict(self) -> str:
        if self.goal is None:
            return ""
        if self.value <= self.goal:
            return "reached"
        return f"missed: {self.value / self.goal:.2f} times the goal"

    def cells(self) -> tuple[str, str, str, str, str]:
        goal = "" if self.goal is None else f"at most {self.goal:g} {self.unit}"
        return self.what, f"{self.value:.3g} {self.unit}", goal, self.verdict, self.detail


class Ended(NamedTuple):
    """A process that ended well: its time, and the greatest resident memory of it alone and of any worker below it, in bytes."""

    seconds: float
    driver_bytes: int = 0
    worker_bytes: int = 0
    output: str = ""


class Failed(Exception):
    """A command did not do what it was measured for: its time means nothing."""


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder for one measurement, away from any project. It is removed when this process ends, not before: on ext4, inodes that were
    freed a moment ago slow down what is created next, and that would be the next measurement."""
    folder = Path(tempfile.mkdtemp(prefix="sparkles-bench-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    yield folder


def run(command: list[str], cwd: Path, *, stdin: Path | None = None, expect: int = 0, watch: bool = False) -> Ended:
    """Runs a command to its end. With `watch`, memory is looked at, which costs a little time.

    Raises:
        Failed: It ended with another code than `expect`; the message has the end of what it printed.
    """
    env = {name: value for name, value in os.environ.items() if not name.startswith("SPARKLES_")}
    with tempfile.TemporaryFile("w+") as output, open(stdin or os.devnull) as source:
        started = time.perf_counter()
        child = subprocess.Popen(command, cwd=cwd, env=env, stdin=source, stdout=output, stderr=subprocess.STDOUT)
        driver = worker = 0
        if watch:
            driver, worker = watch_memory(child)
        code = child.wait()
        seconds = time.perf_counter() - started
        output.seek(0)
        text = output.read()
    if code != expect:
        raise Failed(f"{' '.join(command)} ended with {code} instead of {expect}:\n{text[-2000:]}")
    return Ended(seconds, driver, worker, text)


def watch_memory(child: subprocess.Popen[bytes]) -> tuple[int, int]:
    """Peaks of resident memory until the child ends, looked at ten times a second: its own, and the largest of the Python processes below
    it. These are looked for every two seconds only, because that reads about every process of the machine."""
    driver = worker = 0
    process = psutil.Process(child.pid)
    workers: list[psutil.Process] = []
    look_at = time.monotonic() + 0.5
    while child.poll() is None:
        with contextlib.suppress(psutil.Error):
            driver = max(driver, process.memory_info().rss)
            if time.monotonic() >= look_at:
                look_at = time.monotonic() + 2
                workers = [below for below in process.children() if "python" in below.name()]
        for below in workers:
            with contextlib.suppress(psutil.Error):
                worker = max(worker, below.memory_info().rss)
        time.sleep(0.1)
    return driver, worker


def alternate(repeats: int, runs: Mapping[str, Callable[[], float]]) -> dict[str, float]:
    """Runs each in turn, `repeats` times over, so that what the machine does meanwhile hits all alike; the medians of their seconds."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, one in runs.items():
            times[name].append(one())
    medians = {name: statistics.median(found) for name, found in times.items()}
    for name, found in times.items():
        print(f"  {name:28} median {medians[name]:8.3f} s of {', '.join(f'{each:.3f}' for each in found)}", flush=True)
    return medians


def slots_line() -> str:
    """A setter that keeps a sweep at SLOTS tasks at a time where the machine has more cores than that."""
    return "" if os.cpu_count() == SLOTS else f"\n  :setParallelism({SLOTS})"


def sweep_script(count: int, *, shell: bool = False) -> str:
    """A workflow of `count` tasks that do nothing, each with arguments of its own, and a look at every result."""
    command = '"true {i}"' if shell else '{ "true", "{i}" }'
    return f"""local rows = {{}}
for i = 1, {count} do rows[i] = {{ i = i }} end
local result = run(JobBuilder("trivial")
  :setCommandTemplate({command})
  :createTasksFor(rows){slots_line()})
local sum = 0
for _, task in ipairs(result.tasks) do sum = sum + task.exitCode + 1 end
if sum ~= {count} then fail("expected {count} results, found " .. sum) end
"""


@functools.cache
def large_sweep(count: int) -> Ended:
    """A sweep of `count` tasks in a folder of its own, memory watched; run once however many benchmarks ask for it."""
    with scratch() as folder:
        (folder / "sweep.lua").write_text(sweep_script(count))
        return run([SPARKLES, "run", "sweep.lua"], folder, watch=True)


def show(rows: list[Row]) -> None:
    """Prints rows for a person."""
    for row in rows:
        what, value, goal, verdict, detail = row.cells()
        print(f"{what}: {value}" + "".join(f"; {part}" for part in (goal and f"goal: {goal}", verdict, detail) if part))
