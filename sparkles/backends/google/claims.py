"""The JobStore's claims in Datastore (docs/wire.md, "To claim"). May import shards, workers, definitions and wire.

Surprise: a job with `parallelism` is counted before and after a claim. Of any group that claims at once, the last to commit sees all the
others, so no more than allowed ever start; two that meet may both give back, and try again a moment later.
"""

from __future__ import annotations

import random
import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from msgspec.structs import replace

from sparkles import digest
from sparkles.backends import messages
from sparkles.backends.google import names, shard
from sparkles.backends.google.bucket import Bucket
from sparkles.backends.google.definitions import Definitions
from sparkles.backends.google.shards import Shards, Stored, failed
from sparkles.backends.google.workers import Workers
from sparkles.model import AttemptRef, Claim, Finish, TaskState, WorkerId
from sparkles.states import check_task
from sparkles.wire import JobDocument, ShardDocument

_LEAST_PAUSE_S, _MOST_PAUSE_S = 0.05, 2.0
_LOOKED_AT = 4
"""Shards that one query asks for: a claim that loses a race has others at hand."""


class Claims:
    """The part of ports.JobStore that is the queue."""

    def __init__(
        self,
        shards: Shards,
        workers: Workers,
        definitions: Definitions,
        bucket: Bucket,
        find_job: Callable[[str], JobDocument | None],
        ahead_ms: Callable[[], int] = lambda: 0,
    ) -> None:
        """`find_job` gives a job's document as it is now, or None; `ahead_ms` is as the Datastore's."""
        self._ahead_ms = ahead_ms
        self._shards, self._workers, self._definitions, self._bucket = shards, workers, definitions, bucket
        self._find_job = find_job

    def claim(self, worker: WorkerId, *, pool: str, limit: int, now_ms: int) -> list[Claim]:
        """See ports.JobStore; within one priority and job the shard is chosen by chance, the lowest indexes in it first."""
        claims: list[Claim] = []
        if limit < 1 or self._workers.get_worker(worker) is None:
            return claims
        line = self._shards.first_in_line(pool)
        while line is not None and len(claims) < limit:
            claims += self._claim_in_line(line, worker, limit - len(claims), now_ms)
            line = self._shards.first_in_line(pool, after=line)
        return claims

    def _claim_in_line(self, line: str, worker: WorkerId, limit: int, now_ms: int) -> list[Claim]:
        """Claims in the shards of one job."""
        claims: list[Claim] = []
        passed: set[str] = set()
        pause = _LEAST_PAUSE_S
        job: JobDocument | None = None
        while len(claims) < limit:
            found = [
                each
                for each in self._shards.at(line, _random_key(), _LOOKED_AT + len(passed))
                if each.entity.name not in passed
            ]
            if not found:
                break
            lost = False
            for stored in found:
                if job is None or job.job.id != stored.document.job:
                    job = self._find_job(stored.document.job)
                if job is None or job.job.held:
                    return claims
                room = self._room(job, limit - len(claims))
                if room < 1:
                    return claims
                got = self._claim_in(stored, job, worker, room, now_ms)
                if got is None:
                    lost = True
                    continue
                passed.add(stored.entity.name)
                claims += got
                if len(claims) == limit:
                    break
            if lost:
                time.sleep(random.uniform(0, pause))  # noqa: S311 - a pause, no secret
                pause = min(2 * pause, _MOST_PAUSE_S)
        return claims

    def _claim_in(self, stored: Stored, job: JobDocument, worker: WorkerId, limit: int, now_ms: int) -> list[Claim] | None:
        """Claims in one shard; None where somebody else wrote to it meanwhile."""
        tokens = [secrets.token_hex(12) for _ in range(limit)]
        after, taken = shard.claim(stored.document, worker, tokens, now_ms + self._ahead_ms())
        if not taken:
            return []
        if not self._shards.try_write(stored, after):
            return None
        claims = [self._claim_of(job, after, index) for index in taken]
        if job.job.spec.parallelism is None:
            return claims
        over = self._claimed(job) - job.job.spec.parallelism
        if over > 0:
            self.release(claims[-over:])
            claims = claims[:-over]
        return claims

    def _room(self, job: JobDocument, wanted: int) -> int:
        parallelism = job.job.spec.parallelism
        return wanted if parallelism is None else min(wanted, parallelism - self._claimed(job))

    def _claimed(self, job: JobDocument) -> int:
        shards = self._shards.of_job(job)
        return sum(task.state is TaskState.CLAIMED for each in shards for task in each.document.tasks)

    def next_due_ms(self, pool: str) -> int | None:
        """See ports.JobStore."""
        due: int | None = None
        line = self._shards.first_in_line(pool)
        while line is not None:
            for stored in self._shards.at(line, "", 100):
                job = self._find_job(stored.document.job)
                if job is None or job.job.held:
                    break
                pending = [task.not_before_ms for task in stored.document.tasks if task.state is TaskState.PENDING]
                due = min([*pending, *([due] if due is not None else [])])
                if due == 0:
                    return due
            line = self._shards.first_in_line(pool, after=line)
        return None if due is None else max(0, due - self._ahead_ms())

    def finish(self, finishes: Sequence[Finish], started: Sequence[Claim] = ()) -> list[bool]:
        """See ports.JobStore; one commit for each shard. The records' result.json are written first where they are not there."""
        for finish in finishes:
            check_task(TaskState.CLAIMED, finish.state)
        ahead_ms = self._ahead_ms()
        finishes = [
            replace(each, not_before_ms=each.not_before_ms + ahead_ms) if each.not_before_ms else each for each in finishes
        ]
        groups: dict[tuple[str, int], tuple[list[int], list[tuple[AttemptRef, str]]]] = defaultdict(lambda: ([], []))
        sizes: dict[str, JobDocument | None] = {}

        def place(ref: AttemptRef) -> tuple[str, int] | None:
            if ref.job not in sizes:
                sizes[ref.job] = self._find_job(ref.job)
            job = sizes[ref.job]
            return None if job is None or ref.index < 1 else (ref.job, (ref.index - 1) // job.shard_size)

        for at, finish in enumerate(finishes):
            where = place(finish.attempt.ref)
            if where is not None:
                groups[where][0].append(at)
        for claim in started:
            where = place(claim.ref)
            if where is not None:
                groups[where][1].append((claim.ref, claim.token))
        accepted = [False] * len(finishes)
        stored = {(each.document.job, each.document.number): each for each in self._shards.get_many(list(groups))}
        limited: set[str] = set()
        for where, (places, marks) in groups.items():
            if where not in stored:
                continue
            mine = [finishes[at] for at in places]
            self._write_records(stored[where].document, mine)
            answer = self._shards.change(
                stored[where], partial(shard.finish, finishes=mine, started=marks), [False] * len(mine)
            )
            for at, done in zip(places, answer, strict=True):
                accepted[at] = done
                if done and finishes[at].state in (TaskState.FAILED, TaskState.PENDING):
                    limited.add(where[0])
        for job_id in limited:
            self._limit_failures(sizes[job_id])
        return accepted

    def _write_records(self, document: ShardDocument, finishes: Iterable[Finish]) -> None:
        for finish in finishes:
            attempt = finish.attempt
            place = attempt.ref.index - document.first
            if 0 <= place < len(document.tasks) and document.tasks[place].token == attempt.token != "":
                name = names.attempt(attempt.ref, "result.json")
                self._bucket.put(name, digest.encode_value(attempt), absent=True)

    def release(self, claims: Sequence[Claim]) -> int:
        """See ports.JobStore."""
        count = 0
        groups: dict[tuple[str, int], list[tuple[AttemptRef, str]]] = defaultdict(list)
        jobs: dict[str, JobDocument] = {}
        for claim in claims:
            job = jobs.get(claim.ref.job) or self._find_job(claim.ref.job)
            if job is not None and claim.ref.index > 0:
                jobs[claim.ref.job] = job
                groups[claim.ref.job, (claim.ref.index - 1) // job.shard_size].append((claim.ref, claim.token))
        for stored in self._shards.get_many(list(groups)):
            mine = groups[stored.document.job, stored.document.number]
            count += self._shards.change(stored, partial(shard.release, claims=mine), 0)
        for job in jobs.values():
            self._limit_failures(job)
        return count

    def _limit_failures(self, job: JobDocument | None) -> None:
        """Cancels what is pending where the job has more failures than it may."""
        if job is None or job.job.spec.max_failures is None:
            return
        shards = self._shards.of_job(job)
        count = failed(each.document for each in shards)
        if count <= job.job.spec.max_failures:
            return
        reason = messages.too_many_failures(count, job.job.spec.max_failures)
        for stored in shards:
            if shard.claimable(stored.document) is not None:
                self._shards.change(stored, lambda document: shard.cancel(document, (TaskState.PENDING,), reason), 0)

    def held_tokens(self, worker: WorkerId) -> set[str]:
        """See ports.JobStore."""
        return {document.tasks[index - document.first].token for document, index in self._workers.claims_of({worker})}

    def list_claims(self, worker: WorkerId) -> list[Claim]:
        """See ports.JobStore."""
        claims = []
        for document, index in self._workers.claims_of({worker}):
            job = self._find_job(document.job)
            if job is not None:
                claims.append(self._claim_of(job, document, index))
        return sorted(claims, key=lambda claim: (claim.ref.job, claim.ref.index))

    def _claim_of(self, job: JobDocument, document: ShardDocument, index: int) -> Claim:
        task = document.tasks[index - document.first]
        return Claim(
            ref=AttemptRef(document.job, index, task.attempt),
            token=task.token,
            worker=WorkerId(task.worker),
            spec=self._definitions.row(job, index).spec,
            tries=task.tries,
            losses=task.losses,
            memory_bytes=task.memory_bytes,
        )


def _random_key() -> str:
    """A key name somewhere among those of shards."""
    return f"{secrets.randbits(32):08x}"
