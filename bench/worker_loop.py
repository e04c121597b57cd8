"""The worker's loop alone, whole process, against xargs in the same run: N times `true` at two slots.

    python bench/worker_loop.py [N ...]

The job is created beforehand; what is timed is the worker process from its start until nothing is pending: claims, scratch directory, log,
params.json, result.json and durable state for each task. Folders are left until the end: on ext4, freed inodes slow down what is
created within the next minute, here and in whatever is measured next.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REPEATS = 3


def create(state: Path, count: int) -> None:
    """A job of `count` tasks in a new state folder."""
    from sparkles.backends.local.db import open_state
    from sparkles.backends.local.job_store import SqliteJobStore
    from sparkles.digest import fingerprinter
    from sparkles.model import Job, JobId, JobSpec, NewTask, TaskSpec

    spec = JobSpec("bench")
    of = fingerprinter(spec)
    database = open_state(state)
    tasks = (TaskSpec("true", params={"n": number}) for number in range(count))
    SqliteJobStore(database).create_job(
        Job(JobId("bench-00000000"), spec, count, pool="p"), [NewTask(task, of(task)) for task in tasks]
    )
    database.close()


def ours(folder: Path, count: int) -> float:
    state = folder / f"state-{time.time_ns()}"
    create(state, count)
    command = [sys.executable, "-P", str(ROOT / "sparkles" / "worker_process.py"), "--state", str(state), "--pool", "p"]
    command += ["--id", "w-1", "--cpu", "2", "--until-empty"]
    began = time.perf_counter()
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return time.perf_counter() - began


def xargs(folder: Path, count: int) -> float:
    names = folder / "list"
    names.write_text("".join(f"{number}\n" for number in range(count)))
    began = time.perf_counter()
    with open(names, "rb") as file:
        subprocess.run(["xargs", "-P", "2", "-n", "1", "true"], check=True, stdin=file)
    return time.perf_counter() - began


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="worker-loop-"))
    os.environ["PYTHONPATH"] = str(ROOT)
    try:
        for count in [int(text) for text in sys.argv[1:]] or [1000, 10_000]:
            pairs = [(xargs(folder, count), ours(folder, count)) for _ in range(REPEATS)]
            for theirs, mine in pairs:
                print(
                    f"{count} tasks: {1000 * mine / count:.3f} ms a task, xargs {1000 * theirs / count:.3f}: {mine / theirs:.2f} x"
                )
            print(f"{count} tasks: median ratio {statistics.median(mine / theirs for theirs, mine in pairs):.2f}", flush=True)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
