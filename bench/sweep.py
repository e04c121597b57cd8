"""1,000 and 10,000 trivial tasks at 2 slots, whole process, against xargs -P2, and doit and GNU parallel where they are installed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from common import PEERS, SLOTS, SPARKLES, Row, alternate, run, scratch, show, sweep_script

DODO = """
import os
def task_one():
    for i in range({count}):
        yield {{"name": str(i), "actions": [f"true && touch out/{{i}}"], "targets": [f"out/{{i}}"], "uptodate": [True]}}
"""


def measure() -> list[Row]:
    return [*compare(1000, repeats=5, goal=2.0), *compare(10_000, repeats=3, goal=1.5), *compare_shell(1000, repeats=5)]


def compare(count: int, *, repeats: int, goal: float) -> list[Row]:
    """The sweep and its peers, each run in a new folder."""
    print(f"{count} trivial tasks, {SLOTS} slots")
    runs: dict[str, Callable[[], float]] = {"xargs": lambda: xargs(count, ["true"]), "sparkles": lambda: sparkles(count)}
    doit, parallel = PEERS / "bin" / "doit", shutil.which("parallel")
    if doit.exists():
        runs["doit"] = lambda: run_doit(str(doit), count)
    else:
        print("  doit: not measured; bench/peers installs it")
    if parallel:
        runs["GNU parallel"] = lambda: run_parallel(parallel, count)
    else:
        print("  GNU parallel: not measured; it is not installed (Debian: apt-get install parallel)")
    times = alternate(repeats, runs)
    base, own = times["xargs"], times["sparkles"]
    name = f"{count:,} trivial tasks, {SLOTS} slots"
    detail = f"sparkles {own:.2f} s, xargs -P{SLOTS} {base:.2f} s; {1000 * own / count:.2f} ms a task"
    rows = [Row(f"{name}, against xargs", own / base, "times", goal, detail)]
    for peer in ("doit", "GNU parallel"):
        if peer in times:
            rows.append(Row(f"{name}, against {peer}", own / times[peer], "times", 1.0, f"{peer} {times[peer]:.2f} s"))
    return rows


def compare_shell(count: int, *, repeats: int) -> list[Row]:
    """The same through /bin/sh, as most tasks are."""
    print(f"{count} trivial tasks through /bin/sh, {SLOTS} slots")
    times = alternate(
        repeats,
        {"xargs": lambda: xargs(count, ["-I{}", "sh", "-c", "true {}"]), "sparkles": lambda: sparkles(count, shell=True)},
    )
    own, base = times["sparkles"], times["xargs"]
    what = f"{count:,} trivial tasks through /bin/sh, {SLOTS} slots, against xargs sh -c"
    return [Row(what, own / base, "times", None, f"sparkles {own:.2f} s, xargs {base:.2f} s")]


def numbers(folder: Path, count: int) -> Path:
    path = folder / "numbers"
    path.write_text("".join(f"{i}\n" for i in range(1, count + 1)))
    return path


def xargs(count: int, command: list[str]) -> float:
    one = [] if command[0].startswith("-I") else ["-n1"]
    with scratch() as folder:
        return run(["xargs", f"-P{SLOTS}", *one, *command], folder, stdin=numbers(folder, count)).seconds


def sparkles(count: int, *, shell: bool = False) -> float:
    with scratch() as folder:
        (folder / "sweep.lua").write_text(sweep_script(count, shell=shell))
        return run([SPARKLES, "run", "sweep.lua"], folder).seconds


def run_doit(doit: str, count: int) -> float:
    with scratch() as folder:
        (folder / "out").mkdir()
        (folder / "dodo.py").write_text(DODO.format(count=count))
        return run([doit, "run", "-v0", "-n", str(SLOTS), "-P", "thread"], folder).seconds


def run_parallel(parallel: str, count: int) -> float:
    options = ["--will-cite", "-j", str(SLOTS), "--joblog", "log", "--results", "res"]
    with scratch() as folder:
        return run([parallel, *options, "true"], folder, stdin=numbers(folder, count)).seconds


if __name__ == "__main__":
    show(measure())
