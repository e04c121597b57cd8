"""Messages are hints: runs, waits and claims come out the same where each is lost, and where each comes twice, late and out of order."""

from __future__ import annotations

import secrets
import threading
import time
from pathlib import Path

import pytest

from sparkles.backends.google import views
from sparkles.model import TaskState
from tests.support import google
from tests.support.stores import create, ended, enter, run_all, succeed
from tests.support.unreliable import KINDS, Unreliable

pytestmark = [pytest.mark.google, pytest.mark.slow, pytest.mark.timeout(300)]

EXAMPLES = Path(__file__).parents[2] / "examples"
WORKFLOW = """
local first = wait(submit(JobBuilder("first"):setCommandTemplate([[printf '{"v": %d}' {n} > "$SPARKLES_RESULTS"]])
  :createTasksFor({{n=1},{n=2},{n=3}})))
local sum = 0
for _, task in ipairs(first.tasks) do sum = sum + task.results.v end
local made = map({"a", "b", "c"}, function(name)
  local job = JobBuilder(name):setCommandTemplate("test {k} != 2 || exit 3"):createTasksFor({{k=1},{k=2},{k=sum}})
  return wait(submit(job), {allowFailures=true})
end)
for _, each in ipairs(made) do log("%d of %d failed", #each:failed(), #each.tasks) end
"""


@pytest.fixture(params=KINDS)
def unreliable(request):
    """A Pub/Sub that drops or shuffles."""
    server = Unreliable(google.address("pubsub"), request.param)
    server.kind = request.param
    yield server
    server.close()


@pytest.fixture
def stores(unreliable, monkeypatch):
    """Makes job stores that go by events, each with clients of its own, as processes have them."""
    monkeypatch.setattr(views, "REPAIR_S", 2.0)  # half a minute would only make the test longer
    prefix = f"t{secrets.token_hex(6)}/"
    opened = []

    def make():
        notifier = google.notifier(prefix, at=unreliable.at)
        assert notifier.ready(20)
        store, clients = google.job_store("datastore", prefix, shard_size=8, publish=notifier.publish, events=notifier.take)
        opened.extend([*clients, notifier])
        return store, notifier

    yield make
    for each in opened:
        each.close()


@pytest.mark.e2e
def test_a_run_comes_out_the_same(cloud, unreliable):
    """Jobs one after the other and side by side, with failures; again it is answered from the record. A worker's messages pass here too."""
    cloud.write("w.lua", WORKFLOW)
    there = {"PUBSUB_EMULATOR_HOST": unreliable.at}
    began = time.monotonic()
    done = cloud.run("run", "w.lua", env=there)
    assert time.monotonic() - began < 120  # a lost message costs up to 30 s each time that something is waited for
    assert done.stdout == "1 of 3 failed\n" * 3
    counts = {job["name"]: job["counts"] for job in cloud.json("list")}
    assert counts["first"]["succeeded"] == 3
    assert all((counts[name]["succeeded"], counts[name]["failed"]) == (2, 1) for name in "abc")
    assert unreliable.taken > 8
    assert unreliable.delivered == (0 if unreliable.kind == "drop" else 2 * unreliable.taken)
    again = cloud.run("run", "w.lua", env=there)
    assert again.stdout == done.stdout


@pytest.mark.e2e
def test_what_is_killed_ends(cloud, unreliable):
    """A kill from another process is found without its message: tasks end, `wait` ends."""
    there = {"PUBSUB_EMULATOR_HOST": unreliable.at}
    waiter = cloud.background("sub", "--name", "long", "--", "sleep", "300", env=there)
    deadline = time.monotonic() + 60
    while not (jobs := cloud.json("list")) or jobs[0]["counts"]["claimed"] == 0:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    cloud.run("kill", "long", env=there)
    waiter.end(code=1, timeout_s=60)


def test_a_watcher_counts_what_others_did(stores):
    """Counts go only forward and end at the truth, whatever the order in which events named the shards; within two repairs."""
    (worker, _), (watcher, notifier) = stores(), stores()
    create(watcher, "job", [f"echo {index}" for index in range(1, 65)])
    enter(worker)

    def work():
        while claims := worker.claim("w", pool="", limit=5, now_ms=2**60):
            results = [
                ended(claim, TaskState.FAILED, "exit", exit_code=3) if claim.ref.index % 8 == 0 else succeed(claim)
                for claim in claims
            ]
            assert all(worker.finish(results))

    thread = threading.Thread(target=work)
    thread.start()
    seen, deadline = [], time.monotonic() + 60
    while (counts := watcher.count_tasks("job")) and not counts.done and time.monotonic() < deadline:
        seen.append(counts.succeeded + counts.failed)
        notifier.wait(0.2)
    thread.join()
    assert (counts.succeeded, counts.failed, counts.pending, counts.claimed) == (56, 8, 0, 0)
    assert seen == sorted(seen)


def test_a_task_that_was_reset_is_seen_again(stores):
    """Old events that come late do not hide a newer state: after the reset the second attempt is what counts."""
    (worker, _), (watcher, notifier) = stores(), stores()
    create(watcher, "job", ["true"] * 16)
    enter(worker)
    assert watcher.count_tasks("job").pending == 16
    assert run_all(worker) == 16
    deadline = time.monotonic() + 30
    while not watcher.count_tasks("job").done and time.monotonic() < deadline:
        notifier.wait(0.2)
    worker.reset_tasks("job", [TaskState.SUCCEEDED], range(1, 5))
    assert worker.count_tasks("job").pending == 4
    deadline = time.monotonic() + 30
    while watcher.count_tasks("job").done and time.monotonic() < deadline:
        notifier.wait(0.2)
    assert watcher.count_tasks("job").pending == 4
    assert run_all(worker) == 4
    deadline = time.monotonic() + 30
    while not watcher.count_tasks("job").done and time.monotonic() < deadline:
        notifier.wait(0.2)
    counts = watcher.count_tasks("job")
    assert (counts.succeeded, counts.pending, counts.claimed) == (16, 0, 0)


def test_events_follow_the_commit(site):
    """When an event is published, whoever reads finds its write; a write that is refused publishes none. `seq` grows with each."""
    published = []
    reader = site.jobs()

    def publish(event):
        states = {task.index: task.state for task in reader.list_tasks(event.job)}
        published.append((event.seq, [(change.index, change.state == states[change.index]) for change in event.changes]))

    worker = site.jobs(shard_size=8, publish=publish)
    create(worker, "job", ["true"] * 3)
    enter(worker)
    claims = worker.claim("w", pool="", limit=3, now_ms=2**60)
    assert worker.finish([succeed(claims[0])]) == [True]
    assert worker.finish([succeed(claims[0])]) == [False]
    assert [changes for _, changes in published] == [
        [(1, True), (2, True), (3, True)],
        [(claims[0].ref.index, True)],
    ]
    assert published[0][0] < published[1][0]


@pytest.mark.e2e
def test_a_run_without_pubsub(cloud):
    """One line says that changes are polled for, and why; the run comes out the same."""
    cloud.write("w.lua", WORKFLOW)
    done = cloud.run("run", "w.lua", env={"PUBSUB_EMULATOR_HOST": ""})
    assert done.stdout == "1 of 3 failed\n" * 3
    why = "other emulators are in use, and PUBSUB_EMULATOR_HOST is not set"
    assert [line for line in done.stderr.splitlines() if "notifications" in line] == [
        f"notifications off: polling every 2 s to 30 s ({why})"
    ]
    (log,) = (cloud.folder / ".sparkles" / "cloud" / "workers").iterdir()
    assert "events" not in log.read_text()
