"""One attempt's folder: what a task finds when it starts (docs/tasks.md), and its record. May import ports and model.

    JOB/INDEX/aN/   params.json   work/ (the scratch directory)   output.log   results.json   outputs/   result.json

output.log is made last before the program starts, so where there is none, it did not. result.json is written last of all and holds
the Attempt with the claim's token: recovery trusts it, and it alone; params.json becomes it. Surprise: os rather than
pathlib, and as few system calls as can be; each costs about 15 us, and a sweep has thousands of tasks that take a millisecond.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from sparkles import digest
from sparkles.errors import BackendError, Damaged, NotFound, StorageFull
from sparkles.model import Attempt, Claim, FailureClass, JobSpec
from sparkles.ports import Workspace

SCRIPT_ABOVE = 100_000
"""A command text longer than this is run from a file: one argument of execve holds 128 KiB on Linux."""
_LOG_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
_WRITE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
_OWN_VARIABLES = frozenset(
    (
        b"SPARKLES_JOB",
        b"SPARKLES_TASK",
        b"SPARKLES_ATTEMPT",
        b"SPARKLES_PARAMS",
        b"SPARKLES_RESULTS",
        b"SPARKLES_WORKER",
        b"SPARKLES_TOKEN",
    )
)


class AttemptFailed(Exception):
    """The attempt ends here, for this class and reason."""

    def __init__(self, failure: FailureClass, reason: str) -> None:
        super().__init__(failure, reason)
        self.failure = failure
        self.reason = reason


class Plan:
    """What the attempts of one job have in common, worked out once."""

    def __init__(self, spec: JobSpec, job_id: str, worker: str, environ: Mapping[bytes, bytes]) -> None:
        self.spec = spec
        self.env = {name: value for name, value in environ.items() if name not in _OWN_VARIABLES}
        self.env.update(_encoded(spec.env))
        self.problem = ""
        self.secrets: tuple[bytes, ...] = ()
        """Values that are not to be kept."""
        for name, reference in spec.secret_env.items():
            kind, _, source = reference.partition(":")
            value = environ.get(os.fsencode(source)) if kind == "env" else None
            if kind != "env":
                self.problem = f"secret {name}: {reference} cannot be resolved on this machine (expected env:NAME)"
            elif value is None:
                self.problem = (
                    f"secret {name}: {reference} is not set in the environment of the worker; set {source} and run again"
                )
            elif os.fsencode(name) not in _OWN_VARIABLES:
                self.env[os.fsencode(name)] = value
                self.secrets += (value,)
        self.env[b"SPARKLES_JOB"] = os.fsencode(job_id)
        self.env[b"SPARKLES_WORKER"] = os.fsencode(worker)
        self.entries = [name + b"=" + value for name, value in self.env.items()]

    def environment(self, claim: Claim, folder: str) -> list[bytes]:
        """The NAME=value entries of a task."""
        entries = self.entries
        if claim.spec.env:
            env = {**self.env, **_encoded(claim.spec.env)}
            entries = [name + b"=" + value for name, value in env.items()]
        ref = claim.ref
        own = (
            f"SPARKLES_TASK={ref.index}\0SPARKLES_ATTEMPT={ref.attempt}\0SPARKLES_PARAMS={folder}/params.json\0"
            f"SPARKLES_RESULTS={folder}/results.json\0SPARKLES_TOKEN={claim.token}"
        )
        return entries + os.fsencode(own).split(b"\0")


def _encoded(env: Mapping[str, str]) -> dict[bytes, bytes]:
    """As execve takes it; what this worker sets itself cannot be set by a job."""
    encoded = {os.fsencode(name): os.fsencode(value) for name, value in env.items()}
    return {name: value for name, value in encoded.items() if name not in _OWN_VARIABLES}


def create_folder(folder: str, claim: Claim, spares: list[str]) -> None:
    """Makes the attempt's folder with params.json and an empty scratch directory.

    A folder of that name is what a claim left that was given back before its program started: it goes. `spares` are scratch directories
    that ended tasks left as they found them: one is taken from it rather than a new one made (see `keep_spare`).
    """
    try:
        os.mkdir(os.path.dirname(folder))
    except FileExistsError:
        pass
    except FileNotFoundError:
        os.makedirs(os.path.dirname(folder), exist_ok=True)
    try:
        os.mkdir(folder)
    except FileExistsError:
        remove_tree(folder)
        os.mkdir(folder)
    _make_scratch(folder + "/work", spares)
    write_file(folder + "/params.json", digest.canonical(claim.spec.params).encode())


def create_log(folder: str) -> int:
    """Makes the empty log, the last thing before the program starts, and returns its descriptor."""
    return os.open(folder + "/output.log", _LOG_FLAGS, 0o666)


def was_started(folder: str) -> bool:
    """Whether the attempt's program may have been started: the log is there."""
    return os.path.lexists(folder + "/output.log")


def _make_scratch(work: str, spares: list[str]) -> None:
    while spares:
        try:
            os.rename(spares.pop(), work)
            return
        except OSError:
            continue  # its job was deleted
    os.mkdir(work)


def keep_spare(folder: str, spares: list[str]) -> None:
    """Ends the life of a scratch directory whose task and everything that it started are gone: one that is as it was made becomes a
    spare, any other is removed.

    Removing and making one for each task costs more than its two calls: ext4 passes over the inodes that were freed in the last
    minute one by one, so that each next file takes longer (0.1 ms more after a thousand).
    """
    work = folder + "/work"
    try:
        found = os.lstat(work)
        with os.scandir(work) as entries:
            pristine = next(entries, None) is None
        # A link to an empty folder has another mode.
        if pristine and found.st_mode == _scratch_mode() and found.st_uid == os.geteuid() and not _marked(work):
            spares.append(work)
            return
    except FileNotFoundError:
        return
    except OSError:
        pass  # unreadable: not pristine
    remove_scratch(folder)


@cache
def _scratch_mode() -> int:
    """The mode of a directory that this process makes."""
    mask = os.umask(0o077)
    os.umask(mask)
    return stat.S_IFDIR | (0o777 & ~mask)


def _marked(path: str) -> bool:
    """Whether extended attributes (access lists) were set."""
    return hasattr(os, "listxattr") and bool(os.listxattr(path))


def place_inputs(claim: Claim, folder: str, blobs: Workspace) -> None:
    """Puts the task's inputs into its scratch directory.

    Raises:
        AttemptFailed: staging or disk, with the path.
    """
    work = folder + "/work"
    made = {work}
    for file in claim.spec.files:
        target = f"{work}/{file.dst}"
        try:
            if escapes(file.dst):
                raise AttemptFailed(FailureClass.STAGING, f"input {file.dst}: the path leaves the scratch directory")
            parent = os.path.dirname(target)
            if parent not in made:
                os.makedirs(parent, exist_ok=True)
                made.add(parent)
            blobs.place(file.digest, Path(target), executable=file.executable, private=file.private, link=file.link)
        except StorageFull as error:
            raise AttemptFailed(FailureClass.DISK, f"input {file.dst}: {error}") from error
        except (NotFound, Damaged) as error:
            source = f" ({file.src})" if file.src else ""
            what = "is damaged" if isinstance(error, Damaged) else "is not in the store any more"
            reason = f"input {file.dst}{source} {what}: {error}. Run the same command again: it is stored anew, or made again"
            raise AttemptFailed(FailureClass.STAGING, reason) from error
        except BackendError as error:
            raise AttemptFailed(FailureClass.STAGING, f"input {file.dst}: {error}") from error
        except OSError as error:
            raise failed_call(error, f"input {file.dst}") from error


def working_directory(plan: Plan, folder: str) -> str:
    """Where the program starts.

    Raises:
        AttemptFailed: config, where the job's work_dir is not a folder of the scratch directory.
    """
    work = folder + "/work"
    if not plan.spec.work_dir or plan.spec.work_dir == ".":
        return work
    target = f"{work}/{plan.spec.work_dir}"
    if escapes(plan.spec.work_dir):
        raise AttemptFailed(FailureClass.CONFIG, f"the working directory {plan.spec.work_dir} leaves the scratch directory")
    try:
        os.makedirs(target, exist_ok=True)
    except FileExistsError:
        reason = f"the working directory {plan.spec.work_dir} is a file of the task's inputs"
        raise AttemptFailed(FailureClass.CONFIG, reason) from None
    return target


def arguments(claim: Claim, folder: str) -> list[bytes]:
    """The argument vector to execute: a text goes to /bin/sh, from a file where it is too long for an argument."""
    command = claim.spec.command
    if isinstance(command, str):
        text = os.fsencode(command)
        if len(text) <= SCRIPT_ABOVE:
            return [b"/bin/sh", b"-c", text]
        write_file(folder + "/command.sh", text)
        return [b"/bin/sh", os.fsencode(folder) + b"/command.sh"]
    return [os.fsencode(argument) for argument in command]


def write_record(folder: str, attempt: Attempt) -> None:
    """Makes result.json appear, whole.

    It takes over the inode of params.json, which has served: creating a file is the dearest thing that is done for a task that takes a
    millisecond. It is not truncated first: ext4 flushes a file that was cut to nothing and written again.
    """
    data = digest.encode_value(attempt)
    params = folder + "/params.json"
    try:
        descriptor = os.open(params, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        # The task removed it, or replaced it by something else; or the folder was never made.
        os.makedirs(folder, exist_ok=True)
        write_file(folder + "/result.part", data)
        os.rename(folder + "/result.part", folder + "/result.json")
        return
    try:
        write_all(descriptor, data)
        if os.fstat(descriptor).st_size > len(data):
            os.ftruncate(descriptor, len(data))
    finally:
        os.close(descriptor)
    os.rename(params, folder + "/result.json")


def read_record(folder: str, token: str) -> Attempt | None:
    """The complete record that the holder of `token` left, or None."""
    try:
        with open(folder + "/result.json", "rb") as file:
            attempt = msgspec.json.decode(file.read(), type=Attempt)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None
    return attempt if attempt.token == token else None


def remove_scratch(folder: str) -> bool:
    """Removes the scratch directory. False where something of it stays: what cannot be removed, or what is being written just now."""
    work = folder + "/work"
    try:
        os.rmdir(work)  # empty: one call
    except FileNotFoundError:
        return True
    except OSError:
        try:
            remove_tree(work)
        except OSError:
            return False
    return True


def append_log(log_fd: int, text: str) -> None:
    """Adds a line of this worker's own to a task's log, best effort."""
    try:
        os.write(log_fd, text.encode("utf-8", "replace"))
    except OSError:
        return


def remove_tree(path: str) -> None:
    """Removes a folder, folders that its own maker made unreadable included. Raises OSError."""
    import shutil  # with bz2 and lzma: 4 ms that most workers never need

    def again(function: Any, name: str, _error: Any) -> None:
        parent = os.path.dirname(name)
        os.chmod(parent, 0o700)
        if os.path.isdir(name) and not os.path.islink(name):
            os.chmod(name, 0o700)
            shutil.rmtree(name)
        else:
            os.unlink(name)

    shutil.rmtree(path, onerror=again)


def escapes(path: str) -> bool:
    """Whether a relative path leaves its folder, or is not a relative path at all."""
    return path.startswith("/") or "\0" in path or ".." in path.split("/")


def write_file(path: str, data: bytes) -> None:
    """Writes a whole file. Raises OSError."""
    descriptor = os.open(path, _WRITE_FLAGS, 0o666)
    try:
        write_all(descriptor, data)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes) -> None:
    """Writes all of `data`, in as many calls as it takes."""
    written = os.write(descriptor, data)
    while written < len(data):
        written += os.write(descriptor, data[written:])


def is_full(error: OSError) -> bool:
    """Whether a call was refused because no space, or no more of a quota, is left."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def failed_call(error: OSError, what: str) -> AttemptFailed:
    """The failure that a refused system call means: disk where there is no space, else staging, with the path."""
    where = f" ({error.filename})" if error.filename else ""
    if is_full(error):
        return AttemptFailed(FailureClass.DISK, f"{what}: no space is left{where}")
    return AttemptFailed(FailureClass.STAGING, f"{what}: {os.strerror(error.errno or 0)}{where}")
