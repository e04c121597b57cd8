"""Settings -> the clients of Google's services, on emulators or in the cloud. May import every module of this folder.

Surprise: a variable that names an emulator leads every command there, also one that was meant for the cloud; so it is said each time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sparkles.backends.google.projects import Place, find_place
from sparkles.config import Settings
from sparkles.errors import BackendError, ConfigError

if TYPE_CHECKING:
    from sparkles.backends.google.bucket import Bucket
    from sparkles.backends.google.credentials import Login
    from sparkles.backends.google.datastore import Datastore
    from sparkles.backends.google.notifier import PubsubNotifier
    from sparkles.backends.google.pubsub import Topic

EMULATORS = {"datastore": "DATASTORE_EMULATOR_HOST", "storage": "STORAGE_EMULATOR_HOST", "pubsub": "PUBSUB_EMULATOR_HOST"}
"""The usual variable of each service's emulator: host:port, of storage with http:// before it."""

PASSED_ON = (
    *EMULATORS.values(),
    "GOOGLE_APPLICATION_CREDENTIALS",
    "GOOGLE_CLOUD_PROJECT",
    "GOOGLE_CLOUD_QUOTA_PROJECT",
    "CLOUDSDK_CONFIG",
    "NO_GCE_CHECK",
    "GCE_METADATA_HOST",
    "HTTPS_PROXY",
    "https_proxy",
    "NO_PROXY",
    "no_proxy",
)
"""Variables that a worker must be given to find the same services with the same login."""

CHANNEL = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # A driver may wait for hours without a call: a connection that a firewall dropped meanwhile is noticed.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # After minutes of failures gRPC would wait two more before it connects again.
    ("grpc.max_reconnect_backoff_ms", 5_000),
)


@dataclass
class Connection:
    """The clients of one installation; to be closed."""

    place: Place
    datastore: Datastore
    bucket: Bucket
    notifier: PubsubNotifier
    """Where there is no Pub/Sub it wakes its own process only, and says so once when somebody waits. Its `publish` and `take` are what
    GoogleJobStore takes as `publish` and `events`."""

    environment: dict[str, str]
    """What workers must find in their environment."""

    def close(self) -> None:
        """Ends connections and threads."""
        self.notifier.close()
        self.bucket.close()
        self.datastore.close()


def emulators(environ: Mapping[str, str]) -> dict[str, str]:
    """The services that an emulator stands for, and its address as the variable has it.

    Raises:
        ConfigError: An address has no scheme where one belongs, or has one where none belongs.
    """
    found = {service: environ[name] for service, name in EMULATORS.items() if environ.get(name)}
    for service, address in found.items():
        scheme = address.startswith(("http://", "https://"))
        if scheme != (service == "storage"):
            expected = "http://host:port" if service == "storage" else "host:port"
            raise ConfigError(f"{EMULATORS[service]}: expected {expected}, found {address!r}")
    return found


def connect(settings: Settings, say: Callable[[str], None] = lambda line: None, *, check: bool = True) -> Connection:
    """The clients that the settings ask for. `say` is told of emulators, and later of services that do not answer.

    Args:
        check: See to it first that the login works and that database and bucket are there.

    Raises:
        ConfigError: The settings name no project or no bucket.
        BackendError: There is no login, or what is asked for is not there; with what to do.
    """
    place = find_place(settings)
    used = emulators(settings.environ)
    if used:
        say("emulators in use: " + ", ".join(f"{EMULATORS[service]}={address}" for service, address in used.items()))
    login = None if {"datastore", "storage"} <= set(used) else _log_in(settings)
    connection = Connection(
        place,
        open_datastore(place, used.get("datastore"), login, say),
        open_bucket(place, used.get("storage"), login, say),
        _notifier(place, used, login, say),
        {name: settings.environ[name] for name in PASSED_ON if settings.environ.get(name)},
    )
    try:
        if check:
            _check(connection, used)
    except BaseException:
        connection.close()
        raise
    return connection


def _log_in(settings: Settings) -> Login:
    from sparkles.backends.google.credentials import log_in

    return log_in(settings.environ)


def _check(connection: Connection, used: Mapping[str, str]) -> None:
    """Both at once: each is one round trip."""
    checks = {"storage": connection.bucket.check, "datastore": connection.datastore.check}
    asked = {service: connection.bucket.pool.submit(check) for service, check in checks.items()}
    for service, each in asked.items():
        try:
            each.result()
        except BackendError as error:
            if hint := hint_of_emulator(error, service, used):
                error.add_note(hint)
            raise


def hint_of_emulator(error: BackendError, service: str, used: Mapping[str, str]) -> str:
    """Where a call went, if that was an emulator that did not answer; else ""."""
    if service not in used or not error.retryable:
        return ""
    name = EMULATORS[service]
    return f"{name}={used[service]} leads there: start the emulator (make emulators), or unset {name}"


def open_datastore(
    place: Place, emulator: str | None, login: Login | None, say: Callable[[str], None] = lambda line: None
) -> Datastore:
    """The installation's entities. `emulator`: where it listens; None: the service, with the login."""
    from sparkles.backends.google.datastore import Datastore

    channel = open_channel("datastore.googleapis.com:443", emulator, login)
    return Datastore(channel, project=place.project, database=place.database, namespace=place.namespace, say=say)


def open_bucket(
    place: Place, emulator: str | None, login: Login | None, say: Callable[[str], None] = lambda line: None
) -> Bucket:
    """The installation's objects; as `open_datastore`."""
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage  # type: ignore[attr-defined,unused-ignore]  # a namespace package

    from sparkles.backends.google.bucket import Bucket

    credentials = login.credentials if login is not None and emulator is None else AnonymousCredentials()
    options = {"api_endpoint": emulator} if emulator is not None else None
    client = storage.Client(project=place.project, credentials=credentials, client_options=options)
    return Bucket(client, place.bucket, place.prefix, say=say)


def open_topic(place: Place, used: Mapping[str, str], login: Login | None) -> Topic | None:
    """The installation's topic; None where there is neither an emulator nor a login for it."""
    from sparkles.backends.google.pubsub import Topic

    if "pubsub" not in used and login is None:
        return None
    return Topic(open_channel("pubsub.googleapis.com:443", used.get("pubsub"), login), place)


def _notifier(place: Place, used: Mapping[str, str], login: Login | None, say: Callable[[str], None]) -> PubsubNotifier:
    from sparkles.backends.google.notifier import PubsubNotifier

    why = f"other emulators are in use, and {EMULATORS['pubsub']} is not set"
    return PubsubNotifier(open_topic(place, used, login), say, why=why)


def open_channel(host: str, emulator: str | None, login: Login | None) -> Any:
    """A gRPC channel: to the emulator without a login, else to `host` with it."""
    import grpc

    if emulator is not None:
        return grpc.insecure_channel(emulator, options=CHANNEL)
    if login is None:
        raise ValueError(f"{host} needs a login")
    from google.auth.transport.grpc import secure_authorized_channel
    from google.auth.transport.requests import Request

    return secure_authorized_channel(login.credentials, Request(), host, options=CHANNEL)
