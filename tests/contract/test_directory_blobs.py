"""What DirectoryBlobs promises beyond the port: full and read-only disks, several processes, killed writers."""

from __future__ import annotations

import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from sparkles.backends.local.blobs import DirectoryBlobs
from sparkles.digest import of_bytes
from sparkles.errors import BackendError, Damaged, StorageFull
from sparkles.model import Artifact, AttemptRef
from tests.support.needs import mount, requires, small_disk

REF = AttemptRef("job", 1, 1)
LONG_AGO = (1_600_000_000, 1_600_000_000)


@pytest.fixture
def blobs(tmp_path):
    store = DirectoryBlobs(tmp_path / "state")
    yield store
    store.close()


def path_of(state, digest):
    return state / "cas" / digest[:2] / digest


def files_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def bytes_read(act):
    """What `act` made this thread read, by the kernel's own count."""

    requires(sys.platform == "linux", "reads are counted by /proc")

    def count():
        return int(Path("/proc/thread-self/io").read_text().split("rchar: ")[1].split()[0])

    before = count()
    act()
    return count() - before


def test_making_one_and_asking_for_folders_touch_no_disk(tmp_path):
    """A task without files costs nothing: not even the state folder is made."""
    blobs = DirectoryBlobs(tmp_path / "state")
    blobs.folder(REF)
    blobs.publish(REF, [])
    blobs.missing([])
    blobs.read_log(REF)
    blobs.delete_job("job")
    blobs.sweep([], 0)
    blobs.close()
    assert list(tmp_path.iterdir()) == []


def test_the_layout(blobs, tmp_path):
    """cas/ab/DIGEST, read-only, with the mtime of the source; published outputs are the same file."""
    source = tmp_path / "source"
    source.write_bytes(b"data")
    os.utime(source, LONG_AGO)
    digest = blobs.put_file(source).digest
    stored = path_of(tmp_path / "state", digest)
    assert stat.S_IMODE(stored.stat().st_mode) == 0o400
    assert stored.stat().st_mtime == LONG_AGO[1]
    blobs.publish(REF, [Artifact("a/b", digest, 4)])
    assert (tmp_path / "state/jobs/job/1/a1/outputs/a/b").samefile(stored)
    assert os.listdir(tmp_path / "state/cas/incoming") == []


def test_a_relative_state_folder(tmp_path, monkeypatch):
    """A relative path means the folder of now, wherever the process goes later; links placed in tasks are absolute."""
    monkeypatch.chdir(tmp_path)
    blobs = DirectoryBlobs(Path("state"))
    (tmp_path / "scratch").mkdir()
    monkeypatch.chdir(tmp_path / "scratch")
    digest = blobs.put_bytes(b"x")
    blobs.place(digest, Path("link"), link=True)
    assert Path("link").read_bytes() == b"x"
    assert path_of(tmp_path / "state", digest).exists()
    blobs.close()


# Reading once


def test_an_unchanged_file_is_not_read_again(tmp_path):
    """Neither by this process nor by the next; a file whose stored copy was lost is."""
    source = tmp_path / "source"
    source.write_bytes(os.urandom(4 << 20))
    os.utime(source, LONG_AGO)
    for number in (1, 2):
        blobs = DirectoryBlobs(tmp_path / "state")
        read = bytes_read(lambda: blobs.put_file(source))  # noqa: B023 - called at once
        assert (read >= 4 << 20) is (number == 1)
        assert bytes_read(lambda: blobs.put_file(source)) < 1 << 20  # noqa: B023
        blobs.close()
    blobs = DirectoryBlobs(tmp_path / "state")
    path_of(tmp_path / "state", blobs.put_file(source).digest).unlink()
    digest = blobs.put_file(source).digest
    assert blobs.read(digest) == source.read_bytes()
    blobs.close()


def test_linked_content_is_hashed_once(blobs, tmp_path):
    """After one full check, an unchanged stored file is known by its looks: links and checks cost no reading."""
    source = tmp_path / "source"
    source.write_bytes(os.urandom(4 << 20))
    os.utime(source, LONG_AGO)
    digest = blobs.put_file(source).digest
    other = DirectoryBlobs(tmp_path / "state")
    assert bytes_read(lambda: other.place(digest, tmp_path / "a", link=True)) >= 4 << 20
    assert bytes_read(lambda: other.place(digest, tmp_path / "b", link=True)) < 4096
    assert bytes_read(lambda: other.verify_linked(digest)) < 4096
    other.put_file(source)  # asks for it anew, which must not make it look different
    assert bytes_read(lambda: other.verify_linked(digest)) < 4096
    other.close()


# Several processes


def store_and_place(state, number):
    """In a process of its own: the same contents in another order, placed, and swept in between."""
    blobs = DirectoryBlobs(Path(state))
    scratch = Path(tempfile.mkdtemp(dir=os.path.dirname(state)))
    for turn in range(60):
        data = b"content %d" % ((turn * 7 + number * 3) % 20)
        (scratch / "source").write_bytes(data)
        digest = blobs.put_file(scratch / "source").digest if turn % 2 else blobs.put_bytes(data)
        if turn % 10 == number:
            blobs.sweep([], 30)
        blobs.place(digest, scratch / "target", link=turn % 3 == 0)
        assert (scratch / "target").read_bytes() == data
        (scratch / "output").write_bytes(data)
        blobs.publish(AttemptRef("job", number + 1, turn + 1), [blobs.collect(scratch / "output", "output")])
    blobs.close()


def test_several_processes_share_a_folder(tmp_path):
    """They store, place, collect and sweep the same contents at once, and none sees another's half-done work."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=store_and_place, args=(str(tmp_path / "state"), number)) for number in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    stored = [name for name in files_below(tmp_path / "state/cas") if not name.startswith("incoming")]
    assert len(stored) == 20
    assert files_below(tmp_path / "state/cas/incoming") == []


def test_sweep_leaves_what_was_asked_for_meanwhile(blobs, tmp_path):
    """Content that is asked for between the look at it and its removal goes back to its place."""
    from sparkles.backends.local import sweeping

    digest = blobs.put_bytes(b"needed")
    stored = path_of(tmp_path / "state", digest)
    limit = stored.stat().st_atime - 1  # the look found it older than it is by now
    assert not sweeping._take_out(str(tmp_path / "state/cas"), str(stored), limit)
    assert blobs.read(digest) == b"needed"
    assert os.listdir(tmp_path / "state/cas/incoming") == []


def test_a_writer_killed_in_the_middle(blobs, tmp_path):
    """kill -9 while a file is stored leaves no content; the rest of it is swept an hour later, not earlier."""
    big = tmp_path / "big"
    with open(big, "wb") as file:
        file.truncate(4 << 30)
    code = (
        "import sys; from pathlib import Path; from sparkles.backends.local.blobs import DirectoryBlobs\n"
        "DirectoryBlobs(Path(sys.argv[1])).put_file(Path(sys.argv[2]))"
    )
    incoming = tmp_path / "state/cas/incoming"
    writer = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "state"), str(big)], cwd=Path(__file__).parents[2])
    try:
        deadline = time.monotonic() + 20
        while not (incoming.exists() and any(path.stat().st_size for path in incoming.iterdir())):
            assert time.monotonic() < deadline
            assert writer.poll() is None, "it was stored before it could be killed"
            time.sleep(0.002)
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    (left,) = incoming.iterdir()
    assert files_below(tmp_path / "state/cas") == [f"incoming/{left.name}"]
    assert blobs.sweep([], 0) == (0, 0)
    os.utime(left, (time.time() - 3700, time.time() - 3700))
    assert blobs.sweep([], 0)[0] == 1
    assert files_below(tmp_path / "state/cas") == []


def test_damaged_content_is_set_aside_and_swept_later(blobs, tmp_path):
    """The sentence says where the damaged bytes went, for whoever wants to look at them."""
    digest = blobs.put_bytes(b"precious")
    stored = path_of(tmp_path / "state", digest)
    stored.chmod(0o600)
    stored.write_bytes(b"precioux")
    with pytest.raises(Damaged, match=r"its sha256 is [0-9a-f]{12}\): it was moved to (.*)$") as raised:
        blobs.read(digest)
    aside = Path(str(raised.value).split("moved to ")[1])
    assert aside.read_bytes() == b"precioux"
    assert blobs.sweep([], 3600) == (0, 0)
    assert blobs.sweep([], 0) == (1, 8)


# Other devices


def test_collect_from_another_device(blobs, tmp_path):
    """A scratch directory on another disk: the output is copied, checked, and read-only in the store."""
    with small_disk(tmp_path / "scratch", 4 << 20) as scratch:
        (scratch / "output").write_bytes(b"result" * 1000)
        artifact = blobs.collect(scratch / "output", "output")
        blobs.place(artifact.digest, scratch / "input")
        assert (scratch / "input").read_bytes() == b"result" * 1000
    stored = path_of(tmp_path / "state", artifact.digest)
    assert stored.read_bytes() == b"result" * 1000
    assert stat.S_IMODE(stored.stat().st_mode) == 0o400


SIZE = 1 << 20


@pytest.mark.parametrize("operation", ["put_file", "put_bytes", "collect"])
def test_a_full_disk_when_storing(tmp_path, operation):
    """StorageFull with the folder and what is free there; no partial file stays, and it works once there is room."""
    with small_disk(tmp_path / "disk", SIZE) as disk:
        blobs = DirectoryBlobs(disk / "state")
        kept = blobs.put_bytes(b"small")
        filler = disk / "filler"
        filler.write_bytes(b"x" * (SIZE // 2))
        data = os.urandom(SIZE * 3 // 4)
        source = tmp_path / "source"
        source.write_bytes(data)
        act = {
            "put_file": lambda: blobs.put_file(source).digest,
            "put_bytes": lambda: blobs.put_bytes(data),
            "collect": lambda: blobs.collect(source, "output").digest,
        }[operation]
        with pytest.raises(
            StorageFull, match=rf"no space is left on the device of {disk}/state/cas \(\d+ bytes free"
        ) as raised:
            act()
        assert not raised.value.retryable
        assert [name for name in files_below(disk / "state") if not name.startswith("digests.db")] == [f"cas/{kept[:2]}/{kept}"]
        assert source.read_bytes() == data
        filler.unlink()
        assert blobs.read(act()) == data
        blobs.close()


def test_a_full_disk_when_placing(blobs, tmp_path):
    """The sentence names the folder of the task, not of the store; the target is not left half-written."""
    digest = blobs.put_bytes(os.urandom(2 * SIZE))
    with small_disk(tmp_path / "scratch", SIZE) as scratch:
        with pytest.raises(StorageFull, match=rf"place: no space is left on the device of {scratch} "):
            blobs.place(digest, scratch / "input")
        assert os.listdir(scratch) == []


def test_a_disk_without_inodes(tmp_path):
    """Space is there but no inode: the sentence says so, or nobody would believe it."""
    with small_disk(tmp_path / "disk", SIZE, inodes=12) as disk:
        blobs = DirectoryBlobs(disk / "state")
        numbers = iter(range(12))
        with pytest.raises(StorageFull, match="but not one inode"):
            [blobs.put_bytes(b"%d" % number) for number in numbers]
        assert next(numbers) > 1
        with pytest.raises(StorageFull, match="but not one inode"):
            blobs.publish(REF, [Artifact("a", of_bytes(b"0"), 1)])
        blobs.close()


def test_a_read_only_disk(tmp_path):
    """What is stored can be used; storing is a BackendError that names the folder and says why."""
    with small_disk(tmp_path / "disk", SIZE) as disk:
        blobs = DirectoryBlobs(disk / "state")
        digest = blobs.put_bytes(b"here")
        mount("-o", "remount,ro", str(disk))
        for act in (
            lambda: blobs.put_bytes(b"more"),
            lambda: blobs.put_file(Path(__file__)),
            lambda: blobs.publish(REF, [Artifact("a", digest, 4)]),
        ):
            with pytest.raises(BackendError, match=rf"{disk}/state.*the file system is read-only"):
                act()
        assert blobs.read(digest) == b"here"
        blobs.place(digest, tmp_path / "input")
        blobs.close()
    assert (tmp_path / "input").read_bytes() == b"here"


def test_a_state_folder_of_somebody_else(tmp_path):
    """Permission denied names the path and the user; what is stored is for its owner alone."""
    user = os.geteuid()
    # Not below tmp_path, which pytest keeps to its own user: the parents must be passable for the one who is denied here.
    with tempfile.TemporaryDirectory() as home:
        os.chmod(home, 0o755)
        blobs = DirectoryBlobs(Path(home, "state"))
        digest = blobs.put_bytes(b"x")
        os.chmod(Path(home, "state/cas/incoming"), 0o555)
        if user == 0:
            os.seteuid(65534)
        try:
            with pytest.raises(BackendError, match=rf"state/cas: permission denied for user id {os.geteuid()}"):
                blobs.put_bytes(b"y")
            if user == 0:
                with pytest.raises(BackendError, match=r"state/cas/../\w{64}: permission denied for user id 65534"):
                    blobs.read(digest)
        finally:
            os.seteuid(user)
            os.chmod(Path(home, "state/cas/incoming"), 0o755)
        assert blobs.read(digest) == b"x"
        blobs.close()
