"""Run store and job store in memory: the reference implementations, for tests and for scripts that must leave nothing.

Plain dictionaries under one lock; every method does what its promise in ports.py says and nothing cleverer. Imports ports and model.
"""

from __future__ import annotations

import itertools
import secrets
import threading
from collections.abc import Callable, Collection, Iterable, Sequence

import msgspec

from sparkles import digest
from sparkles.errors import Conflict, LeaseLost, NotFound, RunBusy
from sparkles.model import (
    Attempt,
    AttemptRef,
    Claim,
    Counts,
    Digest,
    FailureClass,
    Finish,
    Job,
    NewTask,
    ProcessId,
    Run,
    RunId,
    RunState,
    Step,
    StepKey,
    Task,
    TaskSpec,
    TaskState,
    Worker,
    WorkerId,
)
from sparkles.ports import FailureGroup, JobStore, Outcome, RunStore
from sparkles.states import check_task

_replace = msgspec.structs.replace


class MemoryRunStore:
    """Keeps the promises of ports.RunStore for as long as it lives."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._runs: dict[str, Run] = {}
        self._steps: dict[str, dict[StepKey, Step]] = {}

    def create_run(self, run: Run) -> None:
        """See RunStore."""
        with self._lock:
            if run.id in self._runs:
                raise Conflict(f"run {run.id} exists already", "create run", run.id)
            self._runs[run.id] = run
            self._steps[run.id] = {}

    def get_run(self, run_id: RunId) -> Run:
        """See RunStore."""
        try:
            return self._runs[run_id]
        except KeyError:
            raise NotFound(f"there is no run {run_id} (`sparkles runs` lists them)", "get run", run_id) from None

    def list_runs(self, *, workflow: str | None = None, args: str | None = None, limit: int = 1000) -> list[Run]:
        """See RunStore."""
        with self._lock:
            newest = sorted(enumerate(self._runs.values()), key=lambda pair: (pair[1].created_at_ms, pair[0]), reverse=True)
        found = [run for _, run in newest if workflow in (None, run.workflow) and args in (None, run.args)]
        return found[:limit]

    def take_run(self, run_id: RunId, driver: ProcessId, is_dead: Callable[[ProcessId], bool], now_ms: int) -> Run:
        """See RunStore."""
        with self._lock:
            run = self.get_run(run_id)
            if run.driver is not None and run.driver != driver and not is_dead(run.driver):
                raise RunBusy(f"run {run_id} is driven by pid {run.driver.pid} on host {run.driver.host}")
            taken = _replace(run, driver=driver, state=RunState.RUNNING, ended_at_ms=None, error="", beat_ms=now_ms)
            self._runs[run_id] = taken
            return taken

    def beat_run(self, run_id: RunId, driver: ProcessId, now_ms: int) -> None:
        """See RunStore."""
        with self._lock:
            self._runs[run_id] = _replace(self._owned(run_id, driver), beat_ms=now_ms)

    def end_run(self, run_id: RunId, driver: ProcessId, state: RunState, error: str, now_ms: int) -> None:
        """See RunStore."""
        with self._lock:
            run = self._owned(run_id, driver)
            self._runs[run_id] = _replace(run, driver=None, state=state, error=error, ended_at_ms=now_ms)

    def _owned(self, run_id: RunId, driver: ProcessId) -> Run:
        run = self.get_run(run_id)
        if run.driver != driver:
            raise LeaseLost(f"run {run_id} is driven by another process; this one stops", "drive run", run_id)
        return run

    def delete_run(self, run_id: RunId) -> None:
        """See RunStore."""
        with self._lock:
            self._runs.pop(run_id, None)
            self._steps.pop(run_id, None)

    def get_step(self, run_id: RunId, key: StepKey) -> Step | None:
        """See RunStore."""
        return self._steps.get(run_id, {}).get(key)

    def put_step(self, run_id: RunId, step: Step) -> None:
        """See RunStore."""
        with self._lock:
            steps = self._steps.setdefault(run_id, {})
            before = steps.get(step.key)
            steps[step.key] = step if before is None else _replace(step, sequence=before.sequence)

    def list_steps(self, run_id: RunId, *, kinds: Collection[str] | None = None) -> list[Step]:
        """See RunStore."""
        steps = [step for step in self._steps.get(run_id, {}).values() if kinds is None or step.key.kind in kinds]
        return sorted(steps, key=lambda step: step.sequence)

    def last_sequence(self, run_id: RunId) -> int:
        """See RunStore."""
        return max((step.sequence for step in self._steps.get(run_id, {}).values()), default=0)

    def followed(self, run_id: RunId, strand: str, sequence: int) -> bool:
        """See RunStore."""
        return any(step.key.strand == strand and step.sequence > sequence for step in self._steps.get(run_id, {}).values())


class _Row(msgspec.Struct):
    """A task with its spec and, while it is claimed, its token."""

    task: Task
    spec: TaskSpec
    token: str = ""


class MemoryJobStore:
    """Keeps the promises of ports.JobStore for as long as it lives."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._sequence = itertools.count(1)
        self._jobs: dict[str, Job] = {}
        self._tasks: dict[str, list[_Row]] = {}
        self._attempts: dict[AttemptRef, Attempt] = {}
        self._workers: dict[str, Worker] = {}

    # Jobs

    def create_job(self, job: Job, tasks: Iterable[NewTask]) -> bool:
        """See JobStore."""
        with self._lock:
            if job.id in self._jobs:
                return False
            rows = []
            for index, new in enumerate(tasks, 1):
                state = TaskState.PENDING if new.origin is None else TaskState.SUCCEEDED
                task = Task(job.id, index, state, new.fingerprint, origin=new.origin, name=new.spec.name)
                rows.append(_Row(task, new.spec))
            self._tasks[job.id] = rows
            self._jobs[job.id] = _replace(job, sequence=next(self._sequence))
            return True

    def get_job(self, job_id: str) -> Job:
        """See JobStore."""
        try:
            return self._jobs[job_id]
        except KeyError:
            raise NotFound(f"there is no job {job_id} (`sparkles list` lists them)", "get job", job_id) from None

    def list_jobs(self, *, owner: str | None = None, limit: int | None = None) -> list[Job]:
        """See JobStore."""
        jobs = [job for job in self._jobs.values() if owner in (None, job.owner)]
        return sorted(jobs, key=lambda job: -job.sequence)[:limit]

    def delete_jobs(self, job_ids: Collection[str]) -> list[AttemptRef]:
        """See JobStore."""
        with self._lock:
            doomed = set(job_ids)
            for job_id in doomed & self._jobs.keys():
                for row in self._tasks[job_id]:
                    if row.task.state is TaskState.CLAIMED:
                        raise Conflict(
                            f"{job_id}/{row.task.index} is running; end it first (`sparkles kill {job_id}`)", "delete", job_id
                        )
            for job_id in doomed:
                self._jobs.pop(job_id, None)
                self._tasks.pop(job_id, None)
            used = {row.task.origin for rows in self._tasks.values() for row in rows if row.task.reused}
            for ref in list(self._attempts):
                if ref.job not in self._jobs and ref not in used:
                    del self._attempts[ref]
            return sorted(
                (ref for ref in used if ref is not None and ref.job in doomed),
                key=lambda ref: (ref.job, ref.index, ref.attempt),
            )

    def set_held(self, job_ids: Collection[str], held: bool) -> None:
        """See JobStore."""
        with self._lock:
            for job_id in job_ids:
                if job_id in self._jobs:
                    self._jobs[job_id] = _replace(self._jobs[job_id], held=held)

    # Tasks

    def _rows(self, job_id: str) -> list[_Row]:
        self.get_job(job_id)
        return self._tasks[job_id]

    def _row(self, job_id: str, index: int) -> _Row:
        rows = self._rows(job_id)
        if not 1 <= index <= len(rows):
            tasks = "one task" if len(rows) == 1 else f"{len(rows)} tasks"
            raise NotFound(f"{job_id} has {tasks}, no task {index} (the first one is 1)", "get task", f"{job_id}/{index}")
        return rows[index - 1]

    def count_tasks(self, job_id: str) -> Counts:
        """See JobStore."""
        rows = self._rows(job_id)
        counts = {state.value: sum(row.task.state is state for row in rows) for state in TaskState}
        return Counts(**counts, reused=sum(row.task.reused for row in rows))

    def count_failures(self, job_id: str) -> list[FailureGroup]:
        """See JobStore."""
        groups: dict[tuple[FailureClass, int | None], list[int]] = {}
        for row in self._rows(job_id):
            task = row.task
            if task.state is TaskState.FAILED:
                groups.setdefault((task.failure or FailureClass.LOST, task.exit_code), []).append(task.index)
        found = [FailureGroup(*key, len(indexes), indexes[0]) for key, indexes in groups.items()]
        return sorted(found, key=lambda group: (-group.count, group.example))

    def get_task(self, job_id: str, index: int) -> Task:
        """See JobStore."""
        return self._row(job_id, index).task

    def get_spec(self, job_id: str, index: int) -> TaskSpec:
        """See JobStore."""
        return self._row(job_id, index).spec

    def list_tasks(
        self, job_id: str, *, first: int = 1, limit: int | None = None, states: Collection[TaskState] | None = None
    ) -> list[Task]:
        """See JobStore."""
        return [row.task for row in self._page(job_id, first, limit, states)]

    def list_outcomes(
        self, job_id: str, *, first: int = 1, limit: int | None = None, states: Collection[TaskState] | None = None
    ) -> list[Outcome]:
        """See JobStore."""
        return [
            Outcome(row.task, row.spec.params, None if row.task.origin is None else self._attempts.get(row.task.origin))
            for row in self._page(job_id, first, limit, states)
        ]

    def _page(self, job_id: str, first: int, limit: int | None, states: Collection[TaskState] | None) -> list[_Row]:
        rows = self._rows(job_id)[max(first, 1) - 1 :]
        return [row for row in rows if states is None or row.task.state in states][:limit]

    def state_digest(self, job_id: str) -> Digest:
        """See JobStore."""
        return digest.of_value([[row.task.index, str(row.task.state), row.task.attempt] for row in self._rows(job_id)])

    def find_reusable(self, fingerprints: Sequence[Digest]) -> dict[Digest, Attempt]:
        """See JobStore."""
        wanted, found = set(fingerprints), dict[Digest, Attempt]()
        with self._lock:
            for own in (False, True):  # a task's own attempt, of the newest job, wins
                for job in sorted(self._jobs.values(), key=lambda job: job.sequence):
                    for row in self._tasks[job.id]:
                        task = row.task
                        matches = task.fingerprint in wanted and task.state is TaskState.SUCCEEDED and task.reused is not own
                        if matches and task.origin in self._attempts:
                            found[task.fingerprint] = self._attempts[task.origin]
        return found

    def get_attempt(self, ref: AttemptRef) -> Attempt | None:
        """See JobStore."""
        return self._attempts.get(ref)

    def list_attempts(self, job_id: str, index: int) -> list[Attempt]:
        """See JobStore."""
        found = [attempt for ref, attempt in self._attempts.items() if (ref.job, ref.index) == (job_id, index)]
        return sorted(found, key=lambda attempt: attempt.ref.attempt)

    def list_digests(self) -> set[Digest]:
        """See JobStore."""
        inputs = {file.digest for rows in self._tasks.values() for row in rows for file in row.spec.files}
        return inputs | {output.digest for attempt in self._attempts.values() for output in attempt.outputs}

    def kill_tasks(self, job_id: str, indexes: Collection[int] | None = None) -> int:
        """See JobStore."""
        return self._end(job_id, {TaskState.PENDING, TaskState.CLAIMED}, indexes, "cancelled by sparkles kill")

    def cancel_pending(self, job_id: str, reason: str) -> int:
        """See JobStore."""
        return self._end(job_id, {TaskState.PENDING}, None, reason)

    def _end(self, job_id: str, states: set[TaskState], indexes: Collection[int] | None, reason: str) -> int:
        with self._lock:
            count = 0
            for row in self._rows(job_id):
                if row.task.state in states and (indexes is None or row.task.index in indexes):
                    changes = {"state": TaskState.CANCELLED, "failure": FailureClass.CANCELLED, "reason": reason}
                    row.task = _replace(row.task, worker="", not_before_ms=0, **changes)
                    row.token = ""
                    count += 1
            return count

    def reset_tasks(self, job_id: str, states: Collection[TaskState], indexes: Collection[int] | None = None) -> int:
        """See JobStore."""
        with self._lock:
            count = 0
            for row in self._rows(job_id):
                task = row.task
                ended = task.state in states and task.state not in (TaskState.PENDING, TaskState.CLAIMED)
                if ended and (indexes is None or task.index in indexes):
                    row.task = Task(
                        job_id, task.index, TaskState.PENDING, task.fingerprint, attempt=task.attempt, name=task.name
                    )
                    count += 1
            return count

    # Claims

    def claim(self, worker: WorkerId, *, pool: str, limit: int, now_ms: int) -> list[Claim]:
        """See JobStore."""
        claims: list[Claim] = []
        with self._lock:
            for job in sorted(self._jobs.values(), key=lambda job: (-job.spec.priority, job.sequence)):
                if job.pool != pool or job.held:
                    continue
                room = limit - len(claims)
                if job.spec.parallelism is not None:
                    running = sum(row.task.state is TaskState.CLAIMED for row in self._tasks[job.id])
                    room = min(room, job.spec.parallelism - running)
                for row in self._tasks[job.id]:
                    if room <= 0:
                        break
                    task = row.task
                    if task.state is TaskState.PENDING and task.not_before_ms <= now_ms:
                        row.token = secrets.token_hex(8)
                        row.task = _replace(task, state=TaskState.CLAIMED, worker=worker, attempt=task.attempt + 1)
                        claims.append(_claim_of(row))
                        room -= 1
        return claims

    def next_due_ms(self, pool: str) -> int | None:
        """See JobStore."""
        return min(
            (
                row.task.not_before_ms
                for job in self._jobs.values()
                if job.pool == pool and not job.held
                for row in self._tasks[job.id]
                if row.task.state is TaskState.PENDING
            ),
            default=None,
        )

    def finish(self, finishes: Sequence[Finish]) -> list[bool]:
        """See JobStore."""
        with self._lock:
            return [self._finish(finish) for finish in finishes]

    def _finish(self, finish: Finish) -> bool:
        attempt = finish.attempt
        row = self._current(attempt.ref, attempt.token)
        check_task(TaskState.CLAIMED, finish.state)
        if row is None:
            return False
        row.task = _replace(
            row.task,
            state=finish.state,
            tries=finish.tries,
            losses=finish.losses,
            origin=None if finish.state is TaskState.PENDING else attempt.ref,
            failure=attempt.failure,
            exit_code=attempt.exit_code,
            reason=attempt.reason,
            not_before_ms=finish.not_before_ms,
            memory_bytes=finish.memory_bytes,
        )
        row.token = ""
        self._attempts[attempt.ref] = attempt
        return True

    def release(self, claims: Sequence[Claim]) -> int:
        """See JobStore."""
        with self._lock:
            count = 0
            for claim in claims:
                row = self._current(claim.ref, claim.token)
                if row is not None:
                    row.task = _replace(row.task, state=TaskState.PENDING, worker="", attempt=row.task.attempt - 1)
                    row.token = ""
                    count += 1
            return count

    def _current(self, ref: AttemptRef, token: str) -> _Row | None:
        rows = self._tasks.get(ref.job, [])
        row = rows[ref.index - 1] if 1 <= ref.index <= len(rows) else None
        return row if row is not None and token and row.token == token else None

    def _claimed(self, worker: WorkerId) -> list[_Row]:
        jobs = sorted(self._jobs.values(), key=lambda job: job.sequence)
        return [row for job in jobs for row in self._tasks[job.id] if row.token and row.task.worker == worker]

    def held_tokens(self, worker: WorkerId) -> set[str]:
        """See JobStore."""
        return {row.token for row in self._claimed(worker)}

    def list_claims(self, worker: WorkerId) -> list[Claim]:
        """See JobStore."""
        return [_claim_of(row) for row in self._claimed(worker)]

    # Workers

    def enter_worker(self, worker: Worker) -> None:
        """See JobStore."""
        self._workers[worker.id] = worker

    def beat_worker(self, worker: WorkerId, *, waiting: bool) -> bool:
        """See JobStore."""
        with self._lock:
            row = self._workers.get(worker)
            if row is not None:
                self._workers[worker] = _replace(row, beat=row.beat + 1, waiting=waiting)
            return row is not None

    def leave_worker(self, worker: WorkerId) -> None:
        """See JobStore."""
        self._workers.pop(worker, None)

    def list_workers(self) -> list[Worker]:
        """See JobStore."""
        return sorted(self._workers.values(), key=lambda worker: worker.started_at_ms)

    def reserve(self, worker: WorkerId, *, cpu: float, memory_bytes: int, total_cpu: float, total_memory_bytes: int) -> bool:
        """See JobStore."""
        with self._lock:
            mine = self._workers.get(worker)
            if mine is None:
                return False
            others = [row for row in self._workers.values() if row.id != worker and row.process.host == mine.process.host]
            held_cpu, held_memory = sum(row.cpu for row in others), sum(row.memory_bytes for row in others)
            smaller = cpu <= mine.cpu + 1e-9 and memory_bytes <= mine.memory_bytes
            alone = held_cpu <= 1e-9 and held_memory == 0
            fits = held_cpu + cpu <= total_cpu + 1e-9 and held_memory + memory_bytes <= total_memory_bytes
            if smaller or alone or fits:
                self._workers[worker] = _replace(mine, cpu=cpu, memory_bytes=memory_bytes)
                return True
            return False


def _claim_of(row: _Row) -> Claim:
    task = row.task
    ref = AttemptRef(task.job, task.index, task.attempt)
    return Claim(ref, row.token, WorkerId(task.worker), row.spec, task.tries, task.losses, task.memory_bytes)


def _conforms(runs: MemoryRunStore, jobs: MemoryJobStore) -> tuple[RunStore, JobStore]:
    return runs, jobs
