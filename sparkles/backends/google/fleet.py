"""Cloud workers as ordinary processes of this machine: `consume run`. May import local.fleet, config and errors.

Where the program is: setting `consume`, then PATH, then what `make consume` built in a source tree.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from sparkles.backends.google import names
from sparkles.backends.local.fleet import ProcessFleet
from sparkles.errors import ConfigError
from sparkles.model import WorkerId
from sparkles.ports import Clock, JobStore

BUILT = Path(__file__).parents[3] / "consume" / "bin" / "consume"


def find_consume(set_to: str = "") -> str:
    """The worker's program. Raises ConfigError."""
    if set_to:
        if not Path(set_to).is_file():
            raise ConfigError(f"consume: {set_to}: expected the program consume, found nothing there (setting `consume`)")
        return set_to
    found = shutil.which("consume") or (str(BUILT) if BUILT.is_file() else None)
    if found is None:
        raise ConfigError(
            'fleet = "processes" needs the program consume, which is neither in PATH nor built here; build it with `make consume` in'
            " sparkles's source (it needs Go), or name it: SPARKLES_CONSUME=/path/to/consume"
        )
    return found


def consume_fleet(
    program: str,
    work: Path,
    jobs: JobStore,
    clock: Clock,
    recover: Callable[[], list[str]],
    *,
    project: str,
    database: str,
    bucket: str,
    prefix: str,
    topic: str,
    environ: dict[str, str],
    cpu: float | None = None,
    memory_bytes: int | None = None,
    lease_s: float = 60.0,
) -> ProcessFleet:
    """The consume workers of one driver on this machine. `work` is where their scratch directories and logs go."""
    options: list[str] = []
    for name, value in (("--cpu", cpu), ("--memory", memory_bytes)):
        if value is not None:
            options += [name, str(value)]

    def command(pool: str, worker: WorkerId) -> list[str]:
        return [
            program,
            "run",
            *("--project", project),
            *("--database", database),
            *("--namespace", names.namespace(prefix)),
            *("--bucket", bucket),
            *("--prefix", prefix),
            *("--topic", topic),
            *("--pool", pool),
            *("--id", worker),
            *("--work", str(work / "scratch")),
            *("--lease", f"{lease_s}s"),
            *("--driver-fd", "0"),
            *options,
        ]

    return ProcessFleet(work / "workers", jobs, clock, command, recover, lease_s=lease_s, environ=environ)
