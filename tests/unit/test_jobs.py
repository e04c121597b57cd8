"""Drafts become jobs: what a task gets, and what counts in a job's digest."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparkles.backends.memory_blobs import MemoryBlobs
from sparkles.engine.commands import FileDraft, JobDraft, ResourcesDraft, TaskDraft
from sparkles.engine.files import RunFiles
from sparkles.engine.jobs import build
from sparkles.model import InputFile, OomRetry, OutputGlob, Resources, RetryPolicy
from tests.support.drafts import content, made, rows, source
from tests.support.pace import quiet_s


@pytest.fixture
def blobs() -> Iterator[MemoryBlobs]:
    """A store in memory."""
    store = MemoryBlobs()
    yield store
    store.close()


@pytest.fixture
def files(tmp_path: Path, blobs: MemoryBlobs) -> RunFiles:
    """A project's files."""
    return source(tmp_path, blobs)


def test_a_sweep(files: RunFiles) -> None:
    """The template is expanded for each task; the spec keeps it as written."""
    built = made(files, command="align {sample} -n {n}", tasks=rows({"sample": "a b", "n": 1}, {"sample": "c", "n": 0.5}))
    assert [task.command for task in built.tasks] == ["align 'a b' -n 1", "align c -n 0.5"]
    assert [task.params for task in built.tasks] == [{"sample": "a b", "n": 1}, {"sample": "c", "n": 0.5}]
    assert built.spec.command == "align {sample} -n {n}"


def test_one_task_without_parameters(files: RunFiles) -> None:
    """Where createTasksFor was not called the job is one command."""
    built = made(files, command="echo ${HOME} '{print $1}'")
    assert [task.command for task in built.tasks] == ["echo ${HOME} '{print $1}'"]


def test_a_task_of_its_own(files: RunFiles) -> None:
    """What a row function returns stands beside or over the job's; what it leaves out stays."""
    built = made(
        files,
        resources=ResourcesDraft(cpu=2, memory="1Gi"),
        files=(FileDraft("a.txt"),),
        tasks=[
            TaskDraft({"x": 1}),
            TaskDraft(
                {"x": 2},
                command=("prog", "{x}"),
                files=(FileDraft("b.txt", dst="bin/"),),
                env={"A": "1"},
                resources=ResourcesDraft(memory="2Gi", gpu=1),
                name="two",
            ),
        ],
    )
    one, two = built.tasks
    assert (one.command, one.resources, one.env, one.name) == ("true", None, {}, "")
    assert (two.command, two.env, two.name) == (("prog", "2"), {"A": "1"}, "two")
    assert two.resources == Resources(cpu=2.0, memory_bytes=2 << 30, gpu=1)
    assert built.spec.resources == Resources(cpu=2.0, memory_bytes=1 << 30)
    assert [file.dst for file in one.files] == ["a.txt"]
    assert two.files == (
        InputFile("a.txt", content("alpha"), 5, src="a.txt"),
        InputFile("bin/b.txt", content("beta"), 4, executable=True, src="b.txt"),
    )


def test_every_field_arrives(files: RunFiles) -> None:
    """Nothing that a draft says is lost on the way to the spec."""
    built = made(
        files,
        outputs=(OutputGlob("./out//*.bam", required=True), OutputGlob("*.log"), OutputGlob("out/*.bam")),
        env={"A": "1"},
        secret_env={"B": "env:B", "C": "k8s:team/token", "D": "gcp:projects/p/secrets/s"},
        work_dir="./w/",
        timeout_s=5.0,
        retry=RetryPolicy(attempts=3, oom=OomRetry()),
        parallelism=4,
        priority=-1,
        properties={"team": "x", "n": 1},
        cache=False,
        max_failures=3,
        image="align:3",
        zones=("europe-west4-a",),
        provisioning="reservation/mine",
        pod_template={"spec": {"tolerations": []}},
    )
    spec = built.spec
    assert spec.outputs == (OutputGlob("out/*.bam", required=True), OutputGlob("*.log"))
    assert (spec.work_dir, spec.timeout_s, spec.parallelism, spec.priority) == ("w", 5.0, 4, -1)
    assert (spec.cache, spec.max_failures, spec.image, spec.provisioning) == (False, 3, "align:3", "reservation/mine")
    assert spec.retry == RetryPolicy(attempts=3, oom=OomRetry())
    assert (spec.env, spec.secret_env["C"], spec.properties) == ({"A": "1"}, "k8s:team/token", {"team": "x", "n": 1})
    assert (spec.zones, spec.pod_template) == (("europe-west4-a",), {"spec": {"tolerations": []}})


def test_digest_counts_everything_but_where_files_were(files: RunFiles) -> None:
    """The digest is part of a step's key: what is asked for decides, not the folder that it came from."""
    base = {"command": "x {a}", "tasks": rows({"a": 1}, {"a": 2}), "files": (FileDraft("a.txt"),)}
    same = made(files, **base).digest
    assert made(files, **{**base, "files": (FileDraft("copy/a.txt"),)}).digest == same
    assert made(files, **base, positions={"addFiles": "w.lua:3"}).digest == same
    others = [
        {**base, "tasks": rows({"a": 2}, {"a": 1})},
        {**base, "tasks": rows({"a": 1})},
        {**base, "tasks": rows({"a": 1.0}, {"a": 2})},
        {**base, "tasks": rows({"a": 1, "b": 0}, {"a": 2})},
        {**base, "tasks": rows({"a": 1}, {"a": 2}, env={"A": "1"})},
        {**base, "tasks": rows({"a": 1}, {"a": 2}, name="n")},
        {**base, "files": (FileDraft("b.txt", dst="a.txt"),)},
        {**base, "files": (FileDraft("a.txt", dst="c.txt"),)},
        {**base, "files": (FileDraft("a.txt", link=True),)},
        {**base, "priority": 1},
        {**base, "name": "other"},
    ]
    digests = [made(files, **other).digest for other in others]
    assert len({same, *digests}) == len(others) + 1


@pytest.mark.slow
def test_100_000_tasks(files: RunFiles) -> None:
    """Under 60 MB beyond the drafts, and quick: 2 s are wanted, and twice that is allowed."""
    sweep = rows(*({"sample": f"s{n}", "alpha": n / 7, "n": n} for n in range(100_000)))
    draft = JobDraft(name="big", command="run {sample} --alpha {alpha} -n {n}", tasks=sweep, files=(FileDraft("a.txt"),))
    assert quiet_s(lambda: build(draft, files), tries=1) < 4
    built = build(draft, files)
    assert built.tasks[99_999].command == "run s99999 --alpha 14285.57142857143 -n 99999"
    del built
    tracemalloc.start()
    try:
        build(draft, files)
        assert tracemalloc.get_traced_memory()[1] < 60e6
    finally:
        tracemalloc.stop()
