"""Starts a program in a process group of its own, and says what a failure to start means. May import engine.runner.

Surprise: not by Popen where subprocess's own C function can be called in its place; Popen is the way for every other Python.
"""

from __future__ import annotations

import errno
import os
import sys
from functools import lru_cache
from typing import Any

from sparkles.engine.runner import Launch, StartFailed


def spawn(launch: Launch, null: int) -> int:
    """The pid of a new process, leader of its own group. Raises StartFailed."""
    try:
        return _fork_exec(launch, null) if _FORK_EXEC is not None else _popen(launch, null)
    except OSError as error:
        raise _start_failed(launch, error) from error
    except ValueError as error:  # a NUL byte
        raise StartFailed(126, f"the command cannot be executed: {error}") from error


def _popen(launch: Launch, null: int) -> int:
    """The way for every Python."""
    import subprocess

    popen = subprocess.Popen(
        launch.argv,
        env=dict(_split(entry) for entry in launch.env),
        cwd=launch.cwd,
        stdin=null,
        stdout=launch.log_fd,
        stderr=launch.log_fd,
        close_fds=False,  # every descriptor of ours is close-on-exec, and closing them one by one costs 0.1 ms
        process_group=0,
    )
    popen.returncode = 0  # it is waited for with wait4, which knows what it used; Popen must not
    return popen.pid


def _fork_exec(launch: Launch, null: int) -> int:
    """What Popen does, without what it does for others: 0.1 ms less a task. The call is private to subprocess, so it is used for the
    versions of Python whose source was read."""
    read_fd, write_fd = os.pipe()
    log_fd = launch.log_fd
    try:
        try:
            pid: int = _FORK_EXEC(
                launch.argv, _candidates(launch), False, (), launch.cwd, launch.env,
                null, -1, -1, log_fd, -1, log_fd, read_fd, write_fd,
                True, False, 0, None, None, None, -1, None, True,
            )  # fmt: skip
        finally:
            os.close(write_fd)
        # Empty once exec has closed the other end; else "OSError:2:noexec", as Modules/_posixsubprocess.c writes it.
        report = os.read(read_fd, 50000)
    finally:
        os.close(read_fd)
    if not report:
        return pid
    os.waitpid(pid, 0)
    _, code, detail = report.split(b":", 2)
    number = int(code, 16)
    if detail == b"noexec:chdir":
        raise StartFailed(0, f"the program could not be started in {os.fsdecode(launch.cwd)}: {os.strerror(number)}")
    raise OSError(number, os.strerror(number))


_FORK_EXEC: Any = None
if sys.version_info[:2] in ((3, 11), (3, 12), (3, 13)) and sys.platform == "linux":
    try:
        import _posixsubprocess

        _FORK_EXEC = _posixsubprocess.fork_exec
    except (ImportError, AttributeError):
        pass


def _candidates(launch: Launch) -> tuple[bytes, ...]:
    """The paths to try for the program's name, as execvpe does with the task's own PATH."""
    name = launch.argv[0]
    if b"/" in name:
        return (name,)
    path = next((entry for entry in launch.env if entry.startswith(b"PATH=")), b"PATH=" + os.fsencode(os.defpath))
    return _search(name, path)


@lru_cache(maxsize=64)
def _search(name: bytes, path: bytes) -> tuple[bytes, ...]:
    return tuple(os.path.join(folder, name) for folder in path[5:].split(b":"))


def _split(entry: bytes) -> tuple[bytes, bytes]:
    name, _, value = entry.partition(b"=")
    return name, value


def _start_failed(launch: Launch, error: OSError) -> StartFailed:
    """What the error of execve means for the task; with the shell's exit codes."""
    name = os.fsdecode(launch.argv[0]) if launch.argv else ""
    if error.errno == errno.ENOENT:
        if "/" in name and os.path.exists(os.path.join(os.fsdecode(launch.cwd), name)):
            return StartFailed(127, f"{name} could not be started: the interpreter that its first line names does not exist")
        return StartFailed(127, f"{name} was not found" + ("" if "/" in name else " in PATH"))
    if error.errno in (errno.EACCES, errno.EPERM, errno.ENOEXEC, errno.EISDIR, errno.ENOTDIR, errno.ELOOP):
        return StartFailed(126, f"{name} could not be executed: {os.strerror(error.errno)}")
    if error.errno == errno.E2BIG:
        return StartFailed(126, "the command and its environment are longer than the system allows: pass long values in files")
    return StartFailed(0, f"the program could not be started: {os.strerror(error.errno or 0)}")
