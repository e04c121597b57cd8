"""What every JobStore promises (sparkles/ports.py) of claims and workers: the queue."""

import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from msgspec.structs import replace

from sparkles.errors import Conflict, InternalError
from sparkles.model import AttemptRef, Counts, FailureClass, JobSpec, TaskState, Worker
from tests.support.stores import BACKENDS, HERE, Backend, create, ended, enter, run_all, succeed

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


def claim(jobs, limit=9, worker="w", pool="", now_ms=0):
    return jobs.claim(worker, pool=pool, limit=limit, now_ms=now_ms)


def refs(claims):
    return [(each.ref.job, each.ref.index) for each in claims]


# Claiming


def test_a_claim_is_exclusive(backend):
    """Of two claimers and one task one gets it, and every claim has a token of its own."""
    create(backend.jobs, "j", ["a", "b"])
    enter(backend.jobs, "w2")
    (first,) = claim(backend.jobs, 1)
    backend.reopen()
    (second,) = claim(backend.jobs, worker="w2")
    assert refs([first, second]) == [("j", 1), ("j", 2)]
    assert (first.worker, second.worker) == ("w", "w2")
    assert first.token != second.token
    assert claim(backend.jobs) == []
    assert backend.jobs.get_task("j", 2).worker == "w2"


@pytest.mark.parametrize(("limit", "got"), [(0, 0), (1, 1), (3, 3), (4, 4), (9, 4)])
def test_no_more_than_the_limit(jobs, limit, got):
    """Over several jobs together."""
    create(jobs, "a", ["x"])
    create(jobs, "b", ["y", "z"])
    create(jobs, "c", ["y"])
    assert len(claim(jobs, limit)) == got


def test_the_order_of_service(jobs):
    """Greatest priority first, then the older job, then the lower index."""
    create(jobs, "old", ["x", "x"])
    create(jobs, "low", ["x"], spec=JobSpec("low", priority=-1))
    create(jobs, "high", ["x", "x"], spec=JobSpec("high", priority=5))
    create(jobs, "new", ["x"])
    create(jobs, "high2", ["x"], spec=JobSpec("high2", priority=5))
    expected = [("high", 1), ("high", 2), ("high2", 1), ("old", 1), ("old", 2), ("new", 1), ("low", 1)]
    assert refs(claim(jobs, 3)) == expected[:3]
    assert refs(claim(jobs)) == expected[3:]


def test_only_the_own_pool(jobs):
    """A worker is given what its pool serves."""
    create(jobs, "a", ["x"], pool="p")
    create(jobs, "b", ["x"], pool="q")
    assert claim(jobs, pool="") == []
    assert refs(claim(jobs, pool="q")) == [("b", 1)]
    assert refs(claim(jobs, pool="p")) == [("a", 1)]


def test_held_jobs_are_passed_over(backend):
    """Until they are let go; what is claimed already goes on."""
    create(backend.jobs, "a", ["x", "x"], held=True)
    create(backend.jobs, "b", ["x", "x"])
    assert refs(claim(backend.jobs, 1)) == [("b", 1)]
    backend.jobs.set_held(["a", "nix"], False)
    backend.jobs.set_held(["b"], True)
    backend.reopen()
    assert refs(claim(backend.jobs)) == [("a", 1), ("a", 2)]
    assert backend.jobs.get_job("b").held
    assert not backend.jobs.get_job("a").held
    (running,) = [each for each in backend.jobs.list_claims("w") if each.ref.job == "b"]
    assert backend.jobs.finish([succeed(running)]) == [True]
    backend.jobs.set_held(["b"], False)
    assert refs(claim(backend.jobs)) == [("b", 2)]


def test_a_back_off_is_waited_for(backend):
    """Up to and including its moment; then the task stands in line by its index again."""
    create(backend.jobs, "j", ["a", "b", "c"])
    claims = claim(backend.jobs, 2)
    finishes = [replace(ended(each, STATES.PENDING, FailureClass.EXIT, exit_code=1), not_before_ms=1000) for each in claims]
    assert backend.jobs.finish(finishes) == [True, True]
    backend.reopen()
    assert backend.jobs.next_due_ms("") == 0
    assert refs(claim(backend.jobs, 1, now_ms=999)) == [("j", 3)]
    assert claim(backend.jobs, now_ms=999) == []
    assert backend.jobs.next_due_ms("") == 1000
    again = claim(backend.jobs, 1, now_ms=1000)
    assert refs(again) == [("j", 1)]
    assert (again[0].ref.attempt, again[0].tries) == (2, 1)
    assert backend.jobs.count_tasks("j") == Counts(pending=1, claimed=2)


def test_a_task_after_its_back_off_keeps_its_place(jobs):
    """A lower index goes before a higher one that never waited."""
    create(jobs, "j", ["a", "b", "c", "d"])
    first = claim(jobs, 2)
    jobs.finish(
        [
            replace(ended(each, STATES.PENDING, FailureClass.EXIT), not_before_ms=at)
            for each, at in zip(first, (20, 10), strict=True)
        ]
    )
    assert refs(claim(jobs, 2, now_ms=15)) == [("j", 2), ("j", 3)]
    assert refs(claim(jobs, 2, now_ms=25)) == [("j", 1), ("j", 4)]


@pytest.mark.parametrize("parallelism", [1, 2, 3])
def test_no_more_at_once_than_the_job_allows(backend, parallelism):
    """Over all workers; other jobs are served meanwhile; an end makes room for the next."""
    create(backend.jobs, "j", ["a", "b", "c", "d"], spec=JobSpec("j", parallelism=parallelism, priority=1))
    create(backend.jobs, "k", ["x"])
    enter(backend.jobs, "w2")
    claims = claim(backend.jobs)
    assert refs(claims) == [("j", index) for index in range(1, parallelism + 1)] + [("k", 1)]
    backend.reopen()
    assert claim(backend.jobs, worker="w2") == []
    backend.jobs.finish([succeed(claims[0])])
    assert refs(claim(backend.jobs, worker="w2")) == [("j", parallelism + 1)]


@pytest.mark.parametrize("change", ["kill", "release", "retry"])
def test_every_way_out_of_a_claim_makes_room(jobs, change):
    """Not only success."""
    create(jobs, "j", ["a", "b"], spec=JobSpec("j", parallelism=1))
    (only,) = claim(jobs)
    if change == "kill":
        jobs.kill_tasks("j", [1])
    elif change == "release":
        jobs.release([only])
    else:
        jobs.finish([ended(only, STATES.PENDING, FailureClass.LOST)])
    assert refs(claim(jobs)) == [("j", 2 if change == "kill" else 1)]


@pytest.mark.parametrize("again", ["reset", "retry", "release"])
def test_a_job_that_had_nothing_pending_is_served_again(jobs, again):
    """After a worker found it empty."""
    create(jobs, "j", ["a"])
    (only,) = claim(jobs)
    assert claim(jobs) == []
    if again == "reset":
        jobs.finish([succeed(only)])
        assert claim(jobs) == []
        jobs.reset_tasks("j", [STATES.SUCCEEDED])
    elif again == "retry":
        jobs.finish([ended(only, STATES.PENDING, FailureClass.EXIT)])
    else:
        jobs.release([only])
    assert refs(claim(jobs)) == [("j", 1)]


def test_a_worker_without_a_row_gets_nothing(jobs):
    """It was declared dead, or never entered: nobody could recover what it claims."""
    create(jobs, "j", ["a"])
    assert claim(jobs, worker="ghost") == []
    jobs.leave_worker("w")
    assert claim(jobs) == []
    enter(jobs)
    assert refs(claim(jobs)) == [("j", 1)]


def test_when_the_next_task_is_due(jobs):
    """The least over the pool's pending, unheld tasks; None where there is none."""
    assert jobs.next_due_ms("p") is None
    create(jobs, "j", ["a", "b"], pool="p")
    create(jobs, "k", ["c"], pool="p")
    create(jobs, "other", ["d"], pool="q")
    assert jobs.next_due_ms("p") == 0
    claims = claim(jobs, pool="p")
    assert jobs.next_due_ms("p") is None
    times = [3000, 1000, 4000]
    jobs.finish([replace(ended(each, STATES.PENDING), not_before_ms=at) for each, at in zip(claims, times, strict=True)])
    assert jobs.next_due_ms("p") == 1000
    jobs.set_held(["j"], True)
    assert jobs.next_due_ms("p") == 4000
    jobs.kill_tasks("k")
    assert jobs.next_due_ms("p") is None


# Jobs that may have so many failures


@pytest.fixture
def limited(backend):
    """A job of ten tasks that may have one failure; the first four are claimed."""
    create(backend.jobs, "j", ["x"] * 10, spec=JobSpec("j", max_failures=1))
    create(backend.jobs, "other", ["x"], spec=JobSpec("other", max_failures=0))
    return claim(backend.jobs, 4)


def fail(each, state=STATES.FAILED):
    return ended(each, state, FailureClass.EXIT, exit_code=1)


def test_more_failures_than_allowed_cancel_what_is_pending(backend, limited):
    """In the transaction that records them; what is claimed goes on, and other jobs are not concerned."""
    a, b, c, _ = limited
    backend.jobs.finish([fail(a)])
    assert backend.jobs.count_tasks("j") == Counts(pending=6, claimed=3, failed=1)
    backend.jobs.finish([succeed(c), fail(b)])
    backend.reopen()
    assert backend.jobs.count_tasks("j") == Counts(claimed=1, succeeded=1, failed=2, cancelled=6)
    last = backend.jobs.get_task("j", 10)
    assert (last.failure, last.exit_code) == (FailureClass.CANCELLED, None)
    assert last.reason == "2 tasks of the job failed and at most 1 may"
    assert refs(claim(backend.jobs)) == [("other", 1)]


def test_nothing_comes_back_to_a_job_with_too_many_failures(backend, limited):
    """Neither by a retry nor by a release."""
    a, b, c, d = limited
    backend.jobs.finish([fail(a), fail(b)])
    backend.jobs.finish([fail(c, STATES.PENDING)])
    assert backend.jobs.release([d]) == 1
    backend.reopen()
    assert backend.jobs.count_tasks("j") == Counts(failed=2, cancelled=8)
    assert (backend.jobs.get_task("j", 3).attempt, backend.jobs.get_task("j", 4).attempt) == (1, 0)


def test_a_stale_failure_does_not_count(jobs, limited):
    """It is not recorded, so it cancels nothing."""
    a, b, _, _ = limited
    assert jobs.finish([fail(a), replace(fail(b), attempt=replace(fail(b).attempt, token="0" * 24))]) == [True, False]
    assert jobs.count_tasks("j") == Counts(pending=6, claimed=3, failed=1)


def test_after_a_reset_failures_count_anew(jobs, limited):
    """And a job without a limit may fail as a whole."""
    jobs.finish([fail(each) for each in limited])
    assert jobs.reset_tasks("j", [STATES.FAILED, STATES.CANCELLED]) == 10
    claims = claim(jobs, 11)
    jobs.finish([fail(claims[0])])
    assert jobs.count_tasks("j") == Counts(claimed=9, failed=1)
    create(jobs, "free", ["x"] * 3)
    jobs.finish([fail(each) for each in claim(jobs, 2)])
    assert jobs.count_tasks("free") == Counts(pending=1, failed=2)


def test_only_what_was_started_counts_as_running(backend):
    """Until it ends, however it ends; a stale claim is nobody's."""
    create(backend.jobs, "j", ["x"] * 6)
    a, b, c, d, e = claim(backend.jobs, 5)
    assert backend.jobs.count_tasks("j") == Counts(pending=1, claimed=5)
    assert backend.jobs.finish([], [a, b, c, d]) == []
    backend.reopen()
    assert backend.jobs.count_tasks("j") == Counts(pending=1, claimed=5, running=4)
    assert backend.jobs.finish([succeed(a), ended(b, STATES.PENDING, FailureClass.LOST)], [e, b]) == [True, True]
    backend.jobs.kill_tasks("j", [3])
    backend.jobs.finish([], [replace(d, token="0" * 24), c])
    assert backend.jobs.count_tasks("j") == Counts(pending=2, claimed=2, succeeded=1, cancelled=1, running=2)
    backend.jobs.release([d])
    claim(backend.jobs, 1)  # b again
    assert backend.jobs.count_tasks("j") == Counts(pending=2, claimed=2, succeeded=1, cancelled=1, running=1)


# Ending claims


def test_a_finish_counts_once(backend):
    """The second, with the same token, changes nothing: not the task and not the record."""
    create(backend.jobs, "j", ["a"])
    (only,) = claim(backend.jobs)
    backend.reopen()
    assert backend.jobs.finish([succeed(only, results="1")]) == [True]
    backend.reopen()
    assert backend.jobs.finish([ended(only, STATES.FAILED, FailureClass.EXIT, results="2")]) == [False]
    assert backend.jobs.get_task("j", 1).state is STATES.SUCCEEDED
    assert [attempt.results for attempt in backend.jobs.list_attempts("j", 1)] == ["1"]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda only: replace(only, token="0" * 24),
        lambda only: replace(only, token=""),
        lambda only: replace(only, ref=AttemptRef("j", 1, 2)),
        lambda only: replace(only, ref=AttemptRef("j", 2, 1)),
        lambda only: replace(only, ref=AttemptRef("nix", 1, 1)),
        lambda only: replace(only, ref=AttemptRef("j", 99, 1)),
    ],
    ids=["token", "empty token", "attempt", "task", "job", "index"],
)
def test_a_stale_claim_changes_nothing(jobs, wrong):
    """Whichever part of it is not current."""
    create(jobs, "j", ["a", "b"])
    (only,) = claim(jobs, 1)
    assert jobs.finish([succeed(wrong(only))]) == [False]
    assert jobs.release([wrong(only)]) == 0
    assert jobs.list_claims("w") == [only]
    assert jobs.list_attempts("j", 1) == []
    assert jobs.get_task("j", 2).state is STATES.PENDING


def test_the_first_of_two_owners_is_refused(jobs):
    """A task that was lost, given to another worker and finished there: the first worker's late result is not recorded."""
    create(jobs, "j", ["a"])
    enter(jobs, "w2")
    (first,) = claim(jobs)
    jobs.finish([ended(first, STATES.PENDING, FailureClass.LOST)])
    (second,) = claim(jobs, worker="w2")
    assert jobs.finish([succeed(first, results="1"), succeed(second, results="2")]) == [False, True]
    assert [outcome.attempt.results for outcome in jobs.list_outcomes("j")] == ["2"]


def test_finishes_are_independent(backend):
    """One that is stale does not keep the others from being recorded; each has its answer, in order."""
    create(backend.jobs, "j", ["a", "b", "c"])
    a, b, c = claim(backend.jobs)
    backend.jobs.kill_tasks("j", [2])
    backend.reopen()
    finishes = [succeed(a), succeed(b), ended(c, STATES.FAILED, FailureClass.TIMEOUT), succeed(a)]
    assert backend.jobs.finish(finishes) == [True, False, True, False]
    assert backend.jobs.count_tasks("j") == Counts(succeeded=1, cancelled=1, failed=1)
    assert backend.jobs.finish([]) == []


def test_a_finish_is_whole_or_not_at_all(jobs):
    """A state that no claim can end in is a bug; nothing of the batch is recorded by SQLite's transaction or before the check."""
    create(jobs, "j", ["a"])
    (only,) = claim(jobs)
    with pytest.raises(InternalError, match="cannot go from claimed to claimed"):
        jobs.finish([ended(only, STATES.CLAIMED)])
    assert jobs.list_claims("w") == [only]
    assert jobs.list_attempts("j", 1) == []


@pytest.mark.parametrize("state", [STATES.SUCCEEDED, STATES.FAILED, STATES.CANCELLED])
def test_an_end_is_the_task_s_outcome(jobs, state):
    """The row says what the attempt says, and whose outcome it is."""
    create(jobs, "j", ["a"])
    (only,) = claim(jobs)
    failure = None if state is STATES.SUCCEEDED else FailureClass.EXIT
    assert jobs.finish([replace(ended(only, state, failure, exit_code=4, reason="why"), tries=3, losses=2, not_before_ms=9)])
    task = jobs.get_task("j", 1)
    assert (task.state, task.failure, task.exit_code, task.reason) == (state, failure, 4, "why")
    assert (task.origin, task.tries, task.losses, task.not_before_ms) == (AttemptRef("j", 1, 1), 3, 2, 0)
    assert not task.reused


def test_a_retry_has_no_outcome_yet(jobs):
    """It keeps what the next attempt needs: budget used, memory, when; and why the last one failed."""
    create(jobs, "j", ["a"])
    (only,) = claim(jobs)
    finish = ended(only, STATES.PENDING, FailureClass.OOM, reason="out of memory")
    jobs.finish([replace(finish, tries=2, losses=1, not_before_ms=7, memory_bytes=1 << 33)])
    task = jobs.get_task("j", 1)
    assert (task.state, task.origin, task.worker, task.attempt) == (STATES.PENDING, None, "", 1)
    assert (task.tries, task.losses, task.not_before_ms, task.memory_bytes) == (2, 1, 7, 1 << 33)
    assert (task.failure, task.reason) == (FailureClass.OOM, "out of memory")
    # Memory that was raised once stays so: a finish that says nothing of it does not lower it.
    (only,) = claim(jobs, now_ms=7)
    assert only.memory_bytes == 1 << 33
    jobs.finish([ended(only, STATES.PENDING, FailureClass.LOST)])
    assert claim(jobs)[0].memory_bytes == 1 << 33


def test_a_release_leaves_no_trace(backend):
    """The program never started: the attempt's number is free again, no budget is used, the order is as before."""
    create(backend.jobs, "j", ["a", "b", "c"])
    claims = claim(backend.jobs)
    before = [replace(task, state=STATES.PENDING, attempt=0, worker="") for task in backend.jobs.list_tasks("j")]
    backend.reopen()
    assert backend.jobs.release([claims[2], claims[0]]) == 2
    assert backend.jobs.release(claims) == 1
    assert backend.jobs.release([]) == 0
    assert backend.jobs.list_tasks("j") == before
    again = claim(backend.jobs)
    assert [each.ref for each in again] == [each.ref for each in claims]
    assert not {each.token for each in again} & {each.token for each in claims}


def test_a_worker_finds_its_claims(backend):
    """Its own and current ones only, with their tokens; another process sees the same."""
    create(backend.jobs, "j", ["a", "b", "c", "d"])
    enter(backend.jobs, "w2")
    mine = claim(backend.jobs, 3)
    theirs = claim(backend.jobs, 3, worker="w2")
    backend.jobs.finish([succeed(mine[0])])
    backend.jobs.kill_tasks("j", [2])
    backend.reopen()
    assert backend.jobs.list_claims("w") == [mine[2]]
    assert backend.jobs.held_tokens("w") == {mine[2].token}
    assert backend.jobs.list_claims("w2") == theirs
    assert backend.jobs.held_tokens("nix") == set()


def test_claims_of_several_jobs_are_listed(jobs):
    """By job and index; budgets and memory come along."""
    create(jobs, "a", ["x"])
    create(jobs, "b", ["y", "z"])
    claims = claim(jobs)
    assert jobs.list_claims("w") == claims
    jobs.finish([replace(ended(claims[1], STATES.PENDING, FailureClass.OOM), losses=4, memory_bytes=9)])
    claim(jobs)
    again = jobs.list_claims("w")
    assert refs(again) == [("a", 1), ("b", 1), ("b", 2)]
    assert (again[1].ref.attempt, again[1].tries, again[1].losses, again[1].memory_bytes) == (2, 1, 4, 9)


# Crashes


def test_nothing_is_lost_between_any_two_calls(tmp_path):
    """A life of a job where the process dies after every call: each next one finds what the last one left."""
    backend = Backend("sqlite", tmp_path)
    try:
        for call in (
            lambda jobs: enter(jobs),
            lambda jobs: create(jobs, "j", ["a", "b", "c"]),
            lambda jobs: claim(jobs, 2),
            lambda jobs: jobs.release(jobs.list_claims("w")[1:]),
            lambda jobs: jobs.finish([succeed(each) for each in jobs.list_claims("w")]),
            lambda jobs: claim(jobs, 1),
            lambda jobs: jobs.finish([ended(each, STATES.PENDING, FailureClass.EXIT) for each in jobs.list_claims("w")]),
            lambda jobs: claim(jobs, 2),
            lambda jobs: jobs.finish([ended(each, STATES.FAILED, FailureClass.EXIT) for each in jobs.list_claims("w")]),
            lambda jobs: jobs.reset_tasks("j", [STATES.FAILED], [3]),
            lambda jobs: run_all(jobs),
            lambda jobs: jobs.leave_worker("w"),
        ):
            call(backend.jobs)
            backend.reopen()
        tasks = backend.jobs.list_tasks("j")
        assert [(task.state, task.attempt) for task in tasks] == [
            (STATES.SUCCEEDED, 1),
            (STATES.FAILED, 2),
            (STATES.SUCCEEDED, 2),
        ]
        assert [len(backend.jobs.list_attempts("j", index)) for index in (1, 2, 3)] == [1, 2, 2]
        assert backend.jobs.list_workers() == []
    finally:
        backend.close()


def test_a_process_killed_within_a_transaction_leaves_nothing(tmp_path):
    """kill -9 in the middle of creating a job and of finishing tasks: all or nothing, and nothing stays locked."""
    backend = Backend("sqlite", tmp_path)
    try:
        enter(backend.jobs)
        create(backend.jobs, "j", ["a", "b"])
        script = """
import os, signal, sys
from pathlib import Path
from sparkles.backends.local.db import open_state
from sparkles.backends.local.job_store import SqliteJobStore
from sparkles.model import Job, JobSpec, NewTask, TaskSpec
from tests.support.stores import succeed
database = open_state(Path(sys.argv[1]))
jobs = SqliteJobStore(database)
claims = jobs.claim("w", pool="", limit=2, now_ms=0)
def tasks():
    for number in range(3000):
        yield NewTask(TaskSpec("x"), "f" * 64)
    os.kill(os.getpid(), signal.SIGKILL)
def die(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[2] == "create":
    jobs.create_job(Job("k", JobSpec("k"), 3000), tasks())
else:
    with database.atomic():
        print(jobs.finish([succeed(each) for each in claims]), flush=True)
        die()
"""
        for what in ("create", "finish"):
            done = subprocess.run(
                [sys.executable, "-c", script, str(tmp_path / ".sparkles"), what],
                cwd=Path(__file__).parents[2],
                capture_output=True,
                text=True,
                timeout=30,
            )
            assert done.returncode == -9, done.stderr
            assert what == "create" or done.stdout == "[True, True]\n"
            assert [job.id for job in backend.jobs.list_jobs()] == ["j"]
            assert backend.jobs.count_tasks("j") == Counts(claimed=2)
            assert backend.jobs.release(backend.jobs.list_claims("w")) == 2
    finally:
        backend.close()


# Many at once


def test_many_threads_share_the_queue(backend):
    """Every task is finished exactly once, whoever claims it."""
    create(backend.jobs, "j", [str(number) for number in range(200)])
    for number in range(4):
        enter(backend.jobs, f"w{number}")

    def work(number):
        done = []
        while claims := claim(backend.jobs, 7, worker=f"w{number}"):
            assert all(backend.jobs.finish([succeed(each) for each in claims]))
            done += [each.ref.index for each in claims]
        return done

    with ThreadPoolExecutor(4) as pool:
        done = [index for part in pool.map(work, range(4)) for index in part]
    assert sorted(done) == list(range(1, 201))
    assert backend.jobs.count_tasks("j") == Counts(succeeded=200)


_HAMMER = """
import random, sys
from pathlib import Path
from sparkles.backends.local.db import open_state
from sparkles.backends.local.job_store import SqliteJobStore
from sparkles.model import TaskState
from tests.support.stores import ended, enter, succeed
name = sys.argv[2]
random.seed(name)
jobs = SqliteJobStore(open_state(Path(sys.argv[1])))
enter(jobs, name)
while jobs.next_due_ms("") is not None:
    claims = jobs.claim(name, pool="", limit=random.randint(1, 8), now_ms=0)
    assert jobs.held_tokens(name) == {each.token for each in claims}
    kept = [each for each in claims if random.random() < 0.8]
    assert jobs.release([each for each in claims if each not in kept]) == len(claims) - len(kept)
    again = [each for each in kept if each.ref.attempt < 3 and random.random() < 0.2]
    finishes = [ended(each, TaskState.PENDING) if each in again else succeed(each) for each in kept]
    assert all(jobs.finish(finishes))
    jobs.beat_worker(name, waiting=False)
    for each in kept:
        if each not in again:
            print(each.ref.index)
jobs.leave_worker(name)
"""


@pytest.mark.slow
def test_many_processes_share_the_queue(tmp_path):
    """Eight processes claim, finish, release and retry at once: every task succeeds once."""
    backend = Backend("sqlite", tmp_path)
    try:
        create(backend.jobs, "j", [str(number) for number in range(4000)])
        workers = [
            subprocess.Popen(
                [sys.executable, "-c", _HAMMER, str(tmp_path / ".sparkles"), f"w{number}"],
                cwd=Path(__file__).parents[2],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for number in range(8)
        ]
        done = Counter()
        for worker in workers:
            out, err = worker.communicate(timeout=60)
            assert worker.returncode == 0, err
            done.update(map(int, out.split()))
        assert done == Counter(range(1, 4001))
        assert backend.jobs.count_tasks("j") == Counts(succeeded=4000)
        numbers = [[attempt.ref.attempt for attempt in backend.jobs.list_attempts("j", index)] for index in range(1, 4001)]
        assert all(each == list(range(1, len(each) + 1)) for each in numbers)
        assert backend.jobs.list_workers() == []
    finally:
        backend.close()


# Workers


def test_a_worker_s_row_comes_back_as_it_was(backend):
    """Every field; a row of the same id is replaced and keeps its place."""
    rows = [
        Worker(
            "w1", "pool ü", replace(HERE, host="höst"), beat=3, cpu=0.3, memory_bytes=1 << 40, waiting=True, started_at_ms=2**42
        ),
        Worker("w2", "", HERE, started_at_ms=2**42 + 1),
    ]
    backend.jobs.leave_worker("w")
    for row in rows:
        backend.jobs.enter_worker(row)
    backend.reopen()
    assert backend.jobs.list_workers() == rows
    rows[0] = Worker("w1", "q", replace(HERE, pid=5), started_at_ms=1)
    backend.jobs.enter_worker(rows[0])
    assert backend.jobs.list_workers() == rows


def test_a_heartbeat_counts(backend):
    """By one, with what it says of waiting; a worker without a row is told."""
    assert backend.jobs.beat_worker("w", waiting=True)
    assert backend.jobs.beat_worker("w", waiting=True)
    backend.reopen()
    assert backend.jobs.list_workers() == [Worker("w", "", HERE, beat=2, waiting=True)]
    assert backend.jobs.beat_worker("w", waiting=False)
    assert backend.jobs.list_workers() == [Worker("w", "", HERE, beat=3)]
    assert not backend.jobs.beat_worker("nix", waiting=False)
    backend.jobs.leave_worker("w")
    assert not backend.jobs.beat_worker("w", waiting=False)


def test_a_worker_with_claims_does_not_leave(jobs):
    """Its row is what recovery goes by."""
    create(jobs, "j", ["a", "b"])
    claims = claim(jobs)
    with pytest.raises(Conflict, match="worker w still holds 2 claims, which must be finished or released first"):
        jobs.leave_worker("w")
    jobs.finish([succeed(claims[0])])
    jobs.release(claims[1:])
    jobs.leave_worker("w")
    jobs.leave_worker("w")
    assert jobs.list_workers() == []


GIB = 1 << 30


@pytest.mark.parametrize(
    ("others", "held", "wanted", "granted"),
    [
        ([(2, 0)], (0, 0), (2, 0), True),
        ([(2, 0)], (0, 0), (2.5, 0), False),
        ([(1, 6 * GIB)], (0, 0), (1, 2 * GIB), True),
        ([(1, 6 * GIB)], (0, 0), (1, 2 * GIB + 1), False),
        ([(1, 0), (1, 0), (1, 0)], (0, 0), (1, 0), True),
        ([(1, 0), (1, 0), (1, 0)], (0, 0), (1.1, 0), False),
        ([], (0, 0), (64, 64 * GIB), True),
        ([(0, 0)], (0, 0), (64, 64 * GIB), True),
        ([(0, 1)], (0, 0), (64, 1), False),
        ([(4, 8 * GIB)], (3, 3 * GIB), (2, 3 * GIB), True),
        ([(4, 8 * GIB)], (3, 3 * GIB), (3, 3 * GIB), True),
        ([(4, 8 * GIB)], (3, 3 * GIB), (2, 3 * GIB + 1), False),
        ([(0.1,) * 1 + (0,)] * 9, (0, 0), (3.1, 0), True),
    ],
    ids=[
        "up to the total",
        "beyond it",
        "memory too",
        "memory beyond",
        "several others",
        "several, beyond",
        "alone: anything",
        "idle others: anything",
        "one holds memory",
        "a decrease",
        "the same",
        "less cpu, more memory",
        "rounding",
    ],
)
def test_workers_share_a_host(jobs, others, held, wanted, granted):
    """Of 4 cores and 8 GiB: within the totals together; decreases always; anything where nobody else holds anything."""
    for number, (cpu, memory_bytes) in enumerate(others):
        enter(jobs, f"o{number}", cpu=cpu, memory_bytes=memory_bytes)
    enter(jobs, "w", cpu=held[0], memory_bytes=held[1])
    answer = jobs.reserve("w", cpu=wanted[0], memory_bytes=wanted[1], total_cpu=4, total_memory_bytes=8 * GIB)
    assert answer == granted
    row = next(each for each in jobs.list_workers() if each.id == "w")
    assert (row.cpu, row.memory_bytes) == (wanted if granted else held)


def test_other_hosts_do_not_count(backend):
    """What is held there is held there; a worker without a row holds nothing."""
    backend.jobs.enter_worker(Worker("o", "", replace(HERE, host="elsewhere"), cpu=4.0))
    backend.reopen()
    assert backend.jobs.reserve("w", cpu=64, memory_bytes=0, total_cpu=4, total_memory_bytes=0)
    assert not backend.jobs.reserve("nix", cpu=1, memory_bytes=0, total_cpu=4, total_memory_bytes=0)
