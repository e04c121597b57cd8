"""What a script may ask of the engine, as frozen values, and what it gets back. May import model and errors.

A script call is yielded by its strand as one of these; `session.begin` answers with Done or Raised at once, or with a Pending that the
strand loop polls. Nothing else connects a script with the engine. `position` is the author's own `path:line`, for messages: it counts
in no key.
"""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from sparkles.errors import WorkflowError
from sparkles.model import Command as ShellCommand
from sparkles.model import Json, OutputGlob, RetryPolicy


class FileDraft(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An input as the author named it: a path, a glob, or an artifact of an earlier task.

    `artifact` is {job, index, name, digest}; with it `src` is empty. `dst` is the path in the task (None: the base name; a folder
    where it ends with "/").
    """

    src: str = ""
    dst: str | None = None
    link: bool = False
    artifact: dict[str, Any] | None = None


class ResourcesDraft(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """cpu in cores ("500m" is half a one), memory and disk in bytes or as text ("1.5Gi", "800M"); None where not set."""

    cpu: float | str | None = None
    memory: int | float | str | None = None
    disk: int | float | str | None = None
    gpu: int | None = None


_NO_ENV: dict[str, str] = {}
"""Shared by all tasks without variables of their own: a dict for each of 100,000 would take 8 MB. Nobody changes it: drafts are values."""


def _no_env() -> dict[str, str]:
    return _NO_ENV


class TaskDraft(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """One row of `createTasksFor` after its function had its say; None where the job's own value holds."""

    params: dict[str, Json]
    command: ShellCommand | None = None
    files: tuple[FileDraft, ...] = ()
    env: dict[str, str] = msgspec.field(default_factory=_no_env)
    resources: ResourcesDraft | None = None
    name: str = ""


class JobDraft(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A job as a builder or a job.json describes it: templates not expanded, files not read.

    `tasks` is None where `createTasksFor` was not called: the job has one task without parameters. `positions` maps a setter's name to
    the author's `path:line`, so that a mistake found at submit is reported where it was made. `max_failures` is a count or "10%".
    """

    name: str
    command: ShellCommand | None = None
    tasks: list[TaskDraft] | None = None
    files: tuple[FileDraft, ...] = ()
    outputs: tuple[OutputGlob, ...] = ()
    env: dict[str, str] = {}
    secret_env: dict[str, str] = {}
    work_dir: str = ""
    timeout_s: float | None = None
    retry: RetryPolicy = RetryPolicy()
    resources: ResourcesDraft = ResourcesDraft()
    parallelism: int | None = None
    priority: int = 0
    properties: dict[str, str | int | float | bool] = {}
    cache: bool = True
    max_failures: int | str | None = None
    image: str = ""
    zones: tuple[str, ...] = ()
    provisioning: str = ""
    pod_template: dict[str, Any] = {}
    positions: dict[str, str] = {}


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """The base: `position` is where the script asked."""

    position: str = ""


class Submit(Command, frozen=True, kw_only=True):
    """-> {"id", "name", "count"}. Returns at once."""

    draft: JobDraft


class Wait(Command, frozen=True, kw_only=True):
    """-> {"jobs": [{"id", "name", "count", "counts": {state: n}}]} in the order asked.

    Raises kind "JobFailed" if tasks failed or were cancelled, unless `allow_failures`; kind "WaitTimeout" after `timeout_s`.
    """

    jobs: tuple[str, ...]
    allow_failures: bool = False
    timeout_s: float | None = None


class Fetch(Command, frozen=True, kw_only=True):
    """-> {"path", "files"}: the results tree of a job below `dest`."""

    job: str
    dest: str


class Shell(Command, frozen=True, kw_only=True):
    """-> {"exitCode", "stdout", "stderr", "seconds"}; output beyond 1 MiB each is left in the run's folder.

    Raises kind "ShellFailed" on a non-zero exit unless `allow_failure`.
    """

    command: ShellCommand
    env: dict[str, str] = {}
    timeout_s: float | None = None
    allow_failure: bool = False


class StepBegin(Command, frozen=True, kw_only=True):
    """-> the recorded value of `step(name, fn, ...)`, or Unrecorded: then the host runs `fn` and sends StepEnd.

    `source` is fn's source text without comments and white space.
    """

    name: str
    args: list[Json]
    source: str


class StepEnd(Command, frozen=True, kw_only=True):
    """Records how the function of the strand's open step ended: -> the same value, or the same error."""

    value: Json = None
    error: StepError | None = None


class Read(Command, frozen=True, kw_only=True):
    """-> csv: list of rows; json: the value; text: the text; exists: bool. `reader` is one of those four words.

    `options` for csv: {"types": {column: type}, "delimiter": str}.
    """

    reader: str
    path: str
    options: dict[str, Json] = {}


class Write(Command, frozen=True, kw_only=True):
    """-> None. Publishes `content` at `path` by rename. `writer` is csv, json or text, for messages."""

    writer: str
    path: str
    content: bytes


class Now(Command, frozen=True, kw_only=True):
    """-> seconds since the epoch, a float with milliseconds."""


class Random(Command, frozen=True, kw_only=True):
    """-> a float in [0, 1), or with bounds an integer in [low, high]."""

    low: int | None = None
    high: int | None = None


class Uuid(Command, frozen=True, kw_only=True):
    """-> a random UUID (version 4) as text."""


class Sleep(Command, frozen=True, kw_only=True):
    """-> None. Durable: the time to wake up is recorded first."""

    seconds: float


class Log(Command, frozen=True, kw_only=True):
    """-> None. Shown and stored once; silent where it is replayed."""

    text: str


class Child(msgspec.Struct, frozen=True):
    """A strand that a command starts: its number, and the key that its label is made of (content, not order). `text` is what people read
    where the key is a digest."""

    strand: int
    key: str
    text: str = ""


class Parallel(Command, frozen=True, kw_only=True):
    """-> None once every child has ended; their values stay with the host. Raises the first child's error, and cancels the others' waiting.

    At most `limit` children run at a time, in the order given; None: all.
    """

    children: tuple[Child, ...]
    limit: int | None = None


class Spawn(Command, frozen=True, kw_only=True):
    """-> None at once; the child runs beside the strand that asked."""

    child: Child


class Await(Command, frozen=True, kw_only=True):
    """-> None once the spawned strand has ended; its value stays with the host. Raises its error."""

    strand: int


class StepError(msgspec.Struct, frozen=True):
    """An error as a script sees it and as the journal keeps it.

    `kind` is what a script can test: JobFailed, WaitTimeout, ShellFailed, WriteFailed, StepFailed, Usage. `fields` are further
    values (JobFailed: job, failed = indexes of the first ten; ShellFailed: exitCode, stdout, stderr).
    `usage`: a mistake in the script or its input: the run is refused (exit 2) rather than failed.
    `step`: the recorded step whose error it is, by the number that the journal gave it in this execution; 0 where it is none's. It stays
    with the error however often a script catches it and raises it again.
    """

    message: str
    kind: str = "StepFailed"
    fields: dict[str, Json] = {}
    usage: bool = False
    step: int = 0

    def to_record(self) -> dict[str, Json]:
        """As the journal keeps it. A mistake of the script is never recorded, so `usage` is not in it; nor is `step`."""
        return {"message": self.message, "kind": self.kind, "fields": self.fields}

    @classmethod
    def of_record(cls, value: Json) -> StepError:
        """From what `to_record` gave; further keys are a step's own."""
        return cls(value["message"], kind=value["kind"], fields=value["fields"])


class Done(msgspec.Struct, frozen=True):
    """The command's value. `reused`: from the record, nothing was performed."""

    value: Json = None
    reused: bool = False


class Raised(msgspec.Struct, frozen=True):
    """The command's error, raised at the author's line by the host. `strand`: the one whose error it is, 0 where it is the command's own;
    a host that still has the value which that strand raised raises it as it was."""

    error: StepError
    reused: bool = False
    strand: int = 0


def refused(error: Exception, doing: str = "") -> Raised:
    """A mistake of the script or its input, raised where it was made: at the author's line that the error knows, else at the line that
    asked, after what was being done (`submit: ...`)."""
    if isinstance(error, WorkflowError):
        return Raised(StepError(error.message, kind="Usage", usage=True, fields={"position": error.position}))
    return Raised(StepError(f"{doing}: {error}" if doing else str(error), kind="Usage", usage=True))


class Unrecorded(msgspec.Struct, frozen=True):
    """The answer to StepBegin where the function has to run now."""


class Pending(Protocol):
    """An answer that takes its time. The loop polls when a hint came or `due` is reached."""

    def poll(self) -> Done | Raised | None:
        """The answer, or None where it is still open. Never blocks."""

    def due(self) -> float | None:
        """When to poll without a hint, on the monotonic clock; None: at the loop's own pace."""


Answer = Done | Raised | Unrecorded


class Asked(msgspec.Struct, frozen=True):
    """A strand stopped at a command."""

    strand: int
    command: Command


class Ended(msgspec.Struct, frozen=True):
    """A strand is over. `error` is None where it returned; `position` and `traceback` tell where an error was raised."""

    strand: int
    error: StepError | None = None
    position: str = ""
    traceback: str = ""


class Program(Protocol):
    """A script, seen from the loop: it is resumed with an answer and stops at the next command."""

    def start(self) -> int:
        """The number of the main strand, ready for its first `resume(strand, None)`."""

    def resume(self, strand: int, answer: Answer | None) -> Asked | Ended:
        """Runs the strand to its next command or its end. Raises RunCancelled where an interrupt ended it."""

    def name(self, strand: int, label: str) -> None:
        """Tells what a child is called, before its first `resume`: its chance draws from that, not from its number. Told
        again at its first command where it goes on as a recorded strand of another label."""

    def holds(self, key: str) -> bool:
        """Whether a function of the script, as it is now, would be spawned under that key."""

    def cancel(self, strand: int) -> None:
        """The strand is not resumed any more; what it holds can go."""
