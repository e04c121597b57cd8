"""What objects and namespaces are called (docs/wire.md). Pure; may import model and wire."""

from __future__ import annotations

import hashlib
import re

from sparkles.model import AttemptRef, Digest
from sparkles.wire import Manifest

JOB, SHARD, WORKER, COUNTER, HOST = "SparklesJob", "SparklesShard", "SparklesWorker", "SparklesCounter", "SparklesHost"


def namespace(prefix: str) -> str:
    """The Datastore namespace of an installation: its prefix as a name that Datastore takes (at most 100 of A-Za-z0-9._-)."""
    return re.sub(r"[^A-Za-z0-9._-]", ".", prefix.strip("/"))[:100]


def manifest(job: str, manifest: Manifest) -> str:
    """The object with the job's task definitions."""
    parts = "\n".join(part.digest for part in manifest.parts)
    return f"jobs/{job}/manifest-{hashlib.sha256(parts.encode()).hexdigest()}.ndjson.gz"


def fingerprints(job: str) -> str:
    """The object with 32 bytes for each of the job's tasks."""
    return f"jobs/{job}/fingerprints"


def content(digest: Digest) -> str:
    """The object of content."""
    return f"cas/{digest}"


def attempt(ref: AttemptRef, name: str = "") -> str:
    """An object of an attempt; without a name, what all of them begin with."""
    return f"jobs/{ref.job}/{ref.index}/a{ref.attempt}/{name}"
