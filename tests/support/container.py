"""The worker's image as a container runtime runs it: a root folder that holds what the image does, the process PID 1 in it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path

from tests.support.needs import requires

CONSUME = Path(__file__).resolve().parents[2] / "consume"

# What runtimes mount: /proc, the usual devices, and here a disk in memory for the scratch directories.
BEGIN = """
mount -t proc proc "$ROOT/proc" && mount --bind /dev/null "$ROOT/dev/null" && mount -t tmpfs -o mode=1777 tmpfs "$ROOT/tmp" || exit 99
exec env -i "$@"
"""


class Container:
    """A running container. Its processes have a PID namespace of their own and end with it."""

    def __init__(self, root: Path, user: str, arguments: list[str], environ: Mapping[str, str], log: Path) -> None:
        self.log = log
        # env -i leaves no PATH to find it with, and users other than root have no /usr/sbin in theirs.
        chroot = shutil.which("chroot", path="/usr/sbin:/usr/bin:/sbin:/bin")
        requires(chroot, "there is no chroot command (coreutils)")
        inner = [str(chroot), f"--userspec={user}", str(root), *arguments]
        variables = [f"{name}={value}" for name, value in environ.items()]
        with open(log, "wb") as output:
            self._outer = subprocess.Popen(
                ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", BEGIN, "sh", *variables, *inner],
                env={**os.environ, "ROOT": str(root)}, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip

    @property
    def said(self) -> str:
        """What it wrote to its log so far."""
        return self.log.read_text("utf-8", "replace")

    def until(self, text: str, timeout_s: float = 60.0) -> None:
        """Waits until its log says `text`."""
        deadline = time.monotonic() + timeout_s
        while text not in self.said:
            assert self._outer.poll() != 99, "a container needs to mount: run as root"
            assert self._outer.poll() is None, f"ended with {self._outer.returncode}:\n{self.said}"
            assert time.monotonic() < deadline, f"no {text!r} within {timeout_s} s:\n{self.said}"
            time.sleep(0.02)

    def processes(self) -> dict[int, tuple[int, str, str]]:
        """What runs inside: pid as seen from outside -> parent, state letter, command."""
        found: dict[int, tuple[int, str, str]] = {}
        parents = {}
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    name, _, rest = Path(f"/proc/{entry}/stat").read_text().rpartition(")")
                except OSError:
                    continue
                state, parent = rest.split()[:2]
                parents[int(entry)] = (int(parent), state, name.partition("(")[2])
        known = {self._outer.pid}
        while more := {pid for pid, each in parents.items() if each[0] in known} - known:
            known |= more
        for pid in known - {self._outer.pid}:
            found[pid] = parents[pid]
        return found

    @property
    def first(self) -> int:
        """PID 1, as seen from outside."""
        return next(pid for pid, each in self.processes().items() if each[0] == self._outer.pid)

    def signal(self, number: int) -> None:
        """Sends a signal to PID 1, as a runtime does."""
        os.kill(self.first, number)

    def enter(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Runs a program of this machine among its processes, as `kubectl exec` does."""
        return subprocess.run(
            ["nsenter", f"--target={self.first}", "--pid", *command], capture_output=True, text=True, timeout=30, check=True
        )

    def end(self, code: int, timeout_s: float = 60.0) -> str:
        """Waits for its end, with `code`; returns what it wrote."""
        try:
            found = self._outer.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout_s} s:\n{self.said}") from None
        assert found == code, f"exit code {found}, expected {code}\n{self.said}"
        return self.said

    def close(self) -> None:
        """Ends it."""
        if self._outer.poll() is None:
            self._outer.send_signal(signal.SIGKILL)
            self._outer.wait()


class Image:
    """The worker's image, unpacked into `root`; `user` and `entrypoint` are what its configuration says."""

    def __init__(self, folder: Path, program: str) -> None:
        archive = folder / "consume.tar"
        # In a folder of its own: beside it nothing for other platforms is found.
        alone = shutil.copy(program, folder / "consume")
        done = subprocess.run(
            [alone, "image", "build", "-o", str(archive), "localhost/consume"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        self.root = folder / "root"
        self.root.mkdir()
        with tarfile.open(archive) as layout:

            def blob(digest: str) -> bytes:
                file = layout.extractfile("blobs/" + digest.replace(":", "/"))
                assert file is not None
                return file.read()

            def first(listing: bytes) -> bytes:
                return blob(json.loads(listing)["manifests"][0]["digest"])

            file = layout.extractfile("index.json")
            assert file is not None
            manifest = json.loads(first(first(file.read())))
            config = json.loads(blob(manifest["config"]["digest"]))["config"]
            layers = [layer["digest"] for layer in manifest["layers"]]
            for number, digest in enumerate(layers):
                path = folder / f"layer-{number}"
                path.write_bytes(blob(digest))
                with tarfile.open(path) as layer:
                    layer.extractall(self.root, filter="fully_trusted")
        self.user: str = config["User"]
        self.entrypoint: list[str] = config["Entrypoint"]
        self.holds = sorted(each.name for each in self.root.iterdir())
        for name in ("proc", "dev", "tmp"):
            (self.root / name).mkdir()
        (self.root / "dev" / "null").touch()

    def add_task(self) -> None:
        """Puts /task there, which tasks run in place of a shell (consume/cmd/consume/testdata/task)."""
        built = subprocess.run(
            ["go", "build", "-o", str(self.root / "task"), "./cmd/consume/testdata/task"],
            cwd=CONSUME, env={**os.environ, "CGO_ENABLED": "0"}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert built.returncode == 0, built.stderr

    def start(self, arguments: list[str], environ: Mapping[str, str], log: Path) -> Container:
        """Runs the entrypoint with these arguments; the test needs to be allowed to."""
        requires(os.geteuid() == 0, "a container of one's own needs namespaces and mounts: run as root")
        return Container(self.root, self.user, [*self.entrypoint, *arguments], environ, log)
