"""The six ports: what the engine needs of the outside, each a page of promises. May import model and errors.

Every backend passes the contract suite of its port (tests/contract), the in-memory one included. Ports hold no listeners and never
call back. Times that are passed in are the caller's clock: stores read no clock. Errors are BackendError and its kin.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from sparkles.model import (
    Artifact,
    Attempt,
    AttemptRef,
    Claim,
    Cleaned,
    Counts,
    Digest,
    FailureClass,
    Finish,
    Job,
    NewTask,
    ProcessId,
    Run,
    RunId,
    RunState,
    Step,
    StepKey,
    Task,
    TaskSpec,
    TaskState,
    Value,
    Worker,
    WorkerId,
)


class Clock(Protocol):
    """Time, as an argument: the one place that may be replaced so that nothing in a test sleeps."""

    def now_ms(self) -> int:
        """Wall clock, milliseconds UTC. It may jump; nothing but people and recorded values may depend on it."""

    def monotonic(self) -> float:
        """Seconds that never go backwards; only differences mean anything."""

    def sleep(self, seconds: float) -> None:
        """Blocks the caller."""


class Notifier(Protocol):
    """Hints that something changed. A hint is never a fact: losing every one of them costs delay, not correctness."""

    def notify(self) -> None:
        """Wakes everyone who waits on this installation, best effort; never raises, never blocks."""

    def wait(self, timeout_s: float) -> bool:
        """Blocks until a hint or a signal comes or the time is over; True if a hint came. Hints that came between two
        waits end the next one at once; several may count as one."""

    def fileno(self) -> int:
        """A descriptor that is readable when a hint is there, for select and epoll; -1 where there is none."""

    def close(self) -> None:
        """Leaves nothing behind; harmless when repeated."""


class RunStore(Protocol):
    """Runs and their steps (the journal), always on the driver's machine. One writer: the session that drives the run."""

    def create_run(self, run: Run) -> None:
        """Stores a new run, driven by `run.driver`. Raises Conflict if the id exists."""

    def begin_run(self, run: Run) -> Run:
        """`create_run` unless the newest run of the same workflow and args is unfinished, in one transaction. Returns what is there now."""

    def get_run(self, run_id: RunId) -> Run:
        """Raises NotFound."""

    def list_runs(self, *, workflow: str | None = None, args: str | None = None, limit: int = 1000) -> list[Run]:
        """Newest first; only those of `workflow` and `args` (canonical JSON) where given."""

    def take_run(self, run_id: RunId, driver: ProcessId, is_dead: Callable[[ProcessId], bool], now_ms: int) -> Run:
        """Makes `driver` the owner and sets the state to running, in one transaction.

        Raises:
            RunBusy: Another driver holds it and `is_dead` does not say that it is gone.
            NotFound: There is no such run.
        """

    def beat_run(self, run_id: RunId, driver: ProcessId, now_ms: int) -> None:
        """Records that the owner lives. Raises LeaseLost where `driver` is not the owner any more. Safe from another thread."""

    def end_run(self, run_id: RunId, driver: ProcessId, state: RunState, error: str, now_ms: int) -> None:
        """Ends the run and gives up ownership. Raises LeaseLost where `driver` is not the owner."""

    def folder(self, run_id: str) -> Path:
        """Where what its commands print is kept here, and what a fork runs again; it need not exist. UsageError for an impossible id."""

    def delete_run(self, run_id: RunId) -> int:
        """Removes the run and its steps in one transaction, then its folder, whose bytes it returns; harmless where there is none."""

    def put_cleaned(self, cleaned: Sequence[Cleaned]) -> None:
        """Remembers what was removed, jobs too, wherever they were kept. Of all that was ever removed the newest 10,000 are kept."""

    def list_cleaned(self) -> list[Cleaned]:
        """What is remembered as removed, the newest first."""

    def get_step(self, run_id: RunId, key: StepKey) -> Step | None:
        """The recorded step, or None."""

    def put_step(self, run_id: RunId, step: Step) -> None:
        """Stores a step, durable on return; replaces what was recorded under the same key, except that its sequence is kept."""

    def move_steps(self, run_id: RunId, positions: Mapping[StepKey, str]) -> None:
        """Says where the script asks for recorded steps now, in one transaction. Keys of which nothing is recorded are passed over."""

    def list_steps(self, run_id: RunId, *, kinds: Collection[str] | None = None) -> list[Step]:
        """In order of sequence; only of `kinds` where given."""

    def list_strand(self, run_id: RunId, strand: str, *, after: int, limit: int) -> list[Step]:
        """The strand's next steps in order of sequence, those after `after`: what a replay will most likely ask for."""

    def list_strands(self, run_id: RunId) -> list[str]:
        """The labels of the strands that have steps, by the first step of each."""

    def last_sequence(self, run_id: RunId) -> int:
        """The greatest sequence, 0 where there are no steps."""


class Outcome(Value, frozen=True):
    """A task with what it was asked and how it went, as results are shown: `attempt` is that of `task.origin`."""

    task: Task
    params: dict[str, object]
    attempt: Attempt | None = None


class FailureGroup(Value, frozen=True):
    """Failed tasks of a job that failed alike; `example` is the first one's index."""

    failure: FailureClass
    exit_code: int | None
    count: int
    example: int


class JobStore(Protocol):
    """Jobs, tasks, claims, attempts and workers.

    After creation a task's state has one writer at a time: whoever holds its claim; and `kill`, `reset` and recovery, which change a
    claimed task only through its token. A finish or release whose token is not the task's current one changes nothing.
    """

    # Jobs

    def create_job(self, job: Job, tasks: Iterable[NewTask]) -> bool:
        """Stores a job with its tasks, all or nothing; indexes are given from 1 in order; `job.sequence` is given by the store.

        A task whose `origin` is not a stored attempt (it was removed since it was found) is pending instead.

        Returns:
            False where the id exists already: then nothing is stored (a crash between creating and recording finds the job again).

        Raises:
            StorageFull: Nothing was stored.
        """

    def get_job(self, job_id: str) -> Job:
        """Raises NotFound."""

    def list_jobs(self, *, owner: str | None = None, limit: int | None = None) -> list[Job]:
        """Newest (greatest sequence) first; only those of the run `owner` where given."""

    def list_open(self, owner: str) -> set[str]:
        """The ids of the run's jobs that have pending or claimed tasks: one cheap question for a thousand waits."""

    def delete_jobs(self, job_ids: Collection[str]) -> list[AttemptRef]:
        """Removes jobs with their tasks and attempts in one transaction, except attempt records that tasks of other jobs reuse.
        Returns those exceptions: their files must be kept. Raises Conflict where a task of them is claimed."""

    def list_kept(self, job_ids: Collection[str]) -> list[AttemptRef]:
        """What `delete_jobs` would return: the attempts of these jobs that tasks of other jobs reuse."""

    def sweep_jobs(self, older_than_s: float) -> None:
        """Removes what is stored of jobs that were never made whole, by creations that were cut short that long ago."""

    def set_held(self, job_ids: Collection[str], held: bool) -> None:
        """Held jobs are not served. Unknown ids are ignored."""

    # Tasks

    def count_tasks(self, job_id: str) -> Counts:
        """Tasks by state. Raises NotFound."""

    def count_failures(self, job_id: str) -> list[FailureGroup]:
        """Failed tasks grouped by class and exit code, the largest group first."""

    def get_task(self, job_id: str, index: int) -> Task:
        """Raises NotFound, naming how many tasks the job has."""

    def get_spec(self, job_id: str, index: int) -> TaskSpec:
        """Raises NotFound."""

    def list_tasks(
        self, job_id: str, *, first: int = 1, limit: int | None = None, states: Collection[TaskState] | None = None
    ) -> list[Task]:
        """In order of index, from `first` on."""

    def list_outcomes(
        self, job_id: str, *, first: int = 1, limit: int | None = None, states: Collection[TaskState] | None = None
    ) -> list[Outcome]:
        """As `list_tasks`, with parameters and the attempt that holds each outcome."""

    def state_digest(self, job_id: str) -> Digest:
        """A digest of (index, state, attempt) of every task: equal if and only if the job's outcome is unchanged."""

    def find_reusable(self, fingerprints: Collection[Digest]) -> dict[Digest, Attempt]:
        """For each fingerprint that has succeeded in this state folder: the newest attempt that did. Others are left out."""

    def get_attempt(self, ref: AttemptRef) -> Attempt | None:
        """The record of an ended attempt, or None."""

    def list_attempts(self, job_id: str, index: int) -> list[Attempt]:
        """The ended attempts of one task, oldest first."""

    def list_outputs(self, job_id: str) -> dict[int, list[Digest]]:
        """The content of the outputs of the job's succeeded tasks, their own or reused, by index; tasks without any are left out."""

    def list_digests(self) -> set[Digest]:
        """Every digest that a stored task's input or a stored attempt's output refers to: content that must be kept."""

    def kill_tasks(self, job_id: str, indexes: Collection[int] | None = None) -> int:
        """Cancels pending and claimed tasks (all, or these) and invalidates their tokens: workers end the programs. Returns how many."""

    def reset_tasks(self, job_id: str, states: Collection[TaskState], indexes: Collection[int] | None = None) -> int:
        """Puts ended tasks in one of `states` back to pending with a fresh budget; claimed ones are never touched. Returns how many."""

    # Claims

    def claim(self, worker: WorkerId, *, pool: str, limit: int, now_ms: int) -> list[Claim]:
        """Claims up to `limit` pending tasks that `worker` may serve, atomically: greatest priority first, then the older job, then the
        lower index. Held jobs, tasks before their `not_before_ms` and jobs at their `parallelism` are passed over.

        Each claim gets a fresh token, and `attempt` one more than the task had.
        """

    def next_due_ms(self, pool: str) -> int | None:
        """The least `not_before_ms` of the pool's pending, unheld tasks; None where none is pending."""

    def finish(self, finishes: Sequence[Finish], started: Sequence[Claim] = ()) -> list[bool]:
        """Ends claims in one transaction. An element is False where the token is not current: that one was not recorded.

        The programs of the claims `started` run: they are counted as running from now on. Where a job has more failed tasks than its
        `max_failures`, what is pending of it is cancelled in the same transaction, and so is what goes back to pending later, here or by
        `release`; claimed tasks go on.
        """

    def release(self, claims: Sequence[Claim]) -> int:
        """Gives back claims whose program was never started: the attempt's number is free again. Returns how many were current."""

    def held_tokens(self, worker: WorkerId) -> set[str]:
        """The tokens of the worker's current claims; one that it thinks it holds and is not here was taken away."""

    def list_claims(self, worker: WorkerId) -> list[Claim]:
        """The worker's current claims, for recovery after it is dead."""

    # Workers

    def enter_worker(self, worker: Worker) -> None:
        """Adds or replaces a worker's row."""

    def beat_worker(self, worker: WorkerId, *, waiting: bool) -> bool:
        """Adds one to `beat`; `waiting` says that it has tasks and no capacity for them. False where the row is gone."""

    def leave_worker(self, worker: WorkerId) -> None:
        """Removes the row; its claims must have been finished or released."""

    def list_workers(self) -> list[Worker]:
        """Every row, oldest first."""

    def reserve(self, worker: WorkerId, *, cpu: float, memory_bytes: int, total_cpu: float, total_memory_bytes: int) -> bool:
        """Sets what the worker holds of its host to `cpu` and `memory_bytes` if, with what the host's other workers hold, it stays
        within the totals; a decrease always succeeds, and so does any request of a worker when no other on its host holds anything.
        Returns whether it was set."""


class Content(Protocol):
    """Bytes by their digest: what `digest` names never changes, and bytes that do not agree with their digest are never handed out."""

    def put_file(self, path: Path) -> Artifact:
        """Stores a copy of a file's bytes (`name` is the path as given). An unchanged file that was stored before is not read again.

        Raises:
            UsageError: It is missing, unreadable, a directory or a special file, or it changed while it was read.
            StorageFull: Nothing was stored.
        """

    def known_file(self, path: Path) -> Artifact | None:
        """What `put_file` would return for a file that is unchanged since it was last stored, without reading it; else None."""

    def put_bytes(self, data: bytes) -> Digest:
        """Stores `data`; harmless when repeated."""

    def read(self, digest: Digest) -> bytes:
        """Raises NotFound, or Damaged where the stored bytes do not agree with the digest."""

    def missing(self, digests: Iterable[Digest]) -> set[Digest]:
        """Those of `digests` that are not stored."""

    def settle(self) -> None:
        """Waits until everything that was put is stored; to be called before a job that needs it is made. Raises what kept it from that."""


class Blobs(Content, Protocol):
    """Content-addressed files, and the logs of attempts: what a driver needs.

    Names that come from outside never become paths unchecked. `transfers` is how many calls are worth making at a time.
    """

    @property
    def transfers(self) -> int: ...

    def place(
        self, digest: Digest, target: Path, *, executable: bool = False, private: bool = False, link: bool = False
    ) -> None:
        """Makes `target` (its folder exists) a writable copy of the content, hash-checked, or with `link`, where content is on this
        machine, a read-only link.

        Its mode is what the umask leaves of 0666, with `executable` 0777; of a `private` one only the user's part.

        Raises:
            NotFound, Damaged: As `read`; damaged content is set aside so that it can be stored anew.
            StorageFull: `target` is not left half-written.
        """

    def locate(self, ref: AttemptRef) -> str:
        """Where the attempt's files are, for people: a path or a URL."""

    def read_log(self, ref: AttemptRef, offset: int = 0, limit: int | None = None) -> bytes:
        """Bytes of output.log from `offset`; a negative offset counts from the end. Empty where there is no log (yet)."""

    def log_size(self, ref: AttemptRef) -> int:
        """Bytes of output.log so far; 0 where there is none."""

    def list_jobs(self) -> list[str]:
        """The jobs that have files of attempts, sorted, whether or not they are stored any more."""

    def job_bytes(self, job_id: str) -> int:
        """What the files of a job's attempts take; not what the content store holds as well."""

    def delete_job(self, job_id: str, keep: Collection[AttemptRef] = ()) -> int:
        """Removes a job's attempts except those in `keep`. Returns the bytes freed."""

    def sweep(self, keep: Collection[Digest], older_than_s: float) -> tuple[int, int]:
        """Removes content that is not in `keep` and was stored or asked for at least `older_than_s` ago. Returns (files, bytes)."""


class Workspace(Blobs, Protocol):
    """Blobs on the machine where tasks run: the folders of attempts, with their logs and outputs."""

    def collect(self, path: Path, name: str) -> Artifact:
        """Moves a task's output into the store and returns what it is now known by. `path` may be gone afterwards."""

    def verify_linked(self, digest: Digest) -> bool:
        """Whether linked content is still what it was; damaged content is set aside. To be asked after a task that had a link."""

    def folder(self, ref: AttemptRef) -> Path:
        """The attempt's folder on this machine, which need not exist: output.log, results.json, result.json, outputs/."""

    def publish(self, ref: AttemptRef, outputs: Sequence[Artifact]) -> None:
        """Makes collected outputs appear, read-only, under the attempt's `outputs/`."""


class Fleet(Protocol):
    """Where workers run."""

    def ensure(self, pool: str) -> None:
        """Sees to it that the pool is served: starts a worker where none of this driver's lives; returns at once.

        Raises:
            BackendError: Workers keep dying; the sentence says how the last one ended and shows the end of its log.
        """

    def describe(self) -> list[str]:
        """One line per worker of this driver, with evidence."""

    def drain(self, pool: str) -> None:
        """No new tasks; what runs is finished and recorded; then the worker leaves. Returns at once."""

    def stop(self, pool: str) -> None:
        """Running tasks are ended and go back to pending; then the worker leaves. Returns at once."""

    def remove_logs(self) -> int:
        """Removes what workers that are gone left to be looked at. Returns the bytes freed."""

    def wait_gone(self, pool: str, timeout_s: float) -> bool:
        """Whether the pool's worker of this driver has left within the time."""
