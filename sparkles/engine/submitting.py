"""The step that submits a job, and its twin for `sparkles sub`. May import ports and below.

A job's id is its name and eight characters of the digest of (run, step key), and creating it is create-if-absent: a crash between
creating the job and recording the step finds the same job again. This is the one window in which the journal and the job store
can differ, and it is closed by that.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import msgspec

from sparkles import digest
from sparkles.engine import jobs
from sparkles.engine.commands import Answer, Done, JobDraft, Submit, refused
from sparkles.engine.events import Noticed, Report, Submitted
from sparkles.engine.files import RunFiles
from sparkles.engine.inputs import FileSource
from sparkles.engine.journal import Asking, Journal, Parked
from sparkles.errors import NotFound, UsageError
from sparkles.model import Attempt, Digest, Job, JobId, Json, NewTask, StepKey, StepState, TaskSpec
from sparkles.ports import Clock, Content, Fleet, JobStore, Notifier


class Defaults(msgspec.Struct, frozen=True):
    """What a job gets where its author said nothing: cpu in cores, memory in bytes, time in seconds; None: the built-in value."""

    cpu: float | None = None
    memory_bytes: int | None = None
    timeout_s: float | None = None

    def fill(self, draft: JobDraft) -> JobDraft:
        """The draft with these values where it has none."""
        resources = draft.resources
        if self.cpu is not None and resources.cpu is None:
            resources = msgspec.structs.replace(resources, cpu=self.cpu)
        if self.memory_bytes is not None and resources.memory is None:
            resources = msgspec.structs.replace(resources, memory=self.memory_bytes)
        timeout_s = self.timeout_s if draft.timeout_s is None else draft.timeout_s
        return msgspec.structs.replace(draft, resources=resources, timeout_s=timeout_s)


CLUSTER_ONLY = ("image", "zones", "provisioning", "pod_template")


class Submitter:
    """Creates jobs: builds the spec, finds what can be reused, stores, sees to it that a worker is there."""

    _ready: tuple[str, JobDraft, jobs.BuiltJob] | None
    """A job that was built to see what it is keyed on."""

    def __init__(
        self,
        jobs: JobStore,
        blobs: Content,
        fleet: Fleet | None,
        notifier: Notifier,
        clock: Clock,
        files: FileSource,
        report: Report,
        defaults: Defaults,
    ) -> None:
        """`fleet` None: jobs are stored and no worker is started for them."""
        self._jobs = jobs
        self._blobs = blobs
        self._fleet = fleet
        self._notifier = notifier
        self._clock = clock
        self._files = files
        self._report = report
        self._defaults = defaults
        self._noticed: set[str] = set()
        self._ready = None

    def keyed(self, strand: str, draft: JobDraft) -> tuple[str, Json] | None:
        """What the step that submits this job will be keyed on; None where that cannot be told. `build_for` is done with it then."""
        try:
            built = self.build_for(strand, draft)
        except (UsageError, Parked):
            return None
        self._ready = strand, draft, built
        return _keyed(built)

    def build_for(self, strand: str, draft: JobDraft) -> jobs.BuiltJob:
        """As `build`, for a strand: its files are those that stand where it submits the job."""
        ready, self._ready = self._ready, None
        if ready is not None and ready[0] == strand and ready[1] is draft:
            return ready[2]
        return self.build(draft)

    def build(self, draft: JobDraft) -> jobs.BuiltJob:
        """The job as values; inputs are hashed and stored. Says once what the local backend will ignore."""
        built = jobs.build(self._defaults.fill(draft), self._files)
        ignored = [field for field in CLUSTER_ONLY if getattr(built.spec, field) and field not in self._noticed]
        if ignored:
            self._noticed.update(ignored)
            names = ", ".join(jobs.setter_name(field) for field in ignored)
            self._report(Noticed(text=f"{draft.name}: {names} is for the cluster; the local backend carries it and ignores it"))
        return built

    def create(self, built: jobs.BuiltJob, job_id: JobId, *, owner: str, pool: str, cache: bool) -> int:
        """Stores the job unless it is there already. Returns how many tasks reuse a result."""
        prints = digest.Digests(map(digest.fingerprinter(built.spec), built.tasks))
        found = self.reusable(prints) if cache and built.spec.cache else {}
        reused = sum(1 for each in prints if each in found) if found else 0

        def new_tasks() -> Iterator[NewTask]:
            task: TaskSpec
            for task, each in zip(built.tasks, prints, strict=True):
                attempt = found.get(each)
                yield NewTask(task, each, attempt.ref if attempt is not None else None)

        job = Job(id=job_id, spec=built.spec, count=len(prints), owner=owner, pool=pool, created_at_ms=self._clock.now_ms())
        self._blobs.settle()
        created = self._jobs.create_job(job, new_tasks())
        if created:
            self._report(Submitted(job=job_id, name=built.spec.name, count=len(prints), reused=reused))
        else:
            self._jobs.set_held([job_id], False)
        # In the cloud counting means reading the whole job back.
        if (created and reused < len(prints)) or not self._jobs.count_tasks(job_id).done:
            self.serve(pool)
        return reused

    def serve(self, pool: str) -> None:
        """Sees to it that a worker of this driver serves the pool, and tells it to look."""
        if self._fleet is not None:
            self._fleet.ensure(pool)
        self._notifier.notify()

    def reusable(self, prints: Collection[Digest]) -> dict[Digest, Attempt]:
        """The attempts whose result stands for a fingerprint: those that succeeded and whose outputs are all still stored."""
        found = self._jobs.find_reusable(prints)
        outputs = {output.digest for attempt in found.values() for output in attempt.outputs}
        gone = self._blobs.missing(outputs) if outputs else set()
        if not gone:
            return found
        return {each: attempt for each, attempt in found.items() if not any(o.digest in gone for o in attempt.outputs)}


def ask_submit(journal: Journal, strand: str, built: jobs.BuiltJob, position: str) -> Asking:
    """Asks the journal for the step that submits this job."""
    return journal.ask(strand, *_keyed(built), position)


def _keyed(built: jobs.BuiltJob) -> tuple[str, Json]:
    spec = digest.parse(digest.encode_value(built.spec))
    return "submit", {"spec": spec, "tasks": built.digest, "count": len(built.tasks)}


def job_id_of(run: str, key: StepKey, name: str) -> JobId:
    """A job's id: its name, and eight characters of the digest of its run and step."""
    return JobId(f"{name}-{digest.of_value([run, key.strand, key.kind, key.digest, key.occurrence])[:8]}")


class SubmitSteps:
    """`submit` of a script."""

    def __init__(
        self,
        submitter: Submitter,
        files: RunFiles,
        store: JobStore,
        journal: Journal,
        run: str,
        pool: str,
        *,
        cache: bool,
        rerun: frozenset[str | StepKey] = frozenset(),
    ) -> None:
        """`rerun`: names, or submit steps, of jobs whose tasks run though their results are known."""
        self._submitter = submitter
        self._files = files
        self._rerun = rerun
        self._store = store
        self._journal = journal
        self._run = run
        self._pool = pool
        self._cache = cache
        self.asked: set[str] = set()

    def submit(self, strand: str, command: Submit) -> Answer:
        """-> {"id", "name", "count"}, at once."""
        try:
            self._files.stand_before_job(strand, command.draft.name)
            built = self._submitter.build_for(strand, command.draft)
        except UsageError as error:
            return refused(error, "submit")
        asking = ask_submit(self._journal, strand, built, command.position)
        job_id = job_id_of(self._run, asking.key, built.spec.name)
        self.asked.add(job_id)
        value = {"id": job_id, "name": built.spec.name, "count": len(built.tasks)}
        recorded = asking.recorded
        if recorded is not None and recorded.state is StepState.DONE and self._exists(job_id):
            self._store.set_held([job_id], False)
            if not self._store.count_tasks(job_id).done:
                self._submitter.serve(self._pool)
            return Done(value, reused=True)
        self._journal.start(asking)
        cache = self._cache and not self._rerun.intersection((built.spec.name, asking.key))
        self._submitter.create(built, job_id, owner=self._run, pool=self._pool, cache=cache)
        self._journal.finish(asking, value)
        return Done(value)

    def keyed(self, strand: str, command: Submit) -> tuple[str, Json] | None:
        """What `submit` will be keyed on; None where it will be refused."""
        self._files.stand_before_job(strand, command.draft.name)
        return self._submitter.keyed(strand, command.draft)

    def _exists(self, job_id: JobId) -> bool:
        try:
            self._store.get_job(job_id)
        except NotFound:
            return False
        return True
