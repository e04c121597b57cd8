"""The backends of RunStore and JobStore that the contract tests go through, and what those tests put into them.

A backend is reopened as after a crash: nothing is closed.
"""

import secrets

import pytest

from sparkles import digest
from sparkles.backends.local.db import open_state
from sparkles.backends.local.job_store import SqliteJobStore
from sparkles.backends.local.run_store import SqliteRunStore
from sparkles.backends.memory import MemoryJobStore, MemoryRunStore
from sparkles.model import Attempt, Finish, Job, JobId, JobSpec, NewTask, ProcessId, TaskSpec, TaskState, Worker, WorkerId

BACKENDS = [
    "memory",
    "sqlite",
    pytest.param("datastore", marks=pytest.mark.google),
    pytest.param("firestore", marks=pytest.mark.google),
]
LOCAL = BACKENDS[:2]
"""The backends of ports that the cloud does not have."""


class Backend:
    """`runs` and `jobs` of one installation."""

    def __init__(self, kind, folder):
        self._databases = []
        self._folder = folder
        self.kind = kind
        self.runs = MemoryRunStore()
        self.jobs = MemoryJobStore()
        self._prefix = f"t{secrets.token_hex(6)}/"
        if kind != "memory":
            self.reopen()

    def reopen(self):
        """What another process sees, and what is there after kill -9."""
        if self.kind == "sqlite":
            database = open_state(self._folder / ".sparkles")
            self._databases.append(database)
            self.runs = SqliteRunStore(database)
            self.jobs = SqliteJobStore(database)
        elif self.kind != "memory":
            from tests.support import google

            store, clients = google.job_store(self.kind, self._prefix, shard_size=64)
            self._databases.extend(clients)
            self.jobs = store

    def close(self):
        for database in self._databases:
            database.close()


HERE = ProcessId("here", 4242, 1.5, "boot")


def enter(jobs, name="w", pool="", **fields):
    """A worker's row."""
    jobs.enter_worker(Worker(WorkerId(name), pool, HERE, **fields))


def fingerprint(command):
    """The fingerprint that `create` gives to a task of this command."""
    return digest.of_value(command if isinstance(command, str) else repr(command))


def create(jobs, name, tasks, *, reuse=None, spec=None, **fields):
    """A job of commands or TaskSpecs; `reuse` maps an index to the attempt whose outcome the task has from the start."""
    specs = [TaskSpec(task) if isinstance(task, str) else task for task in tasks]
    origins = reuse or {}
    rows = (NewTask(each, fingerprint(each.command), origins.get(index)) for index, each in enumerate(specs, 1))
    assert jobs.create_job(Job(JobId(name), spec or JobSpec(name), len(specs), **fields), rows)


def ended(claim, state, failure=None, **fields):
    """How a claim ends: with its token, and one try more."""
    return Finish(Attempt(claim.ref, claim.token, claim.worker, failure, **fields), state, claim.tries + 1, claim.losses)


def succeed(claim, **fields):
    """The claim's task succeeds."""
    return ended(claim, TaskState.SUCCEEDED, exit_code=0, **fields)


def run_all(jobs, worker="w", pool="", **fields):
    """Everything that is pending succeeds; returns how many tasks that were."""
    count = 0
    while claims := jobs.claim(WorkerId(worker), pool=pool, limit=500, now_ms=2**60):
        assert all(jobs.finish([succeed(claim, **fields) for claim in claims]))
        count += len(claims)
    return count
