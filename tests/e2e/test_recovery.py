"""What is left when a worker dies or freezes, and what the fleet does about it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import pytest

from sparkles.backends.local import process
from sparkles.backends.local.blobs import DirectoryBlobs
from sparkles.backends.local.db import open_state
from sparkles.backends.local.fleet import QUICK_DEATHS, ProcessFleet
from sparkles.backends.local.job_store import SqliteJobStore
from sparkles.backends.local.pool import local_fleet
from sparkles.backends.local.recovery import StallWatch, recover
from sparkles.engine.retry import LOSS_BUDGET
from sparkles.errors import BackendError
from sparkles.model import Attempt, FailureClass, ProcessId, TaskState, Worker, WorkerId
from tests.support.worker import Place, until


@pytest.fixture
def place(tmp_path):
    place = Place(tmp_path / ".sparkles")
    yield place
    place.close()


@pytest.fixture
def fleet(place):
    fleet = local_fleet(place.state, place.jobs, place.blobs, place.clock, cpu=2, lease_s=1.0, beat_s=0.1, grace_s=0.4)
    yield fleet
    fleet.stop("p")
    assert fleet.wait_gone("p", 10)


def settle(place, **options):
    return recover(place.jobs, place.blobs, place.clock, **options)


def marked(worker):
    return process.marked("SPARKLES_WORKER", worker)


def dead_process(**changes):
    child = subprocess.Popen(["true"])
    child.wait()
    return msgspec.structs.replace(process.this_process(), **{"pid": child.pid, **changes})


COUNT = 'echo "$SPARKLES_JOB/$SPARKLES_TASK" >> "$RUNS"; '


def test_after_kill_9_of_a_worker_nothing_lives_and_nothing_that_finished_runs_again(place):
    runs = place.state / "ran"
    long = (
        COUNT
        + "setsid sh -c 'sleep 300 & sleep 300' & env -i sleep 300 & trap '' TERM; echo runs; test $SPARKLES_ATTEMPT = 2 || sleep 300"
    )
    job = place.add("kill", [COUNT + "true"] * 5 + [long] + [COUNT + "true"] * 5, env={"RUNS": str(runs)})
    worker = place.start("--cpu", "1")
    place.running(job, 6)
    until(lambda: place.task(job, 5).state is TaskState.SUCCEEDED)
    worker.kill()
    worker.wait()
    assert len(marked(place.worker)) >= 3
    group = os.getpgid(marked(place.worker)[0])

    (sentence,) = settle(place)
    assert place.worker in sentence
    assert "1 lost while running" in sentence
    assert marked(place.worker) == []
    assert process.group_members(group) == []
    assert place.jobs.list_workers() == []
    lost = place.task(job, 6)
    assert (lost.state, lost.attempt, lost.tries, lost.losses) == (TaskState.PENDING, 1, 0, 1)
    assert place.attempt(job, 6).failure is FailureClass.LOST
    # Its shell may have said "Killed" of a child that went first.
    assert place.attempt(job, 6).tail.splitlines()[0] == "runs"
    assert not (place.folder(job, 6) / "work").exists()
    assert settle(place) == []

    place.serve(name="-2")
    assert set(place.states(job)) == {"succeeded"}
    assert sorted(runs.read_text().split()) == sorted([f"{job}/{index}" for index in range(1, 12)] + [f"{job}/6"])


def test_a_finished_task_that_was_not_recorded_is_recorded_from_its_file(place):
    go = place.state / "go"
    wait = 'echo runs; while ! test -e "$GO"; do sleep 0.02; done; exit 3'
    job = place.add("record", [wait, "echo runs; sleep 300"], env={"GO": str(go)})
    worker = place.start("--cpu", "2")
    place.running(job, 1)
    place.running(job, 2)
    with place.database.atomic():  # the worker cannot commit
        go.touch()
        until((place.folder(job, 1) / "result.json").exists)
        worker.kill()
        worker.wait()
    assert place.task(job, 1).state is TaskState.CLAIMED
    (sentence,) = settle(place)
    assert "1 finished but not yet recorded, 1 lost while running" in sentence
    task = place.task(job, 1)
    assert (task.state, task.attempt, task.tries, task.exit_code) == (TaskState.FAILED, 1, 1, 3)


@pytest.mark.parametrize("content", [b"", b'{"ref":', b"{}"], ids=["empty", "cut short", "something else"])
def test_an_incomplete_record_is_no_record(place, content):
    job, _ = claimed_by_the_dead(place)
    folder = place.folder(job)
    folder.mkdir(parents=True)
    (folder / "output.log").touch()
    (folder / "result.json").write_bytes(content)
    settle(place)
    assert (place.task(job).state, place.task(job).losses) == (TaskState.PENDING, 1)


def claimed_by_the_dead(place, count=1, **changes):
    """A job whose tasks a worker has claimed that no longer lives; (its id, the claims)."""
    job = place.add("claimed", ["true"] * count)
    place.jobs.enter_worker(Worker(WorkerId(place.worker), "p", dead_process(**changes)))
    return job, place.jobs.claim(WorkerId(place.worker), pool="p", limit=count, now_ms=place.clock.now_ms())


def test_a_record_with_another_token_is_no_record(place):
    job, (claim,) = claimed_by_the_dead(place)
    folder = place.folder(job)
    folder.mkdir(parents=True)
    (folder / "output.log").touch()
    (folder / "result.json").write_bytes(msgspec.json.encode(Attempt(claim.ref, "another", "w-0", exit_code=0)))
    settle(place)
    assert (place.task(job).state, place.task(job).losses) == (TaskState.PENDING, 1)


def test_a_task_that_was_not_started_goes_back_as_if_never_claimed(place):
    job, _ = claimed_by_the_dead(place, 3)
    place.folder(job, 2).mkdir(parents=True)  # where the worker died between making the folder and starting the program
    (sentence,) = settle(place)
    assert sentence.endswith("3 not started")
    assert [(task.state, task.attempt, task.losses) for task in place.jobs.list_tasks(job)] == [(TaskState.PENDING, 0, 0)] * 3
    assert place.jobs.list_workers() == []


def test_after_a_reboot_a_pid_means_nothing(place):
    me = process.this_process()
    job, _ = claimed_by_the_dead(place, pid=me.pid, started=me.started, boot_id="an earlier boot")
    settle(place)
    assert place.task(job).state is TaskState.PENDING
    assert place.jobs.list_workers() == []


def test_a_pid_that_another_process_has_now_is_not_ended(place):
    bystander = subprocess.Popen(["sleep", "300"])
    job, _ = claimed_by_the_dead(place, pid=bystander.pid, started=1.0)
    settle(place)
    assert place.task(job).state is TaskState.PENDING
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()


def test_workers_of_other_hosts_are_left_alone_until_they_stand_still(place):
    job, _ = claimed_by_the_dead(place, host="another-host")
    assert settle(place) == []
    assert place.task(job).state is TaskState.CLAIMED
    settle(place, is_stalled=lambda worker: True)
    assert place.task(job).state is TaskState.PENDING


def test_a_living_worker_is_left_alone(place):
    job = place.add("alive", ["echo runs; sleep 300"])
    place.start()
    place.running(job)
    assert settle(place, is_stalled=StallWatch(place.clock, 60.0)) == []
    assert place.task(job).state is TaskState.CLAIMED


def test_several_may_recover_at_once(place):
    job = place.add("both", ["true"] * 300)
    place.jobs.enter_worker(Worker(WorkerId(place.worker), "p", dead_process()))
    claims = place.jobs.claim(WorkerId(place.worker), pool="p", limit=300, now_ms=place.clock.now_ms())
    for claim in claims[:200]:
        folder = place.folder(job, claim.ref.index)
        folder.mkdir(parents=True)
        (folder / "output.log").touch()
        if claim.ref.index <= 100:
            record = Attempt(claim.ref, claim.token, "w-1", exit_code=0, ended_at_ms=1)
            (folder / "result.json").write_bytes(msgspec.json.encode(record))
    barrier = threading.Barrier(4)
    failed = []

    def one():
        database = open_state(place.state)
        barrier.wait()
        try:
            recover(SqliteJobStore(database), DirectoryBlobs(place.state), place.clock)
        except BaseException as error:
            failed.append(error)
        finally:
            database.close()

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    tasks = place.jobs.list_tasks(job)
    assert [(task.state, task.attempt, task.losses) for task in tasks] == (
        [(TaskState.SUCCEEDED, 1, 0)] * 100 + [(TaskState.PENDING, 1, 1)] * 100 + [(TaskState.PENDING, 0, 0)] * 100
    )


def test_the_watch_counts_from_when_the_beat_was_first_seen(place):
    class Clock:
        now = 100.0

        def monotonic(self):
            return self.now

    clock = Clock()
    watch = StallWatch(clock, 60.0)
    row = Worker(WorkerId("w-1"), "p", ProcessId("h", 1, 1.0, "b"), beat=7)
    assert not watch(row)
    clock.now += 59.9
    assert not watch(row)
    clock.now += 0.1
    assert watch(row)
    assert not watch(msgspec.structs.replace(row, beat=8))
    clock.now += 59.9
    assert not watch(msgspec.structs.replace(row, beat=8))


# Frozen


def test_a_frozen_worker_is_killed_with_its_programs_and_its_task_is_run_again(place):
    job = place.add("frozen", ["echo runs; test $SPARKLES_ATTEMPT = 2 || sleep 300"])
    worker = place.start()
    place.running(job)
    worker.send_signal(signal.SIGSTOP)
    watch = StallWatch(place.clock, 0.5)
    (sentence,) = until(lambda: settle(place, is_stalled=watch))
    assert "stood still" in sentence
    assert worker.wait(5) == -signal.SIGKILL
    assert marked(place.worker) == []
    place.serve(name="-2")
    assert (place.task(job).state, place.task(job).losses) == (TaskState.SUCCEEDED, 1)


# The fleet


def test_a_worker_is_started_once_and_serves(place, fleet):
    fleet.ensure("p")
    fleet.ensure("p")
    job = place.add("serve", ["true"] * 3)
    until(lambda: set(place.states(job)) == {"succeeded"})
    (line,) = fleet.describe()
    assert "heartbeat" in line
    assert len(place.jobs.list_workers()) == 1
    fleet.drain("p")
    assert fleet.wait_gone("p", 10)
    assert place.jobs.list_workers() == []


def test_a_worker_that_was_killed_is_replaced_and_its_task_run_again(place, fleet):
    job = place.add("killed", ["echo runs; test $SPARKLES_ATTEMPT = 2 || sleep 300"])
    fleet.ensure("p")
    place.running(job)
    (row,) = place.jobs.list_workers()
    os.kill(row.process.pid, signal.SIGKILL)

    def done():
        fleet.ensure("p")
        return place.task(job).state is TaskState.SUCCEEDED

    until(done)
    assert place.task(job).losses == 1
    assert marked(row.id) == []


def test_a_frozen_worker_of_the_fleet_is_replaced(place, fleet):
    job = place.add("frozen", ["echo runs; test $SPARKLES_ATTEMPT = 2 || sleep 300"])
    fleet.ensure("p")
    place.running(job)
    (row,) = place.jobs.list_workers()
    os.kill(row.process.pid, signal.SIGSTOP)

    def done():
        fleet.ensure("p")
        return place.task(job).state is TaskState.SUCCEEDED

    until(done)
    assert place.task(job).losses == 1


def test_a_task_that_kills_its_worker_each_time_is_given_up_and_the_others_are_done(place, fleet):
    job = place.add("poison", ['kill -9 "$PPID"; sleep 300', "true", "true"])

    def done():
        fleet.ensure("p")
        return set(place.states(job)) == {"failed", "succeeded"}

    until(done, 30.0)
    task = place.task(job)
    assert (task.state, task.failure, task.losses) == (TaskState.FAILED, FailureClass.LOST, LOSS_BUDGET)
    assert "given up after 5 attempts" in task.reason


def test_workers_that_die_for_nothing_are_not_started_for_ever(place, fleet, monkeypatch):
    broken = place.state / "python"
    broken.write_text("#!/bin/sh\necho 'no module named sparkles' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))

    def refused():
        try:
            fleet.ensure("p")
        except BackendError as error:
            return str(error)
        return ""

    sentence = until(refused)
    assert f"{QUICK_DEATHS} workers in a row ended as soon as they were started, the last one with exit code 1" in sentence
    assert sentence.endswith("no module named sparkles")


def test_a_worker_that_says_that_another_would_fare_the_same_is_the_last(place, monkeypatch):
    """Also where it left something to put in order."""
    broken = place.state / "python"
    broken.write_text("#!/bin/sh\necho started >> started\necho 'the login is over' >&2\nexit 78\n")
    broken.chmod(0o755)
    monkeypatch.chdir(place.state)
    fleet = ProcessFleet(place.state, place.jobs, place.clock, lambda pool, worker: [str(broken)], lambda: ["w-1 left a claim"])

    def refused():
        try:
            fleet.ensure("p")
        except BackendError as error:
            return str(error)
        return ""

    sentence = until(refused)
    assert sentence.startswith("a worker ended with exit code 78: another one would fare the same.")
    assert sentence.endswith("the login is over")
    assert (place.state / "started").read_text() == "started\n"


def test_draining_and_stopping(place, fleet):
    job = place.add("drain", ["echo runs; sleep 0.4", "echo runs; sleep 0.4", "true"])
    fleet.ensure("p")
    place.running(job, 2)
    fleet.drain("p")
    assert not fleet.wait_gone("p", 0.0)
    assert fleet.wait_gone("p", 10)
    assert place.states(job) == ["succeeded", "succeeded", "pending"]
    long = place.add("stop", ["echo runs; sleep 300"])
    fleet.ensure("p")
    place.running(long)
    fleet.stop("p")
    assert fleet.wait_gone("p", 10)
    assert (place.task(long).state, place.task(long).losses) == (TaskState.PENDING, 0)


def test_a_worker_that_froze_is_not_waited_for_for_ever(place, fleet):
    job = place.add("frozen", ["echo runs; sleep 300"])
    fleet.ensure("p")
    place.running(job)
    (row,) = place.jobs.list_workers()
    os.kill(row.process.pid, signal.SIGSTOP)
    fleet.stop("p")
    until(lambda: fleet.wait_gone("p", 0.2))
    assert place.task(job).state is TaskState.PENDING
    assert marked(row.id) == []


DRIVER = """
import sys, time
from pathlib import Path
from tests.support.worker import Place
from sparkles.backends.local.pool import local_fleet
place = Place(Path(sys.argv[1]))
fleet = local_fleet(place.state, place.jobs, place.blobs, place.clock, cpu=2, beat_s=0.1)
if sys.argv[2] == "detach":
    fleet.start_detached("p")
else:
    fleet.ensure("p")
    time.sleep(300)
"""


def start_driver(place, how):
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen([sys.executable, "-c", DRIVER, str(place.state), how], env=environ)


def test_when_the_driver_is_killed_its_worker_finishes_what_runs_and_leaves(place):
    job = place.add("orphan", ["echo runs; sleep 0.5"] * 6)
    driver = start_driver(place, "serve")
    place.running(job, 2)
    (row,) = place.jobs.list_workers()
    driver.kill()
    driver.wait()
    until(lambda: not process.is_alive(row.process))
    assert place.states(job) == ["succeeded"] * 2 + ["pending"] * 4
    assert place.jobs.list_workers() == []


def test_a_detached_worker_goes_on_without_its_driver_until_nothing_is_pending(place):
    job = place.add("detached", ["sleep 0.1"] * 6)
    assert start_driver(place, "detach").wait(20) == 0
    until(lambda: set(place.states(job)) == {"succeeded"})
    until(lambda: place.jobs.list_workers() == [])


def test_starting_up_takes_little_of_the_processor(place):
    """Not the wall clock, which other tests share."""
    python = min(_cpu_s(subprocess.Popen([sys.executable, "-c", "pass"])) for _ in range(3))
    worker = min(_cpu_s(place.start(until_empty=True)) for _ in range(5))
    assert worker - python < 0.2


def _cpu_s(child):
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0
    return usage.ru_utime + usage.ru_stime
