"""What this process knows of jobs that are being counted again and again. May import shards and wire.

A job is read whole the first time; then only shards that are not over, and of those, where events come, only the ones that an event named
or that were not read for 30 s. Events are hints: what is counted was always read. Before a job counts as done, all of it is read once more.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection

from sparkles.backends.google import shard
from sparkles.backends.google.shards import Shards
from sparkles.wire import Event, JobDocument, ShardDocument

REPAIR_S = 30.0
"""With events: how often shards that are not over are read again, in case one was lost."""

SLOWER = 1.5
"""Without events: how much longer the pause becomes after a look that found nothing new, up to REPAIR_S."""

_KEPT = 64


class _View:
    def __init__(self, documents: list[ShardDocument], now: float) -> None:
        self.documents = {document.number: document for document in documents}
        self.stale: set[int] = set()
        self.read_at = now
        self.pause_s = 0.0
        self.sure = False
        """Whether events named every change since it was last read."""


class Views:
    """See above."""

    def __init__(self, shards: Shards, events: Callable[[], list[Event] | None], poll_s: float = 0.0) -> None:
        """`events`: those that came since it was last called; None where none can come, or some may be missing. `poll_s`: the least time
        between two looks at shards without events."""
        self._shards, self._events, self._poll_s = shards, events, poll_s
        self._views: dict[str, _View] = {}
        self._live = False
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
            if now - view.read_at < (REPAIR_S if view.sure else view.pause_s):
                wanted = view.stale
            else:
                wanted = open_ones | view.stale
                view.read_at, view.sure = now, live
            news = self._refresh(job_id, view, wanted)
            if view.sure or news:
                view.pause_s = self._poll_s
            elif view.read_at == now:
                view.pause_s = min(view.pause_s * SLOWER, REPAIR_S)
            documents = list(view.documents.values())
            if all(shard.unfinished(each) is None for each in documents):
                return self._read(job)
            return documents

    def forget(self, job_id: str) -> None:
        """The job is gone, or was changed by this process: it is read anew."""
        with self._lock:
            self._views.pop(job_id, None)

    def _refresh(self, job_id: str, view: _View, wanted: Collection[int]) -> bool:
        """Reads shards; whether one of them changed."""
        news = False
        for stored in self._shards.get_many([(job_id, number) for number in sorted(wanted)]):
            known = view.documents.get(stored.document.number)
            news = news or known is None or known.seq != stored.document.seq
            view.documents[stored.document.number] = stored.document
        view.stale = set()
        return news

    def _read(self, job: JobDocument) -> list[ShardDocument]:
        """Reads all of a job; it is remembered only while it goes on."""
        documents = [stored.document for stored in self._shards.of_job(job)]
        self._views.pop(job.job.id, None)
        if any(shard.unfinished(each) is not None for each in documents):
            while len(self._views) >= _KEPT:
                self._views.pop(next(iter(self._views)))
            view = self._views[job.job.id] = _View(documents, time.monotonic())
            view.pause_s, view.sure = self._poll_s, self._live
        return documents

    def _take_events(self) -> bool:
        events = self._events()
        self._live = events is not None
        if events is None:
            for view in self._views.values():
                view.sure = False
        for event in events or ():
            told = self._views.get(event.job)
            known = told.documents.get(event.shard) if told is not None else None
            if told is not None and (known is None or event.seq > known.seq):
                told.stale.add(event.shard)
        return self._live
