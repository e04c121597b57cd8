"""Bringing a job's results tree to a folder of the user's. May import ports and below.

DEST/INDEX/ holds what task INDEX left: its outputs under their own names, results.json, and output.log; DEST/tasks.csv has one row a task.
A file that is there already with the right content is left alone, so a second fetch brings only what is missing. A replayed one leaves
alone what differs too: somebody edited it.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from sparkles import digest, hints, rows
from sparkles.engine.attempt import is_full
from sparkles.engine.commands import Answer, Done, Fetch, Raised, StepError, refused
from sparkles.engine.events import Noticed, Report
from sparkles.engine.files import RunFiles, there_before
from sparkles.engine.history import TABLE
from sparkles.engine.journal import Journal
from sparkles.engine.landing import Landing
from sparkles.errors import Damaged, NotFound, StorageFull, UsageError
from sparkles.model import Artifact, AttemptRef, Json, TaskState
from sparkles.ports import Blobs, JobStore, Outcome
from sparkles.units import plural

PAGE = 500

RESULTS, LOG = "results.json", "output.log"

LOG_PIECE_BYTES = 1 << 20


def outcomes(store: JobStore, job_id: str) -> Iterator[Outcome]:
    """Every task with its outcome, a page at a time."""
    first = 1
    while page := store.list_outcomes(job_id, first=first, limit=PAGE):
        yield from page
        first = page[-1].task.index + 1


def fetch(store: JobStore, blobs: Blobs, job_id: str, dest: Path, indexes: Collection[int] | None = None) -> int:
    """Brings the results of a job's ended tasks to `dest`. Returns how many files were written.

    Raises:
        NotFound: There is no such job, or an output's bytes are gone.
        UsageError: `dest` is a file.
    """
    store.get_job(job_id)
    return bring(outcomes(store, job_id), blobs, dest, indexes)


class _Place:
    """How files come to their place: by `landing`, or not at all where they are only counted (None). With `left` what is there and
    differs stays, and is named in it."""

    def __init__(self, landing: Landing | None, left: list[Path] | None) -> None:
        self.landing = landing
        self.keeps = left is not None
        self._left = left

    def stays(self, target: Path) -> bool:
        """Whether a file without the right content is left alone."""
        if self._left is None or not target.exists():
            return False
        self._left.append(target)
        return True


def bring(
    found: Iterable[Outcome],
    blobs: Blobs,
    dest: Path,
    indexes: Collection[int] | None = None,
    *,
    only_count: bool = False,
    left: list[Path] | None = None,
) -> int:
    """Brings results to `dest`, or only counts the files that would be written.

    Args:
        left: Given: a file that is there and differs is left alone, and added to this list.

    Raises: as `fetch`.
    """
    if dest.exists() and not dest.is_dir():
        raise UsageError(f"{dest}: expected a folder, found a file")
    written = 0
    table: list[dict[str, Json]] = []

    landing = None if only_count else Landing(dest)
    place = _Place(landing, left)

    with landing or nullcontext(), ThreadPoolExecutor(blobs.transfers) as pool:
        wanted = (outcome for outcome in found if indexes is None or outcome.task.index in indexes)
        while page := list(itertools.islice(wanted, PAGE)):
            for outcome in page:
                task, attempt = outcome.task, outcome.attempt
                code = attempt.exit_code if attempt is not None else task.exit_code
                table.append(row_of(task.index, str(task.state), code, outcome.params))
            files = (file for outcome in page for file in _files(outcome, blobs, dest, place))
            written += sum(pool.map(_call, files) if blobs.transfers > 1 else map(_call, files))
        if indexes is None:
            written += _write(dest / TABLE, rows.format_csv(table), place)
    return written


def unfinished(store: JobStore, job_id: str, index: int | None = None) -> str:
    """A sentence for who fetches too early, a whole job or one task of it, or "". To be asked before the fetch: what ends meanwhile is
    not passed over.

    Raises:
        NotFound: There is no such job or task.
    """
    if index is not None:
        is_open = store.get_task(job_id, index).state in (TaskState.PENDING, TaskState.CLAIMED)
        return f"{job_id}/{index} has not ended; nothing of it is fetched" if is_open else ""
    counts = store.count_tasks(job_id)
    if counts.done:
        return ""
    return (
        f"{job_id}: {counts.total - counts.ended:,} of {plural(counts.total, 'task')} not ended; nothing of theirs is fetched"
    )


def _files(outcome: Outcome, blobs: Blobs, dest: Path, place: _Place) -> Iterator[Callable[[], int]]:
    """What one task left, each file as a call that brings it. An output may have the name of the log or of the results, which come after
    it; such a file is not compared where what differs stays."""
    task, attempt = outcome.task, outcome.attempt
    if attempt is None:
        return
    folder = dest / str(task.index)
    replacing = _Place(place.landing, None)
    places = {output.name: replacing for output in attempt.outputs if output.name in (RESULTS, LOG)}
    calls: dict[str, list[Callable[[], int]]] = {}
    for output in attempt.outputs:
        calls[output.name] = [partial(_bring, blobs, output, attempt.ref, folder / output.name, places.get(output.name, place))]
    if attempt.results is not None:
        data = attempt.results.encode()
        results = partial(_write, folder / RESULTS, data, places.get(RESULTS, place))
        calls.setdefault(RESULTS, []).append(results)
    failed = task.state is TaskState.FAILED
    log = partial(_bring_log, blobs, attempt.ref, folder / LOG, places.get(LOG, place), always=failed)
    calls.setdefault(LOG, []).append(log)
    for name, each in calls.items():
        if name in places and place.keeps and (folder / name).exists():
            continue
        yield partial(_in_turn, each)


def _call(bring: Callable[[], int]) -> int:
    return bring()


def _in_turn(calls: list[Callable[[], int]]) -> int:
    return sum(call() for call in calls)


def row_of(index: int, state: str, exit_code: int | None, params: Mapping[str, object]) -> dict[str, Json]:
    """A task's row in tasks.csv: how it ended, and those of its parameters that fit into a cell. One that has the name of another column
    stands under `param.NAME`."""
    row: dict[str, Json] = {"index": index, "state": state, "exit_code": exit_code}
    named = dict(params)
    for name in ("index", "state", "exit_code"):
        if name in named:
            header = f"param.{name}"
            while header in named:
                header = f"param.{header}"
            named = {header if each == name else each: value for each, value in named.items()}
    return row | {key: value for key, value in named.items() if isinstance(value, str | int | float | bool)}


def _bring(blobs: Blobs, output: Artifact, made_by: AttemptRef, target: Path, place: _Place) -> int:
    if target.is_file() and target.stat().st_size == output.size_bytes and _sha256(target) == output.digest:
        return 0
    if place.stays(target):
        return 0
    if place.landing is None:
        return 1
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = place.landing.place()
    try:
        blobs.place(output.digest, temporary, executable=output.executable, private=output.private)
        temporary.replace(target)
    except (Damaged, NotFound) as error:
        task = f"{made_by.job}/{made_by.index}"
        message = f"output {output.name} of {task}: {error.message}; `{hints.command('reset', str(task))}` makes it again"
        raise type(error)(message, error.operation, error.resource) from error
    finally:
        temporary.unlink(missing_ok=True)
    return 1


def _bring_log(blobs: Blobs, ref: AttemptRef, target: Path, place: _Place, *, always: bool) -> int:
    """A log, in pieces: it may be larger than memory. An empty one comes only with a failure."""
    piece = blobs.read_log(ref, 0, LOG_PIECE_BYTES)
    if len(piece) < LOG_PIECE_BYTES:
        return _write(target, piece, place) if piece or always else 0
    if _is_log(blobs, ref, target) or place.stays(target):
        return 0
    if place.landing is None:
        return 1
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = place.landing.place()
    offset = 0
    with temporary.open("wb") as stream:
        while piece:
            stream.write(piece)
            offset += len(piece)
            piece = blobs.read_log(ref, offset, LOG_PIECE_BYTES)
    temporary.replace(target)
    return 1


def _is_log(blobs: Blobs, ref: AttemptRef, target: Path) -> bool:
    """Whether a file holds the log of an attempt, compared in pieces."""
    if not target.is_file():
        return False
    offset = 0
    with target.open("rb") as stream:
        while True:
            piece = blobs.read_log(ref, offset, LOG_PIECE_BYTES)
            if stream.read(len(piece) or 1) != piece:
                return False
            if not piece:
                return True
            offset += len(piece)


def _write(target: Path, data: bytes, place: _Place) -> int:
    if target.is_file() and target.stat().st_size == len(data) and target.read_bytes() == data:
        return 0
    if place.stays(target):
        return 0
    if place.landing is None:
        return 1
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = place.landing.place()
    temporary.write_bytes(data)
    temporary.replace(target)
    return 1


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _names(dest: Path) -> list[str]:
    """What stands in a folder under names that a fetch gives: it was there before."""
    if not dest.is_dir():
        return []
    return sorted(name for name in os.listdir(dest) if name.isdecimal() or name == TABLE)


def _left_alone(name: str, dest: Path, left: list[Path]) -> str:
    shown = ", ".join(sorted(str(each.relative_to(dest)) for each in left)[:3]) + (", ..." if len(left) > 3 else "")
    differ, they = ("differs", "it is") if len(left) == 1 else ("differ", "they are")
    return f"{name}: {shown} {differ} from what was fetched; {they} left alone"


class FetchSteps:
    """`fetch` of a script."""

    def __init__(self, store: JobStore, blobs: Blobs, files: RunFiles, journal: Journal, report: Report) -> None:
        self._store = store
        self._blobs = blobs
        self._files = files
        self._journal = journal
        self._report = report

    def fetch(self, strand: str, command: Fetch) -> Answer:
        """-> {"path", "files"}. A replayed fetch checks its destination and brings what is missing; what differs is left alone."""
        asking = self._journal.ask_for(strand, command)
        try:
            dest = self._files.resolve_outside(command.dest)
            self._files.fetched(strand, dest)
            recorded = asking.recorded
            outcome = self._store.state_digest(command.job)
            if recorded is not None and recorded.value is not None and self._journal.stands(recorded):
                value = digest.parse(recorded.value)
                if value["outcome"] == outcome:
                    left: list[Path] = []
                    brought = bring(outcomes(self._store, command.job), self._blobs, dest, left=left)
                    if left:
                        self._report(Noticed(text=_left_alone(command.dest, dest, left)))
                    return Done({"path": command.dest, "files": value["files"]}, reused=not brought)
            there: Json = _names(dest) if recorded is None else there_before(recorded) or []
            self._journal.start(asking, {"there": there})
            if early := unfinished(self._store, command.job):
                self._report(Noticed(text=f"{command.position}: fetch: {early}: wait(job) comes first"))
            files = fetch(self._store, self._blobs, command.job, dest)
            self._journal.finish(asking, {"outcome": outcome, "files": files, "there": there})
            return Done({"path": command.dest, "files": files})
        except (NotFound, UsageError) as error:
            return refused(error, "fetch")
        except OSError as error:
            if is_full(error):
                raise StorageFull(f"fetch: {command.dest}: no space is left on the device", "fetch", command.dest) from error
            return Raised(StepError(f"fetch: {command.dest}: {error.strerror} ({error.filename})", kind="WriteFailed"))
