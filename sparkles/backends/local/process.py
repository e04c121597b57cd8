"""Facts about processes of this machine, and the ending of those that should not be there. May import model only.

On Linux everything is read from /proc; elsewhere psutil is imported on first use (12 ms, so never on the way to a first task).
Surprise: on Linux a process is known by `ProcessId.ticks`, its start in clock ticks since boot. Its start by the wall clock is for
people only: it moves when the clock is set, and a live process would then look like another one.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterator
from functools import cache
from typing import Any, Literal

from sparkles.model import ProcessId

Liveness = Literal["alive", "dead", "elsewhere"]

_LINUX = sys.platform == "linux"
_KILL_WAIT_S = 5.0
"""How long a process may take to go after SIGKILL; longer means that it hangs in the kernel (a dead network disk)."""
EXEC_WAIT_S = 0.5
"""How long to wait for a process that is in the middle of an exec; the kernel may have to read the program from a
disk."""
_PF_KTHREAD = 0x00200000  # linux/sched.h
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def this_process() -> ProcessId:
    """This process, as `liveness` will recognise it. Right after a fork too."""
    return _this_process(os.getpid())


@cache
def _this_process(pid: int) -> ProcessId:
    start = _start(pid) or 0.0
    host = os.uname().nodename
    if not _LINUX:
        return ProcessId(host=host, pid=pid, started=start, boot_id=boot_id())
    booted = next((line.split()[1] for line in _read("/proc/stat").splitlines() if line.startswith(b"btime")), b"0")
    started = int(booted) + start / os.sysconf("SC_CLK_TCK")
    return ProcessId(host=host, pid=pid, started=started, boot_id=boot_id(), ticks=int(start))


@cache
def boot_id() -> str:
    """A text that differs after each boot of the machine, and never within one."""
    if _LINUX:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    if sys.platform == "darwin":
        import subprocess

        found = subprocess.run(["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"], capture_output=True, text=True, check=False)
        if found.returncode == 0 and found.stdout.strip():
            return found.stdout.strip()
    return str(int(_psutil().boot_time()))


def liveness(process: ProcessId) -> Liveness:
    """Whether the very process that `process` describes still runs. A zombie is dead; a process of another host cannot be
    judged from here."""
    if process.host != os.uname().nodename:
        return "elsewhere"
    if process.boot_id != boot_id():
        return "dead"
    return "alive" if _start(process.pid) == (process.ticks or process.started) else "dead"


def is_alive(process: ProcessId) -> bool:
    """`liveness(process) == "alive"`: of a process that is known to be of this host."""
    return liveness(process) == "alive"


def marked(variable: str, value: str) -> list[int]:
    """Processes, this one aside, whose environment held `variable` = `value` when their program started. Those of other users
    cannot be seen."""
    wanted = f"{variable}={value}".encode()
    own = os.getpid()
    if not _LINUX:
        return [pid for pid in _psutil().pids() if pid != own and _psutil_environ(pid).get(variable) == value]
    found = []
    looked = [pid for pid in _pids() if pid != own]
    deadline = time.monotonic() + EXEC_WAIT_S
    while looked:
        unclear = []
        for pid in looked:
            environ = environment(pid)
            if environ is None:
                unclear.append(pid)
            elif wanted in environ and wanted in environ.split(b"\0"):
                found.append(pid)
        if not unclear or time.monotonic() > deadline:
            break
        looked = unclear
        time.sleep(0.001)
    return sorted(found)


def environment(pid: int) -> bytes | None:
    """The environment of a process, None while it is in the middle of an exec, b"" where it has none, is gone or is not ours
    (Linux). While one program takes the place of another the kernel shows no environment: proc_pid_stat(5) says 0 for where it
    ends, or that it ends where it begins, as it does of a program that was given none. What waits for something is none of the
    first."""
    if environ := _whole(f"/proc/{pid}/environ"):
        return environ
    fields = _stat(pid)
    if not fields or fields[0] in b"ZX" or int(fields[6]) & _PF_KTHREAD:
        return b""
    begin, end = int(fields[47]), int(fields[48])
    given_none = begin == end != 0 and fields[0] in b"STt"
    return b"" if given_none or not _can_be_read(f"/proc/{pid}/environ") else None


def group_members(pgid: int) -> list[int]:
    """Live processes of a process group; zombies aside."""
    if _LINUX:
        return [pid for pid in _pids() if (fields := _stat(pid)) and int(fields[2]) == pgid and fields[0] not in b"ZX"]
    return [pid for pid in _psutil().pids() if _pgid(pid) == pgid and _start(pid) is not None]


def group_usage(pgids: Collection[int]) -> dict[int, tuple[int, float]]:
    """Resident memory in bytes and CPU seconds so far (children that were waited for included) of each process group, by one
    scan for all of them. A group without live processes is left out; what an ended process used is counted once its parent has
    waited for it."""
    usage: dict[int, tuple[int, float]] = {}
    if _LINUX:
        tick, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
        for pid in _pids():
            fields = _stat(pid)
            if not fields or int(fields[2]) not in pgids or fields[0] in b"ZX":
                continue
            rss, cpu = usage.get(int(fields[2]), (0, 0.0))
            usage[int(fields[2])] = (rss + int(fields[21]) * page, cpu + sum(map(int, fields[11:15])) / tick)
        return usage
    psutil = _psutil()
    for pid in psutil.pids():
        pgid = _pgid(pid)
        if pgid in pgids and _start(pid) is not None:
            try:
                process = psutil.Process(pid)
                memory, times = process.memory_info(), process.cpu_times()
            except psutil.Error:
                continue
            rss, cpu = usage.get(pgid, (0, 0.0))
            spent = times.user + times.system + getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
            usage[pgid] = (rss + memory.rss, cpu + spent)
    return usage


def group_share(pgid: int) -> int | None:
    """Resident memory in bytes of a process group, what its processes have in common counted once; None where the system does not say.

    Reading it takes the kernel about 1 ms for each gigabyte, so it is for what `group_usage` finds too much.
    """
    if not _LINUX:
        return None
    total = 0
    for pid in group_members(pgid):
        data = _read(f"/proc/{pid}/smaps_rollup")
        _, found, rest = data.partition(b"\nPss:")
        if found:
            total += int(rest.split(None, 1)[0]) * 1024
        elif (fields := _stat(pid)) and int(fields[21]) > 0:
            return None  # it has memory, which may not be looked at: what is ending has none
    return total


def become_subreaper() -> bool:
    """Makes this process the parent of descendants whose own parent ends, so that `orphans` finds them. False where the system
    cannot (not Linux)."""
    if not _LINUX:
        return False
    import ctypes

    return int(ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)) == 0


def orphans() -> list[int]:
    """Every child of this process, zombies included: those it started, and for a subreaper those it inherited."""
    own = os.getpid()
    if not _LINUX:
        return [child.pid for child in _psutil().Process(own).children()]
    threads = os.listdir("/proc/self/task")
    if os.path.exists(f"/proc/self/task/{own}/children"):
        return [int(pid) for thread in threads for pid in _read(f"/proc/self/task/{thread}/children").split()]
    # Kernels without CONFIG_PROC_CHILDREN have no such file.
    return [pid for pid in _pids() if (fields := _stat(pid)) and int(fields[1]) == own]


def reap(pids: Collection[int]) -> list[int]:
    """Waits, without blocking, for those of `pids` that are ended children, so that no zombie stays. Returns which. Not to be
    asked about a child whose exit code somebody else is waiting for."""
    gone = []
    for pid in pids:
        try:
            if os.waitpid(pid, os.WNOHANG)[0] == pid:
                gone.append(pid)
        except ChildProcessError:
            continue
    return gone


def end_processes(find: Callable[[], Collection[int]], grace_s: float = 5.0) -> list[int]:
    """Ends what `find` finds: SIGTERM (and SIGCONT, for the stopped), after `grace_s` seconds SIGKILL, again until it finds no
    live process.

    A process can fork between the look and the signal, so the last look that found something is followed by another one.

    Returns:
        The processes that outlived SIGKILL for 5 s; empty where all have ended.
    """
    own = os.getpid()
    deadline = time.monotonic() + grace_s
    told: set[tuple[int, float]] = set()
    pause = 0.001
    found = False
    while True:
        live = {pid: started for pid in find() if pid > 1 and pid != own and (started := _start(pid)) is not None}
        if not live and not found:
            return []
        found = bool(live)
        now = time.monotonic()
        if now >= deadline + _KILL_WAIT_S:
            return sorted(live)
        for pid, started in live.items():
            if now >= deadline:
                _signal(pid, started, signal.SIGKILL)
            elif (pid, started) not in told:
                told.add((pid, started))
                _signal(pid, started, signal.SIGTERM)
                _signal(pid, started, signal.SIGCONT)
        time.sleep(pause)
        pause = min(pause * 2, 0.05)


def end_marked(variable: str, value: str, grace_s: float = 0.0) -> list[int]:
    """`end_processes`, of those that `marked` finds."""
    return end_processes(lambda: marked(variable, value), grace_s)


def _signal(pid: int, started: float, number: int) -> None:
    """Sends a signal to a process if it is still the one that started then."""
    try:
        if not hasattr(os, "pidfd_open"):
            if _start(pid) == started:
                os.kill(pid, number)
            return
        # The descriptor holds the process: between this look and the signal its pid cannot come to mean another.
        descriptor = os.pidfd_open(pid)
        try:
            if _start(pid) == started:
                signal.pidfd_send_signal(descriptor, number)
        finally:
            os.close(descriptor)
    except (ProcessLookupError, PermissionError):
        return


def _start(pid: int) -> float | None:
    """When a live process started, in ticks since boot on Linux, else in seconds since the epoch; None for one that is gone or a
    zombie."""
    if _LINUX:
        fields = _stat(pid)
        return int(fields[19]) if fields and fields[0] not in b"ZX" else None
    psutil = _psutil()
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except psutil.Error:
        return None


def _pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def _stat(pid: int) -> list[bytes]:
    """The fields of /proc/PID/stat from the third on (state is 0, ppid 1, pgrp 2; see proc_pid_stat(5)); empty where the
    process is gone.

    The second, the program's name, may hold spaces and brackets: all is counted from its last bracket.
    """
    return _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()


def _read(path: str, size: int = 65536) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return b""
    try:
        data = os.read(descriptor, size)
        while len(data) % 4096 == 0 and (more := os.read(descriptor, 65536)):
            data += more
        return data
    except OSError:  # ESRCH: it ended after the file was opened
        return b""
    finally:
        os.close(descriptor)


def _can_be_read(path: str) -> bool:
    """Of a file in /proc, whose mode does not tell: root may not look into every process either."""
    try:
        os.close(os.open(path, os.O_RDONLY))
    except OSError:
        return False
    return True


def _whole(path: str) -> bytes:
    """What one read gives: two may be of two programs, or the second of none."""
    size = 65536
    while len(data := _read(path, size)) >= size:
        size *= 8
    return data


def _pgid(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except OSError:
        return -1


def _psutil() -> Any:
    import psutil

    return psutil


def _psutil_environ(pid: int) -> dict[str, str]:
    psutil = _psutil()
    try:
        return dict(psutil.Process(pid).environ())
    except (psutil.Error, OSError):
        return {}
