"""A disk that fills up while tasks run: what runs is finished, its outcome is kept, and the class of what failed is the disk."""

from __future__ import annotations

import os
import subprocess
import time
from contextlib import contextmanager

import pytest

from sparkles.backends.local.recovery import recover
from sparkles.model import OutputGlob, TaskState
from tests.support.needs import small_disk
from tests.support.worker import Place, until


@pytest.fixture
def place(tmp_path):
    with small_disk(tmp_path / "disk", 3_000_000) as disk:
        place = Place(disk / ".sparkles")
        yield place
        place.close()


@contextmanager
def filled(place):
    """No page is free on the disk."""
    path = place.state.parent / "ballast"
    with open(path, "wb", buffering=0) as ballast:
        for size in (65536, 4096):
            try:
                while ballast.write(b"x" * size) == size:
                    pass
            except OSError:
                continue
        assert os.statvfs(path).f_bavail == 0
        yield
    path.unlink(missing_ok=True)


def beats(place):
    """Whether the worker's heartbeats (0.1 s) come through: its own log is on that disk too."""
    (before,) = place.jobs.list_workers()
    time.sleep(0.6)
    (now,) = place.jobs.list_workers()
    return now.beat != before.beat


def waiting_for(go, then=""):
    return f'echo runs; while ! test -e "{go}"; do sleep 0.02; done; {then}:'


def test_a_program_that_runs_while_the_disk_is_full_is_recorded_when_there_is_space(place, tmp_path):
    job = place.add("long", [waiting_for(tmp_path / "go"), "true", "true"])
    worker = place.start("--cpu", "1")
    place.running(job)
    with filled(place):
        until(lambda: not beats(place))
        assert worker.poll() is None
        assert place.programs(job, 1)
    (tmp_path / "go").touch()
    until(lambda: place.jobs.count_tasks(job).succeeded == 3)
    assert [task.attempt for task in place.jobs.list_tasks(job)] == [1, 1, 1]
    assert worker.poll() is None


@pytest.mark.parametrize(
    "then", ["", 'rm -f "$SPARKLES_PARAMS"; cat /dev/zero >> "$DISK/ballast" 2>/dev/null; '], ids=["written", "refused"]
)
def test_a_program_that_ends_on_a_full_disk_is_not_run_again(place, tmp_path, then):
    """Its worker leaves it in its result.json; where even that is refused, the worker stays until there is space."""
    job = place.add("long", [waiting_for(tmp_path / "go", then)], env={"DISK": str(place.state.parent)})
    worker = place.start("--cpu", "1")
    place.running(job)
    with filled(place):
        until(lambda: not beats(place))
        (tmp_path / "go").touch()
        until(lambda: not place.programs(job, 1))
        if then:
            with pytest.raises(subprocess.TimeoutExpired):
                worker.wait(2)
        else:
            assert worker.wait(10) == 3
        assert place.task(job).state is TaskState.CLAIMED
    if not then:
        recover(place.jobs, place.blobs, place.clock)
    until(lambda: place.task(job).state is TaskState.SUCCEEDED)
    assert place.task(job).attempt == 1


@pytest.mark.parametrize(
    ("command", "how"),
    [
        ("head -c 9000000 /dev/zero > filler 2>/dev/null || exit 1", {}),
        ("head -c 9000000 /dev/zero > filler; echo x > out.bin; test -s out.bin || rm out.bin", {"outputs": ("out.bin",)}),
        ("echo begins; head -c 9000000 /dev/zero >filler; rm filler; exit 4", {}),
    ],
    ids=["silent", "a missing output", "said in the log"],
)
def test_the_class_of_a_task_that_filled_the_disk(place, command, how):
    globs = tuple(OutputGlob(each, required=True) for each in how.get("outputs", ()))
    job = place.add("fill", [command], outputs=globs)
    place.serve("--cpu", "1")
    assert place.attempt(job).failure == "disk", place.attempt(job)


def test_a_task_that_fails_with_room_on_the_disk_keeps_its_class(place):
    job = place.add("fail", ["exit 1", "head -c 500000 /dev/zero > a; exit 1"])
    place.serve("--cpu", "1")
    assert [str(place.attempt(job, index).failure) for index in (1, 2)] == ["exit", "exit"]
