"""The JobStore in memory: the reference implementation, in plain dict code, of what the others must do. May import ports and below."""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from msgspec.structs import replace

from sparkles.backends import messages
from sparkles.backends.memory_workers import MemoryWorkers
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
    Task,
    TaskSpec,
    TaskState,
    Worker,
    WorkerId,
)
from sparkles.ports import FailureGroup, JobStore, Outcome
from sparkles.states import check_task


class MemoryJobStore(MemoryWorkers):
    """See ports.JobStore."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._sequence = 0
        self._jobs: dict[str, Job] = {}
        self._tasks: dict[str, dict[int, Task]] = {}
        self._specs: dict[str, dict[int, TaskSpec]] = {}
        self._tokens: dict[tuple[str, int], str] = {}
        self._started: set[str] = set()  # tokens
        self._attempts: dict[AttemptRef, Attempt] = {}
        self._offered: dict[Digest, dict[AttemptRef, None]] = {}
        self._workers: dict[str, Worker] = {}

    # Jobs

    def create_job(self, job: Job, tasks: Iterable[NewTask]) -> bool:
        """See ports.JobStore."""
        with self._lock:
            if job.id in self._jobs:
                return False
            new = {
                index: task if task.origin in self._attempts else replace(task, origin=None)
                for index, task in enumerate(tasks, 1)
            }
            rows = {}
            for index, task in new.items():
                kept = [ref.attempt for ref in self._attempts if (ref.job, ref.index) == (job.id, index)]
                rows[index] = Task(
                    job=job.id,
                    index=index,
                    state=TaskState.PENDING if task.origin is None else TaskState.SUCCEEDED,
                    fingerprint=task.fingerprint,
                    attempt=max(kept, default=0),
                    origin=task.origin,
                    exit_code=None if task.origin is None else 0,
                    name=task.spec.name,
                )
            self._sequence += 1
            self._jobs[job.id] = replace(job, sequence=self._sequence, count=len(new))
            self._tasks[job.id] = rows
            self._specs[job.id] = {index: task.spec for index, task in new.items()}
            return True

    def get_job(self, job_id: str) -> Job:
        """See ports.JobStore."""
        with self._lock:
            if job_id not in self._jobs:
                raise messages.no_job(job_id)
            return self._jobs[job_id]

    def list_jobs(self, *, owner: str | None = None, limit: int | None = None) -> list[Job]:
        """See ports.JobStore."""
        with self._lock:
            found = [job for job in self._jobs.values() if owner is None or job.owner == owner]
        return sorted(found, key=lambda job: -job.sequence)[:limit]

    def delete_jobs(self, job_ids: Collection[str]) -> list[AttemptRef]:
        """See ports.JobStore."""
        with self._lock:
            for job_id in sorted(self._jobs.keys() & set(job_ids), key=lambda each: self._jobs[each].sequence):
                claimed = [index for index, task in self._tasks[job_id].items() if task.state is TaskState.CLAIMED]
                if claimed:
                    raise messages.job_claimed(job_id, claimed[:5], len(claimed))
            kept = self.list_kept(job_ids)
            for job_id in job_ids:
                for rows in (self._jobs, self._tasks, self._specs):
                    rows.pop(job_id, None)
            for ref in [ref for ref in self._attempts if ref.job in job_ids and ref not in kept]:
                del self._attempts[ref]
                for offered in self._offered.values():
                    offered.pop(ref, None)  # a later job of this id may have an attempt of this number
            return kept

    def sweep_jobs(self, older_than_s: float) -> None:
        """See ports.JobStore."""

    def list_kept(self, job_ids: Collection[str]) -> list[AttemptRef]:
        """See ports.JobStore."""
        with self._lock:
            others = [rows for job_id, rows in self._tasks.items() if job_id not in job_ids]
            origins = {task.origin for rows in others for task in rows.values() if task.origin is not None}
            return sorted((ref for ref in origins if ref.job in job_ids), key=lambda ref: (ref.job, ref.index, ref.attempt))

    def set_held(self, job_ids: Collection[str], held: bool) -> None:
        """See ports.JobStore."""
        with self._lock:
            for job_id in self._jobs.keys() & set(job_ids):
                self._jobs[job_id] = replace(self._jobs[job_id], held=held)

    # Tasks

    def list_open(self, owner: str) -> set[str]:
        """See ports.JobStore."""
        return {job.id for job in self.list_jobs(owner=owner) if not self.count_tasks(job.id).done}

    def count_tasks(self, job_id: str) -> Counts:
        """See ports.JobStore."""
        tasks = self.list_tasks(job_id)
        states = Counter(str(task.state) for task in tasks)
        with self._lock:
            running = sum(self._tokens.get((job_id, task.index)) in self._started for task in tasks)
        return Counts(**states, reused=sum(task.reused for task in tasks), running=running)

    def count_failures(self, job_id: str) -> list[FailureGroup]:
        """See ports.JobStore."""
        groups: dict[tuple[FailureClass, int | None], list[int]] = {}
        for task in self.list_tasks(job_id, states=[TaskState.FAILED]):
            groups.setdefault((task.failure or FailureClass.EXIT, task.exit_code), []).append(task.index)
        found = [FailureGroup(failure, code, len(found), found[0]) for (failure, code), found in groups.items()]
        return sorted(found, key=lambda group: (-group.count, group.example))

    def get_task(self, job_id: str, index: int) -> Task:
        """See ports.JobStore."""
        with self._lock:
            job = self.get_job(job_id)
            if index not in self._tasks[job_id]:
                raise messages.no_task(job_id, index, job.count)
            return self._tasks[job_id][index]

    def get_spec(self, job_id: str, index: int) -> TaskSpec:
        """See ports.JobStore."""
        with self._lock:
            self.get_task(job_id, index)
            return self._specs[job_id][index]

    def list_tasks(
        self, job_id: str, *, first: int = 1, limit: int | None = None, states: Collection[TaskState] | None = None
    ) -> list[Task]:
        """See ports.JobStore."""
        with self._lock:
            self.get_job(job_id)
            rows = self._tasks[job_id].values()
            return [task for task in rows if task.index >= first and (states is None or task.state in states)][:limit]

    def list_outcomes(
        self, job_id: str, *, first: int = 1, limit: int | None = None, states: Collection[TaskState] | None = None
    ) -> list[Outcome]:
        """See ports.JobStore."""
        with self._lock:
            return [
                Outcome(task, self._specs[job_id][task.index].params, self._attempts.get(task.origin) if task.origin else None)
                for task in self.list_tasks(job_id, first=first, limit=limit, states=states)
            ]

    def state_digest(self, job_id: str) -> Digest:
        """See ports.JobStore."""
        # Indexes have no gaps: the place in the text is the index.
        lines = [f"{task.state}{task.attempt}" for task in self.list_tasks(job_id)]
        return Digest(hashlib.sha256("".join(lines).encode("ascii")).hexdigest())

    def find_reusable(self, fingerprints: Collection[Digest]) -> dict[Digest, Attempt]:
        """See ports.JobStore."""
        with self._lock:
            found = {}
            for fingerprint in fingerprints:
                offered = self._offered.get(fingerprint)
                if offered:
                    found[fingerprint] = self._attempts[next(reversed(offered))]
            return found

    def get_attempt(self, ref: AttemptRef) -> Attempt | None:
        """See ports.JobStore."""
        with self._lock:
            return self._attempts.get(ref)

    def list_attempts(self, job_id: str, index: int) -> list[Attempt]:
        """See ports.JobStore."""
        with self._lock:
            found = [attempt for ref, attempt in self._attempts.items() if (ref.job, ref.index) == (job_id, index)]
        return sorted(found, key=lambda attempt: attempt.ref.attempt)

    def list_outputs(self, job_id: str) -> dict[int, list[Digest]]:
        """See ports.JobStore."""
        found = {}
        for outcome in self.list_outcomes(job_id, states={TaskState.SUCCEEDED}):
            if outcome.attempt is not None and outcome.attempt.outputs:
                found[outcome.task.index] = [output.digest for output in outcome.attempt.outputs]
        return found

    def list_digests(self) -> set[Digest]:
        """See ports.JobStore."""
        with self._lock:
            inputs = {file.digest for specs in self._specs.values() for spec in specs.values() for file in spec.files}
            return inputs | {output.digest for attempt in self._attempts.values() for output in attempt.outputs}

    def kill_tasks(self, job_id: str, indexes: Collection[int] | None = None) -> int:
        """See ports.JobStore."""
        return self._cancel(job_id, (TaskState.PENDING, TaskState.CLAIMED), messages.KILLED, indexes)

    def _cancel(self, job_id: str, states: Collection[TaskState], reason: str, indexes: Collection[int] | None) -> int:
        with self._lock:
            tasks = [t for t in self.list_tasks(job_id, states=states) if indexes is None or t.index in indexes]
            for task in tasks:
                self._tokens.pop((job_id, task.index), None)
                self._tasks[job_id][task.index] = replace(
                    task,
                    state=TaskState.CANCELLED,
                    failure=FailureClass.CANCELLED,
                    exit_code=None,
                    reason=reason,
                    not_before_ms=0,
                )
            return len(tasks)

    def reset_tasks(self, job_id: str, states: Collection[TaskState], indexes: Collection[int] | None = None) -> int:
        """See ports.JobStore."""
        ended = {TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED} & set(states)
        with self._lock:
            tasks = [t for t in self.list_tasks(job_id, states=ended) if indexes is None or t.index in indexes]
            for task in tasks:
                self._tasks[job_id][task.index] = Task(
                    job=task.job,
                    index=task.index,
                    state=TaskState.PENDING,
                    fingerprint=task.fingerprint,
                    attempt=task.attempt,
                    name=task.name,
                )
            return len(tasks)

    # Claims

    def claim(self, worker: WorkerId, *, pool: str, limit: int, now_ms: int) -> list[Claim]:
        """See ports.JobStore."""
        claims: list[Claim] = []
        with self._lock:
            if worker not in self._workers:
                return []
            for job in self._served(pool):
                tasks = self._tasks[job.id].values()
                room = limit - len(claims)
                if job.spec.parallelism is not None:
                    room = min(room, job.spec.parallelism - sum(task.state is TaskState.CLAIMED for task in tasks))
                ready = [task for task in tasks if task.state is TaskState.PENDING and task.not_before_ms <= now_ms]
                for task in ready[: max(0, room)]:
                    token = self._tokens[job.id, task.index] = secrets.token_hex(12)
                    self._tasks[job.id][task.index] = replace(
                        task, state=TaskState.CLAIMED, attempt=task.attempt + 1, worker=worker
                    )
                    claims.append(self._claim_of(self._tasks[job.id][task.index], token))
        return claims

    def next_due_ms(self, pool: str) -> int | None:
        """See ports.JobStore."""
        with self._lock:
            pending = [
                task.not_before_ms
                for job in self._served(pool)
                for task in self._tasks[job.id].values()
                if task.state is TaskState.PENDING
            ]
        return min(pending, default=None)

    def finish(self, finishes: Sequence[Finish], started: Sequence[Claim] = ()) -> list[bool]:
        """See ports.JobStore."""
        with self._lock:
            accepted = [self._finish(finish) for finish in finishes]
            self._started.update(each.token for each in started if self._is_current(each.ref, each.token))
            for finish, done in zip(finishes, accepted, strict=True):
                if done and finish.state in (TaskState.FAILED, TaskState.PENDING):
                    self._limit_failures(finish.attempt.ref.job)
            return accepted

    def _limit_failures(self, job_id: str) -> None:
        """Cancels what is pending where the job has more failures than it may."""
        limit = self._jobs[job_id].spec.max_failures
        failed = self.count_tasks(job_id).failed
        if limit is not None and failed > limit:
            self._cancel(job_id, (TaskState.PENDING,), messages.too_many_failures(failed, limit), None)

    def _finish(self, finish: Finish) -> bool:
        attempt, ref = finish.attempt, finish.attempt.ref
        check_task(TaskState.CLAIMED, finish.state)
        if not self._is_current(ref, attempt.token):
            return False
        del self._tokens[ref.job, ref.index]
        self._started.discard(attempt.token)
        task = self._tasks[ref.job][ref.index]
        again = finish.state is TaskState.PENDING
        self._tasks[ref.job][ref.index] = replace(
            task,
            state=finish.state,
            tries=finish.tries,
            losses=finish.losses,
            origin=None if again else ref,
            failure=attempt.failure,
            exit_code=attempt.exit_code,
            reason=attempt.reason,
            worker="" if again else attempt.worker,
            not_before_ms=max(0, finish.not_before_ms) if again else 0,
            memory_bytes=task.memory_bytes if finish.memory_bytes is None else finish.memory_bytes,
        )
        self._attempts[ref] = attempt
        if finish.state is TaskState.SUCCEEDED:
            self._offered.setdefault(task.fingerprint, {})[ref] = None
        return True

    def release(self, claims: Sequence[Claim]) -> int:
        """See ports.JobStore."""
        with self._lock:
            count = 0
            for claim in claims:
                if self._is_current(claim.ref, claim.token):
                    job_id, index = claim.ref.job, claim.ref.index
                    del self._tokens[job_id, index]
                    task = self._tasks[job_id][index]
                    self._tasks[job_id][index] = replace(task, state=TaskState.PENDING, attempt=task.attempt - 1, worker="")
                    count += 1
                    self._limit_failures(job_id)
            return count

    def held_tokens(self, worker: WorkerId) -> set[str]:
        """See ports.JobStore."""
        return {claim.token for claim in self.list_claims(worker)}

    def list_claims(self, worker: WorkerId) -> list[Claim]:
        """See ports.JobStore."""
        with self._lock:
            return [
                self._claim_of(task, self._tokens[job_id, index])
                for job_id, tasks in self._tasks.items()
                for index, task in tasks.items()
                if task.state is TaskState.CLAIMED and task.worker == worker
            ]

    def _served(self, pool: str) -> list[Job]:
        jobs = [job for job in self._jobs.values() if job.pool == pool and not job.held]
        return sorted(jobs, key=lambda job: (-job.spec.priority, job.sequence))

    def _is_current(self, ref: AttemptRef, token: str) -> bool:
        if self._tokens.get((ref.job, ref.index)) != token:
            return False
        return self._tasks[ref.job][ref.index].attempt == ref.attempt

    def _claim_of(self, task: Task, token: str) -> Claim:
        return Claim(
            ref=AttemptRef(task.job, task.index, task.attempt),
            token=token,
            worker=WorkerId(task.worker),
            spec=self._specs[task.job][task.index],
            tries=task.tries,
            losses=task.losses,
            memory_bytes=task.memory_bytes,
        )


_STORE: JobStore = MemoryJobStore()
