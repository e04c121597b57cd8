"""The cloud worker on Google's emulators: what a task costs beyond its command, how workers scale, how large the program is.

The tasks are made by the driver's own store and run by `consume`; uploads of inputs aside. Emulators share the processors with the
workers: more than two of those that compute would measure that.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
import time

import psutil
from common import ROOT, Failed, Row

sys.path.insert(0, str(ROOT))

from sparkles import digest
from sparkles.backends.google import names
from sparkles.model import Job, JobId, JobSpec, NewTask, TaskSpec
from tests.support import emulators, google

CONSUME = ROOT / "consume" / "bin" / "consume"
TRIVIAL = 400
WORKERS, SLEEPERS, SLEEP_S = 16, 480, 0.5


def measure() -> list[Row]:
    """Needs `make consume`, and what `make emulators` needs."""
    if not CONSUME.exists():
        raise Failed("there is no consume/bin/consume: make consume")
    running = emulators.start(emulators.SERVICES)
    try:
        os.environ.update(emulator.variable for emulator in running.values())
        return [size(), idle(), overhead(), scaling()]
    finally:
        for emulator in running.values():
            emulator.stop()


def size() -> Row:
    return Row("consume: program", CONSUME.stat().st_size / 1e6, "MB", 40)


class Site:
    """An installation of its own with one job."""

    def __init__(self, commands: list[str], shard_size: int) -> None:
        self.prefix = f"bench-{secrets.token_hex(4)}/"
        self.store, self._clients = google.job_store("datastore", self.prefix, shard_size=shard_size)
        specs = [TaskSpec(command) for command in commands]
        tasks = [NewTask(spec, digest.fingerprint(JobSpec("bench"), spec)) for spec in specs]
        if commands:
            self.store.create_job(Job(JobId("bench-00000000"), JobSpec("bench"), len(specs), pool="p"), tasks)

    def start(self, number: int, folder: str, *more: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [
                str(CONSUME), "run", "--project", emulators.PROJECT, "--bucket", emulators.BUCKET, "--prefix", self.prefix,
                "--namespace", names.namespace(self.prefix), "--topic", "", "--pool", "p", "--id", f"w-{number}",
                "--work", folder, *more,
            ],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def serve(self, workers: int, cpu: int) -> float:
        """Seconds until so many workers have run everything; they are started before, and wait for the job."""
        with tempfile.TemporaryDirectory() as folder:
            began = time.monotonic()
            running = [self.start(number, folder, "--cpu", str(cpu), "--until-empty") for number in range(workers)]
            while not self.store.count_tasks("bench-00000000").done:
                time.sleep(0.02)
            took = time.monotonic() - began
            for each in running:
                if each.wait(60):
                    raise Failed(f"a worker ended with {each.returncode}")
        counts = self.store.count_tasks("bench-00000000")
        if counts.succeeded != counts.total:
            raise Failed(f"not everything succeeded: {counts}")
        return took

    def close(self) -> None:
        for client in self._clients:
            client.close()


def idle() -> Row:
    site = Site([], 64)
    with tempfile.TemporaryDirectory() as folder:
        supervisor = site.start(0, folder)
        time.sleep(3)
        process = psutil.Process(supervisor.pid)
        both = [process, *process.children(recursive=True)]
        resident = sum(each.memory_info().rss for each in both)
        worker = max(each.memory_info().rss for each in both)
        supervisor.terminate()
        supervisor.wait(30)
    site.close()
    return Row("consume: resident memory when idle", worker / 1e6, "MB", 40, f"with its supervisor {resident / 1e6:.0f} MB")


def overhead() -> Row:
    """One worker, one task at a time: the time of a task beyond that of its command, start of the worker included."""
    site = Site(["true"] * TRIVIAL, 64)
    took = site.serve(1, 1)
    site.close()
    bare = time.monotonic()
    for _ in range(TRIVIAL):
        subprocess.run(["/bin/sh", "-c", "true"], check=True)
    bare = time.monotonic() - bare
    each = (took - bare) / TRIVIAL * 1000
    return Row(
        "consume: overhead of a task at one worker", each, "ms", 20, f"{TRIVIAL} tasks in {took:.1f} s, bare {bare:.1f} s"
    )


def scaling() -> Row:
    """Tasks of half a second: 16 workers against one (which takes what its tasks sleep, and the overhead measured with it)."""
    few = SLEEPERS // WORKERS
    one = Site([f"sleep {SLEEP_S}"] * few, 4)
    single = one.serve(1, 1) / few * SLEEPERS
    one.close()
    many = Site([f"sleep {SLEEP_S}"] * SLEEPERS, 4)
    took = many.serve(WORKERS, 1)
    many.close()
    detail = f"{SLEEPERS} tasks of {SLEEP_S} s: {took:.1f} s; one worker {single:.0f} s ({few} measured); goal: more than 8"
    return Row(f"consume: {WORKERS} workers against one", single / took, "x", None, detail)


if __name__ == "__main__":
    from common import show

    show(measure())
