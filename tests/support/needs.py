"""What a test needs of the machine: where it is not there the test is skipped with the reason, and fails under SPARKLES_TEST_ALL=1."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def requires(condition: object, why: str) -> None:
    """Ends the test here unless `condition`; `why` says what is missing and, where it can be had, how."""
    if condition:
        return
    if os.environ.get("SPARKLES_TEST_ALL") == "1":
        pytest.fail(f"SPARKLES_TEST_ALL=1, and this machine lacks what the test needs: {why}", pytrace=False)
    pytest.skip(why)


def mount(*arguments: str) -> None:
    """Runs mount(8); the test needs it to succeed."""
    try:
        done = subprocess.run(["mount", *arguments], capture_output=True, text=True, timeout=20, check=False)
    except FileNotFoundError:
        requires(False, "there is no mount command")
        return
    requires(done.returncode == 0, f"mounting is not permitted here (run as root): {done.stderr.strip()}")


@contextmanager
def small_disk(folder: Path, size_bytes: int, inodes: int = 0) -> Iterator[Path]:
    """A memory disk of that size at `folder`, gone at the end; the test needs to be allowed to mount."""
    folder.mkdir(parents=True, exist_ok=True)
    limit = f",nr_inodes={inodes}" if inodes else ""
    mount("-t", "tmpfs", "-o", f"size={size_bytes}{limit}", "tmpfs", str(folder))
    try:
        yield folder
    finally:
        # -l: what still has a file open there does not keep the folder.
        subprocess.run(["umount", "-l", str(folder)], check=True, timeout=20)
