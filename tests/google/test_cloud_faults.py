"""Services that disappear, break off or refuse, and content that is not what it was: the cloud backend with the real command."""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path

import pytest

from sparkles.backends.google.entities import Entity
from sparkles.model import FailureClass
from tests.support import google
from tests.support.cloud_site import CloudSite
from tests.support.emulators import Emulator, create_bucket, free_port
from tests.support.proxy import Breaking, GrpcFaults, HttpFaults, Link

FILES = [Path(__file__).parent / "kill" / name for name in ("workflow.lua", "task.sh", "params.csv")]

AWAY_S = 12.0
TOLD_S = 5.0
SLACK_S = 4.0
"""Of a busy machine."""

FINAL = "index,value\n1,86\n2,97\n3,110\n4,125\n"
"""What the workflow leaves: x * x + 61."""

NAMES = {"datastore": "Datastore", "storage": "Cloud Storage", "pubsub": "Pub/Sub"}
VARIABLES = {"datastore": "DATASTORE_EMULATOR_HOST", "storage": "STORAGE_EMULATOR_HOST", "pubsub": "PUBSUB_EMULATOR_HOST"}

pytestmark = [pytest.mark.google, pytest.mark.slow]


def through(service, address):
    """The variable that leads the commands to another address of a service."""
    return {VARIABLES[service]: f"http://{address}" if service == "storage" else address}


@pytest.fixture
def sites(tmp_path):
    """Makes sites and what stands between them and the emulators; ends what is left of them."""
    made = []

    def make(name="site", between=(), **variables):
        for service, each in dict(between).items():
            variables |= through(service, each.address)
        site = CloudSite(tmp_path / name, FILES, **variables)
        made.extend([site, *(each for each in dict(between).values() if not isinstance(each, Emulator))])
        return site

    yield make
    for each in made:
        each.close()


def ended_well(site):
    """The run is over: its files are right, every attempt counted, and nothing is left."""
    assert (site.folder / "final.csv").read_text() == FINAL
    site.check_trace()
    found = site.attempts()
    assert [len(attempts) for attempts in found.values()] == [1] * 9, "a task ran again"
    assert [each.failure for attempts in found.values() for each in attempts] == [None] * 9
    site.until(lambda: not site.processes(), "the end of all processes", 10)
    assert site.store.list_workers() == []


@pytest.mark.parametrize("service", NAMES)
def test_a_service_that_disappears_is_waited_for(sites, service):
    link = Link(google.address(service))
    site = sites(between={service: link})
    command = site.background("run", "workflow.lua")
    command.wait_for("run r-")
    if service != "storage":  # which the driver needs at the beginning and at the end
        site.until(site.task_groups, "a running task")
    link.pause()
    began = time.monotonic()
    if service == "pubsub":  # without it nothing waits longer than a poll
        time.sleep(AWAY_S)
    else:
        command.wait_for(f"{NAMES[service]} does not answer")
        assert TOLD_S - 1 < time.monotonic() - began < TOLD_S + SLACK_S
        time.sleep(max(0.0, began + AWAY_S - time.monotonic()))
    link.resume()
    said = command.end()
    assert said.count(f"{NAMES[service]} does not answer") <= 1
    ended_well(site)


def test_pubsub_that_is_not_there_is_polled_around_and_said_once(sites):
    site = sites(**through("pubsub", f"127.0.0.1:{free_port()}"))
    said = site.finish()
    assert said.count("notifications off: polling") == 1, said
    assert said.count("cannot be reached") == 1, said
    ended_well(site)


CASES = {
    "Datastore aborts, is out of quota, loses answers of commits": (
        "datastore",
        lambda target: GrpcFaults(target, "Commit", 0.15),
    ),
    "Datastore's connections break in the middle": ("datastore", lambda target: Breaking(target, 0.04)),
    "Cloud Storage is out of quota and overloaded": ("storage", lambda target: HttpFaults(target, 0.2)),
    "Cloud Storage's connections break in the middle": ("storage", lambda target: Breaking(target, 0.1)),
    "Pub/Sub's connections break in the middle": ("pubsub", lambda target: Breaking(target, 0.3)),
}


@pytest.mark.parametrize("case", CASES)
def test_calls_that_fail_are_made_again(sites, case):
    service, make = CASES[case]
    between = make(google.address(service))
    site = sites(between={service: between})
    site.finish()
    assert len(between.faults.made) if isinstance(between, GrpcFaults) else between.made
    ended_well(site)


@pytest.fixture
def own():
    """Emulators that no other test uses: they can be stopped."""
    started = {}
    try:
        for service in ("datastore", "storage"):
            started[service] = Emulator(service)
        create_bucket(started["storage"].address)
        yield started
    finally:
        for each in started.values():
            each.stop()


def test_everything_stops_for_30_s(sites, own):
    """The servers themselves, and what leads to Pub/Sub: no task is lost, none runs twice."""
    link = Link(google.address("pubsub"))
    site = sites(between={"pubsub": link, **own})
    command = site.background("run", "workflow.lua")
    site.until(lambda: sum(each.what == "ends" for each in site.said()) >= 2, "two ended tasks")
    began = time.monotonic()
    for each in (*own.values(), link):
        each.pause()
    command.wait_for("Datastore does not answer")
    assert time.monotonic() - began < TOLD_S + SLACK_S
    time.sleep(began + 30 - time.monotonic())
    for each in (*own.values(), link):
        each.resume()
    said = command.end()
    assert "Datastore answers again" in said
    assert (site.folder / "final.csv").read_text() == FINAL
    assert sorted(each.what for each in site.said()) == ["begins"] * 9 + ["ends"] * 9
    site.until(lambda: not site.processes(), "the end of all processes", 10)


def test_a_storage_that_only_workers_miss_is_told_by_the_driver(sites):
    """It sends and fetches nothing itself while tasks run: the workers say it with their heartbeats."""
    link = Link(google.address("storage"))
    site = sites(between={"storage": link})
    site.variables["SLOW"] = "3"
    command = site.background("run", "workflow.lua")
    site.until(site.task_groups, "a running task")
    link.pause()
    began = time.monotonic()
    command.wait_for(" says: Cloud Storage does not answer. It is tried again; nothing is lost meanwhile.")
    assert time.monotonic() - began < 3 + TOLD_S + SLACK_S  # the task sleeps for 3 s before the worker has something to send
    link.resume()
    command.wait_for("workers go on, after: Cloud Storage does not answer")
    said = command.end()
    assert len(re.findall(r"worker w-\w+ says: Cloud Storage does not answer", said)) == 1
    ended_well(site)


class Forbidding(HttpFaults):
    """Lets all through, until everything is refused."""

    CODES = ("403 Forbidden",)

    def forbid(self):
        self._chance = 1.0
        self.cut()


def test_a_bucket_that_the_workers_may_not_use_any_more_ends_them_and_no_task(sites, tmp_path):
    """The driver says why and ends too; what ran goes back at no cost, and is done by the next run."""
    link = Forbidding(google.address("storage"), 0.0)
    site = sites(between={"storage": link})
    site.variables.update(through("storage", google.address("storage")) | {"SLOW": "3"})
    program = tmp_path / "consume"
    program.write_text(
        f'#!/bin/sh\nSTORAGE_EMULATOR_HOST=http://{link.address} exec {site.variables["SPARKLES_CONSUME"]} "$@"\n'
    )
    program.chmod(0o755)
    command = site.background("run", "workflow.lua", env={"SPARKLES_CONSUME": str(program)})
    site.until(site.task_groups, "a running task")
    link.forbid()
    said = command.end(3)
    assert "a worker ended with exit code 78: another one would fare the same" in said
    assert "not allowed; the worker needs roles/storage.objectUser on the bucket" in said
    site.until(lambda: not site.processes(), "the end of all processes", 10)
    assert site.store.list_workers() == []
    site.variables["SLOW"] = "0"
    site.finish()
    assert (site.folder / "final.csv").read_text() == FINAL
    failures = {each.failure for attempts in site.attempts().values() for each in attempts}
    assert failures == {None, FailureClass.PREEMPTED}


def submitted(sites):
    """A site whose first job is in the cloud and was not begun; its driver is gone."""
    site = sites()
    command = site.background("run", "workflow.lua", env={"SPARKLES_FLEET": "none"})
    command.wait_for("start workers by hand")
    command.process.kill()
    command.process.wait()
    return site


def tamper(site, below, old, new):
    """Changes the content of the one object whose bytes hold `old`; returns its name."""
    bucket = google.bucket(site.prefix)
    try:
        ((name, data),) = [(name, data) for name in site.objects(below) if old in (data := bucket.get(name))]
        bucket.put(name, data.replace(old, new))
        return name
    finally:
        bucket.close()


def test_a_manifest_that_was_changed_is_not_believed(sites):
    """The worker ends with 78; the driver starts no other, and says which object it is."""
    site = submitted(sites)
    name = tamper(site, "jobs/one", b"\x1f\x8b", b"\x1f\x8c")
    said = site.background("run", "workflow.lua").end(3)
    assert "a worker ended with exit code 78: another one would fare the same" in said
    assert f"{name} part 1: is not what was submitted (its digest differs): somebody changed it; submit the job again" in said
    assert len(list((site.folder / ".sparkles" / "cloud" / "workers").glob("*.log"))) == 1
    assert site.said() == []
    site.until(lambda: not site.processes(), "the end of all processes", 10)


def test_an_input_that_was_changed_is_not_given_to_a_task(sites):
    """It fails as staging and is removed; the same command stores it anew."""
    site = submitted(sites)
    name = tamper(site, "cas/", b"# One task", b"# Two task")
    said = site.background("run", "workflow.lua").end(1)
    assert "class staging" in said
    assert site.said() == []
    reasons = [each.reason for attempts in site.attempts().values() for each in attempts]
    assert any(f"input task.sh (task.sh) is damaged: {name} does not hold the content of its name" in each for each in reasons)
    site.finish()
    assert (site.folder / "final.csv").read_text() == FINAL


def newer(site, kind, **properties):
    """Makes documents of a kind look as a newer sparkles writes them; returns the name of one."""
    datastore = google.datastore("datastore", site.prefix)
    try:
        for entity in datastore.query(kind):
            document = entity.document.replace(b'"schema":1', b'"schema":2')
            datastore.put_all([Entity(kind, entity.name, document, {**entity.properties, **properties})])
        return entity.name
    finally:
        datastore.close()


def test_a_job_of_a_newer_sparkles_ends_worker_and_driver_with_what_to_upgrade(sites):
    site = sites()
    command = site.background("run", "workflow.lua", env={"SPARKLES_FLEET": "none"})
    by_hand = site.by_hand(command)
    command.process.kill()
    command.process.wait()
    newer(site, "SparklesShard")
    worker = site.background(*by_hand, "--work", str(site.folder), program=(site.variables["SPARKLES_CONSUME"],))
    sentence = r"SparklesShard \S+ was written by a newer sparkles \(its documents have schema 2, this version reads 1\); upgrade this one"
    assert re.search(sentence, worker.end(78, timeout_s=20))
    assert re.search(sentence, site.background("run", "workflow.lua").end(3))
    assert site.said() == []


def test_a_worker_of_a_newer_sparkles_ends_the_driver_with_what_to_upgrade(sites):
    site = sites()
    site.variables["SLOW"] = "3"
    command = site.background("run", "workflow.lua")
    site.until(site.task_groups, "a running task")
    site.signal(signal.SIGSTOP, *site.workers())  # its next heartbeat would be of schema 1 again
    name = newer(site, "SparklesWorker")
    assert f"SparklesWorker {name} was written by a newer sparkles" in command.end(3)
