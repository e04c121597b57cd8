"""The limits: jobs that just keep them work on both emulators, and what is beyond is refused before anything is written."""

from __future__ import annotations

import os

import grpc
import pytest
from msgspec.structs import replace

from sparkles import digest, wire
from sparkles.backends.google import datastore as module
from sparkles.backends.google import definitions, job_store, names
from sparkles.backends.google.datastore import COMMIT_BYTES, COMMIT_ENTITIES
from sparkles.backends.google.entities import MOST_BYTES
from sparkles.backends.google.shards import ENTITY_BYTES
from sparkles.errors import StorageFull
from sparkles.model import (
    Attempt,
    AttemptRef,
    Digest,
    FailureClass,
    Finish,
    InputFile,
    Job,
    JobId,
    JobSpec,
    NewTask,
    ProcessId,
    TaskSpec,
    TaskState,
    Worker,
    WorkerId,
)

pytestmark = pytest.mark.google

INDEXED = {
    names.JOB: {"pool", "owner", "sequence"},
    names.SHARD: {"job", "claimable", "open", "reuses"},
    names.WORKER: {"pool"},
    names.COUNTER: set(),
}
"""As docs/wire.md has it."""


class Commits(grpc.UnaryUnaryClientInterceptor):
    """The commits that a client makes."""

    def __init__(self):
        self.requests = []

    def intercept_unary_unary(self, continuation, details, request):
        if details.method.endswith("/Commit"):
            self.requests.append(request)
        return continuation(details, request)

    def entities(self):
        for mutation in (each for request in self.requests for each in request.mutations):
            yield getattr(mutation, mutation.WhichOneof("operation"))


def tasks_of(specs, job=None):
    of = digest.fingerprinter(job or JobSpec("big"))
    return [NewTask(spec, of(spec)) for spec in specs]


def create(store, specs, spec=None, name="big-00000000", pool="p"):
    """Creates a job of these tasks."""
    spec = spec or JobSpec("big")
    return store.create_job(Job(JobId(name), spec, len(specs), owner="r-1", pool=pool), tasks_of(specs, spec))


def enter(store, worker="w-1", pool="p"):
    store.enter_worker(Worker(WorkerId(worker), pool, ProcessId("h", 1, 0, "b"), 0))


def written(site):
    """What there is of an installation: entities by kind, and objects."""
    datastore = site.datastore()
    kinds = (names.JOB, names.SHARD, names.COUNTER)
    entities = {kind: [each.name for each in datastore.query(kind, keys_only=True)] for kind in kinds}
    return {**entities, "objects": [name for name, _, _ in site.bucket().listing("")]}


NOTHING = {names.JOB: [], names.SHARD: [], names.COUNTER: [], "objects": []}


def test_a_job_at_the_limits(site):
    """Commands of 10,000 characters, parameters of 100 kB and thousands of inputs come to the worker as they were."""
    files = tuple(
        InputFile(f"data/{number:05}.txt", Digest(f"{number:064x}"), number, src=f"in/{number}") for number in range(3000)
    )
    letters = '\u00fc\U0001f600\x01"' * 2500
    specs = [
        TaskSpec(
            f"echo {number} " + "x" * 9990,
            {"n": number, "text": letters, "list": list(range(1000)), "blob": "b" * 100_000},
            files,
        )
        for number in range(150)
    ]
    store = site.jobs(shard_size=64)
    assert create(store, specs)
    job = store._get("big-00000000")
    assert job.manifest.part_tasks < definitions.PART_TASKS  # or each worker would keep 100 MB of it
    reader = site.jobs()
    enter(reader)
    claims = reader.claim(WorkerId("w-1"), pool="p", limit=64, now_ms=0)
    assert len(claims) == 64
    for claim in claims:
        assert claim.spec == specs[claim.ref.index - 1]
    assert reader.get_spec("big-00000000", 150) == specs[149]
    assert [task.index for task in reader.list_tasks("big-00000000", first=140)] == list(range(140, 151))


def test_common_inputs_are_said_once(site):
    """A sweep over thousands of common files takes no more than a few bytes a task."""
    files = tuple(InputFile(f"data/{number:05}.txt", Digest(os.urandom(32).hex()), number) for number in range(2000))
    other = (*files[:10], replace(files[10], size_bytes=7))
    specs = [TaskSpec(f"true {number}", {"n": number}, other if number % 250 == 7 else files) for number in range(1000)]
    store = site.jobs()
    assert create(store, specs)
    sizes = {name.rpartition("/")[2][:8]: size for name, size, _ in site.bucket().listing("jobs/")}
    assert sizes["manifest"] < 1_500_000
    reader = site.jobs()
    for index in (1, 2, 7, 8, 9, 258, 1000):
        assert reader.get_spec("big-00000000", index) == specs[index - 1]


def test_what_is_sent_keeps_the_limits(site):
    """Of 1,300 shards: at most 500 entities and 3.5 MiB in a commit; keys, entities and what is indexed as documented."""
    commits = Commits()
    store = site.jobs(faults=commits, shard_size=1)
    spec = JobSpec("n" * 63, command="x" * 10_000)
    longest = f"{spec.name}-0123abcd"
    assert create(store, [TaskSpec("true", {"n": number}) for number in range(1300)], spec, longest, pool="p" * 200)
    enter(store, "w" * 100, "p" * 200)
    counts = sorted(len(request.mutations) for request in commits.requests)
    assert counts == [1, 1, 1, 300, COMMIT_ENTITIES, COMMIT_ENTITIES]
    assert max(request.ByteSize() for request in commits.requests) <= COMMIT_BYTES
    kinds = set()
    for entity in commits.entities():
        [step] = entity.key.path
        kinds.add(step.kind)
        assert len(step.name.encode()) <= 1500
        assert entity.ByteSize() <= MOST_BYTES
        assert entity.properties["document"].exclude_from_indexes
        indexed = {name: value for name, value in entity.properties.items() if not value.exclude_from_indexes}
        assert indexed.keys() <= INDEXED[step.kind]
        assert all(len(value.string_value.encode()) <= 1500 for value in indexed.values())
    assert kinds == set(INDEXED)


def test_large_shards_are_sent_in_commits_that_fit(site):
    """500 entities may be more than a request takes: then fewer are sent in one, up to the largest entity that there may be."""
    commits = Commits()
    store = site.datastore(faults=commits)
    entities = [module.Entity(names.SHARD, f"s{number}", os.urandom(ENTITY_BYTES), {"job": "j"}) for number in range(8)]
    entities += [module.Entity(names.SHARD, f"t{number}", os.urandom(6000), {"job": "j"}) for number in range(600)]
    store.put_all(entities)
    assert sum(len(request.mutations) for request in commits.requests) == 608
    assert max(request.ByteSize() for request in commits.requests) <= COMMIT_BYTES
    assert max(len(request.mutations) for request in commits.requests) <= COMMIT_ENTITIES
    assert len(list(store.query(names.SHARD, ("job", "=", "j"), keys_only=True))) == 608


def test_a_task_that_is_too_large(site):
    """Is named with its size, the limit and what to do; nothing was written, and one that just fits is stored."""
    store = site.jobs()
    around = len(wire.encode_row(wire.ManifestRow(TaskSpec("true", {"blob": ""}), Digest("0" * 64))))
    fits = TaskSpec("true", {"blob": "b" * (definitions.ROW_BYTES - around)})
    over = TaskSpec("true", {"blob": "b" * (definitions.ROW_BYTES - around + 1)})
    with pytest.raises(StorageFull) as caught:
        create(store, [TaskSpec("true"), TaskSpec("true"), over])
    assert str(caught.value) == (
        "task 3 of job big-00000000: its definition has 4194305 bytes, most of them its parameters (4194187); the cloud takes 4194304 a"
        " task: put large values into a file (addFiles), and many files into an archive"
    )
    many = tuple(InputFile(f"data/{number:06}", Digest(f"{number:064x}"), 1) for number in range(40_000))
    with pytest.raises(
        StorageFull, match=r"task 1 of job .* has \d+ bytes, most of them the names of its 40000 inputs \(\d+\)"
    ):
        create(store, [TaskSpec("true", {}, many)])
    assert written(site) == NOTHING
    assert create(store, [TaskSpec("true"), fits])
    assert store.get_spec("big-00000000", 2) == fits


def test_a_job_that_is_too_large(site):
    """What its tasks have in common must fit in an entity: else it is refused by the name of what is largest, and nothing was written."""
    store = site.jobs()
    spec = JobSpec("big", env={"A": "x"}, properties={"note": "y" * job_store.DOCUMENT_BYTES})
    with pytest.raises(StorageFull) as caught:
        create(store, [TaskSpec("true")], spec)
    assert str(caught.value).startswith("job big-00000000: what its tasks have in common has 900")
    assert str(caught.value).endswith(
        "most of them `properties` (900011); Datastore takes 900000: put large values into a file (addFiles)"
    )
    assert written(site) == NOTHING
    room = job_store.DOCUMENT_BYTES - 2000
    assert create(store, [TaskSpec("true")], replace(spec, properties={"note": "y" * room}))
    assert len(store.get_job("big-00000000").spec.properties["note"]) == room


def test_a_shard_whose_tasks_are_tried_often(site):
    """Sixty-four tasks that fail a dozen times with long records fit in their entity, and the newest record is whole."""
    store = site.jobs(shard_size=64)
    assert create(store, [TaskSpec("true", {"n": number}) for number in range(64)])
    enter(store)
    bucket = site.bucket()
    for number in range(1, 13):
        claims = []
        while len(claims) < 64:
            claims += store.claim(WorkerId("w-1"), pool="p", limit=64 - len(claims), now_ms=0)
        finishes = []
        for claim in claims:
            attempt = Attempt(
                claim.ref, claim.token, "w-1", FailureClass.EXIT, exit_code=1, reason="r" * 600, tail="t\x01" * 2000
            )
            if number == 12:
                bucket.put(names.attempt(claim.ref, "result.json"), wire.encode(attempt))
            state = TaskState.PENDING if number < 12 else TaskState.FAILED
            finishes.append(Finish(attempt, state, number, 0))
        assert all(store.finish(finishes))
    [stored] = store._shards.of_job(store._get("big-00000000"))
    assert len(stored.entity.document) < ENTITY_BYTES
    assert store.get_task("big-00000000", 64).attempt == 12
    newest = store.list_attempts("big-00000000", 64)[-1]
    assert (newest.ref, newest.tail) == (AttemptRef("big-00000000", 64, 12), "t\x01" * 2000)
    assert store.count_failures("big-00000000")[0].count == 64


def test_a_shard_beyond_the_limit_says_whose_it_is(site):
    """Should one ever come about: the sentence names job and tasks; what is stored stays."""
    store = site.jobs(shard_size=64)
    assert create(store, [TaskSpec("true", {"n": number}) for number in range(64)])
    [stored] = store._shards.of_job(store._get("big-00000000"))
    large = replace(stored.document.tasks[0], reason="r" * ENTITY_BYTES)
    with pytest.raises(
        StorageFull, match=r"tasks 1 to 64 of job big-00000000: their records have \d+ bytes; Datastore takes 1000000"
    ):
        store._shards.try_write(stored, replace(stored.document, tasks=(large, *stored.document.tasks[1:])))
    assert store.count_tasks("big-00000000").pending == 64
