"""Waiting for jobs: count, tell, look again when a hint came or it is time. May import ports and below.

What is recorded of a wait is a digest of (index, state, attempt) of every task, not the results: these are read from the job store.
So a replayed wait stands exactly as long as the job's outcome does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from sparkles import digest
from sparkles.engine.commands import Answer, Done, Raised, StepError, Wait, refused
from sparkles.engine.events import Noticed, Progressed, Report
from sparkles.engine.journal import Asking, Journal
from sparkles.errors import NotFound
from sparkles.model import Counts, Digest, JobId, Json, StepState, TaskState
from sparkles.ports import Clock, Content, FailureGroup, JobStore
from sparkles.units import plural

LEAST_PACE_S = 0.05
"""Hints arrive with every batch of commits (50 ms); counting more often shows nothing more."""

GREATEST_PACE_S = 0.5

SHOWN_EVERY_S = 2.0
"""With many waits at a time, how often each is counted just to be shown."""

FEW_WAITS = 8

COUNTING_SHARE = 0.05
"""At most this part of the driver's time goes into counting: 100,000 tasks take several milliseconds to count."""


def failure_sentence(store: JobStore, job_id: str, counts: Counts) -> str:
    """What went wrong with a job, in one sentence with the first failed task."""
    return sentence_of(job_id, counts, store.count_failures(job_id), lambda index: store.get_task(job_id, index).reason)


def sentence_of(job_id: str, counts: Counts, groups: Sequence[FailureGroup], reason: Callable[[int], str]) -> str:
    """As `failure_sentence`, of what is known of the job's failed tasks; `reason` gives one's."""
    parts = []
    for group in groups:
        code = f" {group.exit_code}" if group.failure == "exit" and group.exit_code is not None else ""
        parts.append(f"{group.failure}{code}: {group.count}")
    if counts.cancelled:
        parts.append(f"cancelled: {counts.cancelled}")
    bad = counts.failed + counts.cancelled
    verb = "failed" if counts.failed else "were cancelled" if bad > 1 else "was cancelled"
    sentence = f"job {job_id}: {bad} of {plural(counts.total, 'task')} {verb} ({', '.join(parts)})"
    if groups:
        first = min(group.example for group in groups)
        why = reason(first)
        sentence += f"; first: task {first}: {why}" if why else f"; first: task {first}"
    return sentence


def lost_outputs(store: JobStore, blobs: Content, job_id: str) -> tuple[list[int], set[Digest]]:
    """The tasks of a job that have outputs which are not stored any more, and the content of these."""
    if not store.get_job(job_id).spec.outputs:
        return [], set()
    outputs = store.list_outputs(job_id)
    gone = blobs.missing({each for digests in outputs.values() for each in digests})
    return [index for index, digests in outputs.items() if not gone.isdisjoint(digests)], gone


class WaitSteps:
    """`wait`, `waitAll` and the wait at a run's end."""

    def __init__(
        self,
        store: JobStore,
        blobs: Content,
        journal: Journal,
        clock: Clock,
        report: Report,
        serve: Callable[[], None],
        run: str,
        *,
        earlier: set[str],
        keep_failed: bool,
    ) -> None:
        """
        Args:
            serve: Sees to it that a worker is there.
            run: The owner of the jobs.
            earlier: The jobs that an earlier execution of the run created: their failed tasks are tried again once, when they are waited
                for anew.
            keep_failed: Not even then.
        """
        self._store = store
        self._blobs = blobs
        self._journal = journal
        self._clock = clock
        self._report = report
        self._serve = serve
        self._to_reset = set() if keep_failed else set(earlier)
        self._seen: set[str] = set()
        self._to_check = set(earlier)
        self._run = run
        self._open: set[str] = set()
        self._open_at = 0.0
        self._served_at = clock.monotonic()
        self.waits = 0

    def wait(self, strand: str, command: Wait) -> Answer | JobsWait:
        """-> {"jobs": [...]} (see commands.Wait)."""
        asking = self._journal.ask_for(strand, command)
        for job_id in command.jobs:
            try:
                self._store.get_job(job_id)
            except NotFound as error:
                return refused(error)
        self._make_again(command.jobs)
        replayed = self._journal.replayed(asking)
        if replayed is not None and asking.recorded is not None and asking.recorded.value is not None:
            if digest.parse(asking.recorded.value)["outcome"] == self._outcome(command.jobs):
                self._seen.update(command.jobs)
                return replayed if isinstance(replayed, Raised) else self._answer(asking, command, reused=True)
            if isinstance(replayed, Raised) and replayed.error.kind == "WaitTimeout":
                return replayed
            self._report(Noticed(text=f"{', '.join(command.jobs)} changed since this run waited for it; waiting again"))
        ended_run = asking.recorded is not None and asking.recorded.state is StepState.DONE and replayed is None
        self._reset(command.jobs, always=ended_run)
        self._journal.start(asking)
        return JobsWait(self, asking, command)

    def _reset(self, job_ids: tuple[str, ...], *, always: bool) -> None:
        """Lets failed tasks be tried again, once in an execution; not those whose outcome the script has been given already, except where
        the wait that is performed anew is what ended the run (`always`)."""
        for job_id in job_ids:
            if job_id in self._to_reset and (always or job_id not in self._seen):
                self._to_reset.discard(job_id)
                count = self._store.reset_tasks(job_id, {TaskState.FAILED, TaskState.CANCELLED})
                if count:
                    self._report(Noticed(text=f"{job_id}: {count} failed or cancelled tasks are tried again"))
                    self._serve()

    def _make_again(self, job_ids: tuple[str, ...]) -> None:
        """Tasks of earlier executions whose outputs are gone run again: what comes after this wait may need them. Looks at each job once,
        and only whether its content is there; whether it is what it was shows when it is used, and damaged content is gone from then on.
        """
        for job_id in job_ids:
            if job_id not in self._to_check:
                continue
            self._to_check.discard(job_id)
            lost, _ = lost_outputs(self._store, self._blobs, job_id)
            if lost and self._store.reset_tasks(job_id, {TaskState.SUCCEEDED}, lost):
                which = f"task {lost[0]}" if len(lost) == 1 else f"{len(lost)} tasks (the first is {lost[0]})"
                self._report(Noticed(text=f"{job_id}: outputs of {which} are not stored any more; they are made again"))
                self._serve()

    def _outcome(self, job_ids: tuple[str, ...]) -> list[str]:
        return [self._store.state_digest(job_id) for job_id in job_ids]

    def _answer(self, asking: Asking, command: Wait, *, reused: bool) -> Done:
        found = []
        for job_id in command.jobs:
            counts = self._store.count_tasks(job_id)
            if counts.failed or counts.cancelled:
                self._journal.failed(asking.key)
            found.append(
                {
                    "id": job_id,
                    "name": self._store.get_job(job_id).spec.name,
                    "count": counts.total,
                    "counts": counts.by_state(),
                }
            )
        return Done({"jobs": found}, reused=reused)

    def end(self, asking: Asking, command: Wait, counts: dict[str, Counts]) -> Done | Raised:
        """Records the outcome of jobs that are done."""
        outcome = self._outcome(command.jobs)
        bad = [job_id for job_id in command.jobs if counts[job_id].failed or counts[job_id].cancelled]
        if not bad or command.allow_failures:
            self._journal.finish(asking, {"outcome": outcome})
            return self._answer(asking, command, reused=False)
        job_id = bad[0]
        first = self._store.list_tasks(job_id, limit=10, states={TaskState.FAILED})
        message = "; ".join(failure_sentence(self._store, each, counts[each]) for each in bad)
        fields: dict[str, Json] = {"job": job_id, "failed": [task.index for task in first]}
        return self._journal.fail(asking, StepError(message, kind="JobFailed", fields=fields), outcome=outcome)

    def expire(self, asking: Asking, command: Wait) -> Raised:
        """Records that the time is over; the jobs go on."""
        message = f"wait: {', '.join(command.jobs)} did not end within {command.timeout_s:g} s"
        error = StepError(message, kind="WaitTimeout", fields={"job": command.jobs[0]})
        return self._journal.fail(asking, error, outcome=None)

    def count(self, job_id: str) -> Counts:
        """Counts a job that is being waited for."""
        return self._store.count_tasks(job_id)

    def unchanged(self, job_ids: Iterable[str]) -> bool:
        """Whether none of these jobs can have ended; with few waits each counts for itself, with many they share one question."""
        if self.waits <= FEW_WAITS:
            return False
        now = self._clock.monotonic()
        if now - self._open_at >= LEAST_PACE_S:
            self._open = self._store.list_open(self._run)
            self._open_at = now
        return self._open.issuperset(job_ids)

    def tell(self, job_id: str, counts: Counts) -> None:
        """Shows a count."""
        self._report(Progressed(job=job_id, counts=counts))

    def keep_served(self) -> None:
        """Called while tasks are pending or claimed: a worker that died is noticed and replaced. Does it now and then."""
        now = self._clock.monotonic()
        if now - self._served_at >= GREATEST_PACE_S:
            self._served_at = now
            self._serve()

    def clock(self) -> float:
        """Monotonic seconds."""
        return self._clock.monotonic()


class JobsWait:
    """A wait that is open (commands.Pending)."""

    def __init__(self, steps: WaitSteps, asking: Asking, command: Wait) -> None:
        self._steps = steps
        self._asking = asking
        self._command = command
        self._began = steps.clock()
        self._next = self._began
        self._early = False
        self._counts: dict[str, Counts] = {}
        self._told = self._began
        steps.waits += 1

    def poll(self) -> Done | Raised | None:
        """Counts the jobs that are not done yet, no more often than counting is cheap."""
        now = self._steps.clock()
        if now < self._next:
            self._early = True
            return None
        self._early = False
        open_jobs = [job_id for job_id in self._command.jobs if job_id not in self._counts or not self._counts[job_id].done]
        fresh = now - self._told < SHOWN_EVERY_S and bool(self._counts)
        if fresh and self._steps.unchanged(open_jobs):
            self._next = now + LEAST_PACE_S
            return self._expired(now)
        self._told = now
        for job_id in open_jobs:
            self._counts[job_id] = self._steps.count(JobId(job_id))
        # Whoever shows it may take its time, with the first drawing above all: that is not the price of counting.
        after = self._steps.clock()
        for job_id in open_jobs:
            self._steps.tell(job_id, self._counts[job_id])
        if all(counts.done for counts in self._counts.values()):
            self._steps.waits -= 1
            return self._steps.end(self._asking, self._command, self._counts)
        self._next = after + max(LEAST_PACE_S, min((after - now) / COUNTING_SHARE, 2.0))
        return self._expired(after)

    def _expired(self, now: float) -> Raised | None:
        """What is due while the jobs go on: a look at the worker, and the end of the time limit."""
        self._steps.keep_served()
        if self._command.timeout_s is not None and now - self._began >= self._command.timeout_s:
            self._steps.waits -= 1
            return self._steps.expire(self._asking, self._command)
        return None

    def stop(self) -> None:
        """The strand that waits is cancelled; the jobs go on."""
        self._steps.waits -= 1

    def due(self) -> float:
        """The end of the pace where a hint came too early; else the time at which to look without any hint."""
        soon = self._next if self._early else self._next + GREATEST_PACE_S
        if self._command.timeout_s is not None:
            return min(soon, self._began + self._command.timeout_s)
        return soon
