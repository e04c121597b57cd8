"""Clocks that are ten minutes apart: no claim is taken early, and nobody waits for what another one's clock calls the future."""

from __future__ import annotations

import threading
import time

import pytest
from msgspec.structs import replace

from sparkles.backends.google.datastore import CLOCKS_MS
from sparkles.backends.google.job_store import GoogleJobStore
from sparkles.model import FailureClass, TaskState, WorkerId
from tests.support.stores import create, ended, enter

pytestmark = pytest.mark.google

APART_S = 600.0
SOON_MS = 1_500
LEASE_S = 1.0


class Machine:
    """A job store as a machine has it whose clock is `ahead_s` before this one's."""

    def __init__(self, site, ahead_s):
        self.now = lambda: time.time() + ahead_s
        self.jobs = GoogleJobStore(site.datastore(now=self.now), site.bucket())

    def now_ms(self):
        return int(self.now() * 1000)

    def claim(self, worker):
        return self.jobs.claim(WorkerId(worker), pool="", limit=1, now_ms=self.now_ms())


@pytest.mark.parametrize("service", ["firestore"], indirect=True)
@pytest.mark.parametrize("ahead_s", [APART_S, -APART_S], ids=["the first is ahead", "the first is behind"])
def test_a_task_that_is_tried_again_soon_is_soon_for_all(site, ahead_s):
    """The time before which it is not to be tried again is by the server's clock; each machine knows its own difference to CLOCKS_MS."""
    first, second = Machine(site, ahead_s / 2), Machine(site, -ahead_s / 2)
    create(first.jobs, "j", ["a"])
    enter(first.jobs, "w-first")
    enter(second.jobs, "w-second")
    (claim,) = first.claim("w-first")
    again = replace(ended(claim, TaskState.PENDING, FailureClass.EXIT, exit_code=1), not_before_ms=first.now_ms() + SOON_MS)
    assert first.jobs.finish([again]) == [True]
    for machine in (second, first):
        assert machine.jobs.next_due_ms("") - machine.now_ms() <= SOON_MS + 2 * CLOCKS_MS
    time.sleep(max(0, second.jobs.next_due_ms("") - second.now_ms()) / 1000)
    assert len(second.claim("w-second")) == 1


@pytest.mark.parametrize("ahead_s", [APART_S, -APART_S], ids=["the observer is behind", "the observer is ahead"])
def test_only_a_heartbeat_that_stands_still_is_dead(site, ahead_s):
    """Each sees the other alive while it beats, whatever both clocks say, and dead a lease after the last beat."""
    worker, observer = Machine(site, ahead_s / 2), Machine(site, -ahead_s / 2)
    create(worker.jobs, "j", ["a"])
    enter(worker.jobs, "w", started_at_ms=worker.now_ms())
    assert len(worker.claim("w")) == 1
    over = threading.Event()

    def beat():
        while not over.wait(LEASE_S / 8):
            worker.jobs.beat_worker(WorkerId("w"), waiting=False)

    beating = threading.Thread(target=beat)
    beating.start()
    try:
        until = time.monotonic() + 2 * LEASE_S
        while time.monotonic() < until:
            assert observer.jobs.dead_workers(LEASE_S) == []
            assert observer.claim("w-observer") == []
            time.sleep(LEASE_S / 8)
    finally:
        over.set()
        beating.join()
    until = time.monotonic() + 10 * LEASE_S
    while not observer.jobs.dead_workers(LEASE_S):
        assert time.monotonic() < until, "nobody notices that its heartbeat stands still"
        time.sleep(LEASE_S / 8)
