"""What every JobStore promises (sparkles/ports.py) of jobs, tasks and attempts. Claims and workers are in test_job_claims.py."""

import math

import pytest
from msgspec.structs import replace

from sparkles.digest import canonical
from sparkles.errors import Conflict, NotFound
from sparkles.model import (
    Artifact,
    AttemptRef,
    Counts,
    FailureClass,
    InputFile,
    Job,
    JobSpec,
    NewTask,
    OomRetry,
    OutputGlob,
    Resources,
    RetryPolicy,
    Task,
    TaskSpec,
    TaskState,
)
from sparkles.ports import FailureGroup, Outcome
from tests.support.stores import BACKENDS, Backend, create, ended, enter, fingerprint, run_all, succeed

STATES = TaskState


@pytest.fixture(params=BACKENDS)
def backend(request, tmp_path):
    backend = Backend(request.param, tmp_path)
    enter(backend.jobs)
    yield backend
    backend.close()


@pytest.fixture
def jobs(backend):
    return backend.jobs


# Jobs

FULL_SPEC = JobSpec(
    name="train ü 東京",
    command=("python", "train.py", "{alpha}"),
    outputs=(OutputGlob("model.bin", required=True), OutputGlob("logs/**")),
    env={"A": "1", "Ü": "x\ny"},
    secret_env={"TOKEN": "env:TOKEN"},
    work_dir="src",
    timeout_s=12.5,
    retry=RetryPolicy(attempts=3, exit_codes=(1, 75), backoff_s=0.5, oom=OomRetry(2.0, 64 << 30)),
    resources=Resources(cpu=0.5, memory_bytes=1 << 30, disk_bytes=5, gpu=1),
    parallelism=4,
    priority=-3,
    properties={"s": "x", "i": 1, "f": 1.5, "b": True},
    cache=False,
    max_failures=0,
    image="img:3",
    zones=("a", "b"),
    provisioning="spot",
    pod_template={"spec": {"tolerations": [{"key": "x", "value": None}]}},
)


def test_a_job_comes_back_as_it_was(backend):
    """Every field survives, in another process too; the store counts the tasks and gives the sequence."""
    job = Job("train ü-1a2b", FULL_SPEC, 2, owner="r-1", pool="p", held=True, created_at_ms=77)
    assert backend.jobs.create_job(job, [NewTask(TaskSpec("a"), fingerprint("a")), NewTask(TaskSpec("b"), fingerprint("b"))])
    backend.reopen()
    stored = backend.jobs.get_job(job.id)
    assert stored.sequence >= 1
    assert replace(stored, sequence=0) == job
    assert backend.jobs.list_jobs() == [stored]


SPECS = {
    "plain": TaskSpec("true"),
    "argument vector": TaskSpec(("printf", "%s", "", "a b", "日本\n")),
    "every field": TaskSpec(
        "cat a",
        params={"n": 1, "f": 1.0, "s": "007", "b": False, "z": None, "l": [1, [2.5]], "d": {"k": {}}},
        files=(InputFile("in/a ü", "a" * 64, 0), InputFile("b", "b" * 64, 1 << 40, executable=True, link=True, src="gs://x/b")),
        env={"X": "y"},
        resources=Resources(cpu=2, memory_bytes=1),
        name="sample ü",
    ),
    "bytes": TaskSpec("x", params={"raw": b"\xff\x00", "nested": [{"raw": b""}]}),
    "dollar": TaskSpec("x", params={"$bytes": "QQ==", "t": {"$table": 1}}),
    "infinite": TaskSpec("x", params={"inf": math.inf}),
    "large integer": TaskSpec("x", params={"n": 2**63 - 1, "m": -(2**63)}),
    "empty keys": TaskSpec("", params={"": ""}, env={"": ""}),
    "100 kB": TaskSpec("x" * 100_000, params={"y": "y" * 100_000}),
}


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
def test_a_spec_comes_back_as_it_was(backend, spec):
    """By every way in which it is read: for showing, for running, for recovering, for results."""
    create(backend.jobs, "j", [spec])
    backend.reopen()
    jobs = backend.jobs
    assert jobs.get_spec("j", 1) == spec
    assert canonical(jobs.get_spec("j", 1).params) == canonical(spec.params)  # 1 == 1.0 == True in Python
    (outcome,) = jobs.list_outcomes("j")
    assert outcome.params == spec.params
    (claim,) = jobs.claim("w", pool="", limit=9, now_ms=0)
    assert claim.spec == spec
    assert jobs.list_claims("w") == [claim]


def test_a_job_is_created_once(backend):
    """A second creation stores nothing, whatever it brings: a crash before the checkpoint finds the job again."""
    create(backend.jobs, "j", ["a", "b"])
    backend.reopen()
    assert not backend.jobs.create_job(Job("j", JobSpec("other"), 1), [NewTask(TaskSpec("c"), fingerprint("c"))])
    assert backend.jobs.get_job("j").spec.name == "j"
    assert backend.jobs.count_tasks("j") == Counts(pending=2)


def test_a_job_is_created_whole_or_not_at_all(backend):
    """What goes wrong while its tasks are read leaves nothing; the next attempt finds the id free."""

    def tasks():
        for number in range(1200):
            yield NewTask(TaskSpec(f"echo {number}"), fingerprint(number))
        raise ValueError("the last row is ragged")

    with pytest.raises(ValueError, match="ragged"):
        backend.jobs.create_job(Job("j", JobSpec("j"), 1200), tasks())
    backend.reopen()
    assert backend.jobs.list_jobs() == []
    with pytest.raises(NotFound):
        backend.jobs.get_job("j")
    create(backend.jobs, "j", ["a"])
    assert backend.jobs.count_tasks("j").total == 1


def test_the_store_may_be_asked_while_a_job_is_created(jobs):
    """Its tasks may be made one by one from what the store knows."""
    create(jobs, "old", ["a"])
    run_all(jobs)

    def tasks():
        found = jobs.find_reusable([fingerprint("a")])
        yield NewTask(TaskSpec("a"), fingerprint("a"), found[fingerprint("a")].ref)

    jobs.create_job(Job("new", JobSpec("new"), 1), tasks())
    assert jobs.get_task("new", 1).origin == AttemptRef("old", 1, 1)


@pytest.mark.parametrize("count", [0, 1, 499, 500, 501, 1003])
def test_tasks_are_numbered_from_1(jobs, count):
    """In the order in which they were given, none left out, around the size of an internal page."""
    create(jobs, "j", [f"echo {number}" for number in range(count)])
    assert jobs.get_job("j").count == count
    assert [task.index for task in jobs.list_tasks("j")] == list(range(1, count + 1))
    assert all(jobs.get_spec("j", number).command == f"echo {number - 1}" for number in {1, count} - {0} if count)


def test_jobs_are_listed_newest_first(jobs):
    """By sequence, whatever the clock said; one run's where asked."""
    for name, owner, at in [("a", "r-1", 5), ("b", "r-2", 3), ("c", "r-1", 4)]:
        create(jobs, name, ["x"], owner=owner, created_at_ms=at)
    assert [job.id for job in jobs.list_jobs()] == ["c", "b", "a"]
    assert [job.id for job in jobs.list_jobs(limit=2)] == ["c", "b"]
    assert [job.id for job in jobs.list_jobs(owner="r-1")] == ["c", "a"]
    assert [job.id for job in jobs.list_jobs(owner="r-1", limit=1)] == ["c"]
    assert jobs.list_jobs(owner="") == []


def test_a_sequence_is_never_given_twice(backend):
    """Not even after the newest job was deleted: LAST and the order of service depend on it."""
    create(backend.jobs, "a", ["x"])
    create(backend.jobs, "b", ["x"])
    newest = backend.jobs.get_job("b").sequence
    backend.jobs.delete_jobs(["b"])
    backend.reopen()
    create(backend.jobs, "c", ["x"])
    assert backend.jobs.get_job("c").sequence > newest


@pytest.mark.parametrize(
    "ask",
    [
        lambda jobs: jobs.get_job("nix"),
        lambda jobs: jobs.count_tasks("nix"),
        lambda jobs: jobs.count_failures("nix"),
        lambda jobs: jobs.get_task("nix", 1),
        lambda jobs: jobs.get_spec("nix", 1),
        lambda jobs: jobs.list_tasks("nix"),
        lambda jobs: jobs.list_outcomes("nix"),
        lambda jobs: jobs.state_digest("nix"),
        lambda jobs: jobs.kill_tasks("nix"),
        lambda jobs: jobs.reset_tasks("nix", [STATES.FAILED]),
    ],
    ids=range(10),
)
def test_a_missing_job_is_named(jobs, ask):
    """Wherever a job is named."""
    create(jobs, "j", ["a"])
    with pytest.raises(NotFound, match="there is no job nix; `sparkles list` shows the jobs"):
        ask(jobs)


@pytest.mark.parametrize("index", [0, 3, -1])
def test_a_missing_task_is_named(jobs, index):
    """With how many there are, since indexes from 0 are the likely mistake."""
    create(jobs, "j", ["a", "b"])
    for ask in (jobs.get_task, jobs.get_spec):
        with pytest.raises(NotFound, match=rf"there is no task {index} in job j, which has 2 tasks, numbered from 1"):
            ask("j", index)


# Tasks, counts, pages


def mixed(jobs):
    """A job with a task in each state: 1 succeeded, 2 failed, 3 cancelled, 4 claimed, 5 pending, 6 reused."""
    create(jobs, "old", ["z"])
    run_all(jobs)
    create(jobs, "j", ["a", "b", "c", "d", "e", "z"], reuse={6: AttemptRef("old", 1, 1)})
    jobs.kill_tasks("j", [3])
    claims = jobs.claim("w", pool="", limit=3, now_ms=0)
    jobs.finish([succeed(claims[0]), ended(claims[1], STATES.FAILED, FailureClass.EXIT, exit_code=3, reason="exit code 3")])


def test_tasks_are_counted_by_state(backend):
    """Reused ones are among the succeeded."""
    mixed(backend.jobs)
    backend.reopen()
    counts = backend.jobs.count_tasks("j")
    assert counts == Counts(pending=1, claimed=1, succeeded=2, failed=1, cancelled=1, reused=1)
    assert counts.total == 6
    assert backend.jobs.count_tasks("old") == Counts(succeeded=1)


def test_a_job_without_tasks_counts_nothing(jobs):
    """An empty sweep is refused above; the store does not mind."""
    create(jobs, "j", [])
    assert jobs.count_tasks("j") == Counts()
    assert jobs.list_outcomes("j") == []
    assert jobs.claim("w", pool="", limit=1, now_ms=0) == []


def test_tasks_in_each_state(backend):
    """The whole row of each."""
    mixed(backend.jobs)
    backend.reopen()
    prints = {index: fingerprint(command) for index, command in enumerate("abcdez", 1)}
    assert backend.jobs.list_tasks("j") == [
        Task("j", 1, STATES.SUCCEEDED, prints[1], 1, 1, 0, AttemptRef("j", 1, 1), exit_code=0, worker="w"),
        Task(
            "j",
            2,
            STATES.FAILED,
            prints[2],
            1,
            1,
            0,
            AttemptRef("j", 2, 1),
            FailureClass.EXIT,
            exit_code=3,
            reason="exit code 3",
            worker="w",
        ),
        Task("j", 3, STATES.CANCELLED, prints[3], failure=FailureClass.CANCELLED, reason="cancelled by kill"),
        Task("j", 4, STATES.CLAIMED, prints[4], 1, worker="w"),
        Task("j", 5, STATES.PENDING, prints[5]),
        Task("j", 6, STATES.SUCCEEDED, prints[6], origin=AttemptRef("old", 1, 1), exit_code=0),
    ]
    assert [task.reused for task in backend.jobs.list_tasks("j")] == [False] * 5 + [True]
    assert [backend.jobs.get_task("j", index) for index in range(1, 7)] == backend.jobs.list_tasks("j")


@pytest.mark.parametrize(
    ("options", "indexes"),
    [
        ({}, [1, 2, 3, 4, 5, 6]),
        ({"first": 4}, [4, 5, 6]),
        ({"limit": 2}, [1, 2]),
        ({"first": 3, "limit": 2}, [3, 4]),
        ({"first": 7}, []),
        ({"limit": 0}, []),
        ({"states": [STATES.SUCCEEDED]}, [1, 6]),
        ({"states": {STATES.FAILED, STATES.CANCELLED}}, [2, 3]),
        ({"states": []}, []),
        ({"states": [STATES.SUCCEEDED, STATES.PENDING], "first": 2, "limit": 1}, [5]),
    ],
    ids=str,
)
def test_tasks_and_outcomes_come_in_pages(jobs, options, indexes):
    """From an index on, so many, of these states, in order."""
    mixed(jobs)
    assert [task.index for task in jobs.list_tasks("j", **options)] == indexes
    assert [outcome.task.index for outcome in jobs.list_outcomes("j", **options)] == indexes


def test_outcomes_have_parameters_and_attempts(backend):
    """The attempt of a reused task is the other's; what has no outcome has none."""
    create(backend.jobs, "old", [TaskSpec("z", params={"k": 0})])
    run_all(backend.jobs, results='{"y": 1}')
    specs = [TaskSpec("a", params={"k": 1}), TaskSpec("z", params={"k": 2}), TaskSpec("c", params={"k": 3})]
    create(backend.jobs, "j", specs, reuse={2: AttemptRef("old", 1, 1)})
    backend.jobs.kill_tasks("j", [3])
    run_all(backend.jobs, results='{"y": 2}')
    backend.reopen()
    first, second, third = backend.jobs.list_outcomes("j")
    assert [first.params, second.params, third.params] == [{"k": 1}, {"k": 2}, {"k": 3}]
    assert first.attempt == backend.jobs.get_attempt(AttemptRef("j", 1, 1))
    assert (first.attempt.results, second.attempt.results) == ('{"y": 2}', '{"y": 1}')
    assert second.attempt.ref == AttemptRef("old", 1, 1)
    assert third == Outcome(backend.jobs.get_task("j", 3), {"k": 3})


def test_failures_are_grouped(jobs):
    """By class and exit code, the largest group first, then the earlier example."""
    create(jobs, "j", list("abcdefg"))
    failures = [("exit", 2), ("timeout", None), ("exit", 1), ("exit", 1), ("oom", None), ("timeout", None)]
    claims = jobs.claim("w", pool="", limit=7, now_ms=0)
    for claim, (failure, code) in zip(claims, failures, strict=False):
        jobs.finish([ended(claim, STATES.FAILED, FailureClass(failure), exit_code=code)])
    jobs.finish([ended(claims[6], STATES.CANCELLED, FailureClass.CANCELLED)])
    assert jobs.count_failures("j") == [
        FailureGroup(FailureClass.TIMEOUT, None, 2, 2),
        FailureGroup(FailureClass.EXIT, 1, 2, 3),
        FailureGroup(FailureClass.EXIT, 2, 1, 1),
        FailureGroup(FailureClass.OOM, None, 1, 5),
    ]


def test_the_digest_of_states_changes_with_the_outcome(backend):
    """With each state and each attempt, back and forth; not with anything else."""
    jobs = backend.jobs
    seen = []

    def look(changed):
        digest = backend.jobs.state_digest("j")
        assert (digest not in seen) == changed
        seen.append(digest)

    create(jobs, "j", ["a", "b"])
    look(True)
    jobs.set_held(["j"], True)
    jobs.set_held(["j"], False)
    look(False)
    claims = jobs.claim("w", pool="", limit=1, now_ms=0)
    look(True)
    jobs.finish([succeed(claims[0])])
    look(True)
    backend.reopen()
    look(False)
    run_all(backend.jobs)
    look(True)
    assert backend.jobs.reset_tasks("j", [STATES.SUCCEEDED], [2]) == 1
    look(True)
    run_all(backend.jobs)
    look(True)  # the same states, another attempt


# Reuse


def test_what_succeeded_can_be_reused(backend):
    """The newest attempt of each fingerprint, of whichever job; what failed, or never ran, is left out."""
    create(backend.jobs, "one", ["a", "b", "c"])
    a, b, _ = backend.jobs.claim("w", pool="", limit=3, now_ms=0)
    backend.jobs.finish([succeed(a), ended(b, STATES.FAILED, FailureClass.EXIT, exit_code=1)])
    create(backend.jobs, "two", ["a"], spec=JobSpec("two", cache=False))
    run_all(backend.jobs)
    backend.reopen()
    found = backend.jobs.find_reusable([fingerprint(each) for each in "abcd"])
    assert {print_: attempt.ref for print_, attempt in found.items()} == {fingerprint("a"): AttemptRef("two", 1, 1)}


@pytest.mark.parametrize("count", [0, 1, 3000])
def test_many_fingerprints_are_looked_up(jobs, count):
    """Any number of them, repeated ones too."""
    create(jobs, "j", [f"echo {number}" for number in range(0, count, 2)])
    run_all(jobs)
    prints = [fingerprint(f"echo {number}") for number in range(count)]
    found = jobs.find_reusable(prints + prints)
    assert sorted(found) == sorted(prints[::2])


def test_a_retried_task_offers_the_attempt_that_succeeded(jobs):
    """Not the one before, which failed."""
    create(jobs, "j", ["a"])
    (claim,) = jobs.claim("w", pool="", limit=1, now_ms=0)
    jobs.finish([ended(claim, STATES.PENDING, FailureClass.EXIT, exit_code=1)])
    assert jobs.find_reusable([fingerprint("a")]) == {}
    run_all(jobs)
    assert jobs.find_reusable([fingerprint("a")])[fingerprint("a")].ref == AttemptRef("j", 1, 2)


def test_a_reused_task_offers_what_it_reuses(jobs):
    """Not itself: it has no attempt of its own."""
    create(jobs, "one", ["a"])
    run_all(jobs)
    create(jobs, "two", ["a"], reuse={1: AttemptRef("one", 1, 1)})
    assert jobs.find_reusable([fingerprint("a")])[fingerprint("a")].ref == AttemptRef("one", 1, 1)
    assert jobs.list_attempts("two", 1) == []


# Attempts


def test_every_ended_attempt_is_kept(backend):
    """As it was told, oldest first; a claim that goes on has none."""
    jobs = backend.jobs
    create(jobs, "j", ["a", "b"])
    records = []
    for number in (1, 2):
        claim = jobs.claim("w", pool="", limit=1, now_ms=0)[0]
        finish = ended(
            claim,
            STATES.PENDING if number == 1 else STATES.SUCCEEDED,
            FailureClass.OOM if number == 1 else None,
            signal=9 if number == 1 else 0,
            reason="ü\n" * number,
            started_at_ms=1,
            ended_at_ms=2**42,
            cpu_s=0.1,
            peak_memory_bytes=2**40,
            results='{"x": "\\u0000", "f": 1.0}' if number == 2 else None,
            outputs=(Artifact("out/ä b", "c" * 64, 12, executable=True),),
            tail="last\nwords",
        )
        assert jobs.finish([finish]) == [True]
        records.append(finish.attempt)
    jobs.claim("w", pool="", limit=1, now_ms=0)
    backend.reopen()
    assert backend.jobs.list_attempts("j", 1) == records
    assert backend.jobs.get_attempt(AttemptRef("j", 1, 1)) == records[0]
    assert backend.jobs.get_attempt(AttemptRef("j", 1, 3)) is None
    assert backend.jobs.list_attempts("j", 2) == []
    assert backend.jobs.list_attempts("nix", 1) == []


def test_digests_in_use(backend):
    """Of the inputs of stored tasks and the outputs of stored attempts, and of nothing that was deleted."""
    jobs = backend.jobs
    files = (InputFile("a", "a" * 64, 1), InputFile("b", "b" * 64, 1))
    create(jobs, "j", [TaskSpec("x", files=files), TaskSpec("y", params={"files": "c" * 64}), TaskSpec("z")])
    run_all(jobs, outputs=(Artifact("o", "d" * 64, 1),))
    create(jobs, "k", [TaskSpec("x", files=(InputFile("e", "e" * 64, 1),))])
    assert jobs.list_digests() == {each * 64 for each in "abde"}
    jobs.delete_jobs(["j"])
    assert backend.jobs.list_digests() == {"e" * 64}


def test_outputs_of_succeeded_tasks(jobs):
    """Their own and those that they reuse, by index; not those of failed tasks, nor of earlier attempts."""
    create(jobs, "one", ["a", "b", "c", "d"])
    first, second, third, _ = jobs.claim("w", pool="", limit=9, now_ms=0)
    outputs = tuple(Artifact(name, name * 64, 1) for name in "ef")
    jobs.finish(
        [succeed(first, outputs=outputs), succeed(second), ended(third, TaskState.FAILED, FailureClass.EXIT, outputs=outputs)]
    )
    create(jobs, "two", ["x", "a"], reuse={2: first.ref})
    assert jobs.list_outputs("one") == {1: ["e" * 64, "f" * 64]}
    assert jobs.list_outputs("two") == {2: ["e" * 64, "f" * 64]}
    jobs.reset_tasks("one", {TaskState.SUCCEEDED}, [1])
    assert jobs.list_outputs("one") == {}
    with pytest.raises(NotFound):
        jobs.list_outputs("three")


# Kill, cancel, reset


def test_killing_takes_claims_away(backend):
    """Pending and claimed tasks are cancelled; ended ones stay; the worker's later word is refused."""
    mixed(backend.jobs)
    (claim,) = backend.jobs.list_claims("w")
    backend.reopen()
    assert backend.jobs.kill_tasks("j") == 2
    assert backend.jobs.kill_tasks("j") == 0
    assert backend.jobs.held_tokens("w") == set()
    assert backend.jobs.count_tasks("j") == Counts(succeeded=2, failed=1, cancelled=3, reused=1)
    assert backend.jobs.finish([succeed(claim)]) == [False]
    assert backend.jobs.release([claim]) == 0
    task = backend.jobs.get_task("j", 4)
    assert (task.state, task.failure, task.attempt, task.origin) == (STATES.CANCELLED, FailureClass.CANCELLED, 1, None)
    assert backend.jobs.list_attempts("j", 4) == []
    assert backend.jobs.claim("w", pool="", limit=9, now_ms=0) == []


def test_single_tasks_are_killed(jobs):
    """Those of the given indexes; others and unknown ones do not matter."""
    create(jobs, "j", ["a", "b", "c"])
    assert jobs.kill_tasks("j", []) == 0
    assert jobs.kill_tasks("j", {2, 99}) == 1
    assert [task.state for task in jobs.list_tasks("j")] == [STATES.PENDING, STATES.CANCELLED, STATES.PENDING]


@pytest.mark.parametrize(
    ("states", "indexes", "reset"),
    [
        ([STATES.FAILED], None, [2]),
        ([STATES.FAILED, STATES.CANCELLED], None, [2, 3]),
        ([STATES.SUCCEEDED], None, [1, 6]),
        ([STATES.SUCCEEDED, STATES.FAILED], [1, 2, 3, 99], [1, 2]),
        ([STATES.FAILED], [], []),
        ([], None, []),
        (list(STATES), None, [1, 2, 3, 6]),
    ],
    ids=str,
)
def test_ended_tasks_are_reset(backend, states, indexes, reset):
    """Only those of the states and indexes that were asked for; never a claimed one; they can be claimed again."""
    mixed(backend.jobs)
    before = {task.index: task for task in backend.jobs.list_tasks("j")}
    assert backend.jobs.reset_tasks("j", states, indexes) == len(reset)
    backend.reopen()
    after = {task.index: task for task in backend.jobs.list_tasks("j")}
    for index, task in after.items():
        if index in reset:
            fresh = Task("j", index, STATES.PENDING, task.fingerprint, attempt=before[index].attempt)
            assert task == fresh
        else:
            assert task == before[index]
    claimed = [claim.ref.index for claim in backend.jobs.claim("w", pool="", limit=9, now_ms=0)]
    assert claimed == sorted({*reset, 5})


def test_a_reset_task_has_a_fresh_budget_and_goes_on_counting(jobs):
    """Tries, losses, memory and back-off are as new; the attempt's number is not used again; its record stays."""
    create(jobs, "j", ["a"])
    (claim,) = jobs.claim("w", pool="", limit=1, now_ms=0)
    jobs.finish([replace(ended(claim, STATES.PENDING, FailureClass.OOM), tries=1, losses=2, not_before_ms=50, memory_bytes=7)])
    (claim,) = jobs.claim("w", pool="", limit=1, now_ms=50)
    assert (claim.ref.attempt, claim.tries, claim.losses, claim.memory_bytes) == (2, 1, 2, 7)
    jobs.finish([ended(claim, STATES.FAILED, FailureClass.OOM)])
    assert jobs.reset_tasks("j", [STATES.FAILED]) == 1
    (claim,) = jobs.claim("w", pool="", limit=1, now_ms=0)
    assert (claim.ref.attempt, claim.tries, claim.losses, claim.memory_bytes) == (3, 0, 0, None)
    assert [attempt.ref.attempt for attempt in jobs.list_attempts("j", 1)] == [1, 2]


def test_a_killed_attempt_keeps_its_number(jobs):
    """Its program may still write into its folder: the next attempt gets another."""
    create(jobs, "j", ["a"])
    jobs.claim("w", pool="", limit=1, now_ms=0)
    jobs.kill_tasks("j")
    jobs.reset_tasks("j", [STATES.CANCELLED])
    (claim,) = jobs.claim("w", pool="", limit=1, now_ms=0)
    assert claim.ref.attempt == 2


def test_a_reset_reused_task_runs_itself(jobs):
    """It is no longer reused, and counts as its own once it has run."""
    create(jobs, "one", ["a"])
    run_all(jobs)
    create(jobs, "two", ["a"], reuse={1: AttemptRef("one", 1, 1)})
    jobs.reset_tasks("two", [STATES.SUCCEEDED])
    assert jobs.count_tasks("two") == Counts(pending=1)
    run_all(jobs)
    assert jobs.count_tasks("two") == Counts(succeeded=1)
    assert jobs.get_task("two", 1).origin == AttemptRef("two", 1, 1)


# Deletion


def test_deleting_takes_tasks_and_attempts(backend):
    """Of these jobs only; unknown ids are ignored; the id may be used again."""
    jobs = backend.jobs
    create(jobs, "a", ["x", "y"])
    create(jobs, "b", ["z"])
    run_all(jobs)
    assert jobs.delete_jobs(["a", "nix"]) == []
    backend.reopen()
    jobs = backend.jobs
    assert [job.id for job in jobs.list_jobs()] == ["b"]
    assert jobs.get_attempt(AttemptRef("a", 1, 1)) is None
    assert jobs.find_reusable([fingerprint("x"), fingerprint("z")]).keys() == {fingerprint("z")}
    create(jobs, "a", ["x"])
    assert jobs.count_tasks("a") == Counts(pending=1)
    assert jobs.claim("w", pool="", limit=1, now_ms=0)[0].ref == AttemptRef("a", 1, 1)


def test_a_job_with_running_tasks_is_not_deleted(jobs):
    """The message names them; nothing is deleted of the others either."""
    create(jobs, "a", list("abcdefgh"))
    create(jobs, "b", ["z"])
    jobs.claim("w", pool="", limit=7, now_ms=0)
    with pytest.raises(Conflict, match=r"job a has 7 running tasks \(1, 2, 3, 4, 5, \.\.\.\); end it first: sparkles kill a"):
        jobs.delete_jobs(["b", "a"])
    assert [job.id for job in jobs.list_jobs()] == ["b", "a"]


def test_attempts_that_others_reuse_are_kept(backend):
    """They are named, so that their files are kept; they still show and still can be reused."""
    jobs = backend.jobs
    create(jobs, "one", ["a", "b", "c"])
    run_all(jobs, results="1")
    create(jobs, "two", ["a", "c"], reuse={1: AttemptRef("one", 1, 1), 2: AttemptRef("one", 3, 1)})
    create(jobs, "three", ["a"], reuse={1: AttemptRef("one", 1, 1)})
    assert jobs.list_kept(["one"]) == [AttemptRef("one", 1, 1), AttemptRef("one", 3, 1)]
    assert jobs.list_kept(["one", "two", "three"]) == jobs.list_kept(["none"]) == []
    assert jobs.delete_jobs(["one"]) == [AttemptRef("one", 1, 1), AttemptRef("one", 3, 1)]
    backend.reopen()
    jobs = backend.jobs
    assert [outcome.attempt.results for outcome in jobs.list_outcomes("two")] == ["1", "1"]
    assert jobs.get_attempt(AttemptRef("one", 2, 1)) is None
    found = jobs.find_reusable([fingerprint(each) for each in "abc"])
    assert {attempt.ref for attempt in found.values()} == {AttemptRef("one", 1, 1), AttemptRef("one", 3, 1)}
    # Once nobody reuses them they go with the next deletion that names the job.
    assert jobs.delete_jobs(["two"]) == []
    assert jobs.list_kept(["one"]) == [AttemptRef("one", 1, 1)]
    assert jobs.delete_jobs(["one"]) == [AttemptRef("one", 1, 1)]
    assert jobs.get_attempt(AttemptRef("one", 3, 1)) is None
    assert jobs.delete_jobs(["one", "three"]) == []
    assert jobs.find_reusable([fingerprint("a")]) == {}


def test_jobs_that_reuse_each_other_go_together(jobs):
    """What is deleted at the same time keeps nothing."""
    create(jobs, "one", ["a"])
    run_all(jobs)
    create(jobs, "two", ["a"], reuse={1: AttemptRef("one", 1, 1)})
    assert jobs.delete_jobs(["two", "one"]) == []
    assert jobs.list_digests() == set()
    assert jobs.get_attempt(AttemptRef("one", 1, 1)) is None


def test_a_job_of_a_deleted_one_s_id_counts_past_kept_attempts(jobs):
    """A run that is resumed after its job was deleted makes the same id: kept records and folders are not written over."""
    create(jobs, "one", ["a", "b"])
    run_all(jobs)
    create(jobs, "two", ["a"], reuse={1: AttemptRef("one", 1, 1)})
    jobs.delete_jobs(["one"])
    create(jobs, "one", ["a", "b"])
    claims = jobs.claim("w", pool="", limit=9, now_ms=0)
    assert [claim.ref for claim in claims] == [AttemptRef("one", 1, 2), AttemptRef("one", 2, 1)]
    assert jobs.finish([succeed(claim) for claim in claims]) == [True, True]
    assert [attempt.ref.attempt for attempt in jobs.list_attempts("one", 1)] == [1, 2]
    create(jobs, "three", ["a"], reuse={1: AttemptRef("one", 1, 1)})
    assert jobs.get_task("three", 1).reused


def test_the_open_jobs_of_a_run_are_those_with_something_to_do(jobs):
    """Pending or claimed tasks make a job open; other runs' jobs are not asked for."""
    create(jobs, "done", ["a"], owner="r-1")
    run_all(jobs)
    create(jobs, "pending", ["b"], owner="r-1")
    create(jobs, "other", ["c"], owner="r-2")
    assert jobs.list_open("r-1") == {"pending"}
    (claim, *_) = jobs.claim("w", pool="", limit=1, now_ms=0)
    assert claim.ref.job == "pending"
    assert jobs.list_open("r-1") == {"pending"}
    jobs.finish([ended(claim, STATES.SUCCEEDED)])
    assert jobs.list_open("r-1") == set()


def test_a_result_that_is_gone_is_not_reused(jobs):
    """Found, then cleaned away before the job was created: the task runs."""
    create(jobs, "new", ["a", "b"], reuse={1: AttemptRef("cleaned", 1, 1)})
    first, second = jobs.list_tasks("new")
    assert (first.state, first.origin, first.exit_code) == (STATES.PENDING, None, None)
    assert second.state == STATES.PENDING
    assert len(jobs.claim("w", pool="", limit=9, now_ms=0)) == 2
