"""Every Blobs that is to keep the port's promises, and what tests do to them behind their back."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

from sparkles.backends.local.blobs import DirectoryBlobs
from sparkles.backends.memory_blobs import MemoryBlobs
from sparkles.digest import of_bytes
from sparkles.model import AttemptRef

REF = AttemptRef("align-1a2b3c4d", 17, 2)
ABSENT = of_bytes(b"never stored")


@dataclass
class Store:
    """Blobs, and what a test does to them behind their back."""

    blobs: DirectoryBlobs | MemoryBlobs
    state: Path

    def path(self, digest):
        return self.state / "cas" / digest[:2] / digest

    def damage(self, digest):
        """Other bytes of the same length, as a failing disk leaves them."""
        if isinstance(self.blobs, MemoryBlobs):
            self.blobs.contents[digest] = b"\xff" * len(self.blobs.contents[digest])
            return
        path = self.path(digest)
        path.chmod(0o600)
        path.write_bytes(b"\xff" * path.stat().st_size)
        path.chmod(0o400)

    def age(self, digest, seconds):
        """As if it had last been asked for that long ago."""
        if isinstance(self.blobs, MemoryBlobs):
            self.blobs.asked_at[digest] -= seconds
            return
        found = self.path(digest).stat()
        os.utime(self.path(digest), ns=(found.st_atime_ns - seconds * 1_000_000_000, found.st_mtime_ns))


def make_fifo(path):
    os.mkfifo(path)


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        # A socket's path has 108 bytes at most; one relative to the folder is short enough.
        here = Path.cwd()
        os.chdir(path.parent)
        try:
            server.bind(path.name)
        finally:
            os.chdir(here)
