"""Drafts of jobs and the files that they name, for the tests of how jobs are built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sparkles import digest
from sparkles.backends.memory_blobs import MemoryBlobs
from sparkles.engine.commands import JobDraft, TaskDraft
from sparkles.engine.files import RunFiles
from sparkles.engine.jobs import BuiltJob, build
from sparkles.errors import UsageError
from sparkles.model import Digest

TREE = {
    "a.txt": "alpha",
    "b.txt": "beta",
    "copy/a.txt": "alpha",
    "data/x.csv": "x",
    "data/y.csv": "y",
    "data/deep/x.csv": "deep x",
    "odd/[1].txt": "brackets",
    "empty/.keep": "",
}


def source(root: Path, blobs: MemoryBlobs) -> RunFiles:
    """The files of TREE below a project root, to be stored in `blobs`."""
    for name, text in TREE.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "b.txt").chmod(0o755)
    return RunFiles(root, root / ".sparkles", blobs)


def content(text: str) -> Digest:
    """The digest of a file that holds this text."""
    return digest.of_bytes(text.encode())


def made(source: RunFiles, /, **fields: Any) -> BuiltJob:
    """The job of a draft with a name, a command and these fields."""
    return build(JobDraft(**{"name": "align", "command": "true", **fields}), source)


def rows(*params: dict[str, Any], **fields: Any) -> list[TaskDraft]:
    """One task for each table of parameters."""
    return [TaskDraft(params=each, **fields) for each in params]


def refused(source: RunFiles, /, **fields: Any) -> UsageError:
    """The error of a draft with these fields."""
    with pytest.raises(UsageError) as caught:
        made(source, **fields)
    return caught.value
