"""What every Blobs keeps: content by digest, attempt folders, logs. The folder's own promises are in test_directory_blobs.py.

The folder is tested on the file system that pytest's --basetemp is on: give it one on XFS or btrfs to test reflinks.
"""

from __future__ import annotations

import os
import socket
import stat
import threading
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparkles.backends.local.blobs import DirectoryBlobs
from sparkles.backends.memory_blobs import MemoryBlobs
from sparkles.digest import of_bytes
from sparkles.errors import BackendError, Damaged, NotFound, UsageError
from sparkles.model import Artifact, AttemptRef

REF = AttemptRef("align-1a2b3c4d", 17, 2)
ABSENT = of_bytes(b"never stored")
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
        path.chmod(0o444)

    def age(self, digest, seconds):
        """As if it had last been asked for that long ago."""
        if isinstance(self.blobs, MemoryBlobs):
            self.blobs.asked_at[digest] -= seconds
            return
        found = self.path(digest).stat()
        os.utime(self.path(digest), ns=(found.st_atime_ns - seconds * 1_000_000_000, found.st_mtime_ns))


@pytest.fixture(params=["directory", "memory"])
def store(request, tmp_path):
    blobs = DirectoryBlobs(tmp_path / "state") if request.param == "directory" else MemoryBlobs()
    yield Store(blobs, tmp_path / "state")
    blobs.close()


@pytest.fixture
def blobs(store):
    return store.blobs


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


def test_a_file_that_grows_while_it_is_read(blobs, tmp_path):
    """Nothing half-read is stored: the sentence gives both sizes and says to submit again."""
    path = tmp_path / "growing"
    path.write_bytes(os.urandom(8 << 20))
    enough = threading.Event()

    def grow():
        with open(path, "ab", buffering=0) as file:
            while not enough.is_set():
                file.write(b"more")

    writer = threading.Thread(target=grow)
    writer.start()
    try:
        with pytest.raises(UsageError, match=r"changed while it was read: size \d+ -> \d+; submit again"):
            blobs.put_file(path)
    finally:
        enough.set()
        writer.join()


# Placing


def test_a_placed_file_is_the_tasks_own(store, tmp_path):
    """A task may write to its input: the stored content stays what it was, for the next task too."""
    digest = store.blobs.put_bytes(b"original")
    for name in ("one", "two"):
        target = tmp_path / name
        store.blobs.place(digest, target)
        assert target.read_bytes() == b"original"
        assert target.stat().st_mode & 0o600 == 0o600
        assert target.stat().st_nlink == 1
        target.write_bytes(b"scribble")
    assert store.blobs.read(digest) == b"original"


def test_place_executable(blobs, tmp_path):
    """The executable bit is set where it is asked for, and only there; a linked program is runnable as well."""
    digest = blobs.put_bytes(b"#!/bin/sh\n")
    for name, wanted in (("plain", {}), ("tool", {"executable": True}), ("linked", {"executable": True, "link": True})):
        blobs.place(digest, tmp_path / name, **wanted)
        assert os.access(tmp_path / name, os.X_OK) is bool(wanted)


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


def test_a_link_shares_read_only_bytes(blobs, tmp_path):
    """`link` gives a link to read-only bytes, and they are found to be unchanged afterwards."""
    digest = blobs.put_bytes(b"large")
    blobs.place(digest, tmp_path / "a", link=True)
    blobs.place(digest, tmp_path / "b", link=True)
    assert (tmp_path / "a").is_symlink()
    assert (tmp_path / "a").read_bytes() == b"large"
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o444
    assert (tmp_path / "a").resolve() == (tmp_path / "b").resolve()
    assert blobs.verify_linked(digest)


def test_a_task_that_writes_through_its_link_is_found_out(blobs, tmp_path):
    """Root can write to a read-only file: it is noticed, the content is set aside and can be stored anew."""
    digest = blobs.put_bytes(b"large")
    link = tmp_path / "input"
    blobs.place(digest, link, link=True)
    assert blobs.verify_linked(digest)
    link.chmod(0o644)
    link.write_bytes(b"LARGE")
    assert not blobs.verify_linked(digest)
    assert blobs.missing([digest]) == {digest}
    assert blobs.put_bytes(b"large") == digest
    blobs.place(digest, tmp_path / "again", link=True)
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
    assert not blobs.verify_linked(ABSENT)
    with pytest.raises(NotFound):
        blobs.read(ABSENT)


@pytest.mark.parametrize("use", ["read", "place", "link", "verify"])
def test_damaged_content_is_never_handed_out(store, tmp_path, use):
    """Damage is found before use, leaves no file at the target, and makes way for the same content stored anew."""
    blobs = store.blobs
    digest = blobs.put_bytes(b"precious")
    target = tmp_path / "target"
    store.damage(digest)
    if use == "verify":
        assert not blobs.verify_linked(digest)
    else:
        act = partial(blobs.read, digest) if use == "read" else partial(blobs.place, digest, target, link=use == "link")
        with pytest.raises(Damaged, match=digest[:12]):
            act()
    assert not os.path.lexists(target)
    assert blobs.missing([digest]) == {digest}
    assert blobs.put_bytes(b"precious") == digest
    blobs.place(digest, target)
    assert target.read_bytes() == b"precious"


# Collecting and publishing


@pytest.mark.parametrize("name", ["model.bin", "out/a b.txt", "-x", "ünï/日本", "line\nbreak", "..."])
def test_an_output_is_collected_and_published(blobs, tmp_path, name):
    """An output's bytes are stored, and appear read-only under the attempt's outputs/ by the same name; publishing twice is harmless."""
    path = tmp_path / "scratch" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"result")
    artifact = blobs.collect(path, name)
    assert artifact == Artifact(name, of_bytes(b"result"), 6)
    assert blobs.read(artifact.digest) == b"result"
    for _ in range(2):
        blobs.publish(REF, [artifact])
    shown = blobs.folder(REF) / "outputs" / name
    assert shown.read_bytes() == b"result"
    assert stat.S_IMODE(shown.stat().st_mode) == 0o444


def test_equal_outputs_are_one_content(blobs, tmp_path):
    """Two tasks that write the same bytes have artifacts with one digest; executable is the artifact's, not the content's."""
    for name, mode in (("a", 0o644), ("b", 0o755)):
        (tmp_path / name).write_bytes(b"same")
        (tmp_path / name).chmod(mode)
    first, second = blobs.collect(tmp_path / "a", "a"), blobs.collect(tmp_path / "b", "b")
    assert (first.digest, first.executable, second.executable) == (second.digest, False, True)
    assert blobs.sweep([], 0) == (1, 4)


@pytest.mark.parametrize(
    "make",
    [lambda path: None, Path.mkdir, make_fifo, make_socket, lambda path: path.symlink_to("/etc/passwd")],
    ids=["missing", "directory", "fifo", "socket", "link"],
)
def test_collect_takes_regular_files_only(blobs, tmp_path, make):
    """A task cannot have a link to somebody else's file, a pipe or a directory stored as its output."""
    path = tmp_path / "output"
    make(path)
    with pytest.raises(BackendError, match="output"):
        blobs.collect(path, "output")
    assert blobs.sweep([], 0) == (0, 0)


def test_an_output_with_a_second_name_stays_changeable_there(blobs, tmp_path):
    """A hard link to a file outside is no way into the store: neither does that file become read-only, nor does writing to it change
    what is stored."""
    outside = tmp_path / "outside"
    outside.write_bytes(b"mine")
    os.link(outside, tmp_path / "output")
    artifact = blobs.collect(tmp_path / "output", "output")
    assert outside.stat().st_mode & 0o200
    outside.write_bytes(b"edit")
    assert blobs.read(artifact.digest) == b"mine"


@pytest.mark.parametrize("name", BAD_NAMES, ids=[repr(name[:12]) for name in BAD_NAMES])
def test_names_that_would_leave_the_folder(blobs, tmp_path, name):
    """Neither collect nor publish takes a name that is not a plain path below the folder; nothing is written."""
    (tmp_path / "output").write_bytes(b"x")
    digest = blobs.put_bytes(b"x")
    with pytest.raises(BackendError, match="cannot be the name of an output"):
        blobs.collect(tmp_path / "output", name)
    with pytest.raises(BackendError, match="cannot be the name of an output"):
        blobs.publish(REF, [Artifact("fine", digest, 1), Artifact(name, digest, 1)])
    assert not blobs.folder(REF).exists()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(name=st.text(st.sampled_from(["a", ".", "/", "\\", "\0", " ", "é", "~", "\n", "\ud800"]), max_size=8))
def test_any_name_stays_below_the_folder(blobs, name):
    """Whatever the name, the file is published below outputs/ or refused."""
    digest = blobs.put_bytes(b"x")
    root = blobs.folder(REF).parent / "outer"
    ref = AttemptRef(REF.job, REF.index, 9)
    try:
        blobs.publish(ref, [Artifact(name, digest, 1)])
    except BackendError:
        assert not blobs.folder(ref).exists()
        return
    shown = blobs.folder(ref) / "outputs" / name
    assert shown.resolve().is_relative_to((blobs.folder(ref) / "outputs").resolve())
    assert shown.read_bytes() == b"x"
    assert not root.exists()
    blobs.delete_job(REF.job)


def test_publish_needs_the_content(blobs):
    """An artifact whose content was lost cannot be published."""
    with pytest.raises(NotFound, match=ABSENT[:12]):
        blobs.publish(REF, [Artifact("a", ABSENT, 1)])


# Attempts


def test_folders_of_attempts(blobs):
    """Every attempt has a folder of its own, which asking for does not make."""
    refs = [AttemptRef("a", 1, 1), AttemptRef("a", 1, 2), AttemptRef("a", 11, 1), AttemptRef("b", 1, 1)]
    folders = [blobs.folder(ref) for ref in refs]
    assert len(set(folders)) == 4
    assert not any(folder.exists() for folder in folders)
    assert [folder.parts[-3:] for folder in folders[1:3]] == [("a", "1", "a2"), ("a", "11", "a1")]


@pytest.mark.parametrize("job", ["", ".", "..", "../a", "/a", "a/b", "a\\b", "a\0", "x" * 256, "\udcff"])
def test_job_ids_that_are_no_folder(blobs, job):
    """A job's id from outside never becomes a path elsewhere."""
    for use in (
        lambda: blobs.folder(AttemptRef(job, 1, 1)),
        lambda: blobs.read_log(AttemptRef(job, 1, 1)),
        lambda: blobs.delete_job(job),
    ):
        with pytest.raises(UsageError, match="not the id of a job"):
            use()


@pytest.mark.parametrize(("index", "attempt"), [(0, 1), (1, 0), (-1, 1)])
def test_attempts_are_numbered_from_1(blobs, index, attempt):
    """There is no task 0 and no attempt 0, and no way to a folder by a negative number."""
    blobs.folder(AttemptRef("job", 1, 1))
    with pytest.raises(UsageError, match="numbered from 1"):
        blobs.folder(AttemptRef("job", index, attempt))


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
def test_read_log(blobs, offset, limit, expected):
    """From the start, from the end, and beyond both."""
    assert blobs.read_log(REF, offset, limit) == b""
    blobs.folder(REF).mkdir(parents=True)
    (blobs.folder(REF) / "output.log").write_bytes(b"0123456789")
    assert blobs.read_log(REF, offset, limit) == expected


def test_delete_job(blobs):
    """A job's attempts go, except those that others reuse; other jobs stay; what was published from the store frees nothing."""
    digest = blobs.put_bytes(b"shared")
    for job, index, attempt in (("a", 1, 1), ("a", 1, 2), ("a", 2, 1), ("ab", 1, 1)):
        ref = AttemptRef(job, index, attempt)
        blobs.publish(ref, [Artifact("out/file", digest, 6)])
        (blobs.folder(ref) / "output.log").write_bytes(b"12345")
    freed = blobs.delete_job("a", keep=[AttemptRef("a", 1, 2), AttemptRef("ab", 1, 1)])
    assert freed >= 10
    left = [
        (index, attempt) for index in (1, 2) for attempt in (1, 2) if blobs.folder(AttemptRef("a", index, attempt)).exists()
    ]
    assert left == [(1, 2)]
    assert (blobs.folder(AttemptRef("a", 1, 2)) / "outputs/out/file").read_bytes() == b"shared"
    assert blobs.read_log(AttemptRef("ab", 1, 1)) == b"12345"
    assert blobs.delete_job("a") >= 5
    assert blobs.delete_job("a") == 0
    assert blobs.delete_job("never") == 0
    assert blobs.read(digest) == b"shared"


# Sweeping


def test_sweep(store, tmp_path):
    """What is not kept and was not asked for lately goes; putting something again counts as asking; published outputs stay."""
    blobs = store.blobs
    kept, young, old, again, collected = (blobs.put_bytes(data) for data in (b"kept", b"young", b"old!!", b"again", b"coll"))
    blobs.publish(REF, [Artifact("old", old, 5)])
    for digest in (kept, old, again, collected):
        store.age(digest, 7200)
    blobs.put_bytes(b"again")
    (tmp_path / "output").write_bytes(b"coll")
    blobs.collect(tmp_path / "output", "output")
    assert blobs.sweep({kept}, 3600) == (1, 5)
    assert blobs.missing([kept, young, old, again, collected]) == {old}
    assert (blobs.folder(REF) / "outputs/old").read_bytes() == b"old!!"
    assert blobs.sweep([kept], 0)[0] == 3
    assert blobs.read(kept) == b"kept"
    assert blobs.put_bytes(b"old!!") == old
    assert blobs.read(old) == b"old!!"
