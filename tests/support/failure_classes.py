"""Rows of tests/golden/failure_classes.json, run by local workers. The cloud worker's twin is consume/internal/worker/golden_test.go.

A row has a name, what its job (`spec`) and task (`task`) are beyond the command, `inputs` ({dst, src, text}, stored before; `damaged` then
takes the place of the stored bytes), a `setup` and what is expected. A setup is a disk of `disk_bytes` for everything the worker writes, or
`memory_bytes` for the worker and its tasks; such a row is run by a process of its own:

python -m tests.support.failure_classes FOLDER ROW prints the row's outcome.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

from sparkles.backends.local import process
from sparkles.digest import of_bytes
from sparkles.model import JobSpec, Resources, TaskSpec
from tests.support.cgroups import limited_memory
from tests.support.worker import Place

ROOT = Path(__file__).resolve().parents[2]
SECRETS = {"SPARKLES_TEST_SECRET": "s3cret-value-of-24-bytes", "SPARKLES_TEST_PIN": "12"}
"""What rows with secrets find in the worker's environment."""
ROWS: list[dict[str, Any]] = json.loads((ROOT / "tests" / "golden" / "failure_classes.json").read_text())


def outcomes(folder: Path) -> dict[str, dict[str, Any]]:
    """What became of each row, by its name: rows without a setup are run by one worker, the others each by its own."""
    found = run(folder / "all", [row for row in ROWS if "setup" not in row])
    for number, row in enumerate(row for row in ROWS if "setup" in row):
        found[row["name"]] = _apart(folder / f"apart{number}", row)
    return found


def run(folder: Path, rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Runs rows by one worker whose state is in a folder of that folder."""
    place = Place(folder / ".sparkles")
    try:
        jobs = {row["name"]: _add(place, number, row) for number, row in enumerate(rows)}
        place.serve(env=SECRETS)
        left = process.marked("SPARKLES_WORKER", place.worker)
        return {name: {**_outcome(place, job), "left": len(left)} for name, job in jobs.items()}
    finally:
        place.close()


def _add(place: Place, number: int, row: dict[str, Any]) -> Any:
    files = [_store(place, file) for file in row.get("inputs", ())]
    spec = msgspec.convert({"name": f"job{number}", **row.get("spec", {})}, JobSpec)
    task = msgspec.convert({"command": row["command"], "files": files, **row.get("task", {})}, TaskSpec)
    fields = {name: getattr(spec, name) for name in JobSpec.__struct_fields__ if name != "name"}
    return place.add(spec.name, [task], **fields)


def _store(place: Place, file: dict[str, Any]) -> dict[str, Any]:
    # Rows that damage what they stored are not to damage each other's.
    text = file["text"].encode()
    digest = place.blobs.put_bytes(text)
    if "damaged" in file:
        stored = place.state / "cas" / digest[:2] / digest
        stored.chmod(0o600)
        stored.write_bytes(file["damaged"].encode())
    assert digest == of_bytes(text)
    return {"dst": file["dst"], "src": file["src"], "digest": digest, "size_bytes": len(text)}


def _outcome(place: Place, job: Any) -> dict[str, Any]:
    task, attempts = place.task(job), place.jobs.list_attempts(job, 1)
    last = attempts[-1]
    log = place.folder(job, 1, last.ref.attempt) / "output.log"
    return {
        "state": task.state,
        "failure": last.failure,
        "task_failure": task.failure,
        "exit_code": last.exit_code,
        "task_exit_code": task.exit_code,
        "signal": last.signal,
        "reason": last.reason,
        "attempts": len(attempts),
        "tail": last.tail,
        "seconds": (last.ended_at_ms - last.started_at_ms) / 1000,
        "log_bytes": log.stat().st_size if log.is_file() else 0,
    }


def _apart(folder: Path, row: dict[str, Any]) -> dict[str, Any]:
    folder.mkdir()
    command = [sys.executable, "-m", "tests.support.failure_classes", str(folder), row["name"]]
    if "disk_bytes" in row["setup"]:
        # A mount of this process's own: nothing of it is left, however it ends.
        inside = f'mount -t tmpfs -o size={row["setup"]["disk_bytes"]} tmpfs "$1" && shift && exec "$@"'
        command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", inside, "sh", str(folder), *command]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main(folder: str, name: str) -> None:
    row = next(row for row in ROWS if row["name"] == name)
    memory = row["setup"].get("memory_bytes")
    if memory is None:
        found = run(Path(folder), [row])
    else:
        with limited_memory(memory) as limited:
            if not limited:
                # No control group can be made here: the worker's own limit is the next best.
                row["spec"] = {"resources": msgspec.to_builtins(Resources(memory_bytes=memory))}
            found = run(Path(folder), [row])
            found[name]["kernel"] = limited
    print(json.dumps(found[name]))


if __name__ == "__main__":
    os.umask(0o022)
    main(*sys.argv[1:])
