"""The SQLite job store against the one in memory: any sequence of calls gives the same answers.

Tokens are drawn by each store for itself, so claims are compared without them, and each store is given its own tokens back.
"""

import tempfile
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace

from sparkles.errors import SparklesError
from sparkles.model import AttemptRef, FailureClass, JobSpec, TaskState
from tests.support.stores import Backend, create, ended, enter, fingerprint

JOBS = ["a", "b", "c", "ü"]
COMMANDS = ["x", "y", "z"]
WORKERS = ["w1", "w2"]
POOLS = ["p", "q"]
INDEXES = st.none() | st.lists(st.integers(0, 5), max_size=3)
STATES = st.sets(st.sampled_from(TaskState))
ENDS = [TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED, TaskState.PENDING]


class Stores(RuleBasedStateMachine):
    """Both stores, and the claims that were given out: pairs of (memory's, SQLite's), current or not."""

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.memory = Backend("memory", None)
        self.sqlite = Backend("sqlite", Path(self.folder.name))
        self.claims = []

    def teardown(self):
        self.sqlite.close()
        self.folder.cleanup()

    def both(self, call):
        """Calls both stores; they answer or raise alike."""
        answers = []
        for number, backend in enumerate((self.memory, self.sqlite)):
            try:
                answers.append(call(backend.jobs, number))
            except SparklesError as error:
                answers.append((type(error), str(error)))
        assert answers[0] == answers[1]
        return answers[0]

    @initialize()
    def workers(self):
        for name in WORKERS:
            self.both(lambda jobs, _, name=name: enter(jobs, name))

    @rule(
        name=st.sampled_from(JOBS),
        commands=st.lists(st.sampled_from(COMMANDS), max_size=4),
        pool=st.sampled_from(POOLS),
        held=st.booleans(),
        priority=st.integers(-1, 1),
        parallelism=st.none() | st.integers(1, 2),
        cache=st.booleans(),
    )
    def create_job(self, name, commands, pool, held, priority, parallelism, cache):
        """As submit does it, with what is reusable."""
        if name in [job.id for job in self.memory.jobs.list_jobs()]:
            return
        found = (
            self.both(lambda jobs, _: {key: each.ref for key, each in jobs.find_reusable(prints(commands)).items()})
            if cache
            else {}
        )
        reuse = {i: found[fingerprint(each)] for i, each in enumerate(commands, 1) if fingerprint(each) in found}
        spec = JobSpec(name, priority=priority, parallelism=parallelism)
        self.both(lambda jobs, _: create(jobs, name, commands, reuse=reuse, spec=spec, pool=pool, held=held))

    @rule(worker=st.sampled_from(WORKERS), pool=st.sampled_from(POOLS), limit=st.integers(0, 5), now_ms=st.integers(0, 3))
    def claim(self, worker, pool, limit, now_ms):
        found = [b.jobs.claim(worker, pool=pool, limit=limit, now_ms=now_ms) for b in (self.memory, self.sqlite)]
        assert list(map(without_token, found[0])) == list(map(without_token, found[1]))
        assert not {each.token for each in found[1]} & {each.token for _, each in self.claims}
        self.claims += zip(*found, strict=True)

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), now_ms=st.integers(-1, 3), memory=st.none() | st.integers(1, 9))
    def finish(self, data, now_ms, memory):
        """Any claims ever given out, current or stale, some of them twice."""
        chosen = data.draw(st.lists(st.tuples(st.sampled_from(self.claims), st.sampled_from(ENDS)), max_size=4))

        def finishes(number):
            for pair, state in chosen:
                failure = None if state is TaskState.SUCCEEDED else FailureClass.EXIT
                finish = ended(pair[number], state, failure, exit_code=len(chosen))
                yield replace(finish, not_before_ms=now_ms, memory_bytes=memory)

        self.both(lambda jobs, number: jobs.finish(list(finishes(number))))

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def release(self, data):
        chosen = data.draw(st.lists(st.sampled_from(self.claims), max_size=4))
        self.both(lambda jobs, number: jobs.release([pair[number] for pair in chosen]))

    @rule(name=st.sampled_from(JOBS), indexes=INDEXES)
    def kill(self, name, indexes):
        self.both(lambda jobs, _: jobs.kill_tasks(name, indexes))

    @rule(name=st.sampled_from(JOBS))
    def cancel(self, name):
        self.both(lambda jobs, _: jobs.cancel_pending(name, "because"))

    @rule(name=st.sampled_from(JOBS), states=STATES, indexes=INDEXES)
    def reset(self, name, states, indexes):
        self.both(lambda jobs, _: jobs.reset_tasks(name, states, indexes))

    @rule(names=st.sets(st.sampled_from(JOBS)), held=st.booleans())
    def hold(self, names, held):
        self.both(lambda jobs, _: jobs.set_held(names, held))

    @rule(names=st.sets(st.sampled_from(JOBS)))
    def delete(self, names):
        self.both(lambda jobs, _: jobs.delete_jobs(names))

    @rule(worker=st.sampled_from(WORKERS))
    def leave(self, worker):
        """With claims it is refused; without, the worker comes back later or not."""
        self.both(lambda jobs, _: jobs.leave_worker(worker))

    @rule(worker=st.sampled_from(WORKERS), cpu=st.integers(0, 5), enters=st.booleans())
    def reserve(self, worker, cpu, enters):
        if enters:
            self.both(lambda jobs, _: enter(jobs, worker))
        self.both(lambda jobs, _: jobs.beat_worker(worker, waiting=enters))
        self.both(lambda jobs, _: jobs.reserve(worker, cpu=cpu, memory_bytes=cpu, total_cpu=4, total_memory_bytes=9))

    @rule()
    def crash(self):
        self.sqlite.reopen()

    @invariant()
    def same(self):
        """Everything that can be seen is the same."""
        self.both(lambda jobs, _: jobs.list_jobs())
        self.both(lambda jobs, _: jobs.list_workers())
        self.both(lambda jobs, _: [jobs.next_due_ms(pool) for pool in POOLS])
        for job in self.memory.jobs.list_jobs():
            self.both(lambda jobs, _, job=job: jobs.count_tasks(job.id))
            self.both(lambda jobs, _, job=job: jobs.count_failures(job.id))
            self.both(lambda jobs, _, job=job: jobs.state_digest(job.id))
            self.both(lambda jobs, _, job=job: [replace_tokens(each) for each in jobs.list_outcomes(job.id)])
        for index in range(1, 5):
            self.both(lambda jobs, _, index=index: [replace(a, token="") for n in JOBS for a in jobs.list_attempts(n, index)])
        for worker in WORKERS:
            self.both(lambda jobs, _, worker=worker: list(map(without_token, jobs.list_claims(worker))))
            self.both(lambda jobs, _, worker=worker: len(jobs.held_tokens(worker)))

    @invariant()
    def sound(self):
        """What holds in any state: attempts are never shared, and every outcome of a task has its record."""
        jobs = self.sqlite.jobs
        for job in jobs.list_jobs():
            for outcome in jobs.list_outcomes(job.id):
                task = outcome.task
                assert (task.origin is None) == (outcome.attempt is None)
                if task.origin == AttemptRef(job.id, task.index, task.attempt):
                    assert not task.reused
                if task.state is TaskState.SUCCEEDED:
                    assert outcome.attempt.failure is None
                if task.state in (TaskState.PENDING, TaskState.CLAIMED):
                    assert task.origin is None


def prints(commands):
    return [fingerprint(each) for each in commands]


def without_token(claim):
    return replace(claim, token="")


def replace_tokens(outcome):
    return replace(outcome, attempt=outcome.attempt and replace(outcome.attempt, token=""))


TestStores = Stores.TestCase
TestStores.__doc__ = "Any sequence of calls gives the same answers from both."
TestStores.settings = settings(
    max_examples=25, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
