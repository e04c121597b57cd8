"""The worker processes of one driver. Keeps the promises of the Fleet port; may import ports, model and recovery.

A worker is a child in a session of its own, so that Ctrl-C in the terminal reaches the driver alone. Its standard input is a pipe
whose other end only the driver holds: when the driver dies, however it dies, the worker reads end of file and drains.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path

from sparkles.backends.local import layout
from sparkles.backends.local.recovery import StallWatch, recover
from sparkles.errors import BackendError
from sparkles.model import WorkerId
from sparkles.ports import Blobs, Clock, Fleet, JobStore

QUICK_S = 5.0
QUICK_DEATHS = 3
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
        state: Path,
        jobs: JobStore,
        blobs: Blobs,
        clock: Clock,
        *,
        cpu: float | None = None,
        memory_bytes: int | None = None,
        lease_s: float = 60.0,
        beat_s: float | None = None,
        grace_s: float | None = None,
    ) -> None:
        """`cpu`, `memory_bytes`: what workers of this host may use together (None: the machine's). `lease_s`: how long a heartbeat may
        stand still. `beat_s`, `grace_s`: None: the worker's own."""
        self._state = Path(os.path.abspath(state))
        self._jobs, self._blobs, self._clock = jobs, blobs, clock
        self._options: list[str] = []
        for name, value in (("--cpu", cpu), ("--memory", memory_bytes), ("--beat", beat_s), ("--grace", grace_s)):
            if value is not None:
                self._options += [name, str(value)]
        self._watch = StallWatch(clock, lease_s)
        self._check_s = min(_CHECK_S, lease_s / 4)
        self._next_check = clock.monotonic() + self._check_s
        self._serving: dict[str, _Process] = {}
        self._leaving: dict[str, list[_Process]] = {}
        self._quick_deaths: dict[str, int] = {}

    def ensure(self, pool: str) -> None:
        """See Fleet. Cheap while all is well: to be called with every look at a job that is waited for."""
        self._check()
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
        # The file system's own present, by a file that every process touches.
        now = max((path.stat().st_mtime for path in self._state.glob(f"{layout.DATABASE}*")), default=0.0)
        freed = 0
        for path in (self._state / "workers").glob("w-*.log"):
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
                recover(self._jobs, self._blobs, self._clock, is_stalled=self._watch)
        return pool not in self._serving

    def _check(self) -> None:
        """Now and then: recovers workers, of other drivers too, that died or whose heartbeat stands still."""
        now = self._clock.monotonic()
        if now >= self._next_check:
            self._next_check = now + self._check_s
            recover(self._jobs, self._blobs, self._clock, is_stalled=self._watch)

    def _bury(self, pool: str, dead: _Process) -> None:
        """After a worker's end: puts its tasks in order; raises BackendError where workers die again and again for nothing."""
        dead.hang_up()
        code = dead.child.returncode
        settled = recover(self._jobs, self._blobs, self._clock, is_stalled=self._watch)
        if code == 0 or settled or self._clock.monotonic() - dead.started > QUICK_S:
            self._quick_deaths[pool] = 0
            return
        deaths = self._quick_deaths[pool] = self._quick_deaths.get(pool, 0) + 1
        if deaths >= QUICK_DEATHS:
            self._quick_deaths[pool] = 0
            raise BackendError(
                f"{deaths} workers in a row ended as soon as they were started, the last one with {_ending(code)}."
                f" The end of its log ({dead.log}):\n{_tail(dead.log)}",
                "start a worker",
                str(dead.worker),
            )

    def _start(self, pool: str, *, detached: bool = False) -> _Process:
        worker = WorkerId(f"w-{secrets.token_hex(4)}")
        log = self._state / "workers" / f"{worker}.log"
        program = Path(__file__).parents[2] / "worker_process.py"
        # -P: the driver's folder may hold a queue.py or a select.py that is not Python's.
        command = [
            sys.executable,
            "-P",
            str(program),
            "--state",
            str(self._state),
            "--pool",
            pool,
            "--id",
            worker,
            *self._options,
        ]
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
                )
        except OSError as error:
            raise BackendError(
                f"a worker could not be started: {error.strerror} ({error.filename})", "start a worker", str(log)
            ) from error
        return _Process(worker, child, log, self._clock.monotonic())


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
