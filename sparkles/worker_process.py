"""The worker's own process: wires the local backend to engine.worker and serves. The second composition root, next to app.py.

It is on the way to the first task of every run, so it imports no more than it needs: no click, no rich, no sqlite_utils, no psutil, no
argparse, no traceback. `ProcessFleet` starts it as a file; `python -m sparkles.worker_process` is the same.
"""

from __future__ import annotations

import os
import signal
import sys
import time

if __name__ == "__main__" and not __package__:
    # Started as a file from a source tree: the package is where this file is. Appended, so that an installed one goes first.
    sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from pathlib import Path

from sparkles.backends.clock import SystemClock
from sparkles.backends.local import process
from sparkles.backends.local.blobs import DirectoryBlobs
from sparkles.backends.local.cgroup import own_group
from sparkles.backends.local.db import open_state
from sparkles.backends.local.job_store import SqliteJobStore
from sparkles.backends.local.notifier import FifoNotifier
from sparkles.backends.local.runner import ProcessRunner
from sparkles.engine.capacity import Amount
from sparkles.engine.worker import Pace, Worker
from sparkles.errors import SparklesError, UsageError
from sparkles.model import Worker as WorkerRow
from sparkles.model import WorkerId

_VALUES = ("--state", "--pool", "--id", "--cpu", "--memory", "--beat", "--commit", "--poll", "--grace", "--sample")


def main(arguments: list[str] | None = None) -> int:
    """Serves until its driver is gone or nothing is pending. Returns the exit code: 0, or that of the error."""
    worker_id = ""
    try:
        options = parse(sys.argv[1:] if arguments is None else arguments)
        worker_id = options["--id"]
        serve(options)
    except SparklesError as error:
        say(f"{worker_id}: {error}")
        return error.exit_code
    except Exception:
        import traceback

        say(f"{worker_id}: this is a bug in sparkles\n{traceback.format_exc()}")
        return 70
    return 0


def parse(arguments: list[str]) -> dict[str, str]:
    """The options by name. Raises UsageError."""
    options: dict[str, str] = {}
    rest = iter(arguments)
    for name in rest:
        if name == "--until-empty":
            options[name] = "yes"
        elif name in _VALUES:
            value = next(rest, None)
            if value is None:
                raise UsageError(f"worker: {name} needs a value")
            options[name] = value
        else:
            raise UsageError(f"worker: unknown option {name}; known: {', '.join(_VALUES)}, --until-empty")
    for name in ("--state", "--pool", "--id"):
        if name not in options:
            raise UsageError(f"worker: {name} is missing")
    return options


def serve(options: dict[str, str]) -> None:
    """Builds the worker from options and runs it to its end."""
    state = Path(options["--state"])
    clock = SystemClock()
    database = open_state(state)
    notifier = FifoNotifier(state, options["--id"])
    offered = machine()
    total = Amount(float(options.get("--cpu", offered.cpu)), int(options.get("--memory", offered.memory)))
    until_empty = "--until-empty" in options
    worker = Worker(
        WorkerRow(
            id=WorkerId(options["--id"]),
            pool=options["--pool"],
            process=process.this_process(),
            started_at_ms=clock.now_ms(),
        ),
        jobs=SqliteJobStore(database),
        blobs=DirectoryBlobs(state),
        notifier=notifier,
        clock=clock,
        runner=ProcessRunner(grace_s=float(options.get("--grace", 5.0)), sample_s=float(options.get("--sample", 0.5))),
        total=total,
        environ=os.environb,
        pace=Pace(
            beat_s=float(options.get("--beat", 1.0)),
            commit_s=float(options.get("--commit", 0.05)),
            poll_s=float(options.get("--poll", 1.0)),
        ),
        until_empty=until_empty,
        driver_fd=None if until_empty else 0,
        say=say,
    )
    # The numbers reach the worker's wait through the notifier's pipe.
    signal.signal(signal.SIGTERM, lambda number, frame: worker.stop())
    signal.signal(signal.SIGINT, lambda number, frame: worker.interrupt())
    signal.signal(signal.SIGHUP, lambda number, frame: worker.drain())
    try:
        worker.run()
    finally:
        notifier.close()
        database.close()


def machine() -> Amount:
    """The cores that this process may use and the memory of this machine, or of the container that it is in."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    group = own_group()
    limit = group.limit() if group is not None else 0
    return Amount(float(cores), min(memory, limit) if limit else memory)


def say(line: str) -> None:
    """A line of the worker's own log (its standard error), best effort: a full disk must not end the worker."""
    try:
        os.write(2, f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {line}\n".encode("utf-8", "replace"))
    except OSError:
        return


if __name__ == "__main__":
    sys.exit(main())
