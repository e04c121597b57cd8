"""The tests of the cloud worker, in Go, with the emulators that they need: format, vet, staticcheck, tests with the race detector.

python -m tests.support.worker_tests [PACKAGE...]
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support import emulators

FOLDER = Path(__file__).resolve().parents[2] / "consume"
TAGS = ("-tags", "disable_grpc_modules")


def main(packages: list[str]) -> int:
    """The exit code: 0 where all is well."""
    if subprocess.run(["gofmt", "-l", "."], cwd=FOLDER, capture_output=True, text=True, check=True).stdout:
        print("consume: not formatted: run gofmt -w .", file=sys.stderr)
        return 1
    for command in (["go", "vet", *TAGS, "./..."], ["go", "tool", "staticcheck", *TAGS, "./..."]):
        if subprocess.run(command, cwd=FOLDER, stdin=subprocess.DEVNULL, check=False).returncode:
            return 1
    # What the tests of the program build: from nothing it takes longer than go test lets a package take.
    with tempfile.TemporaryDirectory() as folder:
        build = ["./build", "-o", folder, "amd64", "arm64"]
        if subprocess.run(build, cwd=FOLDER, stdin=subprocess.DEVNULL, check=False).returncode:
            return 1
    environ = dict(os.environ)
    try:
        running = emulators.start(["datastore", "firestore", "storage", "pubsub"])
    except emulators.Missing as missing:
        print(f"without emulators: {missing}", file=sys.stderr)
        running = {}
    try:
        environ.update(running[name].variable for name in emulators.SERVICES if name in running)
        race = ("-race",) if shutil.which("gcc") else ()
        test = ["go", "test", *TAGS, *race]
        code = subprocess.run([*test, *(packages or ["./..."])], cwd=FOLDER, env=environ, stdin=subprocess.DEVNULL, check=False)
        if code.returncode or packages or "firestore" not in running:
            return code.returncode
        # Once more on Firestore in Datastore mode, which is what new projects get.
        environ.update([running["firestore"].variable])
        again = [*test, "-count=1", "./internal/jobstore/datastore"]
        return subprocess.run(again, cwd=FOLDER, env=environ, stdin=subprocess.DEVNULL, check=False).returncode
    finally:
        for emulator in running.values():
            emulator.stop()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
