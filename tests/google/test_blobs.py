"""What Blobs in Cloud Storage do beyond the contract: uploads in the background, logs from pieces, sweeping by the service's times."""

import http.server
import os
import threading
import time

import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from sparkles.backends.google import blobs as module
from sparkles.backends.google import names
from sparkles.backends.google.blobs import GoogleBlobs
from sparkles.backends.google.bucket import Bucket
from sparkles.errors import UsageError
from sparkles.model import AttemptRef
from tests.support.google import BlobStore

pytestmark = pytest.mark.google
REF = AttemptRef("align-1a2b3c4d", 17, 2)


@pytest.fixture
def store(tmp_path):
    store = BlobStore(tmp_path / "cache")
    yield store
    store.blobs.close()
    store.bucket.close()


@pytest.fixture
def blobs(store):
    return store.blobs


def put(store, name, data, ref=REF):
    store.bucket.put(names.attempt(ref, name), data)


def test_uploads_are_there_once_settled(blobs, tmp_path):
    """Two hundred files are hashed one after the other and uploaded together; the same content is one object."""
    digests = set()
    for number in range(200):
        path = tmp_path / f"f{number}"
        path.write_bytes(b"%d" % (number % 150))
        digests.add(blobs.put_file(path).digest)
    blobs.settle()
    assert len(digests) == 150
    assert blobs.missing(digests) == set()
    assert len(list(blobs._bucket.listing("cas/"))) == 150


def test_a_large_file_is_uploaded_in_chunks(blobs, tmp_path, monkeypatch):
    """As its bytes were when it was hashed, and hash-checked when it comes back."""
    monkeypatch.setattr(module, "SMALL_BYTES", 1 << 20)
    path = tmp_path / "large"
    path.write_bytes(os.urandom(20 << 20))
    digest = blobs.put_file(path).digest
    blobs.settle()
    blobs.place(digest, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == path.read_bytes()


def test_a_large_file_that_changes_before_it_is_uploaded(store, tmp_path, monkeypatch):
    """Nothing is stored under a digest that it does not have, and the sentence names the file."""
    monkeypatch.setattr(module, "SMALL_BYTES", 1 << 20)
    busy = threading.Event()
    for _ in range(32):
        store.bucket.pool.submit(busy.wait)  # uploads wait behind these
    path = tmp_path / "large"
    path.write_bytes(b"a" * (2 << 20))
    digest = store.blobs.put_file(path).digest
    path.write_bytes(b"b" * (2 << 20))
    busy.set()
    with pytest.raises(UsageError, match=r"large: changed while it was uploaded; submit again"):
        store.blobs.settle()
    assert store.blobs.missing([digest]) == {digest}


def test_what_is_there_is_not_sent_again(store, tmp_path, monkeypatch):
    """A driver that starts later asks about files that it knows, and neither reads nor sends them; one that is gone is sent."""
    paths = []
    for number, size in enumerate((0, 10, 3 << 20)):
        path = tmp_path / f"f{number}"
        path.write_bytes(os.urandom(size))
        os.utime(path, (1e9, 1e9))
        paths.append(path)
    monkeypatch.setattr(module, "SMALL_BYTES", 1 << 20)
    digests = [store.blobs.put_file(path).digest for path in paths]
    store.blobs.settle()
    store.bucket.delete([names.content(digests[1])])
    sent = []
    for method in ("put", "put_stream"):
        act = getattr(store.bucket, method)
        monkeypatch.setattr(
            store.bucket, method, lambda name, *rest, act=act, **more: (sent.append(name), act(name, *rest, **more))
        )
    later = GoogleBlobs(store.bucket, tmp_path / "cache")
    assert [later.put_file(path).digest for path in paths] == digests
    later.settle()
    assert sent == [names.content(digests[1])]
    assert later.missing(digests) == set()
    later.close()


def test_a_file_that_is_gone_before_it_is_uploaded(store, tmp_path):
    """Is the user's to hear of, by name."""
    path = tmp_path / "known"
    path.write_bytes(b"x")
    os.utime(path, (1e9, 1e9))
    digest = store.blobs.put_file(path).digest
    store.blobs.settle()
    store.bucket.delete([names.content(digest)])
    later = GoogleBlobs(store.bucket, tmp_path / "cache")
    busy = threading.Event()
    for _ in range(32):
        store.bucket.pool.submit(busy.wait)  # uploads wait behind these
    later.put_file(path)
    path.unlink()
    busy.set()
    with pytest.raises(UsageError, match=r"known: cannot be read: No such file or directory; submit again"):
        later.settle()
    later.close()


def test_a_proxy_is_used(tmp_path, monkeypatch):
    """The usual variables lead there, though they are looked at only once."""
    asked = []

    class Proxy(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path.partition("?")[0])
            body = b'{"items": []}'
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=server.serve_forever).start()
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    client = storage.Client(
        project="p", credentials=AnonymousCredentials(), client_options={"api_endpoint": "http://storage.invalid"}
    )
    bucket = Bucket(client, "b", "")
    try:
        bucket.check()
    finally:
        bucket.close()
        server.shutdown()
        server.server_close()
    assert asked
    assert all(each.startswith("http://storage.invalid/storage/v1/b/b") for each in asked)


def test_a_log_is_read_from_its_pieces_while_it_grows(store):
    """From any offset, to any limit, across pieces; then from the whole log."""
    assert store.blobs.read_log(REF) == b""
    assert store.blobs.log_size(REF) == 0
    for offset, data in ((0, b"0123"), (4, b"45"), (6, b"6789")):
        put(store, f"log/{offset:08d}", data)
    assert store.blobs.log_size(REF) == 10
    for offset, limit, expected in (
        (0, None, b"0123456789"),
        (3, 4, b"3456"),
        (-3, None, b"789"),
        (-5, 2, b"56"),
        (99, 5, b""),
    ):
        assert store.blobs.read_log(REF, offset, limit) == expected
    put(store, "output.log", b"0123456789 and more")
    assert store.blobs.read_log(REF, 8) == b"89 and more"
    assert store.blobs.log_size(REF) == 19


def test_deleting_a_job_keeps_what_others_reuse(store):
    """By attempt; a job whose name begins alike stays."""
    other = AttemptRef("align-1a2b3c4d", 17, 20)
    third = AttemptRef("align-1a2b3c4d2", 1, 1)
    for ref in (REF, other, third):
        put(store, "output.log", b"12345", ref)
    assert store.blobs.delete_job(REF.job, keep=[REF, third]) == 5
    assert [store.blobs.log_size(ref) for ref in (REF, other, third)] == [5, 0, 5]
    assert store.blobs.delete_job(REF.job) == 5
    assert store.blobs.delete_job("never") == 0


def test_sweeping_spares_what_was_asked_for_lately(store, tmp_path, monkeypatch):
    """Old content goes, unless it is kept, or was put or asked for again by a process that had not seen it."""
    monkeypatch.setattr(module, "TOUCH_AFTER_S", 0.5)
    kept, old, again, asked = (store.blobs.put_bytes(data) for data in (b"kept", b"old!!", b"again", b"asked"))
    time.sleep(1.5)
    other = GoogleBlobs(store.bucket, tmp_path / "other")
    assert other.put_bytes(b"again") == again
    assert other.missing([asked]) == set()
    assert store.blobs.sweep({kept}, 1.2) == (1, 5)
    assert other.missing([kept, old, again, asked]) == {old}
    assert store.blobs.sweep({kept}, 0)[0] == 2
    assert store.blobs.read(kept) == b"kept"
    other.close()


def test_this_machine_s_clock_is_not_compared_with_the_bucket_s(store, monkeypatch):
    """A clock that is two hours ahead makes nothing old."""
    fresh = store.blobs.put_bytes(b"fresh")
    store.blobs.settle()
    put(store, "output.log", b"12345")
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 7200)
    assert store.blobs.sweep([], 3600) == (0, 0)
    assert store.blobs.list_jobs() == []
    assert store.blobs.missing([fresh]) == set()
