"""The tasks' definitions of a job: one object of gzip members, written once and read by the part. May import names, bucket and wire.

A part is checked against the digest that the job's document has for it before anything of it is believed: whoever can write to the bucket
could otherwise have workers run what they like.
"""

from __future__ import annotations

import gzip
import io
import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterator

import msgspec
from msgspec.structs import replace

from sparkles import digest, wire
from sparkles.backends.google import names
from sparkles.backends.google.bucket import Bucket
from sparkles.errors import Damaged, StorageFull
from sparkles.model import Digest, InputFile, NewTask, TaskSpec
from sparkles.wire import JobDocument, Manifest, ManifestPart, ManifestRow

PART_TASKS = 1000
PART_BYTES = 8 << 20
"""Where the first tasks have more than this, parts are shorter: whoever needs one task reads and keeps its part."""

LEAST_TASKS = 64
"""Of a part, however large they are: a job's document names each part."""

ROW_BYTES = 4 << 20
"""Most of one task's definition: a worker that claims 32 tasks has them all in memory."""

_PARTS_KEPT = 12


class ManifestWriter:
    """Takes tasks in order of index; then `manifest` and `data` are what to store."""

    def __init__(self, job: str, part_tasks: int = PART_TASKS) -> None:
        """`job` names the job in errors."""
        self._job = job
        self._part_tasks = part_tasks
        self._count = self._bytes = 0
        self._files: tuple[InputFile, ...] = ()
        self._lines: list[bytes] = []
        # Streams give their bytes without a copy, which a large job's memory would show.
        self._members, self._fingerprints = io.BytesIO(), io.BytesIO()
        self._parts: list[ManifestPart] = []

    def add(self, task: NewTask) -> None:
        """The next task. Raises StorageFull where its definition is too large."""
        self._count += 1
        files = task.spec.files
        same = bool(files and self._lines) and (files is self._files or files == self._files)
        self._files = files
        row = ManifestRow(replace(task.spec, files=()) if same else task.spec, task.fingerprint, same)
        line = wire.encode_row(row)
        if len(line) > ROW_BYTES:
            raise self._too_large(task.spec, len(line))
        self._lines.append(line)
        self._bytes += len(line)
        self._fingerprints.write(bytes.fromhex(task.fingerprint))
        if not self._parts and self._bytes > PART_BYTES and LEAST_TASKS <= len(self._lines) < self._part_tasks:
            self._part_tasks = len(self._lines)
        if len(self._lines) == self._part_tasks:
            self._end_part()

    def _too_large(self, spec: TaskSpec, size: int) -> StorageFull:
        parts = {
            "its command": len(msgspec.json.encode(spec.command)),
            "its parameters": len(digest.canonical(spec.params)),
            f"the names of its {len(spec.files)} inputs": len(msgspec.json.encode(spec.files)),
            "its environment": len(msgspec.json.encode(spec.env)),
        }
        largest = max(parts, key=lambda each: parts[each])
        return StorageFull(
            f"task {self._count} of job {self._job}: its definition has {size} bytes, most of them {largest} ({parts[largest]});"
            f" the cloud takes {ROW_BYTES} a task: put large values into a file (addFiles), and many files into an archive",
            "create job",
            self._job,
        )

    def _end_part(self) -> None:
        # Level 1: a tenth of the time of level 6 for a fifth more bytes.
        member = gzip.compress(b"\n".join(self._lines) + b"\n", 1, mtime=0)
        self._lines.clear()
        self._bytes = 0
        self._parts.append(ManifestPart(self._members.tell(), len(member), digest.of_bytes(member)))
        self._members.write(member)

    def finish(self) -> tuple[Manifest, bytes, bytes]:
        """The manifest, the object's bytes, and those of the fingerprints."""
        if self._lines:
            self._end_part()
        return Manifest(self._part_tasks, tuple(self._parts)), self._members.getvalue(), self._fingerprints.getvalue()


class Definitions:
    """Reads manifests; keeps the last few parts and lists of fingerprints, which never change."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._parts: OrderedDict[Digest, list[ManifestRow]] = OrderedDict()
        self._lock = threading.Lock()

    def row(self, job: JobDocument, index: int) -> ManifestRow:
        """One task's definition. `index` is one of the job's."""
        part, place = divmod(index - 1, job.manifest.part_tasks)
        return self._part(job, part)[place]

    def rows(self, job: JobDocument, first: int = 1) -> Iterator[tuple[int, ManifestRow]]:
        """(index, definition) from task `first` on."""
        part, skip = divmod(first - 1, job.manifest.part_tasks)
        for number in range(part, len(job.manifest.parts)):
            start = number * job.manifest.part_tasks + 1
            for place, row in enumerate(self._part(job, number)):
                if number > part or place >= skip:
                    yield start + place, row

    def _part(self, job: JobDocument, number: int) -> list[ManifestRow]:
        part = job.manifest.parts[number]
        with self._lock:
            if part.digest in self._parts:
                self._parts.move_to_end(part.digest)
                return self._parts[part.digest]
        name = names.manifest(job.job.id, job.manifest)
        data = self._bucket.get(name, start=part.offset, end=part.offset + part.size_bytes)
        where = f"{self._bucket.url(name)} part {number + 1}"
        if digest.of_bytes(data) != part.digest:
            raise Damaged(
                f"{where} is not what was submitted (its digest differs): somebody changed it; submit the job again",
                "read",
                where,
            )
        try:
            lines = gzip.decompress(data).splitlines()
        except (OSError, EOFError, zlib.error) as error:
            raise Damaged(f"{where}: {error}", "read", where) from None
        rows: list[ManifestRow] = []
        for line in lines:
            rows.append(wire.decode_row(line, where, rows[-1] if rows else None))
        with self._lock:
            self._parts[part.digest] = rows
            while len(self._parts) > _PARTS_KEPT:
                self._parts.popitem(last=False)
        return rows
