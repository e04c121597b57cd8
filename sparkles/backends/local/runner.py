"""Real programs in process groups of their own, with limits. Keeps the promises of engine.runner; may import it and process.

One wait (polling.py) is for everything: programs, hints, the driver's pipe. The order at a
program's end matters: first its process group is killed while the leader is still a zombie, so that the group's number cannot mean
another group by now; only then is the leader waited for, which gives what it used. Surprise: a descendant that called setsid is in no
group of ours; this process is a subreaper, so it becomes our child when its parent ends, and its environment tells whose it was.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Collection

from sparkles.backends.local import cgroup, process
from sparkles.backends.local.polling import Poller, make_poller
from sparkles.backends.local.spawn import spawn
from sparkles.engine.runner import Cause, Ended, Launch

SAMPLE_S = 0.5
_LINUX = sys.platform == "linux"
_MAXRSS_UNIT = 1024 if _LINUX else 1  # getrusage(2): kilobytes on Linux, bytes on macOS
_LEFT_WAIT_S = 5.0
"""How long a left-over process may take to go after SIGKILL before it is left to `sweep`'s next call."""


class _Program:
    __slots__ = (
        "cause",
        "cpu_s",
        "handle",
        "kill_at",
        "memory_bytes",
        "oom_kills",
        "peak",
        "pid",
        "pidfd",
        "shared",
        "started",
        "timeout_at",
        "token",
    )

    def __init__(self, handle: int, pid: int, pidfd: int, launch: Launch, started: float, oom_kills: int) -> None:
        self.handle, self.pid, self.pidfd, self.token, self.started = handle, pid, pidfd, launch.token, started
        self.memory_bytes = launch.memory_bytes
        self.timeout_at = started + launch.timeout_s if launch.timeout_s is not None else float("inf")
        self.kill_at = float("inf")
        self.cause = Cause.NONE
        self.peak = 0
        self.cpu_s = 0.0
        self.oom_kills = oom_kills
        self.shared = False
        """Whether others ran at the same time."""


class ProcessRunner:
    """Starts programs and waits for them. Call it from one thread only, the one that made it."""

    def __init__(self, *, grace_s: float = 5.0, sample_s: float = SAMPLE_S) -> None:
        """`grace_s`: between SIGTERM and SIGKILL; `sample_s`: how often memory is looked at."""
        process.become_subreaper()
        self._grace_s, self._sample_s = grace_s, sample_s
        self._null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._poller: Poller = make_poller()
        self._programs: dict[int, _Program] = {}
        self._by_pid: dict[int, _Program] = {}
        self._last = 0
        self._next_sample = time.monotonic() + sample_s
        self._next_deadline = float("inf")
        self._group = cgroup.own_group() if _LINUX else None
        self._kills_fd = self._group.open_kills() if self._group is not None else -1
        self._oom_kills = self._count_kills()

    def start(self, launch: Launch) -> int:
        """See Runner. The program's standard input is /dev/null."""
        pid = spawn(launch, self._null)
        try:
            key = self._poller.add_process(pid)
        except BaseException:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
        self._last += 1
        if self._kills_fd >= 0:
            self._oom_kills = self._count_kills()  # a call of 2 us; what counts the whole machine takes 100
        program = _Program(self._last, pid, key, launch, time.monotonic(), self._oom_kills)
        if self._programs:
            program.shared = True
            if len(self._programs) == 1:
                next(iter(self._programs.values())).shared = True  # with more, they are all marked already
        self._programs[program.handle] = program
        self._by_pid[pid] = program
        if program.timeout_at < self._next_deadline:
            self._next_deadline = program.timeout_at
        return program.handle

    def end(self, handle: int) -> None:
        """See Runner."""
        program = self._programs.get(handle)
        if program is not None and program.cause is Cause.NONE:
            self._terminate(program, Cause.ASKED)

    def wait(self, timeout_s: float) -> tuple[list[Ended], list[int]]:
        """See Runner."""
        now = time.monotonic()
        until = min(now + timeout_s, self._next_deadline)
        if self._programs:
            until = min(until, self._next_sample)
        pids, ready = self._poller.wait(max(0.0, until - now))
        ended = [self._reap(self._by_pid[pid]) for pid in pids if pid in self._by_pid]
        now = time.monotonic()
        if now >= self._next_sample:
            self._sample(now)
        if now >= self._next_deadline:
            self._enforce(now)
        return ended, ready

    def watch(self, fd: int) -> bool:
        """See Runner."""
        return self._poller.add(fd)

    def unwatch(self, fd: int) -> None:
        """See Runner."""
        self._poller.remove(fd)

    def sweep(self, tokens: Collection[str]) -> None:
        """See Runner. Where the system has no subreapers, what left its group is not found here (recovery looks for it by its marker)."""
        if not _LINUX:
            return
        deadline = time.monotonic() + _LEFT_WAIT_S
        pause = 0.0005
        while left := self._left_behind(tokens):
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except (ProcessLookupError, PermissionError):
                    continue
            if time.monotonic() > deadline:
                return
            # What a killed one had started becomes our child when it is gone: the next look finds it.
            time.sleep(pause)
            pause = min(2 * pause, 0.05)

    def close(self) -> None:
        """See Runner."""
        for program in list(self._programs.values()):
            _kill_group(program.pid, signal.SIGKILL)
        while self._programs:
            self.wait(1.0)
        self.sweep(())
        if self._null >= 0:
            os.close(self._null)
            self._null = -1
            if self._kills_fd >= 0:
                os.close(self._kills_fd)
                self._kills_fd = -1
            self._poller.close()

    # Ends

    def _reap(self, program: _Program) -> Ended:
        _kill_group(program.pid, signal.SIGKILL)
        self._poller.remove_process(program.pid, program.pidfd)
        _, status, usage = os.wait4(program.pid, 0)
        del self._programs[program.handle], self._by_pid[program.pid]
        code = os.waitstatus_to_exitcode(status)
        cpu_s = max(usage.ru_utime + usage.ru_stime, program.cpu_s)
        peak = program.peak
        if usage.ru_maxrss > _own_peak():
            # Until it calls exec, a child has this process's memory: a lesser number says nothing about the program.
            peak = max(peak, usage.ru_maxrss * _MAXRSS_UNIT)
        cause = program.cause
        limit = 0
        # A process that the kernel ended need not be the program itself: that may then fail in its own way. Which program's it was is known
        # where none ran beside it.
        killed = code in (-signal.SIGKILL, 128 + signal.SIGKILL)
        if cause is Cause.NONE and (killed or (code != 0 and not program.shared and self._kills_fd >= 0)):
            self._oom_kills = self._count_kills()
            if self._oom_kills > program.oom_kills:
                cause = Cause.KERNEL_OOM
                limit = self._group.limit() if self._group is not None else 0
        seconds = time.monotonic() - program.started
        if code < 0:
            return Ended(program.handle, None, -code, cause, seconds, cpu_s, peak or None, limit)
        return Ended(program.handle, code, 0, cause, seconds, cpu_s, peak or None, limit)

    def _count_kills(self) -> int:
        """How many processes the kernel has ended for want of memory: in this process's own group where that says so, else on the
        machine."""
        return cgroup.read_kills(self._kills_fd) if self._kills_fd >= 0 else _machine_kills()

    def _terminate(self, program: _Program, cause: Cause) -> None:
        """SIGTERM (and SIGCONT for the stopped), and SIGKILL after the grace."""
        program.cause = cause
        program.kill_at = time.monotonic() + self._grace_s
        self._next_deadline = min(self._next_deadline, program.kill_at)
        _kill_group(program.pid, signal.SIGTERM)
        _kill_group(program.pid, signal.SIGCONT)

    def _enforce(self, now: float) -> None:
        """Time limits and graces that are over."""
        following = float("inf")
        for program in self._programs.values():
            if now >= program.kill_at:
                _kill_group(program.pid, signal.SIGKILL)
                program.kill_at = float("inf")
            elif program.cause is Cause.NONE and now >= program.timeout_at:
                self._terminate(program, Cause.TIMEOUT)
            following = min(following, program.kill_at)
            if program.cause is Cause.NONE:
                following = min(following, program.timeout_at)
        self._next_deadline = following

    def _sample(self, now: float) -> None:
        """Looks at the memory of programs that have run for a while; one above its request is ended at once: the machine's memory is
        not its own."""
        self._next_sample = now + self._sample_s
        old = now - self._sample_s / 2
        pids = [program.pid for program in self._programs.values() if program.started <= old]
        if not pids:
            return
        for pid, (memory, cpu_s) in process.group_usage(pids).items():
            program = self._by_pid[pid]
            limit = program.memory_bytes
            if limit is not None and memory > limit:
                # A program that forks has one copy of what its processes share, and each of them is said to have all of it. They are looked
                # at one after the other: one look while they come and go finds too much.
                for _ in range(2):
                    share = process.group_share(pid) if memory > limit else None
                    memory = memory if share is None else min(memory, share)
            program.peak = max(program.peak, memory)
            program.cpu_s = max(program.cpu_s, cpu_s)
            if limit is not None and memory > limit and program.cause is Cause.NONE:
                program.cause = Cause.MEMORY
                _kill_group(pid, signal.SIGKILL)

    def _left_behind(self, tokens: Collection[str]) -> list[int]:
        """Living children that are no program of ours and belong to one of `tokens` (to nobody that runs, where nothing runs); ended
        ones are waited for on the way."""
        children = [pid for pid in process.orphans() if pid not in self._by_pid]
        if not children:
            return []
        gone = set(process.reap(children))
        if not self._programs:
            return [pid for pid in children if pid not in gone]
        return [pid for pid in children if pid not in gone and _belongs(pid, tokens)]


def _kill_group(pgid: int, number: int) -> None:
    try:
        os.killpg(pgid, number)
    except (ProcessLookupError, PermissionError):
        return  # nobody but the dead (PermissionError: macOS says so of zombies)


def _belongs(pid: int, tokens: Collection[str]) -> bool:
    """Whether a process has one of these claim tokens in its environment; one in the middle of an exec is waited for."""
    deadline = time.monotonic() + process.EXEC_WAIT_S
    while (environ := process.environment(pid)) is None and time.monotonic() < deadline:
        time.sleep(0.001)
    _, found, rest = (b"\0" + (environ or b"")).partition(b"\0SPARKLES_TOKEN=")
    return bool(found) and rest.partition(b"\0")[0].decode("utf-8", "replace") in tokens


def _own_peak() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _machine_kills() -> int:
    """How many processes the kernel has ended for want of memory since boot; 0 where it does not say."""
    if not _LINUX:
        return 0
    try:
        with open("/proc/vmstat", "rb") as file:
            found = file.read().partition(b"\noom_kill ")[2]
    except OSError:
        return 0
    return int(found.split(None, 1)[0]) if found else 0
