"""Objects of a bucket below the installation's prefix: put, get, list, delete. May import errors and failures.

Surprise: the client retries for two minutes by itself without a word; here each call has its own limit and is tried again with the
user told, as for Datastore.
"""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import requests.adapters
import requests.utils
from google.api_core import exceptions as api_errors
from google.auth import exceptions as auth_errors
from google.cloud import storage  # type: ignore[attr-defined,unused-ignore]  # a namespace package
from google.cloud.storage.exceptions import DataCorruption

from sparkles.backends.google.failures import translate
from sparkles.backends.google.patience import CHECK_S, PATIENCE_S, TOLD_AFTER_S, Patience
from sparkles.backends.google.server_time import ServerTime
from sparkles.errors import NotFound

THREADS = 16
"""Small objects are bound by the network's latency; more threads than this gain little on one machine."""

CALL_S = 60.0
CHUNK_BYTES = 8 << 20
SMALL_BYTES = 1 << 20
"""What moves more than this may take its time before the user is told."""

_ONE_CALL_BYTES = 8 << 20
"""Of what has a known size the client sends so much in one call, for which it copies it twice."""

_RETRYABLE = (429, 500, 502, 503, 504, 408)

T = TypeVar("T")
R = TypeVar("R")


class Bucket:
    """One installation's objects. Names are relative to the prefix."""

    def __init__(
        self,
        client: storage.Client,
        name: str,
        prefix: str,
        *,
        say: Callable[[str], None] = lambda line: None,
        patience_s: float = PATIENCE_S,
        told_after_s: float = TOLD_AFTER_S,
    ) -> None:
        """`say` is told once when the service has not answered for 5 s, and once when it answers again."""
        self.name, self.prefix = name, prefix
        self._patience = Patience(
            "Cloud Storage",
            say,
            errors=(api_errors.GoogleAPICallError, auth_errors.GoogleAuthError, requests.RequestException, DataCorruption),
            can_help=_can_help,
            patience_s=patience_s,
            told_after_s=told_after_s,
        )
        self._client = client
        # The default of 10 connections would drop and reopen them under more threads.
        adapter = requests.adapters.HTTPAdapter(pool_connections=4, pool_maxsize=2 * THREADS)
        client._http.mount("http://", adapter)
        client._http.mount("https://", adapter)
        _settle_environment(client)
        clock = ServerTime()
        client._http.hooks["response"].append(clock.note)
        self.now = clock.now
        """The present by the service's clock, as its last answer told it: what times of objects are compared with."""

        self._bucket = client.bucket(name)
        self.pool = ThreadPoolExecutor(THREADS, thread_name_prefix="storage")

    def close(self) -> None:
        """Ends its threads and connections."""
        self.pool.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def url(self, name: str) -> str:
        """gs://... for people."""
        return f"gs://{self.name}/{self.prefix}{name}"

    def check(self) -> None:
        """Raises NotFound or BackendError where the bucket cannot be used; within about CHECK_S."""
        self._trying(lambda: self._page("", None, most=1, limit_s=CHECK_S), "", patience_s=CHECK_S)

    def put(self, name: str, data: bytes, *, absent: bool = False) -> bool:
        """Writes an object. With `absent` only where there is none; False where there was one."""
        if len(data) > SMALL_BYTES:
            return self._put_chunks(name, io.BytesIO(data), len(data), absent)

        def call() -> bool:
            blob = self._blob(name)
            try:
                blob.upload_from_string(
                    data, "application/octet-stream", if_generation_match=0 if absent else None, timeout=CALL_S, retry=None
                )
            except api_errors.PreconditionFailed:
                return False
            return True

        return self._trying(call, name)

    def put_stream(self, name: str, stream: Any, size: int) -> bool:
        """Writes what a stream of `size` bytes gives to a new object, in chunks; False where there was one."""
        return self._put_chunks(name, stream, size, True)

    def _put_chunks(self, name: str, stream: Any, size: int, absent: bool) -> bool:
        def call() -> bool:
            stream.seek(0)
            blob = self._blob(name)
            blob.chunk_size = CHUNK_BYTES
            try:
                blob.upload_from_file(
                    stream,
                    size=None if SMALL_BYTES < size <= _ONE_CALL_BYTES else size,
                    content_type="application/octet-stream",
                    if_generation_match=0 if absent else None,
                    timeout=CALL_S,
                    retry=None,
                )
            except api_errors.PreconditionFailed:
                return False
            return True

        return self._trying(call, name, watched=size <= SMALL_BYTES)

    def get(self, name: str, *, start: int = 0, end: int | None = None) -> bytes:
        """The bytes from `start` to before `end`. Raises NotFound."""
        if end is not None and end <= start:
            return b""

        def call() -> bytes:
            last = None if end is None else end - 1
            found = _Bytes(self._patience.progress)
            try:
                self._blob(name).download_to_file(
                    found, start=start or None, end=last, raw_download=True, timeout=CALL_S, retry=None
                )
            except api_errors.RequestRangeNotSatisfiable:
                return b""
            return found.getvalue()

        return self._trying(call, name)

    def get_file(self, name: str, path: Path) -> None:
        """Writes the object's bytes to `path`. Raises NotFound, OSError."""

        def call() -> None:
            with io.BufferedWriter(_File(path, self._patience.progress)) as file:
                self._blob(name).download_to_file(file, raw_download=True, timeout=CALL_S, retry=None, checksum="crc32c")

        self._trying(call, name)

    def size(self, name: str) -> int | None:
        """Bytes of the object; None where there is none."""
        blob = self._facts(name)
        return None if blob is None else int(blob.size)

    def written_at(self, name: str) -> float | None:
        """When the object was written or touched, in seconds since the epoch by the service's clock; None where there is none."""
        blob = self._facts(name)
        return None if blob is None else blob.updated.timestamp() if blob.updated else 0.0

    def touch(self, name: str) -> None:
        """Makes the object count as written now, by a rewrite onto itself, which moves no bytes."""

        def call() -> None:
            blob = self._blob(name)
            token, _, _ = blob.rewrite(blob, timeout=CALL_S, retry=None)
            while token is not None:
                token, _, _ = blob.rewrite(blob, token=token, timeout=CALL_S, retry=None)

        self._trying(call, name)

    def _facts(self, name: str) -> Any:
        return self._trying(lambda: self._bucket.get_blob(self.prefix + name, timeout=CALL_S, retry=None), name)

    def listing(self, below: str) -> Iterator[tuple[str, int, float]]:
        """(name, bytes, when it was written in seconds since the epoch) of the objects whose names begin with `below`, in order."""
        token: str | None = None
        while True:
            page, token = self._trying(functools.partial(self._page, below, token), below)
            yield from page
            if token is None:
                return

    def _page(
        self, below: str, token: str | None, most: int | None = None, limit_s: float = CALL_S
    ) -> tuple[list[tuple[str, int, float]], str | None]:
        found = self._client.list_blobs(
            self._bucket,
            prefix=self.prefix + below,
            page_token=token,
            max_results=most,
            fields="items(name,size,updated),nextPageToken",
            timeout=limit_s,
            retry=None,
        )
        page = next(found.pages, ())
        cut = len(self.prefix)
        items = [(blob.name[cut:], int(blob.size or 0), blob.updated.timestamp() if blob.updated else 0.0) for blob in page]
        return items, found.next_page_token

    def delete(self, names: Iterable[str]) -> int:
        """Removes objects in parallel; those that are gone already count not. Returns how many were removed."""
        return sum(self.each(self._delete, names))

    def _delete(self, name: str) -> bool:
        try:
            self._trying(lambda: self._blob(name).delete(timeout=CALL_S, retry=None), name)
        except NotFound:
            return False
        return True

    def each(self, act: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """`act` of each item, in parallel, in order."""
        return self.pool.map(act, items)

    def _blob(self, name: str) -> Any:
        return self._bucket.blob(self.prefix + name)

    def _trying(self, call: Callable[[], R], name: str, *, watched: bool = True, patience_s: float | None = None) -> R:
        where = f"Cloud Storage: gs://{self.name}/{self.prefix}{name}"
        return self._patience.trying(
            call, lambda error: translate(error, where, self.name), watched=watched, patience_s=patience_s
        )


def _settle_environment(client: storage.Client) -> None:
    """Has the session look at the variables for proxies and certificates now, and not at each request: that took a seventh of its time."""
    session = client._http
    session.proxies = dict(requests.utils.get_environ_proxies(client._connection.API_BASE_URL))
    session.verify = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True
    session.trust_env = False


class _Bytes(io.BytesIO):
    """Bytes that tell when some more came."""

    def __init__(self, came: Callable[[], None]) -> None:
        super().__init__()
        self._came = came

    def write(self, data: Any) -> int:
        self._came()
        return super().write(data)


class _File(io.FileIO):
    """A file that tells when some more of it came."""

    def __init__(self, path: Path, came: Callable[[], None]) -> None:
        super().__init__(path, "wb")
        self._came = came

    def write(self, data: Any) -> int:
        self._came()
        return super().write(data)


def _can_help(error: Exception) -> bool:
    """Whether the same call can succeed later."""
    if isinstance(error, api_errors.GoogleAPICallError):
        return error.code in _RETRYABLE
    if isinstance(error, auth_errors.GoogleAuthError):
        return isinstance(error, auth_errors.TransportError) or error.retryable
    return isinstance(error, requests.ConnectionError | requests.Timeout | DataCorruption)
