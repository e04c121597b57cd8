"""What every Blobs keeps: content by digest. Attempts are in test_blobs_attempts.py, the folder's own promises in test_directory_blobs.py.

The folder is tested on the file system that pytest's --basetemp is on: give it one on XFS or btrfs to test reflinks.
"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from sparkles.digest import of_bytes
from sparkles.errors import BackendError, Damaged, NotFound, UsageError
from sparkles.model import Artifact
from tests.support.blobs import ABSENT, REF, make_fifo, make_socket

# Storing


@pytest.mark.parametrize(
    "data", [b"", b"x", b"\0\xff\r\n", os.urandom(3 << 20)], ids=["empty", "one byte", "not text", "three chunks"]
)
def test_bytes_come_back(blobs, data):
    """What was stored is read back byte for byte, under the sha256 of it; storing it again changes nothing."""
    digest = blobs.put_bytes(data)
    assert digest == of_bytes(data)
    assert blobs.put_bytes(data) == digest
    assert blobs.read(digest) == data
    assert blobs.missing([digest, ABSENT]) == {ABSENT}


@pytest.mark.parametrize("size", [0, 5, (2 << 20) + 1])
@pytest.mark.parametrize("mode", [0o644, 0o755], ids=["plain", "executable"])
def test_put_file(blobs, tmp_path, size, mode):
    """A file becomes an artifact that is named as the path was given, and is left as it was."""
    path = tmp_path / "input.bin"
    path.write_bytes(os.urandom(size))
    path.chmod(mode)
    before = path.stat()
    artifact = blobs.put_file(path)
    assert artifact == Artifact(str(path), of_bytes(path.read_bytes()), size, executable=mode == 0o755)
    assert blobs.read(artifact.digest) == path.read_bytes()
    assert (path.stat().st_mode, path.stat().st_mtime_ns) == (before.st_mode, before.st_mtime_ns)


def test_put_file_through_a_link(blobs, tmp_path):
    """A link stands for the file it names, as everywhere else."""
    (tmp_path / "real").write_bytes(b"data")
    (tmp_path / "link").symlink_to("real")
    assert blobs.put_file(tmp_path / "link").digest == of_bytes(b"data")


def test_put_file_sees_an_edit_of_the_same_size(blobs, tmp_path):
    """Edits right after one another are all seen, though size and perhaps mtime are equal."""
    path = tmp_path / "input"
    for number in range(50):
        data = b"%04d" % number
        path.write_bytes(data)
        assert blobs.put_file(path).digest == of_bytes(data)


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda path: None, "no such file|No such file"),
        (Path.mkdir, "a directory"),
        (make_fifo, "a named pipe|a special file"),
        (make_socket, "a socket|a special file"),
        (lambda path: path.symlink_to("nowhere"), "nowhere|No such file"),
        (lambda path: path.symlink_to(path.name), "symbolic links"),
    ],
    ids=["missing", "directory", "fifo", "socket", "dangling link", "loop"],
)
def test_put_file_refuses(blobs, tmp_path, make, found):
    """What is no file is refused at once (a pipe is not waited for), with its path and what it is."""
    path = tmp_path / "input"
    make(path)
    with pytest.raises(UsageError, match=found) as raised:
        blobs.put_file(path)
    assert str(path) in str(raised.value)


def test_put_file_refuses_a_name_with_nul(blobs):
    """A path that cannot be a path is the user's mistake, not a crash."""
    with pytest.raises(UsageError, match="null"):
        blobs.put_file(Path("a\0b"))


def test_put_file_refuses_what_it_may_not_read(blobs, tmp_path):
    """An unreadable input is named, with the reason."""
    path = tmp_path / "secret"
    path.write_bytes(b"x")
    path.chmod(0)
    blobs.put_bytes(b"the store exists")
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        with pytest.raises(UsageError, match=r"secret.*[Pp]ermission denied"):
            blobs.put_file(path)
    finally:
        os.seteuid(user)


GROW = """
import os, sys
file = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND)
print("growing", flush=True)
while True:
    os.write(file, b"more")
"""


def test_a_file_that_grows_while_it_is_read(blobs, tmp_path):
    """Nothing half-read is stored: the sentence gives both sizes and says to submit again."""
    path = tmp_path / "growing"
    path.write_bytes(os.urandom(32 << 20))
    writer = subprocess.Popen([sys.executable, "-c", GROW, str(path)], stdout=subprocess.PIPE)
    try:
        assert writer.stdout.readline() == b"growing\n"
        with pytest.raises(UsageError, match=r"changed while it was read: size \d+ -> \d+; submit again"):
            blobs.put_file(path)
    finally:
        writer.kill()
        writer.wait()
        writer.stdout.close()


# Placing


def test_a_placed_file_is_the_tasks_own(blob_store, tmp_path):
    """A task may write to its input: the stored content stays what it was, for the next task too."""
    digest = blob_store.blobs.put_bytes(b"original")
    for name in ("one", "two"):
        target = tmp_path / name
        blob_store.blobs.place(digest, target)
        assert target.read_bytes() == b"original"
        assert target.stat().st_mode & 0o600 == 0o600
        assert target.stat().st_nlink == 1
        target.write_bytes(b"scribble")
    assert blob_store.blobs.read(digest) == b"original"


def test_place_executable(blobs, tmp_path):
    """The executable bit is set where it is asked for, and only there; a linked program is runnable as well."""
    digest = blobs.put_bytes(b"#!/bin/sh\n")
    for name, wanted in (("plain", {}), ("tool", {"executable": True}), ("linked", {"executable": True, "link": True})):
        blobs.place(digest, tmp_path / name, **wanted)
        assert os.access(tmp_path / name, os.X_OK) is bool(wanted)


@pytest.mark.parametrize(
    ("source", "copy"), [(0o644, 0o644), (0o755, 0o755), (0o640, 0o600), (0o600, 0o600), (0o700, 0o700), (0o750, 0o700)]
)
def test_a_copy_is_no_wider_than_its_source(workspace, tmp_path, source, copy):
    """Under the usual umask: what others may not read is stored as private, its copies are the user's alone, executable ones too."""
    before = os.umask(0o022)
    try:
        for number, store in enumerate((workspace.put_file, lambda path: workspace.collect(path, "output"))):
            path = tmp_path / f"source-{number}"
            path.write_bytes(b"secret")
            path.chmod(source)
            stored = store(path)
            assert stored.private is not bool(source & 0o004)
            target = tmp_path / f"copy-{number}"
            workspace.place(stored.digest, target, executable=stored.executable, private=stored.private)
            assert stat.S_IMODE(target.stat().st_mode) == copy
    finally:
        os.umask(before)


def test_place_replaces(blobs, tmp_path):
    """What is at the target already goes; a link there is replaced, never followed."""
    digest = blobs.put_bytes(b"new")
    other = tmp_path / "other"
    other.write_bytes(b"untouched")
    for link in (False, True):
        target = tmp_path / f"target-{link}"
        target.symlink_to(other)
        blobs.place(digest, target, link=link)
        assert target.read_bytes() == b"new"
    assert other.read_bytes() == b"untouched"
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "state") == ["other", "target-False", "target-True"]


def test_a_link_shares_read_only_bytes(workspace, tmp_path):
    """`link` gives a link to read-only bytes, and they are found to be unchanged afterwards."""
    digest = workspace.put_bytes(b"large")
    workspace.place(digest, tmp_path / "a", link=True)
    workspace.place(digest, tmp_path / "b", link=True)
    assert (tmp_path / "a").is_symlink()
    assert (tmp_path / "a").read_bytes() == b"large"
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o400
    assert (tmp_path / "a").resolve() == (tmp_path / "b").resolve()
    assert workspace.verify_linked(digest)


def test_a_task_that_writes_through_its_link_is_found_out(workspace, tmp_path):
    """Root can write to a read-only file: it is noticed, the content is set aside and can be stored anew."""
    digest = workspace.put_bytes(b"large")
    link = tmp_path / "input"
    workspace.place(digest, link, link=True)
    assert workspace.verify_linked(digest)
    link.chmod(0o644)
    link.write_bytes(b"LARGE")
    assert not workspace.verify_linked(digest)
    assert workspace.missing([digest]) == {digest}
    assert workspace.put_bytes(b"large") == digest
    workspace.place(digest, tmp_path / "again", link=True)
    assert (tmp_path / "again").read_bytes() == b"large"


@pytest.mark.parametrize("link", [False, True], ids=["copy", "link"])
def test_what_is_not_stored_is_not_placed(blobs, tmp_path, link):
    """Absent content is NotFound, and nothing appears; a digest that is none never becomes a path."""
    with pytest.raises(NotFound, match=ABSENT[:12]):
        blobs.place(ABSENT, tmp_path / "target", link=link)
    for bad in ("../../etc/passwd", "", "A" * 64, "0" * 63):
        with pytest.raises(BackendError, match="not a digest"):
            blobs.place(bad, tmp_path / "target", link=link)
    assert not os.path.lexists(tmp_path / "target")
    with pytest.raises(NotFound):
        blobs.read(ABSENT)


def test_a_link_to_nothing(workspace):
    """Content that is not stored is not what it was."""
    assert not workspace.verify_linked(ABSENT)


def test_damage_is_found_by_looking(workspace_store):
    """Content that is damaged is not what it was, and makes way for the same content stored anew."""
    workspace = workspace_store.blobs
    digest = workspace.put_bytes(b"precious")
    workspace_store.damage(digest)
    assert not workspace.verify_linked(digest)
    assert workspace.missing([digest]) == {digest}


@pytest.mark.parametrize("use", ["read", "place", "link"])
def test_damaged_content_is_never_handed_out(blob_store, tmp_path, use):
    """Damage is found before use, leaves no file at the target, and makes way for the same content stored anew."""
    blobs = blob_store.blobs
    digest = blobs.put_bytes(b"precious")
    target = tmp_path / "target"
    blob_store.damage(digest)
    act = partial(blobs.read, digest) if use == "read" else partial(blobs.place, digest, target, link=use == "link")
    with pytest.raises(Damaged, match=digest[:12]):
        act()
    assert not os.path.lexists(target)
    assert blobs.missing([digest]) == {digest}
    assert blobs.put_bytes(b"precious") == digest
    blobs.place(digest, target)
    assert target.read_bytes() == b"precious"


# Sweeping


def test_sweep(workspace_store, tmp_path):
    """What is not kept and was not asked for lately goes; putting something again counts as asking; published outputs stay."""
    workspace = workspace_store.blobs
    kept, young, old, again, collected = (
        workspace.put_bytes(data) for data in (b"kept", b"young", b"old!!", b"again", b"coll")
    )
    workspace.publish(REF, [Artifact("old", old, 5)])
    for digest in (kept, old, again, collected):
        workspace_store.age(digest, 7200)
    workspace.put_bytes(b"again")
    (tmp_path / "output").write_bytes(b"coll")
    workspace.collect(tmp_path / "output", "output")
    assert workspace.sweep({kept}, 3600) == (1, 5)
    assert workspace.missing([kept, young, old, again, collected]) == {old}
    assert (workspace.folder(REF) / "outputs/old").read_bytes() == b"old!!"
    assert workspace.sweep([kept], 0)[0] == 3
    assert workspace.read(kept) == b"kept"
    assert workspace.put_bytes(b"old!!") == old
    assert workspace.read(old) == b"old!!"
