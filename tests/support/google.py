"""Clients of Google's emulators for tests: started on first use, shared by the test process, ended with it.

Where the usual variables are set (tests/run-all sets them), the emulators that they name are used instead.
"""

from __future__ import annotations

import atexit
import functools
import os
import secrets
from pathlib import Path

import grpc
import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from sparkles.backends.google import names
from sparkles.backends.google.blobs import GoogleBlobs
from sparkles.backends.google.bucket import Bucket
from sparkles.backends.google.datastore import Datastore
from sparkles.backends.google.job_store import GoogleJobStore
from sparkles.backends.google.notifier import PubsubNotifier
from sparkles.backends.google.projects import Place
from sparkles.backends.google.pubsub import Topic
from tests.support import emulators
from tests.support.needs import requires
from tests.support.unreliable import Unreliable

UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


@functools.cache
def address(service: str) -> str:
    """host:port of an emulator; the test needs it to be there."""
    variable = "FIRESTORE_DATASTORE_EMULATOR_HOST" if service == "firestore" else emulators.VARIABLES[service]
    known = os.environ.get(variable)
    if known:
        found = known.removeprefix("http://")
    else:
        try:
            emulator = emulators.Emulator(service)
        except emulators.Missing as error:
            requires(False, str(error))
            pytest.fail(str(error))
        atexit.register(emulator.stop)
        found = emulator.address
    if service == "storage":
        emulators.create_bucket(found)
    return found


@functools.cache
def pubsub() -> str:
    """host:port of Pub/Sub for tests that are to pass whatever it does: with SPARKLES_TEST_NOTIFIER=drop no message arrives, with shuffle
    each comes twice, late and out of order (unreliable.py)."""
    kind = os.environ.get("SPARKLES_TEST_NOTIFIER", "")
    if not kind:
        return address("pubsub")
    proxy = Unreliable(address("pubsub"), kind)
    atexit.register(proxy.close)
    return proxy.at


def datastore(
    service: str, prefix: str, *, faults: grpc.UnaryUnaryClientInterceptor | None = None, at: str = "", **options: object
) -> Datastore:
    """A client of one namespace; `service` is datastore or firestore, `at` the address of another one than the shared."""
    channel = grpc.insecure_channel(at or address(service), options=UNLIMITED)
    if faults is not None:
        channel = grpc.intercept_channel(channel, faults)
    return Datastore(channel, project=emulators.PROJECT, database="(default)", namespace=names.namespace(prefix), **options)


def bucket(prefix: str, **options: object) -> Bucket:
    """A client of the bucket below a prefix."""
    client = storage.Client(
        project=emulators.PROJECT,
        credentials=AnonymousCredentials(),
        client_options={"api_endpoint": f"http://{address('storage')}"},
    )
    return Bucket(client, emulators.BUCKET, prefix, **options)


def job_store(
    service: str, prefix: str, *, faults: grpc.UnaryUnaryClientInterceptor | None = None, **options: object
) -> tuple[GoogleJobStore, list[Datastore | Bucket | PubsubNotifier]]:
    """A store, and the clients to close after it. Where SPARKLES_TEST_NOTIFIER is set (see `pubsub`) it goes by events."""
    clients: tuple[Datastore, Bucket] = datastore(service, prefix, faults=faults), bucket(prefix)
    opened: list[Datastore | Bucket | PubsubNotifier] = list(clients)
    if "SPARKLES_TEST_NOTIFIER" in os.environ:
        told = notifier(prefix)
        told.ready(10)
        options = {"publish": told.publish, "events": told.take, **options}
        opened.append(told)
    return GoogleJobStore(*clients, **options), opened


def place(prefix: str, topic: str = "sparkles-tests") -> Place:
    """An installation on the emulators."""
    return Place(emulators.PROJECT, "(default)", emulators.BUCKET, topic, prefix, "a test")


def topic(prefix: str, name: str = "sparkles-tests", at: str = "") -> Topic:
    """The topic of an installation, on the Pub/Sub emulator itself or at another address."""
    return Topic(grpc.insecure_channel(at or address("pubsub"), options=UNLIMITED), place(prefix, name))


def notifier(prefix: str, *, at: str = "", **options: object) -> PubsubNotifier:
    """A notifier of an installation; `at`: another address than that of `pubsub()`."""
    return PubsubNotifier(topic(prefix, at=at or pubsub()), **options)


class BlobStore:
    """Blobs in a bucket of fake-gcs-server, and what a test does to them behind their back."""

    def __init__(self, cache: Path) -> None:
        self.bucket = bucket(f"t{secrets.token_hex(6)}/")
        self.blobs = GoogleBlobs(self.bucket, cache)

    def damage(self, digest: str) -> None:
        """Other bytes of the same length."""
        name = names.content(digest)
        self.bucket.put(name, b"\xff" * (self.bucket.size(name) or 0))
