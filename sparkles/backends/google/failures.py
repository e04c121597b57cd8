"""Errors of Google's clients as sparkles's own, with a sentence that says what to do. May import errors.

Takes what a gRPC stub raises, what the storage client raises (google.api_core, requests) and what logging in raises (google.auth).
Surprise: inside a gRPC call a login that is over looks like a service that cannot be reached; only its text tells them apart.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from sparkles.errors import BackendError, NotFound

LOG_IN = "`gcloud auth application-default login`"

_RETRYABLE = {"UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED", "RESOURCE_EXHAUSTED", "INTERNAL"}

_OF_HTTP = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    409: "ALREADY_EXISTS",
    412: "FAILED_PRECONDITION",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}

_ROLES = {
    "Datastore": "roles/datastore.user",
    "Cloud Storage": "roles/storage.objectUser",
    "Pub/Sub": "roles/pubsub.editor",
}
_APIS = {"Datastore": "datastore.googleapis.com", "Cloud Storage": "storage.googleapis.com", "Pub/Sub": "pubsub.googleapis.com"}

_OVER = re.compile(r"invalid_grant|invalid_rapt|reauth", re.I)
_DISABLED = re.compile(
    r"SERVICE_DISABLED|has not been used in project|accessNotConfigured|API .*is disabled|it is disabled", re.I
)
_QUOTA_PROJECT = re.compile(r"quota.project|USER_PROJECT_DENIED|serviceusage\.services\.use|764086051850", re.I)
_BILLING = re.compile(r"BILLING_DISABLED|billing account|billing (is|to be) (dis|en)abled|requires billing", re.I)
_NATIVE = re.compile(r"native mode", re.I)
_NO_DATABASE = re.compile(r"database .*does not exist|project .*does not (exist|have).* (Cloud )?(Datastore|Firestore)", re.I)
_NO_BUCKET = re.compile(r"bucket does not exist|bucket .*not found|/b/[^/?\s]+/o\?", re.I)
_PRINCIPAL = re.compile(r"([\w.+-]+@[\w.-]+\w)(?= does not have)")
_OFFLINE = re.compile(
    r"name resolution|resolve|getaddrinfo|network is unreachable|no route|connection refused|failed to connect|ssl|proxy", re.I
)


@dataclass(frozen=True)
class _Said:
    """An error, taken apart. `code` is the gRPC name of it, also of an answer over HTTP; "" where it has none."""

    code: str
    text: str
    reason: str
    kind: str


def code_of(error: Any) -> str:
    """The gRPC code's name, from an error of a stub or of a client; "" where it has none."""
    code = getattr(error, "code", None)
    status = getattr(error, "grpc_status_code", None) or (code() if callable(code) else None)
    name = getattr(status, "name", "")
    if name:
        return str(name)
    if isinstance(code, int):
        return _OF_HTTP.get(int(code), "INTERNAL" if code >= 500 else "INVALID_ARGUMENT" if code >= 400 else "")
    answer = getattr(error, "response", None)  # of requests and of the storage client's own errors
    status_code = getattr(answer, "status_code", None)
    return _OF_HTTP.get(status_code, "") if isinstance(status_code, int) else ""


def retryable(error: Any) -> bool:
    """Whether the same call can succeed later without anybody changing anything."""
    return _can_help(_take_apart(error), error)


def details(error: Any) -> str:
    """What the service said."""
    said = error.details() if callable(getattr(error, "details", None)) else getattr(error, "message", None)
    return str(said or error or type(error).__name__)


def translate(error: Any, what: str, resource: str = "") -> BackendError:
    """The error to raise instead.

    Args:
        what: What was asked, which the sentence begins with; the part before a colon names the service (`Datastore: look up ...`).
        resource: The project, for Datastore; the bucket; the topic's full name.
    """
    said = _take_apart(error)
    service = what.partition(":")[0]
    advice = _advice(said, service, resource)
    can_help = _can_help(said, error)
    sentence = f"{what}: {advice or _plain(said)}"
    if said.code == "NOT_FOUND":
        return NotFound(sentence, what, resource)
    return BackendError(sentence, what, resource, can_help)


def _can_help(said: _Said, error: Any) -> bool:
    if said.kind in _OF_LOGIN and said.kind != "TransportError":
        return bool(getattr(error, "retryable", False)) and not _OVER.search(said.text)
    if said.code in _RETRYABLE:
        return not _OVER.search(said.text) and not _QUOTA_PROJECT.search(said.text)
    return not said.code and said.kind in _NO_ANSWER


def _take_apart(error: Any) -> _Said:
    reason = str(getattr(error, "reason", None) or "")
    cause = getattr(error, "cause", None)
    if type(error).__name__ == "RetryError" and isinstance(cause, BaseException):
        return _take_apart(cause)
    text = details(error)
    if not reason and callable(getattr(error, "trailing_metadata", None)):
        reason = _reason_of(error)
    kind = next((base.__name__ for base in type(error).__mro__ if base.__name__ in _NAMED), type(error).__name__)
    code = code_of(error)
    if kind == "DefaultCredentialsError" and _OVER.search(text):
        kind = "RefreshError"
    return _Said(code, text, reason, kind)


def _reason_of(error: Any) -> str:
    """The reason that a gRPC error carries in its details, SERVICE_DISABLED and the like."""
    try:
        from google.api_core.exceptions import from_grpc_error

        return str(getattr(from_grpc_error(error), "reason", None) or "")
    except Exception:  # whatever is odd about the details: the code and the text are enough
        return ""


_OF_LOGIN = ("DefaultCredentialsError", "RefreshError", "GoogleAuthError", "TransportError")
_NO_ANSWER = ("TransportError", "ConnectionError", "Timeout", "ChunkedEncodingError", "TransferStalledError", "DataCorruption")
_NAMED = {*_OF_LOGIN, *_NO_ANSWER}


def _advice(said: _Said, service: str, resource: str) -> str:
    """What happened and what to do; "" where there is nothing better to say than what the service said."""
    return (
        _of_login(said) or _of_rights(said, service, resource) or _of_place(said, service, resource) or _of_load(said, service)
    )


def _of_login(said: _Said) -> str:
    if said.kind == "DefaultCredentialsError":
        return f"not logged in to Google Cloud ({_short(said.text)}); run {LOG_IN}"
    signed = re.search(r"invalid jwt|short-lived token", said.text, re.I)
    if said.kind in _OF_LOGIN and signed:
        return f"the key of the service account is not accepted ({_short(said.text)}); is this machine's clock right, and the key valid?"
    in_call = "Getting metadata from plugin failed" in said.text
    if _OVER.search(said.text) and (said.kind in _OF_LOGIN or in_call or said.code == "UNAUTHENTICATED"):
        return f"the login is over ({_short(said.text)}); run {LOG_IN} again"
    if said.kind == "RefreshError":
        return f"the login gives no token ({_short(said.text)}); run {LOG_IN} again"
    if said.kind == "TransportError":
        return f"the login could not be checked: no connection ({_short(said.text)}). Is this machine offline, or does it need HTTPS_PROXY?"
    if said.kind == "GoogleAuthError":
        return f"the login does not work ({_short(said.text)}); run {LOG_IN}"
    if said.code == "UNAUTHENTICATED":
        return f"the login is not accepted ({_short(said.text)}); run {LOG_IN}"
    return ""


def _of_rights(said: _Said, service: str, resource: str) -> str:
    if said.code not in ("PERMISSION_DENIED", "FAILED_PRECONDITION", "INVALID_ARGUMENT", "UNAVAILABLE", "RESOURCE_EXHAUSTED"):
        return ""
    project = _project(said.text, service, resource)
    everything = f"{said.reason} {said.text}"
    if said.code == "PERMISSION_DENIED":
        if _BILLING.search(everything):
            return f"billing is off for project {project}; turn it on: https://console.cloud.google.com/billing/linkedaccount?project={project}"
        if _QUOTA_PROJECT.search(everything):
            return (
                f"the login names no project that its calls may be counted to ({_short(said.text)}); run"
                f" `gcloud auth application-default set-quota-project {project}`"
            )
        if _DISABLED.search(everything):
            found = re.search(r"([a-z]+)\.googleapis\.com", said.text)
            api = found.group(0) if found else _APIS.get(service, "the API")
            return (
                f"{api} is off in project {project}; run `gcloud services enable {api} --project={project}` and wait a minute"
            )
        who = _PRINCIPAL.search(said.text)
        principal = who.group(1) if who else "the account that is logged in (`sparkles doctor` shows it)"
        role = _ROLES.get(service, "a role that allows it")
        whom = f"bucket gs://{resource}" if service == "Cloud Storage" else f"project {project}"
        return (
            f"{principal} may not do this ({_short(said.text)}); it needs {role} on {whom}. A new grant takes minutes to work"
        )
    return ""


def _of_place(said: _Said, service: str, resource: str) -> str:
    if service == "Datastore" and _NATIVE.search(said.text) and said.code in ("FAILED_PRECONDITION", "INVALID_ARGUMENT"):
        return (
            f"the database is of the wrong type: Firestore in native mode, expected Datastore mode ({_short(said.text)}). Make another one:"
            f" {_create_database(resource, 'NAME')}, and set google.database"
        )
    if said.code != "NOT_FOUND":
        return ""
    if service == "Datastore" and _NO_DATABASE.search(said.text):
        named = re.search(r"database ['\"]?(\([a-z]+\)|[a-z0-9-]+)", said.text)
        database = named.group(1) if named else "(default)"
        return (
            f"database {database} does not exist in project {resource}; make it: {_create_database(resource, database)}"
            " (the location is for ever), or set google.database"
        )
    if service == "Cloud Storage" and _NO_BUCKET.search(said.text):
        return (
            f"bucket {resource} does not exist; make it: `gcloud storage buckets create gs://{resource} --location=REGION`, or set"
            " google.bucket"
        )
    return ""


def _create_database(project: str, database: str) -> str:
    return (
        f"`gcloud firestore databases create --project={project or 'PROJECT'} --database='{database}' --type=datastore-mode"
        " --location=LOCATION`"
    )


def _of_load(said: _Said, service: str) -> str:
    name = service if service in _APIS else "the service"
    if said.code == "RESOURCE_EXHAUSTED":
        return f"a quota of {name} is used up ({_short(said.text)}); try later, or raise it: https://console.cloud.google.com/iam-admin/quotas"
    if said.code == "UNAVAILABLE" or (not said.code and said.kind in _NO_ANSWER):
        offline = " Is this machine offline, or does it need HTTPS_PROXY?" if _OFFLINE.search(said.text) else ""
        return f"{name} cannot be reached ({_short(said.text)}).{offline}"
    if said.code == "DEADLINE_EXCEEDED":
        return f"{name} did not answer in time ({_short(said.text)})"
    return ""


def _plain(said: _Said) -> str:
    return f"{said.code or said.kind}: {said.text}"


def _project(text: str, service: str, resource: str) -> str:
    found = re.search(r"(?:in|for|on) project[s/ ]+['\"]?#?([a-z0-9][a-z0-9:.-]*[a-z0-9])", text) or re.search(
        r"projects/([a-z0-9:.-]+)", f"{text} {resource}"
    )
    if service == "Datastore" and resource:
        return resource
    return found.group(1) if found else "PROJECT"


def _short(text: str) -> str:
    """The first sentence or so, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= 200 else f"{line[:197]}..."
