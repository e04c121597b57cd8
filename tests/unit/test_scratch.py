"""What killed cloud workers left of their scratch directories: sparkles/backends/google/scratch.py."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sparkles.backends.google.scratch import Scratch
from sparkles.backends.local import process
from sparkles.backends.memory_jobs import MemoryJobStore
from sparkles.model import Worker, WorkerId

W = f"w-{secrets.token_hex(3)}"
"""What ids begin with here: processes of other tests may carry ids like w-1."""


class Place:
    """A state folder with scratch directories, and who recovers dead workers."""

    def __init__(self, state: Path) -> None:
        self.scratch = state / "cloud" / "scratch"
        self.scratch.mkdir(parents=True)
        (state / "sparkles.db").touch()
        self.jobs = MemoryJobStore()
        self.told: list[str] = []
        self.kept = Scratch(self.scratch, self.jobs)

    def left(self, worker: str, *, age_s: float = 3600.0) -> Path:
        """A worker's scratch directory, with 1,000 bytes in a folder that cannot be read."""
        folder = self.scratch / worker
        (folder / "a1" / "work").mkdir(parents=True)
        (folder / "a1" / "work" / "big").write_bytes(bytes(1000))
        (folder / "a1" / "work").chmod(0)
        os.utime(folder, (time.time() - age_s,) * 2)
        return folder


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path / ".sparkles")


def test_clean_removes_those_of_workers_that_are_gone(place):
    left = place.left(f"{W}1")
    known = place.left(f"{W}2")
    place.jobs.enter_worker(Worker(WorkerId(f"{W}2"), "default", process.this_process()))
    young = place.left(f"{W}3", age_s=0.0)
    other = place.left("mine")
    assert place.kept.remove() >= 1000 * (os.geteuid() == 0)
    assert not left.exists()
    assert known.exists()
    assert young.exists()
    assert other.exists()


def test_one_whose_process_lives_stays(place):
    """It may be of another installation: its row is nowhere to be seen from here."""
    by_id, by_task = place.left(f"{W}1"), place.left(f"{W}2")
    wait = [sys.executable, "-c", "input()"]
    worker = subprocess.Popen([*wait, "--id", f"{W}1"], stdin=subprocess.PIPE)
    task = subprocess.Popen(wait, stdin=subprocess.PIPE, env={"SPARKLES_WORKER": f"{W}2"})
    try:
        place.kept.remove()
        assert by_id.exists()
        assert by_task.exists()
    finally:
        for each in (worker, task):
            each.kill()
            each.communicate()
    place.kept.remove()
    assert not by_id.exists()
    assert not by_task.exists()


def test_links_are_not_followed(place, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(bytes(10))
    (place.scratch / f"{W}1").symlink_to(outside)
    left = place.left(f"{W}2")
    (left / "link").symlink_to(outside)
    os.utime(left, (0, 0))
    place.kept.remove()
    assert (outside / "file").exists()
    assert (place.scratch / f"{W}1").is_symlink()
    assert not left.exists()


def test_that_of_a_worker_that_is_found_dead_goes_at_once(place):
    recover = place.kept.after(lambda: place.told)
    dead, starting = place.left(f"{W}1", age_s=0.0), place.left(f"{W}11", age_s=0.0)
    recover()
    assert dead.exists()
    place.told = [f"worker {W}1 (pid 12 on here) died: 1 lost"]
    assert recover() == place.told
    assert not dead.exists()
    assert starting.exists()
