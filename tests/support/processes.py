"""Processes that a test started, however deep: found by a variable that they inherited in their environment."""

from __future__ import annotations

import os
import signal
from pathlib import Path


def marked(mark: str) -> list[tuple[int, str]]:
    """Pid and command line of each process with `mark` ("NAME=value") in its environment, this one and those that ended aside."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            try:
                environ = Path(f"/proc/{entry}/environ").read_bytes()
                state = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[0]
                line = Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            except OSError:
                continue
            if mark.encode() in environ and state != "Z":
                found.append((int(entry), line))
    return found


def end(mark: str) -> None:
    """Ends all of them."""
    for pid, _ in marked(mark):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
