"""What a job's description says makes the same job again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sparkles import digest
from sparkles.backends.memory_blobs import MemoryBlobs
from sparkles.engine.commands import FileDraft, ResourcesDraft, TaskDraft
from sparkles.engine.describing import describe
from sparkles.engine.files import RunFiles
from sparkles.engine.jobfile import load_job
from sparkles.engine.jobs import build
from sparkles.model import OomRetry, OutputGlob, RetryPolicy
from tests.support.drafts import made, rows, source

ARTIFACT = {"job": "fit-01234567", "index": 2, "name": "out/m.bin", "digest": digest.of_bytes(b"model"), "size": 5}

JOBS: dict[str, dict[str, Any]] = {
    "one command": {"command": "echo ${HOME} '{print $1}' {{name}}"},
    "arguments": {"command": ("prog", "{x}", "{{y}}"), "tasks": rows({"x": "a b"}, {"x": "c"})},
    "a sweep": {"command": "align {sample} -n {n}", "tasks": rows({"sample": "a b", "n": 1}, {"sample": "c", "n": 0.5})},
    "files by their parameter": {
        "command": "align {^reads} {n}",
        "tasks": rows({"reads": "a.txt", "n": 1}, {"reads": "copy/a.txt", "n": 2}, {"reads": ARTIFACT, "n": 3}),
        "files": (FileDraft("data/**", "in/"), FileDraft("odd/[1].txt"), FileDraft(artifact=ARTIFACT, dst="m.bin")),
        "work_dir": "w/v",
    },
    "tasks of their own": {
        "command": "x {a}",
        "resources": ResourcesDraft(cpu=2, memory="1Gi"),
        "tasks": [
            TaskDraft({"a": 1}),
            TaskDraft({"a": 2}, command="echo '{{a}}' {a}", files=(FileDraft("b.txt", "bin/", link=True),), name="second"),
            TaskDraft({"b": "$x"}, command=("cat", "{b}"), env={"E": "1"}),
            TaskDraft({"a": 4}, resources=ResourcesDraft(memory="2Gi", gpu=1)),
            TaskDraft({"a": 5}, resources=ResourcesDraft(cpu=2)),
        ],
    },
    "parameters that JSON knows otherwise": {
        "command": "x {a}",
        "tasks": rows({"a": 1.0, "b": {"$bytes": "text"}, "c": [{"$table": 1}], "d": None}, {"a": True}),
    },
    "every field": {
        "outputs": (OutputGlob("out/*.bam", required=True), OutputGlob("*.log")),
        "env": {"A": "1"},
        "secret_env": {"B": "env:B"},
        "work_dir": "w",
        "timeout_s": 5.5,
        "retry": RetryPolicy(3, (75,), 0.0, 3.0, 60.0, OomRetry(1.5, 64 << 30)),
        "resources": ResourcesDraft("500m", 1 << 30, "10G", 1),
        "parallelism": 4,
        "priority": -1,
        "properties": {"team": "x", "n": 1},
        "cache": False,
        "max_failures": 0,
        "image": "align:3",
        "zones": ("europe-west4-a",),
        "provisioning": "spot",
        "pod_template": {"spec": {"tolerations": []}},
    },
}


@pytest.fixture
def files(tmp_path: Path) -> Iterator[RunFiles]:
    """A project's files, and an output of an earlier task."""
    store = MemoryBlobs()
    store.put_bytes(b"model")
    yield source(tmp_path, store)
    store.close()


@pytest.mark.parametrize("fields", JOBS.values(), ids=JOBS.keys())
def test_round_trip(files: RunFiles, fields: dict[str, Any]) -> None:
    """spec and tasks -> description -> draft -> the same spec and tasks: the digest, which counts everything, is the same."""
    built = made(files, **fields)
    shown = digest.canonical({"job": "align-1", "spec": describe(built.spec, built.tasks)})
    again = build(load_job(shown.encode(), "job.json"), files)
    assert again.spec == built.spec
    assert [(task.command, task.params, task.env, task.resources) for task in again.tasks] == [
        (task.command, task.params, task.env, task.resources) for task in built.tasks
    ]
    assert again.digest == built.digest


def test_it_is_short(files: RunFiles) -> None:
    """Defaults are left out, the template stays, and what all tasks have is said once."""
    built = made(
        files, command="x {a} {^f}", tasks=rows({"a": 1, "f": "b.txt"}, {"a": 2, "f": "b.txt"}), files=(FileDraft("a.txt"),)
    )
    assert json.loads(digest.canonical(describe(built.spec, built.tasks))) == {
        "name": "align",
        "command": "x {a} {^f}",
        "files": [{"src": "a.txt", "dst": "a.txt"}],
        "tasks": [{"params": {"a": 1, "f": "b.txt"}}, {"params": {"a": 2, "f": "b.txt"}}],
    }
