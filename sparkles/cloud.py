"""The composition root's part for the cloud: Settings -> the ports on Google's services. The only place that picks classes there.

Imported only where `backend = "cloud"`: it loads Google's clients, which take half a second.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from sparkles.backends.google.blobs import GoogleBlobs
from sparkles.backends.google.connect import Connection, connect
from sparkles.backends.google.fleet import HandStarted, consume_fleet, find_consume
from sparkles.backends.google.healing import Healer
from sparkles.backends.google.job_store import GoogleJobStore
from sparkles.backends.google.notifier import PubsubNotifier
from sparkles.backends.google.scratch import Scratch
from sparkles.backends.google.troubles import Troubles
from sparkles.backends.local.fleet import ProcessFleet
from sparkles.config import Settings
from sparkles.ports import Clock

WORKERS = 4
"""How many workers to expect where each driver starts one of its own: shards are sized by it (docs/wire.md)."""

POLL_S = 2.0
"""Where no events come, how long a driver waits at least before it reads a job's shards again."""

_MANY_WORKERS = 100


class Cloud:
    """The backends of one installation in the cloud, connected on first use."""

    def __init__(self, settings: Settings, clock: Clock, say: Callable[[str], None]) -> None:
        """`say` is told of emulators in use, and of services that do not answer."""
        self._settings, self._clock, self._say = settings, clock, say

    @functools.cached_property
    def connection(self) -> Connection:
        """The clients. Raises as `connect`."""
        return connect(self._settings, self._say)

    @functools.cached_property
    def jobs(self) -> GoogleJobStore:
        """Jobs, tasks, claims, workers, in Datastore."""
        expected = WORKERS if self._settings.fleet == "processes" else _MANY_WORKERS
        connection = self.connection
        return GoogleJobStore(
            connection.datastore,
            connection.bucket,
            max_workers=expected,
            publish=connection.notifier.publish,
            events=connection.notifier.take,
            poll_s=POLL_S,
        )

    @functools.cached_property
    def blobs(self) -> GoogleBlobs:
        """Content and logs, in Cloud Storage."""
        return GoogleBlobs(self.connection.bucket, self._settings.state / "cloud")

    @property
    def notifier(self) -> PubsubNotifier:
        """Hints and events between everyone who uses the installation, and the signals of this process."""
        return self.connection.notifier

    def tidy(self) -> int:
        """Removes what killed processes left in the services beside jobs and files; returns how much that was."""
        return self.notifier.tidy()

    @functools.cached_property
    def healer(self) -> Callable[[], list[str]]:
        """Puts in order what dead workers left."""
        return self.scratch.after(Healer(self.jobs, self.connection.bucket, self._clock, lease_s=self._settings.lease_s))

    @functools.cached_property
    def scratch(self) -> Scratch:
        """The scratch directories of the workers that drivers of this state folder start."""
        return Scratch(self._settings.state / "cloud" / "scratch", self.jobs)

    def check_fleet(self) -> None:
        """Before something is run: raises ConfigError where no worker could be started."""
        if self._settings.fleet == "processes":
            find_consume(self._settings.consume)

    def fleet(self) -> ProcessFleet | HandStarted:
        """Where workers run."""
        settings, place = self._settings, self.connection.place
        troubles = Troubles(self.jobs.troubles_of, self._clock, self._say)
        if settings.fleet == "none":
            return HandStarted(place, self._say, troubles.look)
        return consume_fleet(
            functools.partial(find_consume, settings.consume),
            settings.state / "cloud",
            self.jobs,
            self._clock,
            self.healer,
            self.scratch,
            place,
            self._say,
            troubles.look,
            environ={**settings.environ, **self.connection.environment},
            cpu=settings.cpu,
            memory_bytes=settings.memory_bytes,
            lease_s=settings.lease_s,
        )

    def close(self) -> None:
        """Ends what was opened."""
        opened = vars(self)
        for name in ("blobs", "connection"):
            if name in opened:
                opened[name].close()
