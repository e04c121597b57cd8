"""Names from outside, checked before they become paths. Pure; may import errors and model.

A job's id is typed by people, an artifact's name is made by programs: neither may leave the folder it is meant for.
"""

from __future__ import annotations

import re

from sparkles.errors import BackendError, UsageError
from sparkles.model import AttemptRef

_DIGEST = re.compile(r"[0-9a-f]{64}")
_MAX_NAME = 255
"""Bytes in one name of a path, on every file system in use."""
MOST_CLEANED = 10_000
"""What a RunStore remembers of what was removed: enough for years, and less than a megabyte."""
_MAX_PATH = 2048
"""Bytes in a whole artifact name: PATH_MAX (4096; macOS 1024) has to hold the folder before it too."""


def check_digest(digest: str, operation: str) -> None:
    """Raises BackendError where `digest` is not 64 lower-case hex digits."""
    if not _DIGEST.fullmatch(digest):
        raise BackendError(f"{operation}: {digest!r} is not a digest: expected 64 of 0-9 a-f", operation, digest)


def check_job_id(job: str) -> None:
    """Raises UsageError where a job's id cannot be the name of a folder."""
    if why := _why_not(job):
        raise UsageError(f"job {job!r}: not the id of a job: it {why}")


def check_run_id(run: str) -> None:
    """Raises UsageError where a run's id cannot be the name of a folder."""
    if why := _why_not(run):
        raise UsageError(f"run {run!r}: not the id of a run: it {why}")


def check_ref(ref: AttemptRef) -> None:
    """Raises UsageError where a job's id cannot be a folder, or where index or attempt is not a number from 1."""
    check_job_id(ref.job)
    if ref.index < 1 or ref.attempt < 1:
        raise UsageError(f"{ref}: tasks and attempts are numbered from 1")


def check_artifact_name(name: str, operation: str) -> None:
    """Raises BackendError where `name` is not a path of plain names, with forward slashes, below the scratch directory."""
    why = ""
    if name.startswith("/"):
        why = "begins with a slash"
    elif len(name.encode("utf-8", "surrogatepass")) > _MAX_PATH:
        why = f"is longer than {_MAX_PATH} bytes"
    else:
        why = next((found for part in name.split("/") if (found := _why_not(part))), "")
    if why:
        shown = name if len(name) <= 200 else name[:200] + "..."
        raise BackendError(f"{operation}: {shown!r} cannot be the name of an output: it {why}", operation, shown)


def _why_not(part: str) -> str:
    """What is wrong with one name of a path, as the end of a sentence that begins with "it"; "" where it is usable."""
    if not part:
        return "has an empty part"
    if part in (".", ".."):
        return f"has a part {part!r}"
    if "/" in part or "\\" in part or "\0" in part:
        return "holds a slash, a backslash or a NUL"
    try:
        size = len(part.encode("utf-8"))
    except UnicodeEncodeError:
        return "is not UTF-8"
    return f"has a part of more than {_MAX_NAME} bytes" if size > _MAX_NAME else ""
