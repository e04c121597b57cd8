"""What the worker needs of the machine to run programs: a protocol and the values that cross it. May import nothing of sparkles.

`backends/local/runner.py` keeps these promises with real processes. A handle is the runner's own number for a program; it is never
used again while the runner lives, unlike a pid.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from enum import StrEnum
from signal import Signals
from typing import Protocol

import msgspec


class Cause(StrEnum):
    """Why a program ended, where it did not end by itself."""

    NONE = ""
    TIMEOUT = "timeout"
    MEMORY = "memory"
    KERNEL_OOM = "kernel_oom"
    ASKED = "asked"


def signal_name(number: int) -> str:
    """SIGKILL for 9; "" for a number without a name of its own, as real-time signals have."""
    try:
        return Signals(number).name
    except ValueError:
        return ""


class Launch(msgspec.Struct, frozen=True, gc=False):
    """A program to start: `env` holds NAME=value entries, no name twice; `log_fd` gets stdout and stderr and stays the caller's.

    `token` is in `env` too, as SPARKLES_TOKEN: by it `sweep` finds what the program left behind.
    `timeout_s` and `memory_bytes` are limits; None: none.
    """

    argv: Sequence[bytes]
    env: list[bytes]
    cwd: bytes
    log_fd: int
    token: str
    timeout_s: float | None = None
    memory_bytes: int | None = None


class Ended(msgspec.Struct, frozen=True, gc=False):
    """How a program ended. `exit_code` is None where `signal` ended it; `peak_memory_bytes` is None where it ended too soon to be
    measured. With KERNEL_OOM, `limit_bytes` is what this worker's control group may use; 0: no limit, so that the machine's memory ran
    out."""

    handle: int
    exit_code: int | None
    signal: int
    cause: Cause
    seconds: float
    cpu_s: float
    peak_memory_bytes: int | None
    limit_bytes: int = 0


class StartFailed(Exception):
    """The program could not be started. `code` is the shell's for it: 127 not found, 126 not executable; 0 where the machine refused."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


class Runner(Protocol):
    """Programs in process groups of their own. Not for use from several threads."""

    def start(self, launch: Launch) -> int:
        """Starts a program and returns its handle. Raises StartFailed."""

    def end(self, handle: int) -> None:
        """Asks a program and its group to end (SIGTERM), and ends them (SIGKILL) when the grace is over. Its `Ended` says ASKED.
        Harmless when repeated or too late."""

    def wait(self, timeout_s: float) -> tuple[list[Ended], list[int]]:
        """Blocks until a program ends, a watched descriptor is readable, a signal came or the time is over.

        Returns:
            The programs that ended, each once, their process groups gone; and the watched descriptors that are readable.
        """

    def watch(self, fd: int) -> bool:
        """Lets `fd` end a wait. False where it cannot be waited for (a regular file, /dev/null)."""

    def unwatch(self, fd: int) -> None:
        """Undoes `watch`."""

    def sweep(self, tokens: Collection[str]) -> None:
        """Ends what the ended programs of these tokens left behind outside their process groups; on return it is gone.
        Where nothing is running any more, everything that was left behind goes."""

    def close(self) -> None:
        """Ends every program at once (SIGKILL) and waits for them."""
