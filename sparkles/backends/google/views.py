"""What this process knows of jobs that are being counted again and again. May import shards and wire.

A job is read whole the first time; then only shards that are not over, and of those, where events come, only the ones that an event named
or that were not read for 30 s. Events are hints: what is counted was always read. Before a job counts as done, all of it is read once more.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from sparkles.backends.google import shard
from sparkles.backends.google.shards import Shards
from sparkles.wire import Event, JobDocument, ShardDocument

REPAIR_S = 30.0
"""With events: how often shards that are not over are read again, in case one was lost."""

_KEPT = 64


class _View:
    def __init__(self, documents: list[ShardDocument], now: float) -> None:
        self.documents = {document.number: document for document in documents}
        self.stale: set[int] = set()
        self.read_at = now


class Views:
    """See above."""

    def __init__(self, shards: Shards, events: Callable[[], list[Event] | None]) -> None:
        """`events`: those that came since it was last called; None where none can come."""
        self._shards, self._events = shards, events
        self._views: dict[str, _View] = {}
        self._lock = threading.Lock()

    def look(self, job: JobDocument) -> list[ShardDocument]:
        """The job's shards as they are now, or, where events come, as they were at the last that did."""
        with self._lock:
            live = self._take_events()
            job_id = job.job.id
            view = self._views.get(job_id)
            now = time.monotonic()
            if view is None:
                return self._read(job)
            open_ones = {number for number, each in view.documents.items() if shard.unfinished(each) is not None}
            if live and now - view.read_at < REPAIR_S:
                wanted = view.stale
            else:
                wanted = open_ones | view.stale
                view.read_at = now
            for stored in self._shards.get_many([(job_id, number) for number in sorted(wanted)]):
                view.documents[stored.document.number] = stored.document
            view.stale = set()
            documents = list(view.documents.values())
            if all(shard.unfinished(each) is None for each in documents):
                return self._read(job)
            return documents

    def forget(self, job_id: str) -> None:
        """The job is gone."""
        with self._lock:
            self._views.pop(job_id, None)

    def _read(self, job: JobDocument) -> list[ShardDocument]:
        """Reads all of a job; it is remembered only while it goes on."""
        documents = [stored.document for stored in self._shards.of_job(job)]
        self._views.pop(job.job.id, None)
        if any(shard.unfinished(each) is not None for each in documents):
            while len(self._views) >= _KEPT:
                self._views.pop(next(iter(self._views)))
            self._views[job.job.id] = _View(documents, time.monotonic())
        return documents

    def _take_events(self) -> bool:
        events = self._events()
        for event in events or ():
            view = self._views.get(event.job)
            known = view.documents.get(event.shard) if view is not None else None
            if view is not None and (known is None or event.seq > known.seq):
                view.stale.add(event.shard)
        return events is not None
