"""Cloud workers as ordinary processes of this machine: `consume run`; or none, where people start them. May import local.fleet,
scratch and errors.

Where the program is: setting `consume`, then PATH, then what `make consume` built in a source tree.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from sparkles import __version__
from sparkles.backends.google.projects import Place
from sparkles.backends.google.scratch import Scratch
from sparkles.backends.local.fleet import ProcessFleet
from sparkles.errors import ConfigError, UsageError
from sparkles.model import WorkerId
from sparkles.ports import Clock, Fleet, JobStore

BUILT = Path(__file__).parents[3] / "consume" / "bin" / "consume"
VERSION_S = 10.0


def find_consume(set_to: str = "") -> str:
    """The worker's program. Raises ConfigError."""
    if set_to:
        if not Path(set_to).is_file():
            raise ConfigError(f"consume: {set_to}: expected the program consume, found nothing there (setting `consume`)")
        if not os.access(set_to, os.X_OK):
            raise ConfigError(
                f"consume: {set_to}: expected the program consume, found a file that cannot be run (setting `consume`)"
            )
        return set_to
    found = shutil.which("consume") or (str(BUILT) if BUILT.is_file() else None)
    if found is None:
        raise ConfigError(
            'fleet = "processes" needs the program consume, which is neither in PATH nor built here; build it with `make consume` in'
            " sparkles's source (it needs Go), or name it: SPARKLES_CONSUME=/path/to/consume"
        )
    return found


def version_of(program: str) -> tuple[str, str]:
    """The version of a worker's program and ""; or "" and why it does not say."""
    try:
        asked = subprocess.run(
            [program, "version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=VERSION_S, check=False
        )
    except (OSError, UnicodeDecodeError, subprocess.TimeoutExpired) as error:
        return "", str(getattr(error, "strerror", None) or error)
    found = asked.stdout.strip() if asked.returncode == 0 else ""
    return found, "" if found else f"`consume version` ended with {asked.returncode}: {asked.stderr.strip()[:200]}"


def arguments(place: Place, pool: str, worker: str, work: str) -> list[str]:
    """What `consume` is told, whoever starts it."""
    return [
        "run",
        *("--project", place.project),
        *("--database", place.database),
        *("--namespace", place.namespace),
        *("--bucket", place.bucket),
        *("--prefix", place.prefix),
        *("--topic", place.topic),
        *("--pool", pool),
        *("--id", worker),
        *("--work", work),
    ]


def consume_fleet(
    program: Callable[[], str],
    folder: Path,
    jobs: JobStore,
    clock: Clock,
    recover: Callable[[], list[str]],
    scratch: Scratch,
    place: Place,
    say: Callable[[str], None],
    look: Callable[[str], None],
    *,
    environ: Mapping[str, str],
    cpu: float | None = None,
    memory_bytes: int | None = None,
    lease_s: float = 60.0,
) -> ConsumeFleet:
    """The consume workers of one driver on this machine. `program` is asked for when one is started; logs go below `folder`; `say` is
    told once of a program of another version; `look` is called with the pool that is to be served."""
    options = ["--lease", f"{lease_s:g}s"]
    for name, value in (("--cpu", cpu), ("--memory", memory_bytes)):
        if value is not None:
            options += [name, str(value)]

    known: set[str] = set()

    def command(pool: str, worker: WorkerId) -> list[str]:
        found = program()
        if found not in known:
            known.add(found)
            version, _ = version_of(found)
            if version != __version__:
                theirs = version or "unknown"
                say(
                    f"consume: {found} is of version {theirs}, sparkles of {__version__}: they belong together (sparkles doctor)"
                )
        return [found, *arguments(place, pool, worker, str(scratch.folder)), "--driver-fd", "0", *options]

    logs = folder / "workers"
    return ConsumeFleet(logs, jobs, clock, command, recover, scratch, lease_s=lease_s, environ=environ, look=look)


class ConsumeFleet(ProcessFleet):
    """As ProcessFleet; what workers that were killed left of their scratch directories goes with their logs."""

    def __init__(
        self,
        folder: Path,
        jobs: JobStore,
        clock: Clock,
        command: Callable[[str, WorkerId], list[str]],
        recover: Callable[[], list[str]],
        scratch: Scratch,
        *,
        lease_s: float,
        environ: Mapping[str, str],
        look: Callable[[str], None],
    ) -> None:
        """See ProcessFleet."""
        super().__init__(folder, jobs, clock, command, recover, lease_s=lease_s, environ=environ, look=look)
        self._scratch = scratch

    def remove_logs(self) -> int:
        """See Fleet."""
        return super().remove_logs() + self._scratch.remove()


class HandStarted:
    """No workers of this driver's: people start `consume` where they like. Says so once for each pool."""

    def __init__(self, place: Place, say: Callable[[str], None], look: Callable[[str], None]) -> None:
        self._place, self._say, self._look = place, say, look
        self._told: set[str] = set()

    def ensure(self, pool: str) -> None:
        """See Fleet."""
        self._look(pool)
        if pool not in self._told:
            self._told.add(pool)
            self._say(f'fleet = "none": start workers by hand, each with an id of its own: {self._command(pool)}')

    def start_detached(self, pool: str) -> int:
        """There is nobody to start. Raises UsageError."""
        raise UsageError(f'fleet = "none": no worker is started; start one by hand: {self._command(pool)}')

    def _command(self, pool: str) -> str:
        return shlex.join(["consume", *arguments(self._place, pool, "w-1", "/tmp/consume")])  # noqa: S108 - an example

    def describe(self) -> list[str]:
        """See Fleet."""
        return []

    def drain(self, pool: str) -> None:
        """See Fleet."""

    def stop(self, pool: str) -> None:
        """See Fleet."""

    def wait_gone(self, pool: str, timeout_s: float) -> bool:
        """See Fleet."""
        return True

    def remove_logs(self) -> int:
        """See Fleet."""
        return 0


def _conforms(fleet: HandStarted) -> Fleet:
    return fleet
