"""The real command with the cloud backend: emulators of the test process, workers that are processes, an installation of its own."""

from __future__ import annotations

import functools
import json
import os
import secrets
import signal
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

from tests.support import emulators, google, processes
from tests.support.cli import SPARKLES, Project
from tests.support.needs import requires

ROOT = Path(__file__).resolve().parents[2]


@functools.cache
def consume() -> str:
    """The worker's program, built once for a test process; the test needs Go."""
    try:
        built = subprocess.run([ROOT / "consume" / "build"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        requires(False, "this machine has no shell to run consume/build")
        raise
    requires(built.returncode == 0, f"consume was not built: {built.stderr}")
    return str(ROOT / "consume" / "bin" / "consume")


class Command:
    """A command that runs in the background; what it prints goes to files, so that nothing blocks on a pipe."""

    def __init__(self, arguments: tuple[str, ...], folder: Path, environ: dict[str, str], program: tuple[str, ...]) -> None:
        self._files = [folder / f"command-{secrets.token_hex(4)}.{stream}" for stream in ("out", "err")]
        with open(self._files[0], "wb") as out, open(self._files[1], "wb") as err:
            self.process = subprocess.Popen(
                [*program, *arguments], cwd=folder, env=environ, stdin=subprocess.DEVNULL, stdout=out, stderr=err
            )

    @property
    def stdout(self) -> str:
        """What it printed so far."""
        return self._files[0].read_text("utf-8", "replace")

    @property
    def stderr(self) -> str:
        """What it said so far."""
        return self._files[1].read_text("utf-8", "replace")

    def wait_for(self, text: str, timeout_s: float = 30.0) -> None:
        """Waits until `text` is in what it printed or said; it is to be running until then."""
        deadline = time.monotonic() + timeout_s
        while True:
            over = self.process.poll() is not None
            if text in self.stdout or text in self.stderr:
                return
            assert not over, f"ended with {self.process.returncode} before {text!r}:\n{self.stdout}\n{self.stderr}"
            assert time.monotonic() < deadline, f"no {text!r} within {timeout_s} s:\n{self.stdout}\n{self.stderr}"
            time.sleep(0.02)

    def end(self, code: int = 0, timeout_s: float = 60.0) -> str:
        """Waits for its end, with `code`; returns what it said on both streams."""
        try:
            found = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout_s} s:\n{self.stdout}\n{self.stderr}") from None
        assert found == code, f"exit code {found}, expected {code}\n{self.stdout}\n{self.stderr}"
        assert "Traceback" not in self.stderr
        return self.stdout + self.stderr


class CloudProject(Project):
    """A project folder whose jobs are in an installation of its own: a prefix of the bucket, a namespace, a topic.

    `service` is datastore or firestore. `mark` ("NAME=value") is in the environment of all its processes, tasks too.
    """

    timeout_s = 200.0

    def __init__(self, folder: Path, service: str = "datastore", **variables: str) -> None:
        self.prefix = f"t{secrets.token_hex(6)}/"
        name, value = "CLOUD_TEST", secrets.token_hex(8)
        self.mark = f"{name}={value}"
        self.service = service
        settings = {
            "SPARKLES_BACKEND": "cloud",
            "SPARKLES_FLEET": "processes",
            "SPARKLES_CONSUME": consume(),
            "SPARKLES_GOOGLE_PROJECT": emulators.PROJECT,
            "SPARKLES_GOOGLE_BUCKET": emulators.BUCKET,
            "SPARKLES_GOOGLE_PREFIX": self.prefix,
            "SPARKLES_GOOGLE_TOPIC": f"topic-{self.prefix[:-1]}",
            "SPARKLES_LOCAL_CPU": "4",
        }
        super().__init__(folder, **{**addresses(service), **settings, name: value, **variables})
        self._commands: list[Command] = []

    def background(self, *arguments: str, env: dict[str, str] | None = None, program: tuple[str, ...] = (SPARKLES,)) -> Command:
        """Starts a command, or another `program` in its place; it is ended with the project at the latest."""
        command = Command(arguments, self.folder, self.environment(**(env or {})), program)
        self._commands.append(command)
        return command

    def processes(self) -> list[tuple[int, str]]:
        """Pid and command line of what runs for this project: drivers, workers, tasks."""
        return processes.marked(self.mark)

    def workers(self) -> list[int]:
        """The pids of its workers; each has a supervisor, which counts as well."""
        return [pid for pid, line in self.processes() if line.startswith(self.variables["SPARKLES_CONSUME"])]

    def jobs(self) -> Any:
        """The job store and the clients to close after it: what no command shows."""
        return google.job_store(self.service, self.prefix)

    def objects(self, below: str = "") -> list[str]:
        """The names of the installation's objects in the bucket, the prefix taken off."""
        bucket = google.bucket(self.prefix)
        try:
            return [name for name, _, _ in bucket.listing(below)]
        finally:
            bucket.close()

    def subscribers(self) -> list[int]:
        """The pids of the processes that have a subscription to its topic."""
        url = f"http://{google.address('pubsub')}/v1/projects/{emulators.PROJECT}/subscriptions?pageSize=1000"
        with urllib.request.urlopen(url, timeout=10) as answer:
            found = json.load(answer).get("subscriptions", [])
        ending = "/" + self.variables["SPARKLES_GOOGLE_TOPIC"]
        return [int(each["labels"]["pid"]) for each in found if each["topic"].endswith(ending)]

    def close(self) -> None:
        """Ends everything that runs for it."""
        for command in self._commands:
            if command.process.poll() is None:
                command.process.send_signal(signal.SIGKILL)
                command.process.wait()
        processes.end(self.mark)


def addresses(service: str = "datastore") -> dict[str, str]:
    """The usual variables of the emulators that the test process has."""
    return {
        "DATASTORE_EMULATOR_HOST": google.address(service),
        "STORAGE_EMULATOR_HOST": f"http://{google.address('storage')}",
        "PUBSUB_EMULATOR_HOST": google.pubsub(),
        # The clients ask a metadata server for a login where nobody says that there is none.
        "NO_GCE_CHECK": "true",
        "PATH": os.environ["PATH"],
    }
