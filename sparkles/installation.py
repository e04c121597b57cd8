"""The composition root's first half: Settings -> the backends of one state folder. The only place that picks classes.

Everything is built on first use, so that `sparkles runs` opens no more than the database. Surprise: the state folder is made only after
`begin`, so that a command that only looks leaves nothing behind.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sparkles.backends.clock import SystemClock
from sparkles.config import Settings
from sparkles.engine.events import Noticed, Report
from sparkles.engine.session import Ports
from sparkles.engine.submitting import Defaults
from sparkles.model import ProcessId

if TYPE_CHECKING:
    from sparkles.backends.google.fleet import HandStarted
    from sparkles.backends.local.db import Database
    from sparkles.backends.local.fleet import ProcessFleet
    from sparkles.cloud import Cloud
    from sparkles.engine.inputs import FileSource
    from sparkles.engine.submitting import Submitter
    from sparkles.ports import Blobs, JobStore, Notifier, RunStore, Workspace


class Installation:
    """The backends of a state folder and the settings they came from."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._makes_state = self.in_cloud

    @property
    def in_cloud(self) -> bool:
        """Whether jobs are in the cloud; runs are on this machine all the same."""
        return self.settings.backend == "cloud"

    @functools.cached_property
    def cloud(self) -> Cloud:
        """The backends of `backend = "cloud"`."""
        from sparkles.cloud import Cloud

        return Cloud(self.settings, self.clock, lambda line: print(line, file=sys.stderr, flush=True))

    # The state folder

    def has_state(self) -> bool:
        """Whether something was run here."""
        from sparkles.backends.local import layout

        return layout.exists(self.settings.state)

    def check_state(self, *, of_runs: bool = False) -> str:
        """For commands that list: "" where something was run here, else the sentence that says so. Jobs in the cloud may be of others who
        use the installation; runs are of this state folder alone (`of_runs`).

        Raises:
            NotFound: --state names a folder that is no state folder.
        """
        from sparkles.backends.local import layout

        if self.has_state() or (self.in_cloud and not of_runs):
            return ""
        error = layout.no_state(self.settings.state, self._named_by())
        if self._named_by():
            raise error
        return str(error)

    def _named_by(self) -> str:
        source = self.settings.sources.get("state", "")
        return source if source == "--state" else ""

    def begin(self, report: Report, script: Path | None = None) -> None:
        """Something is about to be run: from now on the state folder is made where it is missing. Says where the project's root is, where
        that is not plain: it is neither the current folder nor the script's own. Raises ConfigError where no worker could be started."""
        if self.in_cloud:
            self.cloud.check_fleet()
        self._makes_state = True
        root = self.settings.root
        if root != Path.cwd() and (script is None or root != script.parent):
            paths = "; a script's relative paths start there" if script is not None else ""
            report(Noticed(text=f"project root: {root} ({self.settings.sources['root']}){paths}"))

    @contextmanager
    def room(self) -> Iterator[None]:
        """For a cleaning: where the disk is full, there is room for its records while this is open. Closes the database at the end: its log
        takes of that room."""
        from sparkles.backends.local import layout

        with layout.room(self.settings.state):
            try:
                yield
            finally:
                self.close()

    def imagine_state(self) -> None:
        """Empty stores in memory, for a plan where nothing was run yet. Jobs in the cloud are there all the same."""
        from sparkles.backends.memory import MemoryJobStore, MemoryRunStore
        from sparkles.backends.memory_blobs import MemoryNotifier

        self.runs, self.notifier = MemoryRunStore(), MemoryNotifier()
        if not self.in_cloud:
            self.jobs = MemoryJobStore()

    # Wiring

    @functools.cached_property
    def database(self) -> Database:
        """The state folder's database, opened (and migrated) on first use. Raises NotFound where nothing was run here, unless `begin`
        was called."""
        from sparkles.backends.local import layout
        from sparkles.backends.local.db import open_state

        if not self._makes_state and not self.has_state():
            raise layout.no_state(self.settings.state, self._named_by())
        return open_state(self.settings.state)

    @functools.cached_property
    def runs(self) -> RunStore:
        """Runs and steps."""
        from sparkles.backends.local.run_store import SqliteRunStore

        return SqliteRunStore(self.database)

    @functools.cached_property
    def jobs(self) -> JobStore:
        """Jobs, tasks, claims, workers."""
        if self.in_cloud:
            return self.cloud.jobs
        from sparkles.backends.local.job_store import SqliteJobStore

        return SqliteJobStore(self.database)

    @functools.cached_property
    def workspace(self) -> Workspace:
        """Content and the folders of attempts on this machine."""
        from sparkles.backends.local.blobs import DirectoryBlobs

        return DirectoryBlobs(self.settings.state)

    @property
    def blobs(self) -> Blobs:
        """Content and logs."""
        return self.cloud.blobs if self.in_cloud else self.workspace

    @functools.cached_property
    def notifier(self) -> Notifier:
        """Hints between the processes of this state folder."""
        if self.in_cloud:
            return self.cloud.notifier
        from sparkles.backends.local.notifier import FifoNotifier

        return FifoNotifier(self.settings.state, f"driver-{os.getpid()}")

    @functools.cached_property
    def fleet(self) -> ProcessFleet | HandStarted:
        """The worker processes of this driver."""
        if self.in_cloud:
            return self.cloud.fleet()
        from sparkles.backends.local.pool import local_fleet

        settings = self.settings
        return local_fleet(
            settings.state,
            self.jobs,
            self.workspace,
            self.clock,
            cpu=settings.cpu,
            memory_bytes=settings.memory_bytes,
            lease_s=settings.lease_s,
        )

    @functools.cached_property
    def clock(self) -> SystemClock:
        """The machine's clock."""
        return SystemClock()

    @functools.cached_property
    def driver(self) -> ProcessId:
        """This process, as an owner of runs."""
        from sparkles.backends.local.process import this_process

        return this_process()

    def ports(self) -> Ports:
        """All six, for a session."""
        return Ports(
            runs=self.runs,
            jobs=self.jobs,
            blobs=self.blobs,
            fleet=self.fleet,
            notifier=self.notifier,
            clock=self.clock,
            kept=self.workspace,
        )

    def submitter(self, report: Report, *, serve: bool = True, folder: Path | None = None) -> Submitter:
        """What creates jobs outside of runs (`sparkles sub`); without `serve` no worker is started. Relative paths start at `folder`, else
        at the project root."""
        from sparkles.engine.files import FilesFrom, RunFiles
        from sparkles.engine.submitting import Submitter

        files: FileSource = RunFiles(self.settings.root, self.settings.state, self.blobs, self.workspace)
        if folder is not None:
            files = FilesFrom(files, folder)
        return Submitter(
            self.jobs, self.blobs, self.fleet if serve else None, self.notifier, self.clock, files, report, self.defaults()
        )

    def defaults(self) -> Defaults:
        """What jobs get where their author said nothing."""
        settings = self.settings
        return Defaults(settings.default_cpu, settings.default_memory_bytes, settings.default_timeout_s)

    def close(self) -> None:
        """Leaves no pipe and no connection behind; what was not opened is not opened for it."""
        opened = vars(self)
        if "notifier" in opened:
            self.notifier.close()
        if "database" in opened:
            self.database.close()
        if "cloud" in opened:
            self.cloud.close()
