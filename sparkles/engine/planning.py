"""What `run` would do, without doing it: each step reused, would run (and why), or unknown until another ends. May import ports and below.

The script itself runs: it is answered from the record, and where that is not enough by what has no effect (files are read and hashed,
`step` functions and time are computed). A strand that needs what only an effect can tell stops there. Nothing is stored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from sparkles import digest
from sparkles.engine import commands as ask
from sparkles.engine import jobs as building
from sparkles.engine.differences import Difference, of_parts, of_tasks
from sparkles.engine.files import RunFiles
from sparkles.engine.journal import Asking, Journal, Parked
from sparkles.engine.looking import LookingBlobs
from sparkles.engine.reading import parsed
from sparkles.engine.replay import Reuse, decide, decide_read
from sparkles.engine.session import Options, Ports
from sparkles.engine.submitting import Submitter, ask_submit, job_id_of
from sparkles.errors import NotFound, RowsError, UsageError
from sparkles.model import (
    Attempt,
    Counts,
    Digest,
    Job,
    JobId,
    Json,
    Run,
    Step,
    StepState,
    Task,
    TaskSpec,
    TaskState,
)
from sparkles.ports import Outcome

REUSED, RUNS, UNKNOWN = "reused", "would run", "unknown"


class Reason(msgspec.Struct, frozen=True):
    """Why `count` tasks of a sweep are new; `example` is the index of the first, `differences` are that one's."""

    why: str
    count: int
    example: int
    differences: tuple[Difference, ...] = ()


class Planned(msgspec.Struct, frozen=True):
    """One step of a plan. `verdict` is reused, would run or unknown; `what` names it; `why` is a sentence where it is not reused."""

    verdict: str
    kind: str
    what: str
    position: str
    strand: str
    why: str = ""
    differences: tuple[Difference, ...] = ()
    tasks_reused: int = 0
    tasks_new: int = 0
    reasons: tuple[Reason, ...] = ()


class Unplannable(Parked):
    """The strand needs an answer that only an effect can give."""


class PlanSession:
    """Stands in for a Session: the same door, and nothing behind it."""

    def __init__(self, run: Run, previous: Run | None, ports: Ports, options: Options, tell: Callable[[Planned], None]) -> None:
        """`run` is the run that would be resumed, or a new one that has no row; `previous` one to compare with, where there is one."""
        self._run = run
        self._ports = ports
        self._options = options
        self._tell = tell
        self.journal = Journal(ports.runs, run.id, ports.clock)
        self._blobs = LookingBlobs(ports.blobs)
        self._files = RunFiles(options.root, options.state, self._blobs)
        self._files.load(self.journal)
        self._submitter = Submitter(
            ports.jobs, self._blobs, None, ports.notifier, ports.clock, self._files, lambda event: None, options.defaults
        )
        self._previous = ports.runs.list_steps(previous.id) if previous is not None else []
        self._before = {job.spec.name: job for job in reversed(ports.jobs.list_jobs(owner=previous.id if previous else run.id))}
        self._written: dict[str, bytes] = {}
        self._virtual: dict[str, list[Outcome]] = {}
        self._unfinished: dict[str, str] = {}
        self._stopped: set[str] = set()
        self._known = self._names()

    # The door

    def begin(self, strand: str, command: ask.Command) -> ask.Answer:
        """The answer where it can be known; raises Unplannable where it cannot."""
        if strand in self._stopped:
            raise Unplannable
        handle = getattr(self, "_" + type(command).__name__.lower())
        try:
            answer: ask.Answer = handle(strand, command)
        except Unplannable:
            self._stopped.add(strand)
            raise
        return answer

    def outcomes(self, job_id: str, first: int, limit: int) -> list[Outcome]:
        """Results for the script: of jobs that exist, or of those whose every task would be reused."""
        if job_id in self._virtual:
            return self._virtual[job_id][first - 1 : first - 1 + limit]
        return self._ports.jobs.list_outcomes(job_id, first=first, limit=limit)

    def _say(self, verdict: str, kind: str, what: str, strand: str, position: str, **more: Any) -> None:
        self._tell(Planned(verdict, kind, what, position, strand, **more))

    def _names(self) -> dict[tuple[str, str], list[Step]]:
        """The recorded steps of the run to compare with, by strand and kind, in order."""
        found: dict[tuple[str, str], list[Step]] = {}
        for step in self._previous:
            found.setdefault((step.key.strand, step.key.kind), []).append(step)
        return found

    def _why(self, asking: Asking) -> tuple[str, tuple[Difference, ...]]:
        """Why a step runs: what the journal says of it, or how it differs from the nearest recorded one of its kind."""
        recorded = asking.recorded
        if recorded is not None:
            decision = decide(recorded, self.journal.followed(recorded))
            return ("" if isinstance(decision, Reuse) else f"it {decision.why}"), ()
        parts = digest.parse(asking.parts)
        best: tuple[int, Step, tuple[Difference, ...]] | None = None
        for step in self._known.get((asking.key.strand, asking.key.kind), []):
            found = tuple(of_parts(asking.key.kind, digest.parse(step.parts), parts))
            if best is None or len(found) < best[0]:
                best = (len(found), step, found)
        if best is None or not isinstance(parts, dict) or (parts and best[0] >= len(parts)):
            return "it never ran", ()
        if best[0] == 0:
            return "it ran in an earlier run; a new run begins", ()
        return f"it differs from the one at {best[1].position}", best[2]

    def _plain(self, strand: str, what: str, command: ask.Command, effectless: Json = Parked) -> ask.Answer:
        """A step with nothing special: reused, or would run; goes on with `effectless` where that stands for its value."""
        asking = self.journal.ask_for(strand, command)
        kind = asking.key.kind
        replayed = self.journal.replayed(asking)
        if replayed is not None:
            self._say(REUSED, kind, what, strand, command.position)
            return replayed
        why, differences = self._why(asking)
        self._say(RUNS, kind, what, strand, command.position, why=why, differences=differences)
        if effectless is Parked:
            raise Unplannable
        return ask.Done(effectless)

    # Kinds

    def _now(self, strand: str, command: ask.Now) -> ask.Answer:
        return self._plain(strand, "now", command, self._ports.clock.now_ms() / 1000)

    def _random(self, strand: str, command: ask.Random) -> ask.Answer:
        return self._plain(strand, "random", command)

    def _uuid(self, strand: str, command: ask.Uuid) -> ask.Answer:
        return self._plain(strand, "uuid", command)

    def _log(self, strand: str, command: ask.Log) -> ask.Answer:
        self.journal.ask_for(strand, command)
        return ask.Done()

    def _sleep(self, strand: str, command: ask.Sleep) -> ask.Answer:
        return self._plain(strand, f"sleep {command.seconds:g} s", command, None)

    def _shell(self, strand: str, command: ask.Shell) -> ask.Answer:
        text = command.command if isinstance(command.command, str) else " ".join(command.command)
        return self._plain(strand, text, command)

    def _fetch(self, strand: str, command: ask.Fetch) -> ask.Answer:
        value = {"path": command.dest, "files": 0}
        answer = self._plain(strand, f"{command.job} to {command.dest}", command, value)
        return ask.Done({**value, **(answer.value if isinstance(answer, ask.Done) else {})})

    def _stepbegin(self, strand: str, command: ask.StepBegin) -> ask.Answer:
        try:
            return self._plain(strand, command.name, command)
        except Unplannable:
            return ask.Unrecorded()  # its function has no effects: a sandboxed script computes

    def _stepend(self, strand: str, command: ask.StepEnd) -> ask.Answer:
        return ask.Raised(command.error) if command.error is not None else ask.Done(command.value)

    def _read(self, strand: str, command: ask.Read) -> ask.Answer:
        asking = self.journal.ask_for(strand, command)
        recorded = asking.recorded
        try:
            path = self._files.resolve(command.path)
            if command.reader == "exists":
                present = command.path in self._written or self._files.exists_at_this_point(path)
                saw = digest.parse(recorded.value)["exists"] if recorded is not None and recorded.value is not None else None
                if saw is not None and (saw == present or self._options.frozen):
                    self._say(REUSED, "read", command.path, strand, command.position)
                    return ask.Done(saw, reused=True)
                why = "it never ran" if saw is None else f"the file {'exists now' if present else 'is gone'}"
                self._say(RUNS, "read", command.path, strand, command.position, why=why)
                return ask.Done(present)
            now = (
                self._blobs.put_bytes(self._written[command.path])
                if command.path in self._written
                else self._files.at_this_point(path)
            )
            why = "it never ran" if recorded is None else ""
            if recorded is not None and recorded.value is not None and not recorded.error:
                saw = Digest(digest.parse(recorded.value)["digest"])
                explained = self._files.seen_later(path, now, recorded.sequence)
                decision = decide_read(command.path, saw, now, explained, self._options.frozen)
                if isinstance(decision, Reuse):
                    self._say(REUSED, "read", command.path, strand, command.position)
                    return ask.Done(parsed(self._blobs.read(saw), command), reused=True)
                why = "the file changed since"
            if now is None:
                raise UsageError(f"{command.path}: no such file (looked for {path})")
            self._say(RUNS, "read", command.path, strand, command.position, why=why)
            return ask.Done(parsed(self._blobs.read(now), command))
        except (RowsError, UsageError) as error:
            return ask.refused(error)

    def _write(self, strand: str, command: ask.Write) -> ask.Answer:
        asking = self.journal.ask_for(strand, command)
        recorded = asking.recorded
        self._written[command.path] = command.content
        if recorded is not None and recorded.state is StepState.DONE:
            self._files.passed(self._files.resolve(command.path), asking.key)
            self._say(REUSED, "write", command.path, strand, command.position)
        else:
            why, differences = self._why(asking)
            self._say(RUNS, "write", command.path, strand, command.position, why=why, differences=differences)
        return ask.Done()

    # Jobs

    def _submit(self, strand: str, command: ask.Submit) -> ask.Answer:
        try:
            built = self._submitter.build(command.draft)
        except UsageError as error:
            return ask.refused(error, "submit")
        asking = ask_submit(self.journal, strand, built, command.position)
        job_id = job_id_of(self._run.id, asking.key, built.spec.name)
        value = {"id": job_id, "name": built.spec.name, "count": len(built.tasks)}
        recorded = asking.recorded
        if recorded is not None and recorded.state is StepState.DONE and self._job(job_id) is not None:
            counts = self._ports.jobs.count_tasks(job_id)
            left = counts.total - counts.succeeded
            self._say(REUSED, "submit", job_id, strand, command.position, tasks_reused=counts.succeeded, tasks_new=left)
            return ask.Done(value, reused=True)
        self._plan_job(strand, command.position, job_id, built, asking)
        return ask.Done(value)

    def _plan_job(self, strand: str, position: str, job_id: JobId, built: building.BuiltJob, asking: Asking) -> None:
        prints = list(map(digest.fingerprinter(built.spec), built.tasks))
        cached = self._options.cache and built.spec.cache and built.spec.name not in self._options.rerun
        found = self._submitter.reusable(prints) if cached else {}
        new = [index for index, each in enumerate(prints, 1) if each not in found]
        reasons = self._reasons(built, new, cached)
        why = "its tasks are run again whatever is known" if not cached else self._why(asking)[0] if not new else ""
        self._say(
            RUNS if new else REUSED,
            "submit",
            job_id,
            strand,
            position,
            why=why if new else "",
            tasks_reused=len(prints) - len(new),
            tasks_new=len(new),
            reasons=tuple(reasons),
        )
        if new:
            self._unfinished[job_id] = f"{built.spec.name} ends ({len(new)} tasks to run)"
        else:
            self._virtual[job_id] = [
                _as_reused(job_id, index, task, each, found[each])
                for index, (task, each) in enumerate(zip(built.tasks, prints, strict=True), 1)
            ]

    def _reasons(self, built: building.BuiltJob, new: Iterable[int], cached: bool) -> list[Reason]:
        """Why tasks are new, grouped by the part that differs from the job of the same name that ran before."""
        before = self._before.get(built.spec.name)
        if before is None or not cached:
            count = len(list(new))
            first = next(iter(new), 0)
            return [Reason("never ran" if cached else "the cache is off", count, first)] if count else []
        store = self._ports.jobs
        by_params = {digest.canonical(outcome.params): outcome.task for outcome in store.list_outcomes(before.id)}
        groups: Counter[str] = Counter()
        examples: dict[str, tuple[int, tuple[Difference, ...]]] = {}
        for index in new:
            task = built.tasks[index - 1]
            twin = by_params.get(digest.canonical(task.params))
            if twin is None and index <= before.count and len(built.tasks) == before.count:
                twin = store.get_task(before.id, index)
            why, found = self._task_reason(before, twin, built, task)
            groups[why] += 1
            examples.setdefault(why, (index, found))
        return [Reason(why, count, *examples[why]) for why, count in groups.most_common()]

    def _task_reason(
        self, before: Job, twin: Task | None, built: building.BuiltJob, task: TaskSpec
    ) -> tuple[str, tuple[Difference, ...]]:
        if twin is None:
            return "never ran", ()
        found = tuple(of_tasks(before.spec, self._ports.jobs.get_spec(before.id, twin.index), built.spec, task))
        if found:
            parts = [each.part for each in found if not (each.part == "command" and found[0].part.startswith("parameter"))]
            return f"changed: {', '.join(parts)}", found
        if twin.state is not TaskState.SUCCEEDED:
            return f"{twin.state} before", ()
        return "its outputs are not stored any more", ()

    def _wait(self, strand: str, command: ask.Wait) -> ask.Answer:
        asking = self.journal.ask_for(strand, command)
        what = ", ".join(command.jobs)
        open_jobs = [self._unfinished[each] for each in command.jobs if each in self._unfinished]
        counted: dict[str, Counts] = {}
        for each in command.jobs:
            if each in self._virtual:
                count = len(self._virtual[each])
                counted[each] = Counts(succeeded=count, reused=count)
            elif each not in self._unfinished:
                counted[each] = self._ports.jobs.count_tasks(each)
                if not counted[each].done or (counted[each].succeeded < counted[each].total and not command.allow_failures):
                    left = counted[each].total - counted[each].succeeded
                    open_jobs.append(f"{each} ends ({left} tasks to run)")
        if open_jobs:
            self._say(UNKNOWN, "wait", what, strand, command.position, why=f"unknown until {' and '.join(open_jobs)}")
            raise Unplannable
        recorded = asking.recorded
        self._say(REUSED if recorded is not None or self._virtual else RUNS, "wait", what, strand, command.position)
        names = {each: self._name_of(each) for each in command.jobs}
        found = [
            {"id": each, "name": names[each], "count": counts.total, "counts": counts.by_state()}
            for each, counts in counted.items()
        ]
        return ask.Done({"jobs": found}, reused=recorded is not None)

    def _name_of(self, job_id: str) -> str:
        job = self._job(job_id)
        return job.spec.name if job is not None else job_id.rpartition("-")[0]

    def _job(self, job_id: str) -> Job | None:
        try:
            return self._ports.jobs.get_job(job_id)
        except NotFound:
            return None


def _as_reused(job_id: JobId, index: int, task: TaskSpec, fingerprint: Digest, attempt: Attempt) -> Outcome:
    row = Task(job_id, index, TaskState.SUCCEEDED, fingerprint, origin=attempt.ref, name=task.name)
    return Outcome(row, task.params, attempt)
