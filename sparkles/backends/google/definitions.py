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

from sparkles import digest, wire
from sparkles.backends.google import names
from sparkles.backends.google.bucket import Bucket
from sparkles.errors import Damaged
from sparkles.model import Digest, NewTask
from sparkles.wire import JobDocument, Manifest, ManifestPart, ManifestRow

PART_TASKS = 1000
_PARTS_KEPT = 12


class ManifestWriter:
    """Takes tasks in order of index; then `manifest` and `data` are what to store."""

    def __init__(self, part_tasks: int = PART_TASKS) -> None:
        self._part_tasks = part_tasks
        self._lines: list[bytes] = []
        # Streams give their bytes without a copy, which a large job's memory would show.
        self._members, self._fingerprints = io.BytesIO(), io.BytesIO()
        self._parts: list[ManifestPart] = []

    def add(self, task: NewTask) -> None:
        """The next task."""
        self._lines.append(wire.encode_row(ManifestRow(task.spec, task.fingerprint)))
        self._fingerprints.write(bytes.fromhex(task.fingerprint))
        if len(self._lines) == self._part_tasks:
            self._end_part()

    def _end_part(self) -> None:
        # Level 1: a tenth of the time of level 6 for a fifth more bytes.
        member = gzip.compress(b"\n".join(self._lines) + b"\n", 1, mtime=0)
        self._lines.clear()
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
        rows = [wire.decode_row(line, where) for line in lines]
        with self._lock:
            self._parts[part.digest] = rows
            while len(self._parts) > _PARTS_KEPT:
                self._parts.popitem(last=False)
        return rows
