"""What `run` would do, without doing it: each step reused, would run (and why), or unknown until another ends. May import ports and below.

The script itself runs: it is answered from the record, and where that is not enough by what has no effect (files are read and hashed,
`step` functions and time are computed), or by what the same step of an earlier run gave. A strand that needs what only an effect can
tell stops there. Nothing is stored.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sparkles import digest
from sparkles.engine import commands as ask
from sparkles.engine import fetching, keys
from sparkles.engine.differences import Difference, of_contents
from sparkles.engine.journal import Asking
from sparkles.engine.looking import LookingBlobs, LookingFiles, NotThere
from sparkles.engine.planned import REUSED, RUNS, UNKNOWN, Earlier, PlanJournal, Planned, Reason, Unplannable, why_new
from sparkles.engine.planned_jobs import PlannedJobs
from sparkles.engine.reading import look_at, look_at_written, look_whether, parsed
from sparkles.engine.replay import Reuse, decide
from sparkles.engine.session import Options, Ports
from sparkles.engine.small import drawn
from sparkles.engine.submitting import Submitter, ask_submit, job_id_of
from sparkles.errors import InternalError, NotFound, RowsError, UsageError
from sparkles.model import Digest, Json, Run, Step, StepState
from sparkles.ports import Outcome


class PlanSession:
    """Stands in for a Session: the same door, and nothing behind it."""

    def __init__(
        self,
        run: Run,
        previous: Run | None,
        ports: Ports,
        options: Options,
        tell: Callable[[Planned], None],
        *,
        as_recorded: bool = False,
    ) -> None:
        """
        Args:
            run: The run that would be resumed, or a new one that has no row.
            previous: A run to compare with and to borrow values from.
            as_recorded: What is recorded stands whatever became of it since, errors too.
        """
        self._run = run
        self._ports = ports
        self._options = options
        self._tell = tell
        self._as_recorded = as_recorded
        self.journal = PlanJournal(ports.runs, run.id, ports.clock, as_recorded=as_recorded)
        self._blobs = LookingBlobs(ports.blobs, ports.kept)
        self._files = LookingFiles(options.root, options.state, self._blobs)
        self._files.load(self.journal)
        self._submitter = Submitter(
            ports.jobs, self._blobs, None, ports.notifier, ports.clock, self._files, lambda event: None, options.defaults
        )
        self._own = Earlier(run, ports.runs.list_steps(run.id))
        other = previous if previous is not None and previous.id != run.id else None
        self._earlier = Earlier(other, ports.runs.list_steps(other.id)) if other is not None else None
        self._jobs = PlannedJobs(ports.jobs, self._blobs, self._submitter, run, other.id if other is not None else None)
        self._stopped: set[str] = set()
        self._steps: dict[type[ask.Command], Callable[[str, Any], ask.Answer]] = {
            ask.Submit: self._submit,
            ask.Wait: self._wait,
            ask.Fetch: self._fetch,
            ask.Shell: self._shell,
            ask.StepBegin: self._begin_step,
            ask.StepEnd: self._end_step,
            ask.Read: self._read,
            ask.Write: self._write,
            ask.Now: lambda strand, command: self._drawn(strand, command, self._ports.clock.now_ms() / 1000),
            ask.Random: lambda strand, command: self._drawn(strand, command, drawn(command)),
            ask.Uuid: lambda strand, command: self._drawn(strand, command, str(uuid.uuid4())),
            ask.Sleep: self._sleep,
            ask.Log: self._log,
        }

    # The door

    def begin(self, strand: str, command: ask.Command) -> ask.Answer:
        """The answer where it can be known; raises Unplannable where it cannot."""
        if strand in self._stopped:
            raise Unplannable
        perform = self._steps.get(type(command))
        if perform is None:
            raise InternalError(f"no plan is made for {type(command).__name__}")
        try:
            return perform(strand, command)
        except Unplannable:
            self._stopped.add(strand)
            raise

    def keyed(self, strand: str, command: ask.Command) -> tuple[str, Json] | None:
        """See strands.Performer."""
        if not isinstance(command, ask.Submit):
            return keys.of_own(command)
        self._files.stand_before_job(strand, command.draft.name)
        return self._submitter.keyed(strand, command.draft)

    def outcomes(self, job_id: str, first: int, limit: int) -> list[Outcome]:
        """Results for the script."""
        return self._jobs.outcomes(job_id, first, limit)

    def not_asked(self) -> list[Step]:
        """The recorded steps that the script did not ask for; what it showed (`log`) does not count."""
        steps = self._ports.runs.list_steps(self._run.id)
        return [
            step
            for step in steps
            if step.key not in self.journal.answered and step.key.kind != "log" and step.key.strand != "end"
        ]

    def _say(self, verdict: str, kind: str, what: str, strand: str, position: str, **more: Any) -> None:
        self._tell(Planned(verdict, kind, what, position, strand, **more))

    def _why(self, asking: Asking) -> tuple[str, tuple[Difference, ...]]:
        """Why a step runs: what the journal says of it, or how it differs from the recorded one that is most like it."""
        recorded = asking.recorded
        if recorded is not None:
            decision = decide(recorded, self.journal.passed(recorded))
            return ("" if isinstance(decision, Reuse) else f"it {decision.why}"), ()
        if self._earlier is not None and self._earlier.step(asking.key) is not None:
            return "it runs in every new run", ()
        own = [step for step in self._own.alike(asking.key) if step.key not in self.journal.answered]
        others = self._earlier.alike(asking.key) if self._earlier is not None else []
        return why_new(asking, own, others, name_one=self._as_recorded)

    def _plain(self, strand: str, what: str, command: ask.Command, effectless: Json = Unplannable) -> ask.Answer:
        """A step with nothing special: reused, or would run; goes on with `effectless` where that stands for its value."""
        asking = self.journal.ask_for(strand, command)
        kind = asking.key.kind
        replayed = self.journal.replayed(asking)
        if replayed is not None:
            self._say(REUSED, kind, what, strand, command.position)
            return replayed
        why, differences = self._why(asking)
        self._say(RUNS, kind, what, strand, command.position, why=why, differences=differences)
        if effectless is Unplannable:
            raise Unplannable
        return ask.Done(effectless)

    # Kinds

    def _drawn(self, strand: str, command: ask.Command, value: Json) -> ask.Answer:
        """Time and chance: a value drawn now shows what depends on it, as an earlier run's value would hide it."""
        return self._plain(strand, "", command, value)

    def _log(self, strand: str, command: ask.Log) -> ask.Answer:
        self.journal.ask_for(strand, command)
        return ask.Done()

    def _sleep(self, strand: str, command: ask.Sleep) -> ask.Answer:
        return self._plain(strand, f"{command.seconds:g} s", command, None)

    def _shell(self, strand: str, command: ask.Shell) -> ask.Answer:
        """Goes on as in the earlier run where that ran the same command."""
        text = command.command if isinstance(command.command, str) else " ".join(command.command)
        asking = self.journal.ask_for(strand, command)
        replayed = self.journal.replayed(asking)
        if replayed is not None:
            self._say(REUSED, "shell", text, strand, command.position)
            return replayed
        why, differences = self._why(asking)
        before = self._earlier.value(asking.key) if self._earlier is not None else None
        as_in = self._earlier.run if self._earlier is not None and before is not None else ""
        self._say(RUNS, "shell", text, strand, command.position, why=why, differences=differences, as_in=as_in)
        self._files.may_make(f"the shell command at {command.position} has run", self._options.root)
        if before is None or before.value is None:
            raise Unplannable
        value = digest.parse(before.value)
        value.pop("passed", None)
        return ask.Done(value)

    def _begin_step(self, strand: str, command: ask.StepBegin) -> ask.Answer:
        try:
            return self._plain(strand, command.name, command)
        except Unplannable:
            return ask.Unrecorded()  # its function has no effects: a sandboxed script computes

    def _end_step(self, strand: str, command: ask.StepEnd) -> ask.Answer:
        return ask.Raised(command.error) if command.error is not None else ask.Done(command.value)

    # Files

    def _read(self, strand: str, command: ask.Read) -> ask.Answer:
        asking = self.journal.ask_for(strand, command)
        self._files.stand_at(asking)
        try:
            return self._exists(asking, command) if command.reader == "exists" else self._content(asking, command)
        except NotThere as error:
            return self._borrowed(asking, command, error)
        except (RowsError, UsageError) as error:
            return ask.refused(error)
        except OSError as error:
            return ask.refused(UsageError(f"{command.path}: cannot be read: {error.strerror}"))

    def _exists(self, asking: Asking, command: ask.Read) -> ask.Answer:
        before, run = self._compared(asking)
        frozen = self._options.frozen and not run
        looked = look_whether(self._files, before, self._files.resolve(command.path), command.path, frozen)
        strand = asking.key.strand
        if isinstance(looked.decision, Reuse):
            self._say(REUSED, "read", command.path, strand, command.position, why=f"as in run {run}" if run else "")
            return ask.Done(looked.recorded, reused=True)
        why = (
            "it never ran"
            if looked.recorded is None
            else f"the file {looked.decision.why}" + (f", unlike in run {run}" if run else "")
        )
        self._say(RUNS, "read", command.path, strand, command.position, why=why)
        return ask.Done(looked.present)

    def _content(self, asking: Asking, command: ask.Read) -> ask.Answer:
        path = self._files.resolve(command.path)
        before, run = self._compared(asking)
        looked = look_at(self._files, before, path, command.path, self._options.frozen and not run)
        strand, saw, now = asking.key.strand, looked.recorded, looked.present
        if isinstance(looked.decision, Reuse) and saw is not None and (not run or now is not None):
            self._say(REUSED, "read", command.path, strand, command.position, why=f"as in run {run}" if run else "")
            return ask.Done(parsed(self._blobs.read(saw), command), reused=True)
        if now is None:
            raise UsageError(f"{command.path}: no such file (looked for {path})")
        content = self._blobs.read(now)
        why = "it never ran"
        differences: tuple[Difference, ...] = ()
        if saw is not None:
            why = f"the file changed since run {run or self._run.id} read it"
            size = None if self._blobs.missing([saw]) else len(self._blobs.read(saw))
            differences = (of_contents(saw, size, now, len(content)),)
        self._say(RUNS, "read", command.path, strand, command.position, why=why, differences=differences)
        return ask.Done(parsed(content, command))

    def _compared(self, asking: Asking) -> tuple[Any, str]:
        """The record to compare a read with, and the run that it is of: "" for the run itself."""
        if asking.recorded is not None or self._earlier is None:
            return asking.recorded, ""
        before = self._earlier.value(asking.key)
        return before, self._earlier.run if before is not None else ""

    def _borrowed(self, asking: Asking, command: ask.Read, missing: NotThere) -> ask.Answer:
        """A read of a file that an earlier step has to make first: as the earlier run saw it, else unknown."""
        before = self._earlier.value(asking.key) if self._earlier is not None else None
        where = (asking.key.strand, command.position)
        if before is not None and before.value is not None and self._earlier is not None:
            value = digest.parse(before.value)
            if "exists" in value or (value["digest"] and not self._blobs.missing([Digest(value["digest"])])):
                self._say(RUNS, "read", command.path, *where, why="the file is made anew", as_in=self._earlier.run)
                if "exists" in value:
                    return ask.Done(value["exists"])
                return ask.Done(parsed(self._blobs.read(Digest(value["digest"])), command))
        self._say(UNKNOWN, "read", command.path, *where, why=f"unknown until {missing.until}")
        raise missing

    def _write(self, strand: str, command: ask.Write) -> ask.Answer:
        asking = self.journal.ask_for(strand, command)
        recorded = asking.recorded
        try:
            target = self._files.resolve_target(command.path)
            why = ""
            differences: tuple[Difference, ...] = ()
            if recorded is not None and recorded.state is StepState.DONE:
                decision = look_at_written(self._files, asking.key, target, command.path, digest.of_bytes(command.content))
                reused = isinstance(decision, Reuse) or self._as_recorded
                why = "" if isinstance(decision, Reuse) or reused else f"the file {decision.why}"
            else:
                reused = False
                why, differences = self._why(asking)
        except UsageError as error:
            return ask.refused(error)
        if not reused or not target.exists():
            self._files.will_write(target, asking.key, command.content)
        self._say(REUSED if reused else RUNS, "write", command.path, strand, command.position, why=why, differences=differences)
        return ask.Done()

    # Jobs

    def _submit(self, strand: str, command: ask.Submit) -> ask.Answer:
        try:
            self._files.stand_before_job(strand, command.draft.name)
            built = self._submitter.build_for(strand, command.draft)
        except NotThere as error:
            why = f"unknown until {error.until}"
            self._say(UNKNOWN, "submit", command.draft.name, strand, command.position, why=why)
            raise
        except UsageError as error:
            return ask.refused(error, "submit")
        asking = ask_submit(self.journal, strand, built, command.position)
        name = built.spec.name
        job_id = job_id_of(self._run.id, asking.key, name)
        done = ask.Done({"id": job_id, "name": name, "count": len(built.tasks)})
        is_recorded = asking.recorded is not None and asking.recorded.state is StepState.DONE
        if is_recorded and (self._as_recorded or self._jobs.get(job_id) is not None):
            self._jobs.passed(name)
            counts = self._jobs.count(job_id) if self._jobs.get(job_id) is not None else None
            reused, new = (counts.succeeded, counts.total - counts.succeeded) if counts is not None else (0, 0)
            lost = self._jobs.lost_of(job_id) if counts is not None and not self._as_recorded else []
            reasons = (Reason("its outputs are not stored any more", len(lost), lost[0]),) if lost else ()
            more = {"tasks_reused": reused - len(lost), "tasks_new": new + len(lost), "reasons": reasons}
            self._say(REUSED, "submit", job_id, strand, command.position, **more)
            return done
        cached = self._options.cache and built.spec.cache and not self._options.rerun.intersection((name, asking.key))
        sweep = self._jobs.add(job_id, built, asking.key, cached=cached)
        why = f"the record of {job_id} was cleaned" if is_recorded and sweep.new else ""
        if sweep.new and not cached:
            why = "its tasks are run again whatever is known"
        differences: tuple[Difference, ...] = ()
        if self._as_recorded:  # it is not recorded, though all its tasks may be
            why, differences = self._why(asking)
        self._say(
            RUNS if sweep.new or self._as_recorded else REUSED,
            "submit",
            job_id,
            strand,
            command.position,
            why=why,
            differences=() if sweep.reasons else differences,
            tasks_reused=sweep.reused,
            tasks_new=sweep.new,
            reasons=sweep.reasons,
        )
        return done

    def _wait(self, strand: str, command: ask.Wait) -> ask.Answer:
        asking = self.journal.ask_for(strand, command)
        what = ", ".join(command.jobs)
        planned = [each for each in command.jobs if self._jobs.is_planned(each)]
        gone = [each for each in command.jobs if each not in planned and self._jobs.get(each) is None]
        if gone:
            why = f"the record of {' and '.join(gone)} was cleaned, and its results with it"
            self._say(UNKNOWN, "wait", what, strand, command.position, why=why)
            raise Unplannable
        why = ""
        again = [each for each in command.jobs if each not in planned and not self._as_recorded and self._jobs.lost_of(each)]
        replayed = self.journal.replayed(asking) if not planned and not again else None
        if replayed is not None and asking.recorded is not None:
            outcome = digest.parse(asking.recorded.value or "{}").get("outcome")
            timed_out = isinstance(replayed, ask.Raised) and replayed.error.kind == "WaitTimeout"
            if timed_out or outcome == [self._ports.jobs.state_digest(each) for each in command.jobs]:
                self._say(REUSED, "wait", what, strand, command.position)
                return replayed if isinstance(replayed, ask.Raised) else self._jobs.waited(command.jobs, reused=True)
            why = f"{what} changed since this run waited for it"
        until = [text for text in map(self._jobs.until, command.jobs) if text]
        if until:
            self._say(UNKNOWN, "wait", what, strand, command.position, why=f"unknown until {' and '.join(until)}")
            raise Unplannable
        if self._jobs.again.intersection(planned):
            why = "its tasks are run again; the plan goes on with what they gave before"
        if again:
            why = f"tasks of {' and '.join(again)} make their outputs again; the plan goes on with what they gave before"
        verdict = REUSED if planned and not why else RUNS
        self._say(verdict, "wait", what, strand, command.position, why=why)
        return self._jobs.waited(command.jobs, reused=False)

    def _fetch(self, strand: str, command: ask.Fetch) -> ask.Answer:
        asking = self.journal.ask_for(strand, command)
        recorded = asking.recorded
        what = f"{command.job} to {command.dest}"
        done = recorded is not None and recorded.state is StepState.DONE
        value = digest.parse(recorded.value) if done and recorded is not None and recorded.value is not None else None
        if self._as_recorded and value is not None:
            self._say(REUSED, "fetch", what, strand, command.position)
            return ask.Done({"path": command.dest, "files": value["files"]}, reused=True)
        planned = self._jobs.is_planned(command.job)
        until = self._jobs.until(command.job) if planned else ""
        try:
            dest = self._files.resolve_outside(command.dest)
            self._files.fetched(strand, dest)
            same = value is not None and not planned and value.get("outcome") == self._ports.jobs.state_digest(command.job)
            if not until:
                files = self._lacking(command, dest, planned, [] if same else None)
        except (NotFound, UsageError) as error:
            return ask.refused(error, "fetch")
        if until:
            self._say(UNKNOWN, "fetch", what, strand, command.position, why=f"unknown until {until}")
            raise Unplannable
        if value is not None and same and files == 0:
            self._say(REUSED, "fetch", what, strand, command.position)
            return ask.Done({"path": command.dest, "files": value["files"]}, reused=True)
        number = f"{files} file{'' if files == 1 else 's'} to bring"
        if value is not None:
            number += ", missing there" if same else f"; {command.job} changed since it was fetched"
        self._say(RUNS, "fetch", what, strand, command.position, why=number)
        self._files.may_make(f"{command.job} is fetched", dest)
        return ask.Done({"path": command.dest, "files": value["files"] if value is not None and same else files})

    def _lacking(self, command: ask.Fetch, dest: Any, planned: bool, left: list[Path] | None) -> int:
        """How many files a fetch would write; see `fetching.bring` for `left`."""
        blobs = self._ports.blobs
        found = self._jobs.outcomes(command.job, 1, 1 << 40) if planned else fetching.outcomes(self._ports.jobs, command.job)
        if not planned:
            self._ports.jobs.get_job(command.job)
        return fetching.bring(found, blobs, dest, only_count=True, left=left)
