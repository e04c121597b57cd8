"""One execution of a run: every command of the script passes `Session.begin`, the one door. May import ports and below.

It answers from the journal or carries the command out and records it; which of the two is `engine.replay`'s decision. The kinds of
steps stand in modules of their own (reading, submitting, monitor, shelling, fetching, small); this one only wires them to a run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sparkles.engine import commands as ask
from sparkles.engine import keys
from sparkles.engine.events import Noticed, Report
from sparkles.engine.fetching import FetchSteps
from sparkles.engine.files import RunFiles
from sparkles.engine.journal import Journal
from sparkles.engine.monitor import WaitSteps, failure_sentence
from sparkles.engine.reading import FileSteps
from sparkles.engine.shelling import EndMarked, ShellSteps
from sparkles.engine.small import SmallSteps
from sparkles.engine.submitting import Defaults, SubmitSteps, Submitter
from sparkles.errors import BackendError, InternalError
from sparkles.model import Json, Run, StepKey
from sparkles.ports import Blobs, Clock, Content, Fleet, JobStore, Notifier, RunStore
from sparkles.states import job_state
from sparkles.units import plural


class Ports:
    """The backends of one installation, as `app` wires them."""

    def __init__(
        self,
        *,
        runs: RunStore,
        jobs: JobStore,
        blobs: Blobs,
        fleet: Fleet,
        notifier: Notifier,
        clock: Clock,
        kept: Content | None = None,
    ) -> None:
        """`kept` has the content of what runs read and wrote, on the machine that drives them as their records are; else `blobs` has it."""
        self.runs = runs
        self.jobs = jobs
        self.blobs = blobs
        self.kept: Content = blobs if kept is None else kept
        self.fleet = fleet
        self.notifier = notifier
        self.clock = clock


class Options:
    """How a run is to be executed; all of it can differ from one execution to the next."""

    def __init__(
        self,
        *,
        root: Path,
        state: Path,
        environ: Mapping[str, str],
        cache: bool = True,
        frozen: bool = False,
        keep_failed: bool = False,
        defaults: Defaults | None = None,
        rerun: frozenset[str | StepKey] = frozenset(),
        end_marked: EndMarked = lambda variable, value: None,
    ) -> None:
        """`root` is where relative paths start, `state` the state folder, `environ` what `shell` commands inherit; `end_marked` ends what
        these leave behind."""
        self.root = root
        self.state = state
        self.environ = environ
        self.cache = cache
        self.frozen = frozen
        self.keep_failed = keep_failed
        self.defaults = defaults or Defaults()
        self.rerun = rerun
        self.end_marked = end_marked


def pool_of(run: str) -> str:
    """The pool whose workers serve a run's jobs: those of the driver that executes it."""
    return f"run:{run}"


class Session:
    """The engine's side of one execution of a run."""

    def __init__(self, run: Run, ports: Ports, options: Options, report: Report) -> None:
        self.run = run
        self._ports = ports
        self._report = report
        self._pool = pool_of(run.id)
        self.journal = Journal(ports.runs, run.id, ports.clock)
        self.resumed = self.journal.recorded_steps > 0
        earlier = ports.jobs.list_jobs(owner=run.id)
        self._earlier = {job.id for job in earlier}
        files = RunFiles(options.root, options.state, ports.blobs, ports.kept)
        if self.resumed:
            files.load(self.journal)
        if earlier:
            # Served again only once the script has asked for them again: an edit may have dropped them.
            ports.jobs.set_held(ports.jobs.list_open(run.id), True)
        submitter = Submitter(
            ports.jobs, ports.blobs, ports.fleet, ports.notifier, ports.clock, files, report, options.defaults
        )
        reading = FileSteps(files, ports.kept, self.journal, report, frozen=options.frozen)
        self._reading = reading
        small = SmallSteps(self.journal, ports.clock, report)
        fetching = FetchSteps(ports.jobs, ports.blobs, files, self.journal, report)
        self._submitting = SubmitSteps(
            submitter, files, ports.jobs, self.journal, run.id, self._pool, cache=options.cache, rerun=options.rerun
        )
        self._waiting = WaitSteps(
            ports.jobs,
            ports.blobs,
            self.journal,
            ports.clock,
            report,
            lambda: submitter.serve(self._pool),
            run.id,
            earlier=set(self._earlier),
            keep_failed=options.keep_failed,
        )
        self._shelling = ShellSteps(
            self.journal,
            ports.clock,
            run.id,
            ports.runs.folder(run.id),
            options.root,
            options.environ,
            options.end_marked,
            reading.catch_up,
        )
        self._steps: dict[type[ask.Command], Callable[[str, Any], ask.Answer | ask.Pending]] = {
            ask.Submit: self._submitting.submit,
            ask.Wait: self._waiting.wait,
            ask.Fetch: fetching.fetch,
            ask.Shell: self._shelling.shell,
            ask.StepBegin: small.begin_step,
            ask.StepEnd: small.end_step,
            ask.Read: reading.read,
            ask.Write: reading.write,
            ask.Now: small.now,
            ask.Random: small.random,
            ask.Uuid: small.uuid,
            ask.Sleep: small.sleep,
            ask.Log: small.log,
        }

    def begin(self, strand: str, command: ask.Command) -> ask.Answer | ask.Pending:
        """Answers a strand's command, at once or by something to poll.

        Raises:
            BackendError: A store failed: the run cannot go on and nothing more is recorded.
        """
        perform = self._steps.get(type(command))
        if perform is None:
            raise InternalError(f"no step is made for {type(command).__name__}")
        return perform(strand, command)

    def keyed(self, strand: str, command: ask.Command) -> tuple[str, Json] | None:
        """See strands.Performer."""
        return self._submitting.keyed(strand, command) if isinstance(command, ask.Submit) else keys.of_own(command)

    def end_commands(self) -> None:
        """Ends `shell` commands that still run."""
        self._shelling.end_all()

    def abandon(self) -> None:
        """After the script has ended well: cancels the jobs of earlier executions that it did not ask for again, and names them. Files
        that it wrote hold what it wrote last."""
        self._reading.catch_up()
        for job_id in sorted(self._earlier - self._submitting.asked):
            try:
                count = self._ports.jobs.kill_tasks(job_id)
            except BackendError:
                continue
            if count:
                self._report(
                    Noticed(text=f"{job_id}: the script does not ask for it any more; {plural(count, 'task')} cancelled")
                )
            self._ports.jobs.set_held([job_id], False)

    def open_jobs(self) -> list[str]:
        """The jobs that the script asked for and that are not done."""
        return sorted(self._submitting.asked & self._ports.jobs.list_open(self.run.id))

    def wait_for_open_jobs(self, open_jobs: list[str]) -> ask.Pending | None:
        """Something to poll until the jobs that were submitted but not waited for have ended; None where there are none."""
        if not open_jobs:
            return None
        self._report(Noticed(text=f"waiting for {', '.join(open_jobs)}, which the script submitted and did not wait for"))
        answer = self._waiting.wait("end", ask.Wait(jobs=tuple(open_jobs), allow_failures=True))
        if isinstance(answer, ask.Done | ask.Raised | ask.Unrecorded):
            return None
        return answer

    def name_unawaited_failures(self, job_ids: list[str]) -> None:
        """Says which of these jobs, that nobody waited for, did not succeed."""
        for job_id in job_ids:
            counts = self._ports.jobs.count_tasks(job_id)
            if job_state(counts) in ("failed", "cancelled"):
                self._report(Noticed(text=failure_sentence(self._ports.jobs, job_id, counts)))
