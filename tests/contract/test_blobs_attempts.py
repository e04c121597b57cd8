"""What every Blobs keeps: outputs collected and published, the folders of attempts, logs."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparkles.digest import of_bytes
from sparkles.errors import BackendError, NotFound, UsageError
from sparkles.model import Artifact, AttemptRef
from tests.support.blobs import ABSENT, REF, make_fifo, make_socket

BAD_NAMES = [
    "",
    "/etc/passwd",
    "..",
    "../x",
    "a/../../x",
    "a/./b",
    "a//b",
    "a/",
    "a\\b",
    "a\0b",
    "x" * 256,
    "d/" * 1100 + "x",
    "\udcff",
]


# Collecting and publishing


@pytest.mark.parametrize("name", ["model.bin", "out/a b.txt", "-x", "ünï/日本", "line\nbreak", "..."])
def test_an_output_is_collected_and_published(workspace, tmp_path, name):
    """An output's bytes are stored, and appear read-only under the attempt's outputs/ by the same name; publishing twice is harmless."""
    path = tmp_path / "scratch" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"result")
    artifact = workspace.collect(path, name)
    assert artifact == Artifact(name, of_bytes(b"result"), 6)
    assert workspace.read(artifact.digest) == b"result"
    for _ in range(2):
        workspace.publish(REF, [artifact])
    shown = workspace.folder(REF) / "outputs" / name
    assert shown.read_bytes() == b"result"
    assert stat.S_IMODE(shown.stat().st_mode) == 0o400


def test_equal_outputs_are_one_content(workspace, tmp_path):
    """Two tasks that write the same bytes have artifacts with one digest; executable is the artifact's, not the content's."""
    for name, mode in (("a", 0o644), ("b", 0o755)):
        (tmp_path / name).write_bytes(b"same")
        (tmp_path / name).chmod(mode)
    first, second = workspace.collect(tmp_path / "a", "a"), workspace.collect(tmp_path / "b", "b")
    assert (first.digest, first.executable, second.executable) == (second.digest, False, True)
    assert workspace.sweep([], 0) == (1, 4)


@pytest.mark.parametrize(
    "make",
    [lambda path: None, Path.mkdir, make_fifo, make_socket, lambda path: path.symlink_to("/etc/passwd")],
    ids=["missing", "directory", "fifo", "socket", "link"],
)
def test_collect_takes_regular_files_only(workspace, tmp_path, make):
    """A task cannot have a link to somebody else's file, a pipe or a directory stored as its output."""
    path = tmp_path / "output"
    make(path)
    with pytest.raises(BackendError, match="output"):
        workspace.collect(path, "output")
    assert workspace.sweep([], 0) == (0, 0)


def test_an_output_with_a_second_name_stays_changeable_there(workspace, tmp_path):
    """A hard link to a file outside is no way into the store: neither does that file become read-only, nor does writing to it change
    what is stored."""
    outside = tmp_path / "outside"
    outside.write_bytes(b"mine")
    os.link(outside, tmp_path / "output")
    artifact = workspace.collect(tmp_path / "output", "output")
    assert outside.stat().st_mode & 0o200
    outside.write_bytes(b"edit")
    assert workspace.read(artifact.digest) == b"mine"


@pytest.mark.parametrize("name", BAD_NAMES, ids=[repr(name[:12]) for name in BAD_NAMES])
def test_names_that_would_leave_the_folder(workspace, tmp_path, name):
    """Neither collect nor publish takes a name that is not a plain path below the folder; nothing is written."""
    (tmp_path / "output").write_bytes(b"x")
    digest = workspace.put_bytes(b"x")
    with pytest.raises(BackendError, match="cannot be the name of an output"):
        workspace.collect(tmp_path / "output", name)
    with pytest.raises(BackendError, match="cannot be the name of an output"):
        workspace.publish(REF, [Artifact("fine", digest, 1), Artifact(name, digest, 1)])
    assert not workspace.folder(REF).exists()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(name=st.text(st.sampled_from(["a", ".", "/", "\\", "\0", " ", "é", "~", "\n", "\ud800"]), max_size=8))
def test_any_name_stays_below_the_folder(workspace, name):
    """Whatever the name, the file is published below outputs/ or refused."""
    digest = workspace.put_bytes(b"x")
    root = workspace.folder(REF).parent / "outer"
    ref = AttemptRef(REF.job, REF.index, 9)
    try:
        workspace.publish(ref, [Artifact(name, digest, 1)])
    except BackendError:
        assert not workspace.folder(ref).exists()
        return
    shown = workspace.folder(ref) / "outputs" / name
    assert shown.resolve().is_relative_to((workspace.folder(ref) / "outputs").resolve())
    assert shown.read_bytes() == b"x"
    assert not root.exists()
    workspace.delete_job(REF.job)


def test_publish_needs_the_content(workspace):
    """An artifact whose content was lost cannot be published."""
    with pytest.raises(NotFound, match=ABSENT[:12]):
        workspace.publish(REF, [Artifact("a", ABSENT, 1)])


# Attempts


def test_folders_of_attempts(workspace):
    """Every attempt has a folder of its own, which asking for does not make."""
    refs = [AttemptRef("a", 1, 1), AttemptRef("a", 1, 2), AttemptRef("a", 11, 1), AttemptRef("b", 1, 1)]
    folders = [workspace.folder(ref) for ref in refs]
    assert len(set(folders)) == 4
    assert not any(folder.exists() for folder in folders)
    assert [folder.parts[-3:] for folder in folders[1:3]] == [("a", "1", "a2"), ("a", "11", "a1")]


@pytest.mark.parametrize("job", ["", ".", "..", "../a", "/a", "a/b", "a\\b", "a\0", "x" * 256, "\udcff"])
def test_job_ids_that_are_no_folder(workspace, job):
    """A job's id from outside never becomes a path elsewhere."""
    for use in (
        lambda: workspace.folder(AttemptRef(job, 1, 1)),
        lambda: workspace.read_log(AttemptRef(job, 1, 1)),
        lambda: workspace.delete_job(job),
    ):
        with pytest.raises(UsageError, match="not the id of a job"):
            use()


@pytest.mark.parametrize(("index", "attempt"), [(0, 1), (1, 0), (-1, 1)])
def test_attempts_are_numbered_from_1(workspace, index, attempt):
    """There is no task 0 and no attempt 0, and no way to a folder by a negative number."""
    workspace.folder(AttemptRef("job", 1, 1))
    with pytest.raises(UsageError, match="numbered from 1"):
        workspace.folder(AttemptRef("job", index, attempt))


@pytest.mark.parametrize(
    ("offset", "limit", "expected"),
    [
        (0, None, b"0123456789"),
        (4, None, b"456789"),
        (4, 2, b"45"),
        (0, 0, b""),
        (10, None, b""),
        (99, 5, b""),
        (-3, None, b"789"),
        (-3, 2, b"78"),
        (-99, None, b"0123456789"),
    ],
)
def test_read_log(workspace, offset, limit, expected):
    """From the start, from the end, and beyond both."""
    assert workspace.read_log(REF, offset, limit) == b""
    workspace.folder(REF).mkdir(parents=True)
    (workspace.folder(REF) / "output.log").write_bytes(b"0123456789")
    assert workspace.read_log(REF, offset, limit) == expected


def test_delete_job(workspace):
    """A job's attempts go, except those that others reuse; other jobs stay; what was published from the store frees nothing."""
    digest = workspace.put_bytes(b"shared")
    for job, index, attempt in (("a", 1, 1), ("a", 1, 2), ("a", 2, 1), ("ab", 1, 1)):
        ref = AttemptRef(job, index, attempt)
        workspace.publish(ref, [Artifact("out/file", digest, 6)])
        (workspace.folder(ref) / "output.log").write_bytes(b"12345")
    freed = workspace.delete_job("a", keep=[AttemptRef("a", 1, 2), AttemptRef("ab", 1, 1)])
    assert freed >= 10
    left = [
        (index, attempt) for index in (1, 2) for attempt in (1, 2) if workspace.folder(AttemptRef("a", index, attempt)).exists()
    ]
    assert left == [(1, 2)]
    assert (workspace.folder(AttemptRef("a", 1, 2)) / "outputs/out/file").read_bytes() == b"shared"
    assert workspace.read_log(AttemptRef("ab", 1, 1)) == b"12345"
    assert workspace.delete_job("a") >= 5
    assert workspace.delete_job("a") == 0
    assert workspace.delete_job("never") == 0
    assert workspace.read(digest) == b"shared"


def test_jobs_that_have_folders(workspace, tmp_path):
    """Each is listed until it is deleted, with what its attempts take; what the content store holds is not theirs."""
    assert workspace.list_jobs() == []
    for job in ("b-1", "a-1"):
        folder = workspace.folder(AttemptRef(job, 1, 1))
        folder.mkdir(parents=True)
        (folder / "output.log").write_bytes(b"x" * 100)
    (tmp_path / "output").write_bytes(b"y" * 1000)
    workspace.publish(AttemptRef("a-1", 1, 1), [workspace.collect(tmp_path / "output", "output")])
    assert workspace.list_jobs() == ["a-1", "b-1"]
    assert (workspace.job_bytes("a-1"), workspace.job_bytes("b-1"), workspace.job_bytes("c-1")) == (100, 100, 0)
    workspace.delete_job("a-1")
    assert workspace.list_jobs() == ["b-1"]
    with pytest.raises(UsageError, match="not the id of a job"):
        workspace.job_bytes("../a-1")
