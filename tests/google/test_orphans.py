"""What is left of jobs whose creation was cut short: shards without their job (docs/wire.md), and what `clean` does about them."""

from __future__ import annotations

import threading

import pytest

from sparkles.backends.google import names
from sparkles.model import Job, JobId, JobSpec, NewTask, TaskSpec
from tests.support.stores import fingerprint

pytestmark = pytest.mark.google
TASKS = [NewTask(TaskSpec(f"c{index}"), fingerprint(f"c{index}")) for index in range(6)]


def job(name: str) -> Job:
    return Job(JobId(name), JobSpec(name), len(TASKS))


def cut_short(site, name):
    """Creates a job up to its last write."""
    store = site.jobs(shard_size=2)
    insert = store._datastore.insert

    def die(entity):
        if entity.kind == names.JOB:
            raise KeyboardInterrupt
        return insert(entity)

    store._datastore.insert = die
    with pytest.raises(KeyboardInterrupt):
        store.create_job(job(name), TASKS)


def shards(site):
    return sorted(each.split(":")[1] for each in site.jobs()._shards.all_keys())


def test_old_ones_are_removed(site):
    """By the server's times where it says them, else with the objects of the job; the shards of other jobs stay."""
    store = site.jobs(shard_size=2)
    store.create_job(job("whole"), TASKS)
    cut_short(site, "half")
    assert shards(site) == ["half"] * 3 + ["whole"] * 3
    store.sweep_jobs(3600)
    assert shards(site) == ["half"] * 3 + ["whole"] * 3
    dated = any(each.age_s is not None for each in store._datastore.query(names.SHARD))
    assert store.delete_jobs(["half", "never"]) == []
    assert shards(site) == (["half"] * 3 if dated else []) + ["whole"] * 3
    store.sweep_jobs(-1)
    assert shards(site) == ["whole"] * 3
    assert store.create_job(job("half"), TASKS)
    assert shards(site) == ["half"] * 3 + ["whole"] * 3


def test_one_that_is_submitted_again_meanwhile_stays(site):
    """Its shards were written anew after they were found to be of no job."""
    cut_short(site, "j")
    store, other = site.jobs(shard_size=2), site.jobs(shard_size=2)
    delete = store._datastore.delete
    again, lock = [], threading.Lock()

    def late(entity):
        with lock:  # three threads delete
            if not again:
                again.append(other.create_job(job("j"), TASKS))
        return delete(entity)

    store._datastore.delete = late
    assert store._shards.delete_orphans(store._shards.all_keys(), -1, undated=True) == 0
    assert again == [True]
    assert shards(site) == ["j"] * 3
    assert store.count_tasks(JobId("j")).pending == 6


def test_one_whose_job_appears_meanwhile_stays(site):
    """They were read before the job was inserted, and are as they were."""
    store, other = site.jobs(shard_size=2), site.jobs(shard_size=2)
    lookup = store._datastore.lookup
    asked = []

    def late(kind, keys):
        found = lookup(kind, keys)
        if kind == names.JOB and not asked:
            asked.append(other.create_job(job("j"), TASKS))
        return found

    other.create_job(job("j"), TASKS)
    keys = store._shards.all_keys()
    other._datastore.delete_all(names.JOB, ["j"])
    other._write_shards = lambda document, rows: True  # they are there
    store._datastore.lookup = late
    assert store._shards.delete_orphans(keys, -1, undated=True) == 0
    assert asked == [True]
    assert shards(site) == ["j"] * 3
