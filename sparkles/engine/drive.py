"""Executing a run from taking it to ending it: ownership, heartbeat, interrupts, the end. May import ports and below.

Recovery is the ordinary path: taking a run that was left is the same call as beginning a new one, and whatever an earlier driver left
half done is found again by its content.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable

from sparkles.engine.commands import Ended, Program
from sparkles.engine.events import Noticed, Report, RunEnded, RunOpened
from sparkles.engine.pace import sleep_until_due
from sparkles.engine.session import Options, Ports, Session, pool_of
from sparkles.engine.strands import run_strands
from sparkles.errors import BackendError, JobFailed, LeaseLost, RunCancelled, RunFailed, SparklesError, WorkflowError
from sparkles.model import ProcessId, Run, RunId, RunState
from sparkles.ports import Clock, RunStore

BEAT_S = 2.0
"""An owner on another host counts as dead after its heartbeat stood still for 60 s: thirty missed beats."""


LEAVING_S = 5.0
"""How long a driver whose run has succeeded waits for its idle worker to leave."""


class Interrupts:
    """What signals asked for: 0 nothing, 1 no new tasks, 2 end running ones. Only ever grows."""

    def __init__(self) -> None:
        self.level = 0
        self.signal = 0

    def raise_to(self, level: int, signal: int) -> None:
        """Called by signal handlers."""
        if level > self.level:
            self.level = level
        self.signal = signal


class Heartbeat:
    """Keeps a run's ownership alive from a thread of its own, so that hashing a large file does not look like death."""

    def __init__(self, store: RunStore, run: RunId, driver: ProcessId, clock: Clock) -> None:
        self._store = store
        self._run = run
        self._driver = driver
        self._clock = clock
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self.lost: BackendError | None = None

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._over.wait(BEAT_S):
            try:
                self._store.beat_run(self._run, self._driver, self._clock.now_ms())
            except LeaseLost as error:
                self.lost = error
                return
            except BackendError:
                # The store is busy or full for now; the main thread will say so if it lasts.
                continue


def drive(
    run: Run,
    driver: ProcessId,
    program: Program,
    ports: Ports,
    options: Options,
    report: Report,
    interrupts: Interrupts,
) -> None:
    """Executes a run that `driver` owns already, to its end.

    Raises:
        WorkflowError, RunFailed, JobFailed: How the script ended; recorded.
        RunCancelled: An interrupt ended it; recorded, and resumable.
        BackendError: A store failed; the run is left as it is, resumable.
    """
    with Heartbeat(ports.runs, run.id, driver, ports.clock) as heartbeat:
        session = Session(run, ports, options, report)
        source = "" if run.beat_ms else run.forked_from  # one that was taken up again is no new run any more
        steps = len(ports.runs.list_steps(run.id)) if source else session.journal.recorded_steps
        report(RunOpened(run=run.id, resumed=session.resumed and not source, steps=steps, forked_from=source))

        def interrupted() -> None:
            if interrupts.level:
                raise RunCancelled("interrupted", interrupts.signal)
            if heartbeat.lost is not None:
                raise heartbeat.lost

        def end(state: RunState, error: str = "") -> None:
            session.journal.move()
            ports.runs.end_run(run.id, driver, state, error, ports.clock.now_ms())

        try:
            ended = run_strands(program, session, ports.notifier, ports.clock, interrupted)
            if ended.error is None:
                session.abandon()
                _finish_open_jobs(session, ports, interrupted)
        except RunCancelled as error:
            _leave(session, run, ports, report, interrupts)
            end(RunState.INTERRUPTED, str(error))
            # The script host knows that it was interrupted, not by what.
            raise RunCancelled(str(error), error.signal or interrupts.signal) from None
        except WorkflowError as error:
            _leave(session, run, ports, report, interrupts)
            end(RunState.FAILED, str(error))
            raise
        except BaseException:
            session.end_commands()
            ports.fleet.drain(pool_of(run.id))
            raise
        failure = _as_error(ended)
        if ended.error is not None:
            session.journal.ended(ended.error)
        if failure is None:
            ports.fleet.drain(pool_of(run.id))
            end(RunState.SUCCEEDED)
            # Nothing runs any more, so this is a matter of milliseconds; one that dies meanwhile is put in order here.
            ports.fleet.wait_gone(pool_of(run.id), LEAVING_S)
            report(RunEnded(performed=session.journal.performed, reused=session.journal.reused))
            return
        _leave(session, run, ports, report, interrupts)
        end(RunState.FAILED, str(failure))
        raise failure


def _finish_open_jobs(session: Session, ports: Ports, interrupted: Callable[[], None]) -> None:
    """Jobs that the script did not wait for are still its jobs: their worker is this driver's, so it stays until they have ended."""
    job_ids = session.open_jobs()
    pending = session.wait_for_open_jobs(job_ids)
    while pending is not None and pending.poll() is None:
        interrupted()
        sleep_until_due([pending], ports.notifier, ports.clock)
    session.name_unawaited_failures(job_ids)


def _leave(session: Session, run: Run, ports: Ports, report: Report, interrupts: Interrupts) -> None:
    """Stops serving: at level 1 running tasks finish and are recorded, at level 2 they are ended and go back to pending."""
    session.end_commands()
    pool = pool_of(run.id)
    before = interrupts.level
    level = max(before, 1)
    (ports.fleet.stop if level > 1 else ports.fleet.drain)(pool)
    if ports.fleet.wait_gone(pool, 0.3) or interrupts.signal == signal.SIGHUP:
        # After a hang-up nobody watches any more: the worker finishes what runs, records it and leaves by itself.
        return
    if level == 1:
        opening, again = ("", " again") if before else ("the script has ended: ", "")
        ends = f"Ctrl-C{again} ends them (they will run again on resume)"
        report(Noticed(text=f"{opening}running tasks finish and are recorded; {ends}"))
    while not ports.fleet.wait_gone(pool, 0.25):
        # Where the script ended by itself, the first Ctrl-C is the one that ends tasks.
        if interrupts.level > before:
            before = interrupts.level
            ports.fleet.stop(pool)


def _as_error(ended: Ended) -> SparklesError | None:
    """The exception that a strand's end stands for."""
    error = ended.error
    if error is None:
        return None
    if error.usage:
        return WorkflowError(error.message, str(error.fields.get("position") or ended.position), ended.traceback)
    if error.kind == "JobFailed":
        failed = tuple(int(index) for index in error.fields.get("failed") or ())
        return JobFailed(error.message, str(error.fields.get("job", "")), failed, ended.position)
    return RunFailed(error.message, ended.position, ended.traceback)
