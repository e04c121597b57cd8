"""Records of attempts, and which of them can be used again for a fingerprint. May import shards, names, bucket and wire.

A job's fingerprints are one object of 32 bytes a task, which never changes: whoever read it keeps it. So a lookup reads each list once, and
then only the shards that hold a match.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence

from sparkles import digest, wire
from sparkles.backends.google import names
from sparkles.backends.google.bucket import Bucket
from sparkles.backends.google.datastore import Datastore
from sparkles.backends.google.shards import Shards
from sparkles.backends.names import check_artifact_name
from sparkles.errors import NotFound
from sparkles.model import Attempt, AttemptRef, Digest
from sparkles.wire import JobDocument, TaskRow

_KEPT_BYTES = 64 << 20
_PRINT = 32


class Reuse:
    """See above."""

    def __init__(self, datastore: Datastore, bucket: Bucket, shards: Shards) -> None:
        self._datastore, self._bucket, self._shards = datastore, bucket, shards
        self._lists: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    # By fingerprint

    def find(self, fingerprints: Collection[Digest], jobs: Sequence[JobDocument]) -> dict[Digest, Attempt]:
        """For each fingerprint the newest attempt of `jobs` (newest first) that succeeded; others are left out."""
        caching = [job for job in jobs if job.job.count]
        if not caching:
            return {}
        wanted = set(map(bytes.fromhex, fingerprints))
        found: dict[Digest, Attempt] = {}
        for job, data in zip(caching, self._bucket.each(self._list, caching), strict=True):
            places: dict[int, list[tuple[int, Digest]]] = {}
            for at in range(0, len(data), _PRINT):
                key = data[at : at + _PRINT]
                if key in wanted and (fingerprint := Digest(key.hex())) not in found:
                    place = at // _PRINT
                    places.setdefault(place // job.shard_size, []).append((place + 1, fingerprint))
            if not places:
                continue
            for stored in self._shards.get_many([(job.job.id, number) for number in places]):
                for index, fingerprint in places[stored.document.number]:
                    row = stored.document.tasks[index - stored.document.first]
                    attempt = self._succeeded(row)
                    if attempt is not None:
                        found[fingerprint] = attempt
        return found

    def _succeeded(self, row: TaskRow) -> Attempt | None:
        for attempt in reversed(row.records):
            if attempt.failure is None:
                return self.whole_record(attempt, row)
        return self.whole_borrowed(row)

    def _list(self, job: JobDocument) -> bytes:
        """The job's fingerprints, 32 bytes each; none where they are not what was submitted: no result is taken for another's."""
        key = (job.job.id, job.job.sequence)
        with self._lock:
            if key in self._lists:
                self._lists.move_to_end(key)
                return self._lists[key]
        try:
            data = self._bucket.get(names.fingerprints(job.job.id))
        except NotFound:
            return b""
        if job.fingerprints and digest.of_bytes(data) != job.fingerprints:
            return b""
        with self._lock:
            self._lists[key] = data
            self._bytes += len(data)
            while self._bytes > _KEPT_BYTES and len(self._lists) > 1:
                self._bytes -= len(self._lists.popitem(last=False)[1])
        return data

    # By attempt

    def records(self, refs: Collection[AttemptRef]) -> dict[AttemptRef, Attempt]:
        """The records of those attempts that there are, those of deleted jobs that others still reuse included."""
        if not refs:
            return {}
        entities = self._datastore.lookup(names.JOB, sorted({ref.job for ref in refs}))
        jobs = {name: wire.decode(entity.document, JobDocument, f"{names.JOB} {name}") for name, entity in entities.items()}
        places = {
            (ref.job, (ref.index - 1) // jobs[ref.job].shard_size)
            for ref in refs
            if ref.job in jobs and 1 <= ref.index <= jobs[ref.job].job.count
        }
        found: dict[AttemptRef, Attempt] = {}
        for stored in self._shards.get_many(sorted(places)):
            for row in stored.document.tasks:
                for attempt in row.records:
                    if attempt.ref in refs:
                        found[attempt.ref] = self.whole_record(attempt, row)
        for job_id in {ref.job for ref in refs if ref not in found}:
            for ref, row in self._kept(job_id).items():
                lent = self.whole_borrowed(row)
                if ref in refs and ref not in found and lent is not None:
                    found[ref] = lent
        return found

    def kept_of(self, job_id: str, *, but: Collection[str] = ()) -> set[AttemptRef]:
        """The attempts of a job whose outcome tasks of other jobs, except those of `but`, have."""
        return set(self._kept(job_id, but=but))

    def still_kept(self, refs: Collection[AttemptRef], *, but: Collection[str]) -> set[AttemptRef]:
        """Those of `refs` that tasks of jobs other than those of `but` have their outcome from."""
        return {ref for job_id in {ref.job for ref in refs} for ref in self._kept(job_id, but=but) if ref in refs}

    def _kept(self, job_id: str, *, but: Collection[str] = ()) -> dict[AttemptRef, TaskRow]:
        return {
            row.borrowed.ref: row
            for stored in self._shards.that_reuse(job_id)
            if stored.document.job not in but
            for row in stored.document.tasks
            if row.borrowed is not None and row.borrowed.ref.job == job_id
        }

    # Whole records

    def whole(self, rows: Mapping[int, TaskRow]) -> dict[int, Attempt]:
        """The record that each task's outcome is, by index; tasks without one are left out."""

        def one(item: tuple[int, TaskRow]) -> tuple[int, Attempt | None]:
            index, row = item
            if row.origin is None:
                return index, None
            if row.borrowed is not None:
                return index, self.whole_borrowed(row)
            for attempt in row.records:
                if attempt.ref == row.origin:
                    return index, self.whole_record(attempt, row)
            return index, None

        few = {index: row for index, row in rows.items() if row.stored or row.borrowed is not None}
        found = dict(map(one, ((index, row) for index, row in rows.items() if index not in few)))
        found.update(self._bucket.each(one, few.items()))
        return {index: attempt for index, attempt in found.items() if attempt is not None}

    def whole_record(self, attempt: Attempt, row: TaskRow) -> Attempt:
        """The record with what the shard leaves out. Raises BackendError where an output's name is none: names become paths."""
        return _checked(self._read(attempt) if attempt.ref.attempt in row.stored else attempt)

    def whole_borrowed(self, row: TaskRow) -> Attempt | None:
        """The whole of the record that the task has from another job's; None where it has none. Raises as `whole_record`."""
        if row.borrowed is None:
            return None
        return _checked(self._read(row.borrowed) if 0 in row.stored else row.borrowed)

    def _read(self, attempt: Attempt) -> Attempt:
        name = names.attempt(attempt.ref, "result.json")
        try:
            found = wire.decode_attempt(self._bucket.get(name), self._bucket.url(name))
        except NotFound:
            return attempt
        return found if found.token == attempt.token else attempt


def _checked(attempt: Attempt) -> Attempt:
    for output in attempt.outputs:
        check_artifact_name(output.name, f"read the record of {attempt.ref.job}/{attempt.ref.index}")
    return attempt
