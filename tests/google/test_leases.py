"""When a worker counts as dead, where Datastore was away meanwhile."""

from __future__ import annotations

import time

import pytest

from sparkles.backends.google.shards import Shards
from sparkles.backends.google.workers import Workers
from sparkles.backends.local.process import this_process
from sparkles.model import Worker, WorkerId
from tests.support.faults import Faults

pytestmark = pytest.mark.google
LEASE_S = 1.0


def test_nobody_is_dead_before_the_service_has_answered_for_a_lease(site):
    """While it was away no heartbeat could reach it, however old the last one is."""
    faults = Faults("RunQuery")
    datastore = site.datastore(faults=faults, told_after_s=0.3)
    workers = Workers(datastore, Shards(datastore))
    workers.enter_worker(Worker(WorkerId("w"), "p", this_process(), started_at_ms=1))
    assert workers.dead_workers(LEASE_S) == []
    time.sleep(LEASE_S)
    faults.plan.extend(["before UNAVAILABLE"] * 4)
    assert workers.dead_workers(LEASE_S) == []
    assert workers.dead_workers(LEASE_S) == []
    time.sleep(LEASE_S)
    assert [worker.id for worker in workers.dead_workers(LEASE_S)] == ["w"]
