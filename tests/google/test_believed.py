"""What is read from the bucket and the store is not believed blindly: who may write there is not thereby trusted with paths and results."""

from __future__ import annotations

import os

import pytest
from msgspec.structs import replace

from sparkles import wire
from sparkles.backends.clock import SystemClock
from sparkles.backends.google import names
from sparkles.backends.google.entities import Entity
from sparkles.backends.google.healing import Healer
from sparkles.errors import BackendError
from sparkles.model import TaskState
from sparkles.wire import ShardDocument
from tests.support import google
from tests.support.stores import create, ended, enter

pytestmark = [pytest.mark.google, pytest.mark.timeout(300)]

TWO = """
local r = run(JobBuilder("two"):setCommandTemplate("echo {n} > $SPARKLES_RESULTS; echo {n} > out")
  :setOutputs { "out" }:createTasksFor { { n = 1 }, { n = 2 } })
for i = 1, 2 do print(r.tasks[i].params.n, r.tasks[i].results) end
"""


@pytest.fixture
def done(cloud):
    """A project whose job of two tasks is over."""
    cloud.write("w.lua", TWO)
    assert cloud.run("run", "w.lua").stdout == "1\t1\n2\t2\n"
    return cloud


def test_an_outputs_name_is_not_taken_for_a_path(done):
    """Nothing is written, inside or outside of the destination, and the sentence names the task."""
    for name in ("../../escaped", "/tmp/escaped", "a/../escaped", "a\\escaped", "escaped\0", "escaped" * 50, ""):
        rename_outputs(done, name)
        said = done.run("fetch", "LAST", "below/out", code=3).stderr
        assert "error: read the record of two-" in said
        assert "cannot be the name of an output: it " in said
        assert not [
            path for path in done.folder.rglob("*") if "escaped" in path.name or (path.name == "out" and path.is_file())
        ]
    assert not os.path.exists("/tmp/escaped")


def rename_outputs(project, name):
    """As whoever may write to the database can."""
    datastore = google.datastore("datastore", project.prefix)
    try:
        for entity in list(datastore.query(names.SHARD)):
            document = wire.decode(entity.document, ShardDocument, entity.name)
            tasks = [
                replace(
                    task, records=tuple(replace(each, outputs=(replace(each.outputs[0], name=name),)) for each in task.records)
                )
                for task in document.tasks
            ]
            changed = wire.encode(replace(document, tasks=tuple(tasks)))
            datastore.put_all([Entity(names.SHARD, entity.name, changed, entity.properties)])
    finally:
        datastore.close()


def test_fingerprints_that_were_changed_give_no_result_of_another_task(done):
    """Nothing is reused by them: the tasks run again."""
    bucket = google.bucket(done.prefix)
    try:
        (name,) = [name for name in done.objects("jobs/") if name.endswith("/fingerprints")]
        data = bucket.get(name)
        bucket.put(name, data[32:] + data[:32])
    finally:
        bucket.close()
    again = done.run("run", "--new", "w.lua")
    assert again.stdout == "1\t1\n2\t2\n"
    assert "reused" not in again.stderr


class Hiccup:
    """A bucket whose first read fails."""

    def __init__(self, bucket, error):
        self._bucket, self._errors = bucket, [error]
        self.url = bucket.url

    def get(self, name):
        if self._errors:
            raise self._errors.pop()
        return self._bucket.get(name)


def test_a_record_that_cannot_be_read_now_is_not_taken_for_missing(site):
    """The task of a dead worker ended well, and its record says so: it is recorded at the next look, and not as lost at this one."""
    jobs, bucket = site.jobs(), site.bucket()
    create(jobs, "j", ["true"])
    enter(jobs, "w")
    (claim,) = jobs.claim("w", pool="", limit=1, now_ms=2**50)
    record = ended(claim, TaskState.SUCCEEDED).attempt
    bucket.put(names.attempt(claim.ref, "result.json"), wire.encode(record))
    jobs.dead_workers = lambda lease_s: jobs.list_workers()

    away = BackendError("Cloud Storage: cannot be reached", "read", "x", True)
    heal = Healer(jobs, Hiccup(bucket, away), SystemClock(), lease_s=0.0)
    assert heal() == []
    assert jobs.list_tasks("j")[0].state is TaskState.CLAIMED
    assert "finished but not yet recorded" in heal()[0]
    assert jobs.list_tasks("j")[0].state is TaskState.SUCCEEDED

    enter(jobs, "w")
    refused = BackendError("Cloud Storage: not allowed", "read", "x")
    create(jobs, "k", ["true"])
    assert jobs.claim("w", pool="", limit=1, now_ms=2**50)
    with pytest.raises(BackendError, match="not allowed"):
        Healer(jobs, Hiccup(bucket, refused), SystemClock(), lease_s=0.0)()
