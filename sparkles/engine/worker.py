"""The local worker's loop: claim, start, heartbeat, finish. The twin of the cluster worker: same words, same outcomes. May import ports.

One thread, one wait. Everything it knows is in the JobStore or is found again there: killed at any moment, it leaves claims with tokens
and attempts' folders from which `backends/local/recovery.py` decides. A worker knows no run and no script. Surprise: the next program
is started before the last one's files are looked after, so that the processor never waits for book-keeping.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from functools import partial

import msgspec

from sparkles.engine import attempt as files
from sparkles.engine import capacity, outputs, retry
from sparkles.engine.attempt import AttemptFailed, Plan
from sparkles.engine.capacity import Amount
from sparkles.engine.crew import Crew
from sparkles.engine.records import HeldTask, Records
from sparkles.engine.reservation import Reservation
from sparkles.engine.runner import Ended, Launch, Runner, StartFailed
from sparkles.errors import BackendError, NotFound, StorageFull
from sparkles.model import Attempt, Claim, FailureClass, Finish, TaskState
from sparkles.model import Worker as WorkerRow
from sparkles.ports import Clock, JobStore, Notifier, Workspace

BATCH = 32
MOST_RUNNING = 400
"""Programs at once, whatever they ask for: each holds a descriptor, and 1024 is the usual limit."""
_CREW = 4
_PLANS = 64
_RETRY_S = 0.5
NEVER = float("inf")


class Mode(Enum):
    SERVING = 1
    DRAINING = 2
    STOPPING = 3


class Pace(msgspec.Struct, frozen=True):
    """How often, in seconds: heartbeats; commits; looks at an empty queue without a hint; looks at what a hint may mean; turns, where
    there are more workers than cores."""

    beat_s: float = 1.0
    commit_s: float = 0.05
    poll_s: float = 1.0
    look_s: float = 0.1
    turn_s: float = 1.0


class Worker:
    """Serves one pool until it is told to leave, or with `until_empty` until nothing is pending."""

    def __init__(
        self,
        row: WorkerRow,
        *,
        jobs: JobStore,
        blobs: Workspace,
        notifier: Notifier,
        clock: Clock,
        runner: Runner,
        total: Amount,
        environ: Mapping[bytes, bytes],
        pace: Pace | None = None,
        until_empty: bool = False,
        driver_fd: int | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        """`total` is what the machine offers to all its workers. `driver_fd` is the reading end of a pipe whose end of file means that the
        driver is gone. `say` gets lines for the worker's own log."""
        self.mode = Mode.SERVING
        self._row = row
        self._jobs, self._blobs, self._notifier, self._clock, self._runner = jobs, blobs, notifier, clock, runner
        self._environ = environ
        self._pace = pace or Pace()
        self._until_empty = until_empty
        self._driver_fd = driver_fd
        self._say = say
        self._crew = Crew(_CREW)
        self._records = Records(row.id, blobs, clock)
        self._reservation = Reservation(jobs, row.id, total, retry_s=self._pace.look_s, turn_s=self._pace.turn_s)
        self._plans: dict[str, Plan] = {}
        self._queue: deque[Claim] = deque()
        self._running: dict[int, HeldTask] = {}
        self._busy: dict[str, HeldTask] = {}  # by token: with the crew, before or after their program
        self._finishes: list[Finish] = []
        self._failed: dict[str, int] = {}  # failed tasks of jobs that may have so many, as far as known here
        self._scratches: list[str] = []  # folders of the attempts in `_finishes`: their scratch directories go after the sweep
        self._spares: list[str] = []  # scratch directories that are as good as new
        self._typical_cpu = 1.0  # of the last task started: what the next is expected to take
        self._mean_s: float | None = None
        self._short = False  # the last claim brought less than it asked for
        self._told_waiting = False
        self._hinted = False
        self._gone = False
        self._full = False  # the store has no space: nothing is started until it has
        now = clock.monotonic()
        self._next_beat = now + self._pace.beat_s
        self._next_claim = self._next_look = self._told_at = now
        self._commit_at = self._tell_at = NEVER

    # Called from signal handlers too: they set the mode, and the loop acts on it.

    def drain(self) -> None:
        """No new tasks; what runs is finished and recorded; then `run` returns."""
        if self.mode is Mode.SERVING:
            self.mode = Mode.DRAINING

    def stop(self) -> None:
        """Running programs are ended, their tasks go back to pending; then `run` returns."""
        self.mode = Mode.STOPPING

    def interrupt(self) -> None:
        """Ctrl-C: the first drains, the second stops."""
        self.mode = Mode.DRAINING if self.mode is Mode.SERVING else Mode.STOPPING

    def run(self) -> None:
        """Serves until it is over.

        Raises:
            BackendError: The store failed for good. Programs are ended; recovery finds the claims.
        """
        runner = self._runner
        hint_fd, crew_fd = self._notifier.fileno(), self._crew.fileno()
        self._jobs.enter_worker(self._row)
        try:
            if hint_fd >= 0:
                runner.watch(hint_fd)
            runner.watch(crew_fd)
            if self._driver_fd is not None and not runner.watch(self._driver_fd):
                self._driver_fd = None
            self._fill()
            while not self._over():
                ended, ready = runner.wait(self._pause(hint_fd))
                for each in ended:
                    self._free(each)
                if self._failed:
                    ended = self._limited_first(ended)
                if hint_fd < 0 or hint_fd in ready:
                    self._hinted = self._notifier.wait(0.0) or self._hinted
                if self.mode is Mode.SERVING and not self._full:
                    self._bearing(self._start_queued, "starting")
                for each in ended:
                    self._ended(each)
                if ready:
                    if crew_fd in ready:
                        self._handed_back()
                    if self._driver_fd is not None and self._driver_fd in ready:
                        self._listen(self._driver_fd)
                if self.mode is Mode.SERVING and not self._full:
                    self._bearing(self._fill, "claiming")
                self._bearing(self._keep_time, "keeping time")
            if not self._gone:
                self._jobs.leave_worker(self._row.id)
            self._notifier.notify()
        finally:
            runner.close()
            self._crew.close()
            for spare in self._spares:
                files.remove_scratch(os.path.dirname(spare))

    # The clock

    def _over(self) -> bool:
        """Whether to leave; records what is left to record first."""
        if self._running or self._busy:
            return False
        if self._finishes:
            self._commit()
        if self._finishes or self._queue:
            return False
        if self.mode is not Mode.SERVING:
            return True
        if not self._until_empty or self._next_claim <= self._clock.monotonic():
            return False
        return self._jobs.next_due_ms(self._row.pool) is None

    def _pause(self, hint_fd: int) -> float:
        """How long to wait at most: until the next thing that this worker does by itself."""
        until = min(self._next_beat, self._commit_at, self._tell_at)
        if self.mode is Mode.SERVING and not self._full:
            if not self._queue:
                if self._next_claim > self._clock.monotonic():
                    until = min(until, self._next_claim)
                elif self._claimable() > 0:
                    return 0.0
                # Else every slot is taken: the end of a program wakes the loop.
            if self._reservation.waiting:
                until = min(until, self._reservation.retry_at)
        if self._hinted:
            until = min(until, self._next_look)
        pause = until - self._clock.monotonic()
        if hint_fd < 0:
            pause = min(pause, self._pace.look_s)
        return max(0.0, pause)

    def _keep_time(self) -> None:
        """What is due, or worth doing while nothing else is."""
        now = self._clock.monotonic()
        idle = not (self._running or self._busy or self._queue)
        if now >= self._commit_at or (idle and self._finishes and self._commit_at < now + self._pace.commit_s):
            self._commit()
        if now >= self._next_beat:
            self._beat()
            self._look()
        elif self._hinted and now >= self._next_look:
            self._look()
        if self.mode is not Mode.SERVING:
            self._leave_off()
        reservation = self._reservation
        reservation.settle(bool(self._queue), idle and self._next_claim > now)
        if reservation.waiting != self._told_waiting:
            self._beat()
            self._tell_soon()
        if reservation.freed:
            reservation.freed = False
            self._tell_soon()
        if self._clock.monotonic() >= self._tell_at:
            self._tell_at = NEVER
            self._told_at = now
            self._notifier.notify()

    def _tell_soon(self) -> None:
        """A hint to others, at once where the last one was some time ago."""
        self._tell_at = min(self._tell_at, self._told_at + self._pace.commit_s)

    def _listen(self, driver_fd: int) -> None:
        """The driver's pipe says nothing but that the driver is gone."""
        if not os.read(driver_fd, 4096):
            self._runner.unwatch(driver_fd)
            self._driver_fd = None
            self._say("the driver is gone: what runs is finished, nothing new is started")
            self.drain()

    def _beat(self) -> None:
        self._next_beat = self._clock.monotonic() + self._pace.beat_s
        if self._gone:
            return
        waiting = self._reservation.waiting
        try:
            alive = self._jobs.beat_worker(self._row.id, waiting=waiting)
        except BackendError as error:
            self._bear(error, "heartbeat")
            return
        self._full = False
        self._told_waiting = waiting
        if not alive:
            # Its tasks were given to others: what it still sends is refused by token, and what is not refused goes back to pending.
            self._say("this worker's row is gone: another process took it for dead; its programs are ended")
            self._gone = True
            self.mode = Mode.STOPPING

    def _bear(self, error: BackendError, what: str) -> None:
        """Goes on where trying again can help: the next time is soon. Raises the error where not.

        A full store is borne for what runs and for what cannot be left in a result.json; else the worker leaves, so that its driver says
        so: recovery records what it left.
        """
        if isinstance(error, StorageFull):
            if not (self._running or self._busy or self._scratches or self._records.unwritten):
                raise error
            self._full = True
        elif not error.retryable:
            raise error
        self._say(f"{what}: {error}")

    def _bearing(self, act: Callable[[], None], what: str) -> None:
        """Does what needs the store; where that is busy or full, tries again soon: programs that run are not to suffer for it."""
        try:
            act()
        except BackendError as error:
            self._bear(error, what)
            self._next_claim = max(self._next_claim, self._clock.monotonic() + _RETRY_S)

    def _look(self) -> None:
        """After a hint and with each heartbeat: ends what was taken away, learns whether others wait for capacity."""
        now = self._clock.monotonic()
        self._next_look = now + self._pace.look_s
        if self._hinted:
            self._hinted = False
            self._next_claim = min(self._next_claim, now)
            self._reservation.retry_at = min(self._reservation.retry_at, now)
        if self._gone:
            return
        if self._queue or self._running or self._busy:
            held = self._jobs.held_tokens(self._row.id)
            for task in [*self._running.values(), *self._busy.values()]:
                if task.claim.token not in held:
                    self._end(task, FailureClass.CANCELLED)
            if any(claim.token not in held for claim in self._queue):
                self._requeue(claim for claim in self._queue if claim.token in held)
            # Tasks of a job may fail elsewhere too.
            for job in {claim.ref.job for claim in self._queue} & self._failed.keys():
                self._limit_failures(job)
        self._reservation.look()

    def _leave_off(self) -> None:
        """Draining or stopping: gives back what was not started; when stopping ends what runs."""
        if self._queue:
            self._jobs.release(list(self._queue))
            self._queue.clear()
            self._tell_soon()
        if self.mode is Mode.STOPPING:
            for task in [*self._running.values(), *self._busy.values()]:
                self._end(task, FailureClass.PREEMPTED)

    def _end(self, task: HeldTask, why: FailureClass) -> None:
        if task.why is None:
            task.why = why
            if task.handle:
                self._runner.end(task.handle)

    # Claims

    def _fill(self) -> None:
        """Claims and starts as much as fits."""
        self._start_queued()
        if self._claimable() <= 0:
            return
        if self._finishes:
            self._commit()  # a job at its parallelism has room only once the ends of its tasks are recorded
        limit = self._claimable()
        if limit <= 0:
            return
        claims = self._jobs.claim(self._row.id, pool=self._row.pool, limit=limit, now_ms=self._clock.now_ms())
        self._short = len(claims) < limit
        if self._short:
            self._next_claim = self._clock.monotonic() + self._idle_s()
        if claims:
            self._queue.extend(claims)
            self._start_queued()

    def _claimable(self) -> int:
        """How many tasks to claim now: what could start, and some ahead."""
        if self._clock.monotonic() < self._next_claim and not (self._short and self._finishes and not self._queue):
            return 0
        reservation = self._reservation
        offered = reservation.held.cpu if reservation.waiting else reservation.total.cpu
        typical = self._typical_cpu
        slots = min(MOST_RUNNING, int((offered + 1e-9) / typical)) if typical > 0 else MOST_RUNNING
        free = slots - len(self._running) - len(self._busy)
        target = max(0, free) + capacity.claims_ahead(slots, self._mean_s, BATCH)
        if not self._running and not self._busy:
            target = max(1, target)
        return target - len(self._queue) if 2 * len(self._queue) < target else 0

    def _idle_s(self) -> float:
        """How long to leave an empty queue alone without a hint: until a task's back-off is over, the poll interval at most."""
        due = self._jobs.next_due_ms(self._row.pool)
        if due is None:
            return self._pace.poll_s
        wait_s = (due - self._clock.now_ms()) / 1000 + 0.001
        # In the past, it is held back by its job's parallelism: this worker's own commits or a hint say when to look again.
        return min(self._pace.poll_s, wait_s) if wait_s > 0 else self._pace.poll_s

    def _start_queued(self) -> None:
        """Starts claims in order while they fit. One that does not fit is not overtaken: a large task would wait for ever."""
        queue = self._queue
        while queue and len(self._running) + len(self._busy) < MOST_RUNNING:
            claim = queue[0]
            plan = self._plan(claim)
            if plan.spec.max_failures is not None and not self._may_start(claim.ref.job, plan.spec.max_failures):
                if queue and queue[0] is claim:
                    return
                continue
            resources = claim.spec.resources or plan.spec.resources
            need = capacity.needed(resources, claim.memory_bytes)
            total = self._reservation.total
            problem = plan.problem or capacity.too_large(need, resources.gpu, total)
            if not problem:
                demand = (self._need(each) for each in queue)
                if not self._reservation.room(need, demand, self._clock.monotonic()):
                    return
                self._typical_cpu = need.cpu
            queue.popleft()
            self._start(claim, plan, need, problem)

    def _requeue(self, claims: Iterable[Claim]) -> None:
        """Replaces the queue's content: the queue itself stays, `_start_queued` is going through it."""
        kept = list(claims)
        self._queue.clear()
        self._queue.extend(kept)

    def _need(self, claim: Claim) -> Amount:
        return capacity.needed(claim.spec.resources or self._plan(claim).spec.resources, claim.memory_bytes)

    def _plan(self, claim: Claim) -> Plan:
        job = claim.ref.job
        plan = self._plans.get(job)
        if plan is None:
            if len(self._plans) >= _PLANS:
                self._plans.clear()
            plan = self._plans[job] = Plan(self._jobs.get_job(job).spec, job, self._row.id, self._environ)
            if plan.spec.max_failures is not None and job not in self._failed:
                self._failed[job] = self._jobs.count_tasks(job).failed
        return plan

    # One task

    def _start(self, claim: Claim, plan: Plan, need: Amount, problem: str) -> None:
        task = HeldTask(claim, plan, need, os.fspath(self._blobs.folder(claim.ref)), self._clock.now_ms())
        self._reservation.take(need)
        if problem:
            self._not_started(task, AttemptFailed(FailureClass.CONFIG, problem))
        elif claim.spec.files:
            self._busy[claim.token] = task
            self._crew.submit(task, lambda: self._stage(task))
        else:
            try:
                files.create_folder(task.folder, claim, self._spares)
                self._launch(task, files.create_log(task.folder))
            except OSError as error:
                self._not_started(task, files.failed_call(error, "the attempt's folder could not be made"))

    def _stage(self, task: HeldTask) -> int:
        """In the crew: the folder and the inputs. Returns the log's descriptor. Raises AttemptFailed or OSError."""
        files.create_folder(task.folder, task.claim, [])
        files.place_inputs(task.claim, task.folder, self._blobs)
        return files.create_log(task.folder)

    def _launch(self, task: HeldTask, log_fd: int) -> None:
        """Starts the program; `log_fd` is closed in any case."""
        claim, plan = task.claim, task.plan
        try:
            launch = Launch(
                files.arguments(claim, task.folder),
                plan.environment(claim, task.folder),
                os.fsencode(files.working_directory(plan, task.folder)),
                log_fd,
                claim.token,
                plan.spec.timeout_s,
                task.need.memory or None,
            )
            task.handle = self._runner.start(launch)
            self._running[task.handle] = task
            self._commit_soon()
        except AttemptFailed as failed:
            self._not_started(task, failed)
        except StartFailed as failed:
            files.append_log(log_fd, f"sparkles: {failed.reason}\n")
            failure = FailureClass.EXIT if failed.code else FailureClass.STAGING
            self._not_started(task, AttemptFailed(failure, failed.reason), failed.code or None)
        except OSError as error:
            self._not_started(task, files.failed_call(error, "the program could not be started"))
        finally:
            os.close(log_fd)

    def _not_started(self, task: HeldTask, failed: AttemptFailed, exit_code: int | None = None) -> None:
        """The attempt fails without a program having run."""
        self._reservation.give(task.need)
        self._keep(task, self._records.record(task, failed.failure, failed.reason, exit_code=exit_code))

    def _free(self, ended: Ended) -> None:
        """A program is gone: what it used can be used."""
        self._reservation.give(self._running[ended.handle].need)
        self._mean_s = ended.seconds if self._mean_s is None else 0.8 * self._mean_s + 0.2 * ended.seconds

    def _ended(self, ended: Ended) -> None:
        """Looks after what a program left: here, or by the crew where files have to be read."""
        task = self._running.pop(ended.handle)
        succeeded = ended.exit_code == 0 and task.why is None
        full = ended.exit_code != 0 and outputs.disk_full(task.folder)  # now: what fills it may soon be removed
        if task.claim.spec.files or (succeeded and task.plan.spec.outputs):
            self._busy[task.claim.token] = task
            self._crew.submit(task, lambda: self._records.conclude(task, ended, full))
        else:
            self._keep(task, self._records.conclude(task, ended, full))

    def _handed_back(self) -> None:
        """What the crew has done: inputs are in place, or outputs are kept."""
        for task, result, error in self._crew.finished():
            del self._busy[task.claim.token]
            if isinstance(result, Attempt):
                self._keep(task, result)
            elif isinstance(error, AttemptFailed):
                self._not_started(task, error)
            elif isinstance(error, OSError) and not task.handle:
                self._not_started(task, files.failed_call(error, "the attempt's folder could not be made"))
            elif error is not None:
                raise error
            elif task.why is None:
                self._launch(task, result)
            else:
                os.close(result)
                self._never_started(task)

    def _never_started(self, task: HeldTask) -> None:
        """Its claim was taken away, or the worker told to stop, while its inputs were put in place."""
        self._reservation.give(task.need)
        try:
            files.remove_tree(task.folder)
        except OSError:
            pass  # the next attempt of this number removes it
        try:
            self._jobs.release([task.claim])
        except BackendError as error:
            self._queue.append(task.claim)  # it is given back with the rest of the queue, or started after all
            self._bear(error, "giving back a claim")

    def _keep(self, task: HeldTask, attempt: Attempt) -> None:
        """Decides what becomes of the task, for the next commit."""
        finish = retry.conclude(attempt, task.claim, task.plan.spec, attempt.ended_at_ms)
        self._finishes.append(finish)
        self._scratches.append(task.folder)
        self._commit_soon()
        job, limit = task.claim.ref.job, task.plan.spec.max_failures
        if limit is not None and finish.state is TaskState.FAILED:
            self._failed[job] = self._failed.get(job, 0) + 1
            if self._failed[job] > limit:
                self._commit()

    def _commit_soon(self) -> None:
        if self._commit_at == NEVER:
            self._commit_at = self._clock.monotonic() + self._pace.commit_s

    def _commit(self) -> None:
        """Records what ended and what was started, in one transaction, after whatever the ended tasks left behind is gone."""
        batch = self._finishes
        self._commit_at = NEVER
        if batch:
            self._runner.sweep({finish.attempt.token for finish in batch})
            while self._scratches:
                files.keep_spare(self._scratches.pop(), self._spares)
        started = [task for task in (*self._running.values(), *self._busy.values()) if task.handle and not task.told]
        if not batch and not started:
            return
        self._records.write_late()
        try:
            self._jobs.finish(batch, [task.claim for task in started])
        except BackendError as error:
            self._bear(error, f"{len(batch)} outcomes are not recorded yet")
            if self.mode is Mode.STOPPING and not (self._running or self._busy or self._records.unwritten):
                raise  # recovery takes them from result.json
            self._commit_at = self._clock.monotonic() + _RETRY_S
            return
        self._finishes = []
        self._full = False
        self._records.recorded(finish.attempt for finish in batch)
        for task in started:
            task.told = True
        self._tell_soon()
        if not batch:
            return
        if self._short:
            self._next_claim = self._clock.monotonic()  # the ends of a job's tasks make room for others of it
        for job in {finish.attempt.ref.job for finish in batch if finish.state is TaskState.FAILED} & self._failed.keys():
            self._bearing(partial(self._limit_failures, job), "limiting failures")

    # Jobs that may have so many failures and no more: the store cancels what is pending of them, a worker gives back what it has ahead

    def _limited_first(self, ended: list[Ended]) -> list[Ended]:
        """Looks after programs of jobs with a limit before others are started in their place; returns the rest."""
        rest = []
        for each in ended:
            if self._running[each.handle].plan.spec.max_failures is not None:
                self._ended(each)
            else:
                rest.append(each)
        return rest

    def _may_start(self, job: str, limit: int) -> bool:
        """Whether another task of a job may start. False while tasks that could be its last failures are looked after; and where it has
        too many: then its claims are gone from the queue."""
        unjudged = sum(1 for task in self._busy.values() if task.handle and task.claim.ref.job == job)
        if not unjudged and self._failed.get(job, 0) > limit:
            self._limit_failures(job)  # which counts again: after a reset there are fewer
        return self._failed.get(job, 0) + unjudged <= limit

    def _limit_failures(self, job: str) -> None:
        """Counts a job's failures; where there are more than it may have, what was claimed of it and is not started is given back, which
        cancels it."""
        try:
            failed = self._jobs.count_tasks(job).failed
            limit = self._jobs.get_job(job).spec.max_failures
        except NotFound:
            return  # deleted just now, so that it has no claims
        unrecorded = sum(1 for each in self._finishes if each.state is TaskState.FAILED and each.attempt.ref.job == job)
        self._failed[job] = failed + unrecorded
        if limit is None or failed <= limit:
            return
        self._jobs.release([claim for claim in self._queue if claim.ref.job == job])
        self._requeue(claim for claim in self._queue if claim.ref.job != job)
        for task in self._busy.values():
            if not task.handle and task.claim.ref.job == job:
                self._end(task, FailureClass.CANCELLED)
