"""Services that refuse: the errors as Google's own clients raise them, from servers on loopback that answer as Google does."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import google.rpc.error_details_pb2 as details_pb2
import google.rpc.status_pb2 as status_pb2
import grpc
import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
from google.oauth2.credentials import Credentials
from google.protobuf import any_pb2

from sparkles.backends.google.bucket import Bucket
from sparkles.backends.google.datastore import Datastore
from sparkles.backends.google.notifier import PubsubNotifier
from sparkles.backends.google.pubsub import Topic
from sparkles.errors import BackendError, NotFound
from tests.support import google
from tests.support.tokens import GOOD, OVER, TokenServer

pytestmark = pytest.mark.google

LOGIN = "`gcloud auth application-default login`"


class Refusing(grpc.GenericRpcHandler):
    """A gRPC service that ends every call with one status; counts the calls."""

    def __init__(self, code: grpc.StatusCode, text: str, reason: str = "") -> None:
        self.calls = 0
        self._code, self._text, self._reason = code, text, reason

    def service(self, details):
        def refuse(request, context):
            self.calls += 1
            if self._reason:
                info = any_pb2.Any()
                info.Pack(details_pb2.ErrorInfo(reason=self._reason, domain="googleapis.com"))
                status = status_pb2.Status(code=self._code.value[0], message=self._text, details=[info])
                context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
            context.abort(self._code, self._text)

        if details.method.endswith("StreamingPull"):
            return grpc.stream_stream_rpc_method_handler(refuse)
        return grpc.unary_unary_rpc_method_handler(refuse)


@pytest.fixture
def refusing(request):
    """The service of the test's row, and its address."""
    handler = Refusing(*request.param)
    server = grpc.server(ThreadPoolExecutor(2), handlers=[handler])
    handler.at = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield handler
    server.stop(0).wait()


def datastore(at: str) -> Datastore:
    return Datastore(grpc.insecure_channel(at), project="proj", database="work", namespace="n")


ROWS = {
    "login over": (
        (grpc.StatusCode.UNAUTHENTICATED, "Request had invalid authentication credentials."),
        f"the login is not accepted (Request had invalid authentication credentials.); run {LOGIN}",
    ),
    "API off, by its reason alone": (
        (grpc.StatusCode.PERMISSION_DENIED, "Cloud Datastore is not for you.", "SERVICE_DISABLED"),
        "datastore.googleapis.com is off in project proj; run `gcloud services enable datastore.googleapis.com --project=proj`",
    ),
    "billing off, by its reason alone": (
        (grpc.StatusCode.PERMISSION_DENIED, "No.", "BILLING_DISABLED"),
        "billing is off for project proj; turn it on: ",
    ),
    "no rights": (
        (grpc.StatusCode.PERMISSION_DENIED, "Missing or insufficient permissions."),
        "the account that is logged in (`sparkles doctor` shows it) may not do this (Missing or insufficient permissions.); it needs"
        " roles/datastore.user on project proj.",
    ),
    "no database": (
        (grpc.StatusCode.NOT_FOUND, "The database work does not exist for project proj"),
        "database work does not exist in project proj; make it: `gcloud firestore databases create --project=proj --database='work'"
        " --type=datastore-mode --location=LOCATION` (the location is for ever), or set google.database",
    ),
    "native mode": (
        (
            grpc.StatusCode.FAILED_PRECONDITION,
            "The Cloud Datastore API is not available for Firestore in Native Mode database projects/proj/databases/work.",
        ),
        "the database is of the wrong type: Firestore in native mode, expected Datastore mode (",
    ),
}


@pytest.mark.parametrize(("refusing", "sentence"), ROWS.values(), ids=list(ROWS), indirect=["refusing"])
def test_datastore_refuses(refusing, sentence):
    """The check before any work says what to do, after one call."""
    client = datastore(refusing.at)
    try:
        with pytest.raises(BackendError) as caught:
            client.check()
    finally:
        client.close()
    assert str(caught.value).startswith(f"Datastore: look whether the database is there: {sentence}")
    assert refusing.calls == 1
    assert isinstance(caught.value, NotFound) == ("does not exist" in sentence)


QUOTA = (grpc.StatusCode.RESOURCE_EXHAUSTED, "Quota exceeded for reads.")
PLUGIN = (grpc.StatusCode.UNAVAILABLE, "Getting metadata from plugin failed with error: ('invalid_grant: Bad Request', {})")


@pytest.mark.parametrize("refusing", [QUOTA], indirect=True)
def test_a_quota_is_waited_for(refusing):
    """Tried again with growing pauses for as long as the client has patience, then told as a quota."""
    client = Datastore(grpc.insecure_channel(refusing.at), project="proj", database="work", namespace="n", patience_s=1)
    try:
        with pytest.raises(BackendError, match=r"a quota of Datastore is used up \(Quota exceeded for reads\.\)"):
            client.get("Kind", "name")
    finally:
        client.close()
    assert 2 < refusing.calls < 15


@pytest.mark.parametrize("refusing", [PLUGIN], indirect=True)
def test_a_login_that_ends_during_a_run_is_not_tried_again(refusing):
    """gRPC calls it unavailable; it would be tried for five minutes."""
    client = datastore(refusing.at)
    try:
        with pytest.raises(BackendError, match=r"the login is over \(.*run `gcloud auth application-default login` again"):
            client.get("Kind", "name")
    finally:
        client.close()
    assert refusing.calls == 1


PUBSUB = {
    "no rights": (
        (grpc.StatusCode.PERMISSION_DENIED, "User not authorized to perform this action."),
        "it needs roles/pubsub.editor on project some-project",
    ),
    "API off": (
        (grpc.StatusCode.PERMISSION_DENIED, "Cloud Pub/Sub API is off.", "SERVICE_DISABLED"),
        "pubsub.googleapis.com is off in project some-project",
    ),
}


@pytest.mark.parametrize(("refusing", "sentence"), PUBSUB.values(), ids=list(PUBSUB), indirect=["refusing"])
def test_pubsub_refuses(refusing, sentence):
    """One line says that changes are polled for and why; it is not asked again, and nothing is raised."""
    said = []
    place = google.place("p/")
    place = type(place)("some-project", place.database, place.bucket, place.topic, place.prefix, place.project_source)
    notifier = PubsubNotifier(Topic(grpc.insecure_channel(refusing.at), place), said.append)
    try:
        assert notifier.ready(10) is False
        asked = refusing.calls
        time.sleep(0.5)
        assert refusing.calls == asked
        assert notifier.take() is None
        assert notifier.take() is None
    finally:
        notifier.close()
    (line,) = said
    assert line.startswith("notifications off: polling every 2 s to 30 s (Pub/Sub: listen: ")
    assert sentence in line


class Storage:
    """A server that answers every request of the storage client with one error."""

    def __init__(self, status: int, message: str, reason: str, credentials: object | None = None) -> None:
        body = json.dumps(
            {
                "error": {
                    "code": status,
                    "message": message,
                    "errors": [{"message": message, "domain": "global", "reason": reason}],
                }
            }
        ).encode()
        outer = self
        self.calls = 0

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.calls += "/o?" in self.path  # the client asks for the bucket itself too, for its own tracing
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        client = storage.Client(
            project="proj",
            credentials=credentials or AnonymousCredentials(),
            client_options={"api_endpoint": f"http://127.0.0.1:{self._server.server_port}"},
        )
        self.bucket = Bucket(client, "mine", "p/")

    def close(self) -> None:
        self.bucket.close()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


STORAGE = {
    "no bucket": (
        (404, "The specified bucket does not exist.", "notFound"),
        "bucket mine does not exist; make it: `gcloud storage buckets create gs://mine --location=REGION`, or set google.bucket",
    ),
    "no rights": (
        (403, "me@example.com does not have storage.objects.list access to the Google Cloud Storage bucket.", "forbidden"),
        "me@example.com may not do this (",
    ),
    "which rights": (
        (403, "me@example.com does not have storage.objects.list access to the Google Cloud Storage bucket.", "forbidden"),
        "it needs roles/storage.objectUser on bucket gs://mine. A new grant takes minutes to work",
    ),
    "API off": (
        (403, "Cloud Storage JSON API has not been used in project 12 before or it is disabled.", "accessNotConfigured"),
        "storage.googleapis.com is off in project ",
    ),
    "billing": (
        (403, "The billing account for the owning project is disabled in state absent", "accountDisabled"),
        "billing is off for project ",
    ),
}


@pytest.mark.parametrize(("answer", "sentence"), STORAGE.values(), ids=list(STORAGE))
def test_storage_refuses(answer, sentence):
    """The check before any work says what to do, after one call."""
    server = Storage(*answer)
    try:
        with pytest.raises(BackendError) as caught:
            server.bucket.check()
    finally:
        server.close()
    assert str(caught.value).startswith("Cloud Storage: gs://mine/p/: ")
    assert sentence in str(caught.value)
    assert server.calls == 1
    assert not caught.value.retryable


@pytest.mark.parametrize("answer", [OVER, GOOD], ids=["over", "refused"])
def test_a_login_that_ends_during_a_run(answer):
    """Storage answers 401 and the client asks for another token: its endpoint says that the login is over, or storage refuses that too."""
    tokens = TokenServer(answer)
    login = Credentials("old", refresh_token="r", token_uri=tokens.url, client_id="c", client_secret="s")
    server = Storage(401, "Invalid Credentials", "authError", login)
    try:
        with pytest.raises(BackendError) as caught:
            server.bucket.get("x")
    finally:
        server.close()
        tokens.close()
    expected = "the login is over (" if answer is OVER else "the login is not accepted ("
    assert str(caught.value).startswith(f"Cloud Storage: gs://mine/p/x: {expected}")
    assert LOGIN in str(caught.value)
    assert not caught.value.retryable
