"""The values that everything else passes around: frozen, no I/O. May import errors only.

| word | means | states |
| --- | --- | --- |
| run | one execution of a workflow, resumable | running, succeeded, failed, interrupted, cancelled |
| step | one durable call made by a run, keyed by its content | started, done |
| strand | one line of control in a run: the script itself, or a child of `parallel`, `map`, `spawn` | |
| job | a set of like tasks submitted by one step | pending, running, succeeded, failed, cancelled |
| task | one command with its parameters | pending, claimed, succeeded, failed, cancelled |
| attempt | one try at a task, numbered from 1 | |
| claim | a worker's hold on a task: a token, and a lease kept up by heartbeats | |
| worker | a process that claims tasks | |
| artifact | a named output of a task, addressed by digest | |
| pool | the workers that may serve a job (locally: those of one driver) | |

Surprise: indexes of tasks start at 1, as everything does that a Lua author sees. Times are integer milliseconds UTC and say
so in their names; durations are seconds.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, NewType

import msgspec

RunId = NewType("RunId", str)
JobId = NewType("JobId", str)
WorkerId = NewType("WorkerId", str)
Digest = NewType("Digest", str)
"""Lower-case hex of a sha256: 64 characters."""

Command = str | tuple[str, ...]
"""A text that /bin/sh runs, or an argument vector that is executed without a shell."""

Json = Any
"""None, bool, int, float, str, bytes (text that is not UTF-8), list or dict[str, Json]."""


class RunState(StrEnum):
    """All but succeeded can be resumed. Interrupted: a signal ended the driver (Ctrl-C); cancelled: `sparkles kill` ended the run."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    CANCELLED = "cancelled"


class StepState(StrEnum):
    STARTED = "started"
    DONE = "done"


class JobState(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class TaskState(StrEnum):
    PENDING = "pending"
    CLAIMED = "claimed"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class FailureClass(StrEnum):
    """Why an attempt failed; the same set on every backend."""

    EXIT = "exit"
    OUTPUT = "output"
    OOM = "oom"
    DISK = "disk"
    TIMEOUT = "timeout"
    PREEMPTED = "preempted"
    EVICTED = "evicted"
    LOST = "lost"
    STAGING = "staging"
    IMAGE = "image"
    CONFIG = "config"
    CANCELLED = "cancelled"


INFRASTRUCTURE = frozenset({FailureClass.PREEMPTED, FailureClass.EVICTED, FailureClass.LOST})
"""Classes that are nobody's mistake: they have a budget of their own and never use up the program's attempts."""


class Value(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The base of values that cross a door: immutable, unknown fields refused, defaults left out of the encoding."""


class Resources(Value, frozen=True):
    """What a task asks for. None: the backend's default, and no limit."""

    cpu: float = 1.0
    memory_bytes: int | None = None
    disk_bytes: int | None = None
    gpu: int = 0


class OomRetry(Value, frozen=True):
    """An attempt that ran out of memory is tried again with `factor` times as much, `max_bytes` at most."""

    factor: float = 2.0
    max_bytes: int | None = None


class RetryPolicy(Value, frozen=True):
    """How often a task's program is tried.

    `attempts` counts tries in all (1: no retry). An empty `exit_codes` means any code; otherwise only these are tried
    again. Attempt n+1 starts `min(backoff_s * backoff_factor**(n-1), max_backoff_s)` after attempt n ended.
    """

    attempts: int = 1
    exit_codes: tuple[int, ...] = ()
    backoff_s: float = 1.0
    backoff_factor: float = 2.0
    max_backoff_s: float = 300.0
    oom: OomRetry | None = None


class OutputGlob(Value, frozen=True):
    """Files that a task leaves, by pattern relative to its scratch directory; `**` crosses folders."""

    pattern: str
    required: bool = False


class InputFile(Value, frozen=True):
    """A stored file that a task finds at `dst`, relative to its scratch directory.

    `link`: the task gets a read-only link to the stored bytes instead of a copy of its own. `src` is where it came from,
    for messages only; `private`: others may not read that file, so a copy is its user's alone. Neither counts in a digest.
    """

    dst: str
    digest: Digest
    size_bytes: int
    executable: bool = False
    link: bool = False
    src: str = ""
    private: bool = False


class JobSpec(Value, frozen=True):
    """What is common to a job's tasks. `command` is the template as the author wrote it; tasks hold the expanded ones.

    `max_failures`: more failed tasks than this cancel what is still pending; None: never.
    `secret_env` maps a variable to a reference (`env:NAME`, `k8s:secret/key`, `gcp:secret`), never to a value.
    image, zones, provisioning and pod_template are carried for the cluster and ignored by the local backend.
    """

    name: str
    command: Command = ""
    outputs: tuple[OutputGlob, ...] = ()
    env: dict[str, str] = {}
    secret_env: dict[str, str] = {}
    work_dir: str = ""
    timeout_s: float | None = None
    retry: RetryPolicy = RetryPolicy()
    resources: Resources = Resources()
    parallelism: int | None = None
    priority: int = 0
    properties: dict[str, str | int | float | bool] = {}
    cache: bool = True
    max_failures: int | None = None
    image: str = ""
    zones: tuple[str, ...] = ()
    provisioning: str = ""
    pod_template: dict[str, Any] = {}


class TaskSpec(Value, frozen=True):
    """One command with its parameters. `env` and `resources` replace or add to the job's."""

    command: Command
    params: dict[str, Any] = {}
    files: tuple[InputFile, ...] = ()
    env: dict[str, str] = {}
    resources: Resources | None = None
    name: str = ""


class Artifact(Value, frozen=True):
    """An output of a task, collected: `name` is its path relative to the scratch directory, with forward slashes.

    `private`: others may not read the file that it was made from, so a copy is its user's alone.
    """

    name: str
    digest: Digest
    size_bytes: int
    executable: bool = False
    private: bool = False


class AttemptRef(Value, frozen=True):
    """Where an attempt's files are: job, index (from 1), attempt (from 1). `str` gives `align-1a2b3c4d/17/a2`."""

    job: str
    index: int
    attempt: int

    def __str__(self) -> str:
        return f"{self.job}/{self.index}/a{self.attempt}"


class Attempt(Value, frozen=True):
    """The record of one try, as result.json holds it and the store keeps it.

    `failure` is None where it succeeded. `exit_code` is None where no program ended by itself; `signal` is 0 where none ended it.
    `peak_memory_bytes` is None where it ended too soon to be measured.
    `results` is the text of results.json (JSON, checked) or None. `reason` is a sentence. `tail` holds the last lines of the log of a
    failed attempt, so that a failure can be shown without its files.
    """

    ref: AttemptRef
    token: str
    worker: str
    failure: FailureClass | None = None
    exit_code: int | None = None
    signal: int = 0
    reason: str = ""
    started_at_ms: int = 0
    ended_at_ms: int = 0
    cpu_s: float = 0.0
    peak_memory_bytes: int | None = None
    results: str | None = None
    outputs: tuple[Artifact, ...] = ()
    tail: str = ""


class Task(Value, frozen=True):
    """A task's row without its spec.

    `attempt` is the number of the newest attempt (0: none yet). `tries` counts attempts that used the program's budget since the last
    reset, `losses` those that did not (INFRASTRUCTURE). `origin` names the attempt that holds the outcome: this task's own, or that of
    another task with the same fingerprint whose result is reused; None until there is one. `memory_bytes` is what an oom retry raised
    the request to. `not_before_ms` holds a pending task back until then.
    """

    job: str
    index: int
    state: TaskState
    fingerprint: Digest
    attempt: int = 0
    tries: int = 0
    losses: int = 0
    origin: AttemptRef | None = None
    failure: FailureClass | None = None
    exit_code: int | None = None
    reason: str = ""
    worker: str = ""
    not_before_ms: int = 0
    memory_bytes: int | None = None
    name: str = ""

    @property
    def reused(self) -> bool:
        """Whether the outcome is another task's."""
        return self.origin is not None and (self.origin.job, self.origin.index) != (self.job, self.index)


class NewTask(Value, frozen=True):
    """A task about to be created. With `origin` it is succeeded from the start: that attempt's outcome is reused."""

    spec: TaskSpec
    fingerprint: Digest
    origin: AttemptRef | None = None


class Job(Value, frozen=True):
    """A job's row. `owner` is the run that submitted it, or "" for `sparkles sub`; `pool` says which workers may serve it.

    `held` jobs are not served: their run is being resumed and has not asked for them again yet. `sequence` grows with each job that
    is created in this state folder.
    """

    id: JobId
    spec: JobSpec
    count: int
    owner: str = ""
    pool: str = ""
    held: bool = False
    created_at_ms: int = 0
    sequence: int = 0


class Counts(Value, frozen=True):
    """Tasks of a job by state; `reused` are among `succeeded`, and `running` among `claimed`: a worker claims some ahead of time."""

    pending: int = 0
    claimed: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    reused: int = 0
    running: int = 0

    @property
    def total(self) -> int:
        return self.pending + self.claimed + self.succeeded + self.failed + self.cancelled

    @property
    def ended(self) -> int:
        return self.succeeded + self.failed + self.cancelled

    def by_state(self) -> dict[str, int]:
        """As scripts and `--json` see them: tasks by state, how many of the succeeded are reused, and how many of the claimed run."""
        return {name: getattr(self, name) for name in self.__struct_fields__}

    @property
    def done(self) -> bool:
        return self.pending == 0 and self.claimed == 0


class Claim(Value, frozen=True):
    """A worker's hold on one task. `attempt` is the number this try has; every write about it carries `token`."""

    ref: AttemptRef
    token: str
    worker: WorkerId
    spec: TaskSpec
    tries: int = 0
    losses: int = 0
    memory_bytes: int | None = None


class Finish(Value, frozen=True):
    """How a claim ends: the attempt's record, and what becomes of the task.

    `state` is succeeded, failed, cancelled or pending (tried again from `not_before_ms`, with `memory_bytes` if set).
    """

    attempt: Attempt
    state: TaskState
    tries: int
    losses: int
    not_before_ms: int = 0
    memory_bytes: int | None = None


class ProcessId(Value, frozen=True):
    """A process that can be recognised for certain: pid, its start time, boot and host.

    A pid alone may belong to another program by now; after a reboot `boot_id` differs. `started` is in seconds since the epoch, for
    people: on Linux it moves when the wall clock is set. `ticks` is the start time in the kernel's own count since boot, which does
    not; 0 where the system has none.
    """

    host: str
    pid: int
    started: float
    boot_id: str
    ticks: int = 0


class Worker(Value, frozen=True):
    """A worker's row. `beat` grows while it lives; `cpu` and `memory_bytes` are what it holds of its host for tasks it runs."""

    id: WorkerId
    pool: str
    process: ProcessId
    beat: int = 0
    cpu: float = 0.0
    memory_bytes: int = 0
    waiting: bool = False
    started_at_ms: int = 0


class Run(Value, frozen=True):
    """A run's row. `workflow` is the script's path relative to the project root; `args` are the -p parameters, canonical JSON.

    `beat_ms` is the driver's last heartbeat by its own clock: only whether it changes means anything to another host; 0 while nobody has
    taken the run up since it began. `forked_from` is the run whose journal it started from, or "".
    """

    id: RunId
    workflow: str
    args: str
    state: RunState
    seed: int
    driver: ProcessId | None = None
    created_at_ms: int = 0
    ended_at_ms: int | None = None
    error: str = ""
    workflow_digest: str = ""
    beat_ms: int = 0
    forked_from: str = ""


class Cleaned(Value, frozen=True):
    """A run or a job whose record `clean` removed. `kind` is "run" or "job", `name` the run's workflow or the job's name."""

    id: str
    kind: str
    name: str
    cleaned_at_ms: int


class StepKey(Value, frozen=True):
    """What a step is known by: content only, never position, whitespace, time or host."""

    strand: str
    kind: str
    digest: Digest
    occurrence: int


class Step(Value, frozen=True):
    """One durable call. `parts` are the canonical arguments that `key.digest` was made from; `value` is its outcome, canonical JSON.

    `error` says that the outcome is an error, which `value` then describes. `sequence` orders the steps of a run as they were first
    asked for.
    """

    key: StepKey
    state: StepState
    sequence: int
    parts: str
    position: str
    value: str | None = None
    error: bool = False
    started_at_ms: int = 0
    ended_at_ms: int | None = None
