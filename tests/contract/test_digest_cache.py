"""digests.db: it answers only for files that cannot have changed, and whatever is wrong with it does no harm."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path

import pytest

from sparkles.backends.local.blobs import DirectoryBlobs
from sparkles.backends.local.digests import DigestCache
from sparkles.digest import of_bytes

LONG_AGO = (1_600_000_000, 1_600_000_000)


@pytest.fixture
def cache(tmp_path):
    cache = DigestCache(tmp_path / "digests.db")
    yield cache
    cache.close()


def test_a_fresh_file_is_not_trusted(cache, tmp_path):
    """A file modified within the last 2 s could change again without a trace; one from the future too."""
    path = tmp_path / "file"
    path.write_bytes(b"x")
    for age_s, known in ((0, False), (1, False), (-100, False), (3, True)):
        os.utime(path, (time.time() - age_s, time.time() - age_s))
        cache.put(str(path), path.stat(), of_bytes(b"x"))
        assert (cache.get(str(path), path.stat()) is not None) is known, age_s


@pytest.mark.parametrize("change", ["size", "mtime", "inode", "mode"])
def test_any_difference_counts(cache, tmp_path, change):
    """Another size, mtime, inode or ctime is another file."""
    path = tmp_path / "file"
    path.write_bytes(b"x")
    os.utime(path, LONG_AGO)
    cache.put(str(path), path.stat(), of_bytes(b"x"))
    assert cache.get(str(path), path.stat()) == of_bytes(b"x")
    time.sleep(0.02)  # more than a tick of the file system's clock
    if change == "size":
        path.write_bytes(b"xx")
        os.utime(path, LONG_AGO)
    elif change == "mtime":
        os.utime(path, (LONG_AGO[0], LONG_AGO[1] + 1))
    elif change == "inode":
        (tmp_path / "new").write_bytes(b"y")
        os.utime(tmp_path / "new", LONG_AGO)
        (tmp_path / "new").rename(path)
    else:
        path.write_bytes(b"y")
        os.utime(path, LONG_AGO)
    assert cache.get(str(path), path.stat()) is None


def test_odd_paths(cache, tmp_path):
    """A name that is not UTF-8 is a path like any other."""
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe")
    Path(path).write_bytes(b"x")
    os.utime(path, LONG_AGO)
    cache.put(path, os.stat(path), of_bytes(b"x"))
    assert cache.get(path, os.stat(path)) == of_bytes(b"x")


@pytest.mark.parametrize("damage", [b"not a database at all" * 100, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_damaged_database_is_thrown_away(tmp_path, damage):
    """Files are read again, and the cache works again at the second call."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state/digests.db").write_bytes(damage)
    source = tmp_path / "source"
    source.write_bytes(b"x")
    os.utime(source, LONG_AGO)
    blobs = DirectoryBlobs(tmp_path / "state")
    for _ in range(3):
        assert blobs.put_file(source).digest == of_bytes(b"x")
    blobs.close()
    with sqlite3.connect(tmp_path / "state/digests.db") as db:
        assert db.execute("SELECT count(*) FROM files").fetchone() == (1,)
    db.close()


def test_a_database_that_cannot_be_made(tmp_path):
    """A folder in its place: no cache, and nothing else."""
    (tmp_path / "state/digests.db").mkdir(parents=True)
    (tmp_path / "source").write_bytes(b"x")
    blobs = DirectoryBlobs(tmp_path / "state")
    for _ in range(2):
        assert blobs.put_file(tmp_path / "source").digest == of_bytes(b"x")
    blobs.close()
