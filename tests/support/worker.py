"""A state folder with a real store, and real worker processes that serve it."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from pathlib import Path

from sparkles.backends.clock import SystemClock
from sparkles.backends.local import process
from sparkles.backends.local.blobs import DirectoryBlobs
from sparkles.backends.local.db import open_state
from sparkles.backends.local.job_store import SqliteJobStore
from sparkles.backends.local.notifier import FifoNotifier
from sparkles.digest import fingerprint
from sparkles.model import Job, JobId, JobSpec, NewTask, TaskSpec, TaskState

QUICK = ("--beat", "0.1", "--grace", "0.4", "--sample", "0.05")
ROOT = Path(__file__).resolve().parents[2]


def until(condition, timeout_s=15.0, what="the condition"):
    """Waits for a true value and returns it."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not come true within {timeout_s} s"
        time.sleep(0.01)
    return value


class Place:
    """A state folder. Worker processes that it started are ended with it, by their pids."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.worker = f"w-{secrets.token_hex(4)}"
        """Of the first worker: what is found by its marker is this test's own, whatever else runs on the machine."""
        self.database = open_state(state)
        self.jobs = SqliteJobStore(self.database)
        self.blobs = DirectoryBlobs(state)
        self.clock = SystemClock()
        self.notifier = FifoNotifier(state, "test")
        self.started: list[subprocess.Popen[bytes]] = []

    def close(self) -> None:
        for child in self.started:
            if child.poll() is None:
                child.kill()
            child.wait()
            if child.stdin:
                child.stdin.close()
        for child in self.started:
            process.end_processes(lambda child=child: process.marked("SPARKLES_WORKER", worker_id(child)), grace_s=0.0)
        self.notifier.close()
        self.blobs.close()
        self.database.close()

    def add(self, name, commands, pool="p", **spec):
        """A job of these commands (or TaskSpecs); its id."""
        job = JobSpec(name, **spec)
        tasks = [each if isinstance(each, TaskSpec) else TaskSpec(each) for each in commands]
        new = [NewTask(task, fingerprint(job, task)) for task in tasks]
        assert self.jobs.create_job(Job(JobId(f"{name}-00000000"), job, len(new), pool=pool), new)
        self.notifier.notify()
        return JobId(f"{name}-00000000")

    def start(self, *options, name="", pool="p", until_empty=False, env=None):
        """A worker process, its standard input a pipe; `name` is added to the test's own."""
        name = self.worker + name
        command = [sys.executable, "-P", str(ROOT / "sparkles" / "worker_process.py")]
        command += ["--state", str(self.state), "--pool", pool, "--id", name, *QUICK, *options]
        if until_empty:
            command.append("--until-empty")
        log = self.state / f"{name}.log"
        with open(log, "ab") as output:
            child = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env={**os.environ, **(env or {})},
            )
        self.started.append(child)
        return child

    def serve(self, *options, **more):
        """Runs a worker until nothing is pending; its log where that failed."""
        child = self.start(*options, until_empty=True, **more)
        code = child.wait(60)
        assert code == 0, f"exit code {code}: {(self.state / f'{worker_id(child)}.log').read_text()}"

    def running(self, job, index=1):
        """Waits until the task's program has said something in its log."""
        until(lambda: self.task(job, index).state is TaskState.CLAIMED and self.log(job, index), what=f"{job}/{index} runs")

    def task(self, job, index=1):
        return self.jobs.get_task(job, index)

    def programs(self, job, index, attempt=1):
        """Processes that carry the attempt's environment."""
        return process.marked("SPARKLES_PARAMS", str(self.folder(job, index, attempt) / "params.json"))

    def attempt(self, job, index=1):
        return self.jobs.list_attempts(job, index)[-1]

    def states(self, job):
        return [str(task.state) for task in self.jobs.list_tasks(job)]

    def folder(self, job, index=1, attempt=1):
        return self.state / "jobs" / job / str(index) / f"a{attempt}"

    def log(self, job, index=1, attempt=1):
        path = self.folder(job, index, attempt) / "output.log"
        return path.read_text() if path.exists() else ""


def worker_id(child):
    return child.args[child.args.index("--id") + 1]
