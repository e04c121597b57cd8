"""Errors of Google's clients: each row of the table with the client's own exception, and every class that the clients have."""

from __future__ import annotations

import inspect

import google.api_core.exceptions as api
import google.auth.exceptions as auth
import google.cloud.storage.exceptions as storage
import grpc
import pytest
import requests

from sparkles.backends.google import failures
from sparkles.errors import BackendError, NotFound

pytestmark = pytest.mark.google  # by what is installed, not by emulators: the group that has Google's clients


class Rpc(grpc.RpcError):
    """What a stub raises: gRPC's own class is not to be made from Python."""

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        self._code, self._text = code, text

    def code(self):
        return self._code

    def details(self):
        return self._text

    def trailing_metadata(self):
        return ()


DENIED = grpc.StatusCode.PERMISSION_DENIED
LOOK = "Datastore: look up SparklesJob"
ROWS = {
    "nobody is logged in": (
        auth.DefaultCredentialsError("File nowhere.json was not found."),
        "log in",
        "",
        "log in: not logged in to Google Cloud (File nowhere.json was not found.); run `gcloud auth application-default login`",
    ),
    "login over": (
        auth.RefreshError("invalid_grant: Token has been expired or revoked.", {"error": "invalid_grant"}),
        "log in",
        "",
        "the login is over (",
    ),
    "reauth": (
        auth.ReauthFailError("Reauthentication challenge failed."),
        "log in",
        "",
        "run `gcloud auth application-default login` again",
    ),
    "rapt": (auth.RefreshError("invalid_rapt"), "log in", "", "the login is over (invalid_rapt)"),
    "clock": (
        auth.RefreshError("invalid_grant: Invalid JWT: Token must be a short-lived token"),
        "log in",
        "",
        "is this machine's clock right",
    ),
    "metadata server": (
        auth.RefreshError("Failed to retrieve token"),
        "log in",
        "",
        "the login gives no token (Failed to retrieve token)",
    ),
    "login over inside a call": (
        Rpc(grpc.StatusCode.UNAVAILABLE, "Getting metadata from plugin failed with error: ('invalid_grant: Bad Request',)"),
        LOOK,
        "proj",
        "the login is over (",
    ),
    "offline at login": (
        auth.TransportError("Failed to resolve oauth2.googleapis.com"),
        "log in",
        "",
        "Is this machine offline",
    ),
    "API off, by its reason": (
        api.PermissionDenied("Cloud Pub/Sub API", error_info=api.error_details_pb2.ErrorInfo(reason="SERVICE_DISABLED")),
        "Pub/Sub: listen",
        "projects/proj/topics/t",
        "run `gcloud services enable pubsub.googleapis.com --project=proj` and wait a minute",
    ),
    "API off, by its text": (
        Rpc(
            DENIED, "Cloud Datastore API has not been used in project 12345 before or it is disabled. Enable it by visiting ..."
        ),
        LOOK,
        "proj",
        "datastore.googleapis.com is off in project proj; run `gcloud services enable datastore.googleapis.com --project=proj`",
    ),
    "rights on Datastore": (
        Rpc(DENIED, "Missing or insufficient permissions."),
        LOOK,
        "proj",
        "(Missing or insufficient permissions.); it needs roles/datastore.user on project proj. A new grant takes minutes to work",
    ),
    "rights on a bucket": (
        api.Forbidden("GET https://x: me@example.com does not have storage.objects.list access to the bucket."),
        "Cloud Storage: gs://b/p/",
        "b",
        "me@example.com may not do this (",
    ),
    "billing": (
        Rpc(DENIED, "This API method requires billing to be enabled."),
        LOOK,
        "proj",
        "billing is off for project proj",
    ),
    "quota project": (
        api.Forbidden("requires a quota project, which is not set by default"),
        LOOK,
        "proj",
        "run `gcloud auth application-default set-quota-project proj`",
    ),
    "no database": (
        Rpc(grpc.StatusCode.NOT_FOUND, "The database (default) does not exist for project proj Please visit ..."),
        LOOK,
        "proj",
        "database (default) does not exist in project proj; make it:"
        " `gcloud firestore databases create --project=proj --database='(default)'"
        " --type=datastore-mode --location=LOCATION` (the location is for ever)",
    ),
    "a database of the wrong type": (
        Rpc(
            grpc.StatusCode.FAILED_PRECONDITION,
            "The Cloud Datastore API is not available for Firestore in Native Mode database projects/proj/databases/(default).",
        ),
        LOOK,
        "proj",
        "the database is of the wrong type: Firestore in native mode, expected Datastore mode",
    ),
    "no bucket": (
        api.NotFound("GET https://storage.googleapis.com/storage/v1/b/b/o?maxResults=1: The specified bucket does not exist."),
        "Cloud Storage: gs://b/p/",
        "b",
        "bucket b does not exist; make it: `gcloud storage buckets create gs://b --location=REGION`",
    ),
    "an object that is missing": (
        api.NotFound("GET https://storage.googleapis.com/download/storage/v1/b/b/o/x?alt=media: No such object: b/x"),
        "Cloud Storage: gs://b/x",
        "b",
        "Cloud Storage: gs://b/x: NOT_FOUND: ",
    ),
    "quota": (
        Rpc(grpc.StatusCode.RESOURCE_EXHAUSTED, "Quota exceeded."),
        LOOK,
        "proj",
        "a quota of Datastore is used up (Quota exceeded.)",
    ),
    "too many requests": (
        api.TooManyRequests("slow down"),
        "Cloud Storage: gs://b/x",
        "b",
        "a quota of Cloud Storage is used up",
    ),
    "unauthenticated": (Rpc(grpc.StatusCode.UNAUTHENTICATED, "no"), LOOK, "proj", "the login is not accepted (no)"),
    "unreachable": (
        Rpc(grpc.StatusCode.UNAVAILABLE, "failed to connect to all addresses"),
        LOOK,
        "proj",
        "Datastore cannot be reached (failed to connect to all addresses). Is this machine offline",
    ),
    "connection lost": (
        requests.ConnectionError("Connection refused"),
        "Cloud Storage: gs://b/x",
        "b",
        "Cloud Storage cannot be reached",
    ),
}


@pytest.mark.parametrize("row", ROWS.values(), ids=list(ROWS))
def test_a_failure_says_what_to_do(row) -> None:
    """Each row of the table of docs/google.md, with the exception that the client raises; the first words say what was asked."""
    error, what, resource, sentence = row
    found = failures.translate(error, what, resource)
    assert sentence in str(found)
    assert str(found).startswith(what)
    assert isinstance(found, NotFound) == (failures.code_of(error) == "NOT_FOUND")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("login over inside a call", False), ("quota", True), ("unreachable", True), ("connection lost", True), ("offline at login", True),
     ("no bucket", False), ("rights on Datastore", False), ("login over", False), ("quota project", False)],
)  # fmt: skip
def test_what_trying_again_can_mend(name: str, expected: bool) -> None:
    """A login that is over is not tried again for minutes, although gRPC calls it unavailable."""
    error, what, resource, _ = ROWS[name]
    assert failures.translate(error, what, resource).retryable is expected
    assert failures.retryable(error) is expected


def exceptions_of(module) -> list[type[Exception]]:
    return [
        each
        for _, each in inspect.getmembers(module, inspect.isclass)
        if issubclass(each, Exception) and each.__module__ == module.__name__
    ]


def made(kind: type[Exception]) -> Exception:
    if kind is api.RetryError:
        return kind("gave up", api.ServiceUnavailable("down"))
    if kind is storage.InvalidResponse or kind is storage.DataCorruption:
        answer = requests.Response()
        answer.status_code = 503
        return kind(answer, "broken")
    if kind is requests.exceptions.JSONDecodeError:
        return kind("broken", "", 0)
    return kind("broken")


CLASSES = [*exceptions_of(api), *exceptions_of(auth), *exceptions_of(storage), *exceptions_of(requests.exceptions)]
LOGIN_WORDS = ("login", "logged in")


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_every_exception_of_the_clients_becomes_a_sentence(kind: type[Exception]) -> None:
    """No class is unknown: what logging in raises speaks of the login, and what has a code is judged by it."""
    error = made(kind)
    found = failures.translate(error, "Cloud Storage: gs://b/x", "b")
    assert type(found) in (BackendError, NotFound)
    assert "broken" in str(found) or "down" in str(found)
    if issubclass(kind, auth.GoogleAuthError):
        assert any(word in str(found) for word in LOGIN_WORDS), str(found)
    if issubclass(kind, api.GoogleAPICallError) and isinstance(kind.code, int) and kind.code >= 400:
        assert failures.code_of(error) != ""


@pytest.mark.parametrize(
    "code", [each for each in grpc.StatusCode if each is not grpc.StatusCode.OK], ids=lambda code: code.name
)
def test_every_code_of_grpc_becomes_a_sentence(code: grpc.StatusCode) -> None:
    """With what the service said; the stub's error and the client's give the same."""
    found = failures.translate(Rpc(code, "broken"), LOOK, "proj")
    assert "broken" in str(found)
    other = failures.translate(api.from_grpc_status(code, "broken"), LOOK, "proj")
    assert (str(other), other.retryable) == (str(found), found.retryable)
