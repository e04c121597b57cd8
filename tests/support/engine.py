"""A session's surroundings without processes: memory stores, a fleet that runs tasks as Python functions, programs as generators."""

import time
from pathlib import Path

from sparkles.backends.clock import ManualClock
from sparkles.backends.local.blobs import DirectoryBlobs
from sparkles.backends.memory import MemoryJobStore, MemoryRunStore
from sparkles.engine.commands import Asked, Done, Ended, JobDraft, Raised, StepError, TaskDraft
from sparkles.engine.drive import Interrupts, drive
from sparkles.engine.session import Options, Ports
from sparkles.model import (
    Attempt,
    FailureClass,
    Finish,
    ProcessId,
    Run,
    RunId,
    RunState,
    TaskState,
    Worker,
    WorkerId,
)

DRIVER = ProcessId("here", 4242, 1.0, "boot")


class ScriptError(Exception):
    """A command that raised, as a program sees it; a generator may catch it as a script catches with pcall."""

    def __init__(self, error):
        super().__init__(error.message)
        self.error = error


class GeneratorProgram:
    """A script as generators, one a strand: each yields commands and is sent their values; an uncaught ScriptError ends it.

    `self.child(function)` in a program (it gets the program as its argument, if it takes one) makes a strand for Parallel and Spawn;
    `self.values[number]` is what it returned. `function.keys` are those under which the program spawns.
    """

    def __init__(self, function):
        self._generators = {}
        self.values = {}
        self.labels = {}
        self.cancelled = []
        self._function = function
        self.functions = set(getattr(function, "keys", ()))

    def start(self):
        return self.child(self._function)

    def child(self, function):
        number = len(self._generators) + 1
        takes = function.__code__.co_argcount
        self._generators[number] = function(self) if takes else function()
        return number

    def name(self, strand, label):
        self.labels[strand] = label

    def holds(self, key):
        return key in self.functions

    def cancel(self, strand):
        self.cancelled.append(self.labels[strand])

    def resume(self, strand, answer):
        try:
            if answer is None:
                command = next(self._generators[strand])
            elif isinstance(answer, Raised):
                command = self._generators[strand].throw(ScriptError(answer.error))
            else:
                command = self._generators[strand].send(answer.value if isinstance(answer, Done) else answer)
        except StopIteration as stop:
            self.values[strand] = stop.value
            return Ended(strand)
        except ScriptError as error:
            return Ended(strand, error.error, f"w.lua:{strand}")
        return Asked(strand, command)


class InlineFleet:
    """Runs what is pending as soon as it is asked to ensure a worker; `outcome(command)` is an exit code."""

    def __init__(self, jobs, outcome):
        self.jobs = jobs
        self.outcome = outcome
        self.ran = []

    def ensure(self, pool):
        worker = WorkerId("w-inline")
        self.jobs.enter_worker(Worker(worker, pool, DRIVER))
        while claims := self.jobs.claim(worker, pool=pool, limit=10, now_ms=0):
            finishes = []
            for claim in claims:
                self.ran.append(claim.spec.command)
                code = self.outcome(claim.spec.command)
                attempt = Attempt(
                    ref=claim.ref,
                    token=claim.token,
                    worker=worker,
                    failure=FailureClass.EXIT if code else None,
                    exit_code=code,
                    reason=f"exit code {code}" if code else "",
                    results=f'{{"said": "{claim.spec.command}"}}',
                )
                state = TaskState.FAILED if code else TaskState.SUCCEEDED
                finishes.append(Finish(attempt, state, 1, 0))
            self.jobs.finish(finishes)
        self.jobs.leave_worker(worker)

    def describe(self):
        return []

    def drain(self, pool):
        pass

    def stop(self, pool):
        pass

    def wait_gone(self, pool, timeout_s):
        return True


class AdvancingNotifier:
    """No hints: waiting passes the time on the manual clock, and a little of the real one: shell commands are real processes."""

    def __init__(self, clock):
        self._clock = clock

    def notify(self):
        pass

    def wait(self, timeout_s):
        time.sleep(0.002)
        self._clock.advance(timeout_s)
        return False

    def fileno(self):
        return -1

    def close(self):
        pass


class Crash(BaseException):
    """Stands for kill -9: nothing in the engine may catch it to do something about it."""


class World:
    """What outlives an execution: stores, files, clock; `run` executes a program once as `sparkles run` would."""

    def __init__(self, root: Path):
        self.root = root
        self.state = root / ".sparkles"
        self.state.mkdir()
        self.runs = MemoryRunStore()
        self.jobs = MemoryJobStore()
        self.blobs = DirectoryBlobs(self.state)
        self.clock = ManualClock()
        self.fleet = InlineFleet(self.jobs, lambda command: 0)
        self.events = []
        self.run_id = RunId("r-1")

    def execute(self, program, *, run_id=None, **options):
        """Begins the run, or goes on with it; raises what `drive` raises. Events are those of this execution."""
        self.events = []
        run_id = run_id or self.run_id
        if not any(run.id == run_id for run in self.runs.list_runs()):
            self.runs.create_run(Run(run_id, "w.lua", "{}", RunState.RUNNING, 7, DRIVER))
        run = self.runs.take_run(run_id, DRIVER, lambda process: True, 0)
        notifier = AdvancingNotifier(self.clock)
        ports = Ports(runs=self.runs, jobs=self.jobs, blobs=self.blobs, fleet=self.fleet, notifier=notifier, clock=self.clock)
        settings = Options(root=self.root, state=self.state, environ={"PATH": "/usr/bin:/bin"}, **options)
        drive(run, DRIVER, GeneratorProgram(program), ports, settings, self.events.append, Interrupts())

    def told(self, kind):
        """The texts of this execution's events of a kind."""
        return [event.text for event in self.events if isinstance(event, kind)]


def job(name, *commands, **fields):
    """A job with one task per command."""
    return JobDraft(name=name, tasks=[TaskDraft(params={"n": i}, command=each) for i, each in enumerate(commands)], **fields)


__all__ = ["Crash", "GeneratorProgram", "InlineFleet", "ScriptError", "StepError", "World", "job"]
