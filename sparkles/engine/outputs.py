"""What is kept of an ended attempt: its outcome, results.json, outputs and the end of its log. May import ports and model.

Surprise: nothing here trusts what a task left. A results.json can be a named pipe, an output a link to /etc, a log 100 GB.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Collection, Iterable, Iterator
from functools import cache
from pathlib import Path
from signal import SIGKILL

import msgspec

from sparkles.engine.attempt import AttemptFailed, escapes, failed_call
from sparkles.engine.capacity import size
from sparkles.engine.runner import Cause, Ended, signal_name
from sparkles.errors import BackendError, SpecError, StorageFull, UsageError
from sparkles.model import Artifact, Claim, FailureClass, JobSpec
from sparkles.ports import Workspace

RESULTS_LIMIT = 16 << 20
TAIL_LINES, TAIL_BYTES = 20, 8192
SECRET_FROM = 4
"""Bytes: a shorter value says nothing, and what it says would be in every other word."""
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def judge(ended: Ended, spec: JobSpec, memory_bytes: int) -> tuple[FailureClass | None, str]:
    """The class and the sentence for how a program ended; None where it exited with 0 by itself. Pure."""
    if ended.cause is Cause.TIMEOUT:
        return FailureClass.TIMEOUT, f"ran longer than its time limit of {spec.timeout_s:g} s and was ended"
    if ended.cause is Cause.MEMORY:
        used = size(ended.peak_memory_bytes or 0)
        return FailureClass.OOM, f"used {used} of memory where {size(memory_bytes)} were asked for, and was ended"
    if ended.cause is Cause.KERNEL_OOM:
        why = _ran_out(ended.limit_bytes, memory_bytes, ended.peak_memory_bytes or 0)
        if ended.exit_code is not None and ended.exit_code != 128 + SIGKILL:
            reason = f"exited with code {ended.exit_code} after the kernel ended one of its processes because {why}"
            return FailureClass.OOM, reason
        return FailureClass.OOM, f"ended by the kernel because {why}"
    if ended.exit_code is None:
        name = signal_name(ended.signal)
        return FailureClass.EXIT, f"ended by signal {ended.signal}" + (f" ({name})" if name else "")
    if ended.exit_code == 0:
        return None, ""
    hint = ""
    if ended.exit_code == 127:
        hint = " (127 from a shell: a command was not found)"
    elif ended.exit_code == 126:
        hint = " (126 from a shell: a command could not be executed)"
    elif 128 < ended.exit_code <= 128 + 64:
        hint = f" (128 + {ended.exit_code - 128} from a shell: a command was ended by signal {ended.exit_code - 128})"
    return FailureClass.EXIT, f"exited with code {ended.exit_code}{hint}"


def _ran_out(limit: int, asked: int, peak: int) -> str:
    """Which memory ran out, and what the task had asked for and used."""
    which = f"the {size(limit)} of memory of its container or control group" if limit else "the machine's memory"
    wanted = f"{size(asked)} were asked for" if asked else "none was asked for"
    used = f"; it had used {size(peak)}" if peak else ""
    return f"{which} ran out ({wanted}{used})"


def read_results(folder: str) -> str | None:
    """The text of results.json, None where the task wrote none.

    Raises:
        AttemptFailed: output, where it is not JSON, too large, or not a plain file.
    """
    path = folder + "/results.json"
    try:
        # Without O_NONBLOCK, a named pipe in its place would block the worker.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise AttemptFailed(FailureClass.OUTPUT, "results.json is a symbolic link; expected a plain file") from None
        if error.errno == errno.ENXIO:  # a socket
            raise AttemptFailed(FailureClass.OUTPUT, "results.json is not a plain file; expected a plain file") from None
        raise AttemptFailed(FailureClass.OUTPUT, f"results.json cannot be read: {os.strerror(error.errno or 0)}") from error
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            what = "a folder" if stat.S_ISDIR(facts.st_mode) else "not a plain file"
            raise AttemptFailed(FailureClass.OUTPUT, f"results.json is {what}; expected a plain file")
        if facts.st_size > RESULTS_LIMIT:
            reason = f"results.json has {facts.st_size} bytes; at most {RESULTS_LIMIT} are kept: write larger data to an output"
            raise AttemptFailed(FailureClass.OUTPUT, reason)
        with os.fdopen(os.dup(descriptor), "rb") as file:
            data = file.read(RESULTS_LIMIT + 1)
    finally:
        os.close(descriptor)
    try:
        msgspec.json.decode(data)
        return data.decode("utf-8")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise AttemptFailed(FailureClass.OUTPUT, f"results.json is not JSON: {error}") from error


def collect_outputs(spec: JobSpec, claim: Claim, folder: str, blobs: Workspace) -> tuple[Artifact, ...]:
    """Moves what the task was to leave into the store, and shows it under outputs/.

    A pattern without wildcards names a file whatever it is; wildcards pass over the task's own inputs and over links.

    Raises:
        AttemptFailed: output, where a required pattern matched nothing or something leads out; disk.
    """
    work = folder + "/work"
    _check_own(folder)
    inputs = {file.dst for file in claim.spec.files}
    found: dict[str, str] = {}
    listing: list[str] | None = None
    for glob in spec.outputs:
        pattern = None if _plain(glob.pattern) else compile_glob(glob.pattern)
        matched: Iterable[str]
        if pattern is None:
            matched = [glob.pattern] if not escapes(glob.pattern) and _is_file(work, glob.pattern) else []
        else:
            if listing is None:
                listing = sorted(_walk(work))
            matched = [name for name in listing if name not in inputs and pattern.fullmatch(name)]
        if glob.required and not matched:
            raise AttemptFailed(FailureClass.OUTPUT, f"required output {glob.pattern} was not written")
        for name in matched:
            found[os.path.normpath(name)] = name
    # A link to a file inside becomes that file's bytes, before anything is moved away.
    for name in found.values():
        if os.path.islink(f"{work}/{name}"):
            _resolve(work, name)
    artifacts = []
    try:
        for name in sorted(found):
            artifacts.append(blobs.collect(Path(work, name), name))
        blobs.publish(claim.ref, artifacts)
    except StorageFull as error:
        raise AttemptFailed(FailureClass.DISK, f"outputs were not stored: {error}") from error
    except UsageError as error:
        raise AttemptFailed(FailureClass.OUTPUT, f"outputs were not stored: {error}") from error
    except BackendError as error:
        raise AttemptFailed(FailureClass.STAGING, f"outputs were not stored: {error}") from error
    except OSError as error:
        raise failed_call(error, "outputs were not stored") from error
    return tuple(artifacts)


def changed_inputs(claim: Claim, blobs: Workspace) -> str:
    """The sentence that names a linked input that the task changed, or ""."""
    for file in claim.spec.files:
        if file.link and not blobs.verify_linked(file.digest):
            return (
                f"the task changed its linked input {file.dst}; a task that changes an input needs a copy of its own (no link)"
            )
    return ""


def log_tail(folder: str, secrets: Collection[bytes] = ()) -> str:
    """The last lines of the log as text for people, without reading the rest and without these values; "" where the task put something
    else in its place."""
    try:
        descriptor = os.open(folder + "/output.log", os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return ""
    wanted = TAIL_BYTES + max(map(len, secrets), default=0)  # a value that begins before the last lines is found whole
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            return ""
        data = os.pread(descriptor, wanted, max(0, facts.st_size - wanted))
    finally:
        os.close(descriptor)
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= SECRET_FROM:
            data = data.replace(secret, b"***")
    return tail_text(data[-TAIL_BYTES:])


def tail_text(data: bytes) -> str:
    """At most the last 20 lines and 8 kB of `data`: undecodable bytes replaced, terminal escapes and control characters gone.

    What a carriage return overwrote (progress bars) is left out, as a terminal would show it.
    """
    text = _ESCAPES.sub("", data.decode("utf-8", "replace"))
    lines = [_CONTROLS.sub("", line.rstrip("\r").rpartition("\r")[2]) for line in text.rstrip("\n").split("\n")]
    kept = "\n".join(lines[-TAIL_LINES:])
    return kept.encode()[-TAIL_BYTES:].decode("utf-8", "ignore")


FULL_BELOW = 1 << 20
"""Bytes: a write of a megabyte is refused with less, and a program that failed for that may have left this much when it was ended."""


def said_full(tail: str) -> bool:
    """Whether the end of a log holds the system's words for a full disk."""
    return "No space left on device" in tail or "Disk quota exceeded" in tail


def disk_full(folder: str) -> bool:
    """Whether the file system of a folder has next to no space left."""
    try:
        facts = os.statvfs(folder)
    except OSError:
        return False
    return facts.f_bavail * facts.f_frsize < FULL_BELOW


@cache
def compile_glob(pattern: str) -> re.Pattern[str]:
    """`*` and `?` stay within a folder, `**/` is any number of folders, `[ab]`, `[!ab]` a set of characters."""
    out = []
    at = 0
    pattern = os.path.normpath(pattern)
    while at < len(pattern):
        if pattern.startswith("**/", at):
            out.append("(?:[^/]+/)*")
            at += 3
        elif pattern.startswith("**", at):
            out.append(".*")
            at += 2
        elif pattern[at] == "*":
            out.append("[^/]*")
            at += 1
        elif pattern[at] == "?":
            out.append("[^/]")
            at += 1
        elif pattern[at] == "[" and (end := pattern.find("]", at + (3 if pattern[at + 1 : at + 2] in ("!", "^") else 2))) > 0:
            inside = pattern[at + 1 : end]
            negated = inside[:1] in ("!", "^")
            body = inside[negated:].replace("\\", r"\\").replace("[", r"\[").replace("^", r"\^").replace("&&", r"&\&")
            out.append(f"(?!/)[{'^' if negated else ''}{body}]")
            at = end + 1
        else:
            out.append(re.escape(pattern[at]))
            at += 1
    try:
        return re.compile("".join(out), re.DOTALL)
    except re.error:
        raise SpecError(f"{pattern}: expected a pattern, found a set of characters that cannot be one, such as [z-a]") from None


def _plain(pattern: str) -> bool:
    return not any(character in pattern for character in "*?[")


def _walk(top: str, below: str = "") -> Iterator[str]:
    """Relative paths of the regular files below `top`; links to files inside count, no link to a folder is followed."""
    try:
        entries = list(os.scandir(f"{top}/{below}" if below else top))
    except OSError:
        return  # not ours to read, or the task removed it
    for entry in entries:
        name = f"{below}/{entry.name}" if below else entry.name
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(top, name)
        elif entry.is_file(follow_symlinks=False) or (entry.is_symlink() and _inside(top, name)):
            yield name


def _check_own(folder: str) -> None:
    """Refuses a link in the place of the scratch directory or of the attempt's folder: collecting moves files, and those there are not
    the task's."""
    real = os.path.join(os.path.realpath(os.path.dirname(folder)), os.path.basename(folder), "work")
    if os.path.lexists(real) and os.path.realpath(real) != real:
        reason = "the scratch directory is a link now, and outputs are taken from the directory that the task was given"
        raise AttemptFailed(FailureClass.OUTPUT, reason)


def _inside(work: str, name: str) -> bool:
    """Whether a link leads to a regular file of the scratch directory."""
    target = os.path.realpath(f"{work}/{name}")
    return target.startswith(os.path.realpath(work) + "/") and os.path.isfile(target)


def _is_file(work: str, name: str) -> bool:
    """Whether a pattern without wildcards names a regular file inside."""
    path = f"{work}/{name}"
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return False
    if not os.path.realpath(path).startswith(os.path.realpath(work) + "/"):
        raise AttemptFailed(FailureClass.OUTPUT, f"output {name} is a link that leads out of the scratch directory")
    if stat.S_ISLNK(mode):
        return os.path.isfile(path)
    if not stat.S_ISREG(mode):
        what = f"a folder (use a pattern such as {name}/**)" if stat.S_ISDIR(mode) else "not a plain file"
        raise AttemptFailed(FailureClass.OUTPUT, f"output {name} is {what}")
    return True


def _resolve(work: str, name: str) -> None:
    path = f"{work}/{name}"
    copy = path + ".sparkles-copy"
    import shutil

    try:
        shutil.copy(os.path.realpath(path), copy)
        os.replace(copy, path)
    except OSError as error:
        raise failed_call(error, f"output {name}") from error
