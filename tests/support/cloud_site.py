"""A project folder whose jobs are in Google's emulators, with real processes in it, for tests of kills, signals and services that fail."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from sparkles.backends.google.job_store import GoogleJobStore
from sparkles.model import Attempt, TaskState
from tests.support.cloud import CloudProject, Command


class Said(NamedTuple):
    """One line that a task wrote: what (begins, ends, overlaps), which task, which attempt."""

    what: str
    task: str
    attempt: int


class CloudSite(CloudProject):
    """A project whose tasks write to a file what they do. `files` are copied into it; `variables` go before the usual ones."""

    def __init__(self, folder: Path, files: Iterable[Path] = (), service: str = "datastore", **variables: str) -> None:
        super().__init__(folder, service, **{"TRACE": str(folder / "trace"), "SPARKLES_LOCAL_CPU": "2", **variables})
        (folder / "trace").mkdir()
        for file in files:
            shutil.copy(file, folder / file.name)
        self._clients: list[Any] = []

    def finish(self) -> str:
        """Runs the workflow until the run has ended well; returns what it said."""
        return self.run("run", "workflow.lua").stderr

    def by_hand(self, command: Command) -> list[str]:
        """The arguments that a driver with fleet = "none" wants `consume` to be started with."""
        command.wait_for("start workers by hand")
        told = next(line for line in command.stderr.splitlines() if "start workers by hand" in line)
        return shlex.split(told.partition(": consume ")[2])

    # What is stored, seen past the commands and past whatever stands between them and the emulators

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Asks the database of runs."""
        with closing(sqlite3.connect(self.folder / ".sparkles" / "sparkles.db")) as connection:
            return connection.execute(sql).fetchall()

    @property
    def store(self) -> GoogleJobStore:
        """A job store of the installation."""
        if not self._clients:
            store, clients = self.jobs()
            self._clients = [store, *clients]
        return self._clients[0]

    def succeeded(self) -> set[tuple[str, int, int]]:
        """(job, index, attempt) of every task that is recorded as succeeded."""
        return {
            (job.id, task.index, task.attempt)
            for job in self.store.list_jobs()
            for task in self.store.list_tasks(job.id)
            if task.state is TaskState.SUCCEEDED
        }

    def attempts(self) -> dict[tuple[str, int], list[Attempt]]:
        """The ended attempts of all tasks, by job and index."""
        return {
            (job.id, task.index): self.store.list_attempts(job.id, task.index)
            for job in self.store.list_jobs()
            for task in self.store.list_tasks(job.id)
        }

    # Processes

    def supervisors(self) -> list[int]:
        """Each consume that the driver started."""
        return [pid for pid in self.workers() if parent(pid) not in self.workers()]

    def working(self) -> list[int]:
        """The worker itself of each consume: its supervisor's child."""
        return [pid for pid in self.workers() if parent(pid) in self.workers()]

    def task_groups(self) -> set[int]:
        """The process groups of tasks' programs."""
        found = set()
        for pid, _ in self.processes():
            try:
                if b"SPARKLES_TASK=" in Path(f"/proc/{pid}/environ").read_bytes():
                    found.add(os.getpgid(pid))
            except OSError:
                continue
        return found - {os.getpgrp()}

    def kill(self, *pids: int) -> None:
        """SIGKILL to all at once: they are stopped first, so that none sees another one's end and does something about it."""
        for number in (signal.SIGSTOP, signal.SIGKILL):
            self.signal(number, *pids)

    def signal(self, number: int, *pids: int) -> None:
        """Sends a signal to processes, some of which may be gone."""
        for pid in pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    def until(self, condition: Callable[[], Any], what: str, timeout_s: float = 30.0) -> Any:
        """Waits for something of the processes or the store."""
        deadline = time.monotonic() + timeout_s
        while not (found := condition()):
            assert time.monotonic() < deadline, f"waited {timeout_s:g} s for {what}"
            time.sleep(0.03)
        return found

    # What tasks said

    def said(self) -> list[Said]:
        """What tasks wrote, in order."""
        log = self.folder / "trace" / "log"
        lines = log.read_text().splitlines() if log.exists() else []
        found = [re.fullmatch(r"(\w+) (\S+) (\d+) [\d.]+", line) for line in lines]
        return [Said(each[1], each[2], int(each[3])) for each in found if each]

    def check_trace(self) -> None:
        """No two attempts at a time, and none after the one that counts."""
        said = self.said()
        assert [each for each in said if each.what == "overlaps"] == []
        began = Counter((each.task, each.attempt) for each in said if each.what == "begins")
        assert [each for each, count in began.items() if count > 1] == [], "one attempt ran twice"
        for job, index, attempt in self.succeeded():
            task = f"{job}/{index}"
            after = [each for each in said if each.task == task and each.attempt > attempt]
            assert after == [], "a task that had succeeded ran again"

    def close(self) -> None:
        """Ends whatever is left of this site's processes and connections."""
        super().close()
        for each in self._clients[1:]:
            each.close()


def parent(pid: int) -> int:
    """The parent of a process; 0 where it is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0
