"""The worker processes of one driver. Keeps the promises of the Fleet port; may import ports and model. What a worker's command is, and
how the tasks of a dead one are put in order, it is told: local workers and consume are both started this way.

A worker is a child in a session of its own, so that Ctrl-C in the terminal reaches the driver alone. Its standard input is a pipe
whose other end only the driver holds: when the driver dies, however it dies, the worker reads end of file and drains.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from sparkles.backends.local import layout
from sparkles.errors import BackendError
from sparkles.model import WorkerId
from sparkles.ports import Clock, Fleet, JobStore

QUICK_S = 5.0
QUICK_DEATHS = 3
HOPELESS = 78
"""EX_CONFIG: a worker's exit code where another one would fare the same until somebody changes something."""

STARTING_S = 60.0
"""A worker that is just starting has a log and no row yet: a younger log stays."""
_CHECK_S = 1.0
_LOG_BYTES = 2000


class _Process:
    """One worker: the child process, the writing end of its pipe (its standard input), and since when."""

    def __init__(self, worker: WorkerId, child: subprocess.Popen[bytes], log: Path, started: float) -> None:
        self.worker, self.child, self.log, self.started = worker, child, log, started

    def hang_up(self) -> None:
        if self.child.stdin is not None:
            self.child.stdin.close()


class ProcessFleet:
    """Starts, watches and ends the workers that this driver needs: one for each pool."""

    def __init__(
        self,
        folder: Path,
        jobs: JobStore,
        clock: Clock,
        command: Callable[[str, WorkerId], list[str]],
        recover: Callable[[], list[str]],
        *,
        lease_s: float = 60.0,
        environ: Mapping[str, str] | None = None,
        look: Callable[[str], None] = lambda pool: None,
    ) -> None:
        """
        Args:
            folder: Where workers' own logs go: in the state folder, or in a folder of it.
            command: The program and arguments of a worker, from its pool and id; the fleet adds --until-empty for a detached one.
            recover: Puts in order what dead workers left, and says for each what that was.
            lease_s: How long a heartbeat may stand still: how often to look is made of it.
            environ: Their environment (default: this process's).
            look: Called with the pool of each `ensure`.
        """
        self._folder = Path(os.path.abspath(folder))
        self._jobs, self._clock, self._command, self._recover = jobs, clock, command, recover
        self._environ = environ
        self._look = look
        self._check_s = min(_CHECK_S, lease_s / 4)
        self._next_check = clock.monotonic() + self._check_s
        self._serving: dict[str, _Process] = {}
        self._leaving: dict[str, list[_Process]] = {}
        self._quick_deaths: dict[str, int] = {}

    def ensure(self, pool: str) -> None:
        """See Fleet. Cheap while all is well: to be called with every look at a job that is waited for."""
        self._check()
        self._look(pool)
        current = self._serving.get(pool)
        if current is not None:
            if current.child.poll() is None:
                return
            del self._serving[pool]
            self._bury(pool, current)
        self._serving[pool] = self._start(pool)

    def start_detached(self, pool: str) -> int:
        """Starts a worker that outlives this process and leaves when nothing of the pool is pending; its pid."""
        return self._start(pool, detached=True).child.pid

    def describe(self) -> list[str]:
        """See Fleet."""
        rows = {row.id: row for row in self._jobs.list_workers()}
        lines = []
        for pool, current in [*self._serving.items(), *((pool, each) for pool, many in self._leaving.items() for each in many)]:
            row = rows.get(current.worker)
            code = current.child.poll()
            leaving = "" if self._serving.get(pool) is current else ", leaving"
            if code is not None:
                what = f"ended with {_ending(code)}"
            elif row is None:
                what = "starting" if not leaving else "not in the store any more"
            else:
                waiting = ", waits for capacity" if row.waiting else ""
                what = f"heartbeat {row.beat}, {len(self._jobs.held_tokens(row.id))} tasks, holds {row.cpu:g} cpu{waiting}"
            lines.append(f"{current.worker} pid {current.child.pid}{leaving}: {what}")
        return lines

    def drain(self, pool: str) -> None:
        """See Fleet."""
        current = self._serving.pop(pool, None)
        if current is not None:
            current.hang_up()
            self._leaving.setdefault(pool, []).append(current)

    def stop(self, pool: str) -> None:
        """See Fleet."""
        self.drain(pool)
        for current in self._leaving.get(pool, []):
            if current.child.poll() is None:
                current.child.send_signal(signal.SIGTERM)

    def remove_logs(self) -> int:
        """See Fleet."""
        known = {str(worker.id) for worker in self._jobs.list_workers()}
        now = present(self._folder)
        freed = 0
        for path in self._folder.glob("w-*.log"):
            try:
                found = path.stat()
                if path.stem not in known and found.st_mtime < now - STARTING_S:
                    path.unlink()
                    freed += found.st_size
            except OSError:
                continue
        return freed

    def wait_gone(self, pool: str, timeout_s: float) -> bool:
        """See Fleet. One that froze or crashed on its way out is recovered."""
        deadline = self._clock.monotonic() + timeout_s
        leaving = self._leaving.get(pool, [])
        while leaving:
            try:
                code = leaving[-1].child.wait(max(0.0, deadline - self._clock.monotonic()))
            except subprocess.TimeoutExpired:
                self._check()
                return False
            leaving.pop()
            if code != 0:
                self._recover()
        return pool not in self._serving

    def _check(self) -> None:
        """Now and then: recovers workers, of other drivers too, that died or whose heartbeat stands still."""
        now = self._clock.monotonic()
        if now >= self._next_check:
            self._next_check = now + self._check_s
            self._recover()

    def _bury(self, pool: str, dead: _Process) -> None:
        """After a worker's end: puts its tasks in order; raises BackendError where workers die again and again for nothing."""
        dead.hang_up()
        code = dead.child.returncode
        settled = self._recover()
        if code == HOPELESS:
            self._quick_deaths[pool] = 0
            raise self._told(dead, f"a worker ended with {_ending(code)}: another one would fare the same")
        if code == 0 or settled or self._clock.monotonic() - dead.started > QUICK_S:
            self._quick_deaths[pool] = 0
            return
        deaths = self._quick_deaths[pool] = self._quick_deaths.get(pool, 0) + 1
        if deaths >= QUICK_DEATHS:
            self._quick_deaths[pool] = 0
            raise self._told(
                dead, f"{deaths} workers in a row ended as soon as they were started, the last one with {_ending(code)}"
            )

    @staticmethod
    def _told(dead: _Process, ended: str) -> BackendError:
        return BackendError(f"{ended}. The end of its log ({dead.log}):\n{_tail(dead.log)}", "start a worker", str(dead.worker))

    def _start(self, pool: str, *, detached: bool = False) -> _Process:
        worker = WorkerId(f"w-{secrets.token_hex(4)}")
        log = self._folder / f"{worker}.log"
        command = self._command(pool, worker)
        if detached:
            command.append("--until-empty")
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            with open(log, "ab") as output:
                child = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL if detached else subprocess.PIPE,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                    env=self._environ,
                )
        except OSError as error:
            raise BackendError(
                f"a worker could not be started: {error.strerror} ({error.filename})", "start a worker", str(log)
            ) from error
        return _Process(worker, child, log, self._clock.monotonic())


def present(folder: Path) -> float:
    """What time it is by the file system of the state folder, which is one or two above `folder`: that of a file that every process
    touches."""
    above = folder.parents[:2]
    return max((path.stat().st_mtime for each in above for path in each.glob(f"{layout.DATABASE}*")), default=0.0)


def _ending(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"signal {-code}"


def _tail(log: Path) -> str:
    try:
        with open(log, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _LOG_BYTES))
            return file.read().decode("utf-8", "replace").strip() or "(empty)"
    except OSError as error:
        return f"(cannot be read: {error.strerror})"


def _conforms(fleet: ProcessFleet) -> Fleet:
    return fleet
