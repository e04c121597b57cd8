"""Every exception that sparkles raises on purpose. Imports nothing of sparkles.

The tree, with the exit code that `cli.main` gives to each branch:

    SparklesError
    ├─ UsageError            2   the user can fix the input
    │  ├─ WorkflowError          .position ("examples/csv_submit.lua:14"): anything that a script did
    │  ├─ TemplateError · RowsError · ConfigError · SpecError
    │  └─ RunBusy                another driver holds the run
    ├─ RunError              1   the run ended badly
    │  ├─ JobFailed              .job, .failed (indexes of the first ten failed tasks)
    │  ├─ RunFailed              `fail(message)`, `error(...)` in a script
    │  ├─ RunCancelled · WaitTimeout
    ├─ BackendError          3   .operation, .resource, .retryable
    │  └─ NotFound (2) · Conflict · LeaseLost · StorageFull · Damaged · SchemaTooNew
    └─ InternalError        70   a bug in sparkles

Constructors take facts, build the sentence and keep the facts as attributes; every class survives pickling because
`args` holds exactly what its constructor takes.
"""

from __future__ import annotations

from typing import Any


class SparklesError(Exception):
    """The root: `str(error)` is one or more sentences that a user can act on."""

    exit_code = 70

    def __init__(self, message: str = "", *rest: Any) -> None:
        super().__init__(message, *rest)
        self.message = message

    def __str__(self) -> str:
        return self.message


class UsageError(SparklesError):
    """The input is wrong and the user can fix it."""

    exit_code = 2


class WorkflowError(UsageError):
    """A script did something wrong; `position` is the author's own line, `path:line`, or "" where there is none."""

    def __init__(self, message: str, position: str = "", traceback: str = "") -> None:
        super().__init__(message, position, traceback)
        self.position = position
        self.traceback = traceback

    def __str__(self) -> str:
        return f"{self.position}: {self.message}" if self.position else self.message


class TemplateError(UsageError):
    """A command template is malformed or names something that is not a parameter."""


class RowsError(UsageError):
    """A CSV file is not usable; `position` is `file:line`."""

    def __init__(self, message: str, position: str = "") -> None:
        super().__init__(message, position)
        self.position = position

    def __str__(self) -> str:
        return f"{self.position}: {self.message}" if self.position else self.message


class ConfigError(UsageError):
    """A settings file or a SPARKLES_ environment variable is wrong."""


class SpecError(UsageError):
    """A job or task description is not valid; the message begins with the path of the field (`tasks[3].command`)."""


class RunBusy(UsageError):
    """Another live driver holds the run; the sentence names its process, its host and since when."""


class RunError(SparklesError):
    """The run ended badly."""

    exit_code = 1


class RunFailed(RunError):
    """The script ended the run as failed (`fail`, or `error` with a value of its own)."""

    def __init__(self, message: str, position: str = "", traceback: str = "") -> None:
        super().__init__(message, position, traceback)
        self.position = position
        self.traceback = traceback

    def __str__(self) -> str:
        return f"{self.position}: {self.message}" if self.position else self.message


class JobFailed(RunError):
    """A job that was waited for has failed or cancelled tasks."""

    def __init__(self, message: str, job: str = "", failed: tuple[int, ...] = (), position: str = "") -> None:
        super().__init__(message, job, failed, position)
        self.job = job
        self.failed = failed
        self.position = position

    def __str__(self) -> str:
        return f"{self.position}: {self.message}" if self.position else self.message


class RunCancelled(RunError):
    """The run was ended from outside: `sparkles kill`, Ctrl-C or a signal. `signal` is 0 where no signal was sent."""

    def __init__(self, message: str, signal: int = 0) -> None:
        super().__init__(message, signal)
        self.signal = signal


class WaitTimeout(RunError):
    """A wait took longer than its `timeout`."""


class BackendError(SparklesError):
    """A store, a fleet or the file system did not do what was asked.

    `retryable` says whether the same call can succeed later without anybody changing anything.
    """

    exit_code = 3

    def __init__(self, message: str, operation: str = "", resource: str = "", retryable: bool = False) -> None:
        super().__init__(message, operation, resource, retryable)
        self.operation = operation
        self.resource = resource
        self.retryable = retryable


class NotFound(BackendError):
    """The named run, job, task or content does not exist."""

    exit_code = 2


class Conflict(BackendError):
    """Something else was there first."""


class LeaseLost(BackendError):
    """The claim is no longer held: its token is not the current one."""


class StorageFull(BackendError):
    """No space is left on a device or a quota is used up."""


class Damaged(BackendError):
    """Stored bytes are not what was stored: a digest or the database's own check does not agree."""


class SchemaTooNew(BackendError):
    """The state folder was written by a newer sparkles."""


class InternalError(SparklesError):
    """A bug in sparkles; `cli.main` prints how to report it."""
