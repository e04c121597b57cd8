"""`doctor`: looks at everything that sparkles rests on, says what is wrong and what to do, and backs the database up.

Surprise: where there is no state folder yet, none is made.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sparkles import hints
from sparkles.cli import cloud_doctor, render
from sparkles.cli.arguments import json_option
from sparkles.errors import BackendError

if TYPE_CHECKING:
    from sparkles.app import App
    from sparkles.cli.main import Invocation
    from sparkles.config import Settings

_LEAST_FREE = 1 << 30


@click.command(epilog="Example:  sparkles doctor")
@json_option
@click.pass_obj
def doctor(invocation: Invocation, /, as_json: bool) -> None:
    """Checks settings, state folder, database and machine.

    Says of each setting where it comes from, of the state folder what takes how much space, and who works in it. A sound database
    is copied to sparkles.db.backup. With backend = "cloud" also: whose login, whether the services answer, and the worker's program.
    Exit code 3 where something is wrong.
    """
    from sparkles.cli.setup import versions

    settings = invocation.settings
    problems: list[str] = []
    found: dict[str, Any] = {
        "versions": versions(),
        "settings": _settings(settings),
        "machine": _machine(settings),
        "state": _state_folder(settings.state, problems),
    }
    reachable = True
    if settings.backend == "cloud":
        found["cloud"] = cloud_doctor.look(settings, problems)
        reachable = all(each["problem"] is None for each in found["cloud"]["services"]) and bool(found["cloud"]["services"])
    if found["state"]["exists"]:
        found["state"].update(_database(invocation.app, problems, reachable))
    found["problems"] = problems
    if as_json:
        render.json_line(found)
    else:
        _show(found)
    if problems:
        raise BackendError(
            problems[0] if len(problems) == 1 else f"{len(problems)} things are wrong", "doctor", str(settings.state)
        )


def _settings(settings: Settings) -> list[dict[str, Any]]:
    from sparkles.config import KEYS

    found = [
        {"key": "root", "value": str(settings.root), "source": settings.sources["root"]},
        {"key": "state", "value": str(settings.state), "source": settings.sources["state"]},
    ]
    if settings.profile:
        found.append({"key": "profile", "value": settings.profile, "source": "--profile or SPARKLES_PROFILE"})
    return found + [
        {"key": key, "value": getattr(settings, field), "source": settings.sources[key]} for key, (field, _) in KEYS.items()
    ]


def _machine(settings: Settings) -> dict[str, Any]:
    from sparkles.worker_process import machine

    offered = machine()
    return {
        "cpu": offered.cpu,
        "memory": offered.memory,
        "usedCpu": settings.cpu or offered.cpu,
        "usedMemory": settings.memory_bytes or offered.memory,
    }


def _state_folder(state: Path, problems: list[str]) -> dict[str, Any]:
    from sparkles.backends.local import mounts

    there = state if state.is_dir() else next((each for each in state.parents if each.is_dir()), Path("/"))
    kind, point = mounts.find_kind(str(there))
    usage = shutil.disk_usage(there)
    found: dict[str, Any] = {
        "folder": str(state),
        "exists": state.is_dir(),
        "fileSystem": kind or None,
        "mountPoint": point or None,
        "freeBytes": usage.free,
        "reflink": None,
    }
    if state.exists() and not state.is_dir():
        problems.append(f"{state}: expected the state folder, found a file; move it away, or choose another with --state")
    if not os.access(there, os.W_OK | os.X_OK):
        problems.append(
            f"{there}: cannot be written by user id {os.geteuid()}; make it writable, or choose another with --state"
        )
    elif state.is_dir():
        found["reflink"] = _reflink_works(state)
    if usage.free < _LEAST_FREE:
        problems.append(
            f"{there}: only {render.size(usage.free)} are free; `{hints.command('clean')}` removes what is not needed any more"
        )
    return found


def _reflink_works(state: Path) -> bool | None:
    """Whether copies in the state folder share their bytes; None where that cannot be tried."""
    from sparkles.backends.local.copying import reflink

    paths = [state / f".doctor-{os.getpid()}-{name}" for name in ("from", "to")]
    try:
        paths[0].write_bytes(b"x" * 4096)
        with paths[0].open("rb") as source, paths[1].open("wb") as target:
            return reflink(source.fileno(), target.fileno())
    except OSError:
        return None
    finally:
        for path in paths:
            path.unlink(missing_ok=True)


def _database(app: App, problems: list[str], reachable: bool) -> dict[str, Any]:
    """The database: its check, its backup, sizes, and who is alive; `reachable`: whether workers can be asked for."""
    from sparkles.backends.local.layout import tree_bytes

    state = app.settings.state
    # Outputs are links of stored files: their bytes are those of cas.
    folders = ("cas", "jobs", "runs", "workers", *(("cloud",) if app.in_cloud else ()))
    sizes = {name: tree_bytes(state / name, linked=name == "cas") for name in folders}
    found: dict[str, Any] = {"folders": sizes}
    if not (state / "sparkles.db").exists():
        return found
    try:
        database = app.database
        wrong = database.check()
        found["databaseBytes"] = database.size_bytes()
        if not wrong:
            found["rows"] = database.sizes()
            found["journalMode"] = str(database.one("PRAGMA journal_mode")[0])
            found["notice"] = database.notice or None
            found["backup"] = str(database.back_up())
            found["workers"] = _workers(app) if reachable else []
            found["runs"] = _runs(app)
        problems.extend(wrong)
    except BackendError as error:
        problems.append(str(error))
    return found


def _workers(app: App) -> list[dict[str, Any]]:
    from sparkles.backends.local.process import liveness

    return [
        {
            "worker": worker.id,
            "pool": worker.pool,
            "pid": worker.process.pid,
            "host": worker.process.host,
            "process": liveness(worker.process),
            "cpu": worker.cpu,
            "memory": worker.memory_bytes,
        }
        for worker in app.jobs.list_workers()
    ]


def _runs(app: App) -> list[dict[str, Any]]:
    from sparkles.backends.local.process import liveness
    from sparkles.model import RunState

    return [
        {
            "run": run.id,
            "workflow": run.workflow,
            "pid": run.driver.pid,
            "host": run.driver.host,
            "process": liveness(run.driver),
        }
        for run in app.runs.list_runs()
        if run.state is RunState.RUNNING and run.driver is not None
    ]


def _show(found: dict[str, Any]) -> None:
    render.fields(found["versions"].items())
    render.line()
    rows = [(each["key"], "" if each["value"] is None else each["value"], each["source"]) for each in found["settings"]]
    render.table(("SETTING", "VALUE", "FROM"), rows)
    render.line()
    machine, state = found["machine"], found["state"]
    reflink = {True: "yes", False: "no, files are copied", None: ""}[state["reflink"]]
    render.fields(
        (
            ("cores", f"{machine['usedCpu']:g} of {machine['cpu']:g}"),
            ("memory", f"{render.size(machine['usedMemory'])} of {render.size(machine['memory'])}"),
            (
                "state folder",
                state["folder"] if state["exists"] else f"{state['folder']} (not there yet; the first run makes it)",
            ),
            ("file system", f"{state['fileSystem']} at {state['mountPoint']}" if state["fileSystem"] else ""),
            ("free", render.size(state["freeBytes"])),
            ("reflink", reflink),
            ("journal mode", state.get("journalMode", "")),
            ("notice", state.get("notice")),
            ("database", render.size(state["databaseBytes"]) if "databaseBytes" in state else ""),
            ("backup", state.get("backup", "")),
        )
    )
    if "folders" in state:
        render.line()
        render.table(
            ("FOLDER", "SIZE"), [(name, render.size(size)) for name, size in state["folders"].items()], right=("SIZE",)
        )
    if state.get("rows"):
        render.line()
        render.table(("TABLE", "ROWS"), list(state["rows"].items()), right=("ROWS",))
    for name, title in (("workers", "WORKER"), ("runs", "RUN")):
        if state.get(name):
            render.line()
            alive = [(each[title.lower()], each["pid"], each["host"], each["process"]) for each in state[name]]
            render.table((title, "PID", "HOST", "PROCESS"), alive, right=("PID",))
    if "cloud" in found:
        render.line()
        cloud_doctor.show(found["cloud"])
    render.line()
    for problem in found["problems"]:
        render.line(f"wrong: {problem}")
    if not found["problems"]:
        render.line("nothing is wrong")
