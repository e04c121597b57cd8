"""Logging in: finds credentials and refreshes them once, before any work, within a time limit. May import failures, projects and errors.

Without that a login that is over shows itself at the first call, where the clients retry for a minute without a word. Surprise: where no
login is found, Google's library asks for the metadata server of a Google machine; on a laptop that takes up to 10 s, so it is asked only
where there are signs of one (NO_GCE_CHECK=true: never).
"""

from __future__ import annotations

import base64
import functools
import json
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sparkles.backends.google.failures import translate
from sparkles.backends.google.projects import login_file
from sparkles.errors import BackendError

SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)
LOGIN_S = 15.0
"""For finding and refreshing together; the token endpoint answers in well under a second, the metadata server in milliseconds."""

CALL_S = 6.0

_ON_GOOGLE = (
    "GCE_METADATA_HOST",
    "GCE_METADATA_IP",
    "GCE_METADATA_ROOT",
    "KUBERNETES_SERVICE_HOST",
    "K_SERVICE",
    "GAE_ENV",
    "DEVSHELL_GCLOUD_CONFIG",
)
_PRODUCT = Path("/sys/class/dmi/id/product_name")

T = TypeVar("T")


@dataclass(frozen=True)
class Login:
    """Credentials that work, and whose they are, as far as they say."""

    credentials: Any
    principal: str


def log_in(environ: Mapping[str, str], *, limit_s: float = LOGIN_S) -> Login:
    """Credentials with a fresh token.

    Raises:
        BackendError: There are none, they are over, or their server was not reached in time; the sentence says what to do.
    """

    def find() -> Login:
        credentials = _find(environ)
        credentials.refresh(_request())
        return Login(credentials, _principal(credentials))

    return _within(limit_s, find)


def may_be_google(environ: Mapping[str, str]) -> bool:
    """Whether this may be a machine of Google's, where the metadata server knows a login; without asking it."""
    if environ.get("NO_GCE_CHECK", "").lower() == "true":
        return False
    try:
        product = _PRODUCT.read_text(encoding="utf-8", errors="replace")
    except OSError:
        product = ""
    return product.startswith("Google") or any(environ.get(name) for name in _ON_GOOGLE)


def _find(environ: Mapping[str, str]) -> Any:
    """What google.auth.default() finds, less what makes it slow: it runs gcloud to find a project, and asks a metadata server that is not
    there."""
    import google.auth
    from google.auth.credentials import with_scopes_if_required
    from google.auth.exceptions import DefaultCredentialsError

    path = login_file(environ)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a missing quota project, and of the loader itself
        if path.is_file() or environ.get("GOOGLE_APPLICATION_CREDENTIALS"):
            try:
                found, _ = google.auth.load_credentials_from_file(str(path))
            except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
                # The loader expects an object with certain keys, and says so of some of them only.
                raise DefaultCredentialsError(f"{path} is no login file: {error}") from error
            return with_scopes_if_required(found, SCOPES)
        if may_be_google(environ):
            return google.auth.default(SCOPES, request=_request())[0]
    raise DefaultCredentialsError(f"there is no {path}")


def _request() -> Any:
    """What fetches tokens; the library's own limit is two minutes a try."""
    from google.auth.transport.requests import Request

    return functools.partial(Request(), timeout=CALL_S)


def _principal(credentials: Any) -> str:
    for name in ("service_account_email", "signer_email", "account"):
        found = getattr(credentials, name, None)
        if isinstance(found, str) and found and found != "default":
            return found
    return _email(getattr(credentials, "id_token", None))


def _email(id_token: Any) -> str:
    """Whom a user's token is for: the file of such a login often does not say. Not verified, only shown."""
    try:
        payload = str(id_token).split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return str(claims["email"])
    except (IndexError, KeyError, TypeError, ValueError):
        return ""


def _within(limit_s: float, act: Callable[[], T]) -> T:
    """What `act` returns; its errors of Google's as sparkles's. A thread, because some ways to log in know no limit."""
    done: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(act())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, name="login", daemon=True)
    thread.start()
    thread.join(limit_s)
    if failed:
        raise translate(failed[0], "log in") from failed[0]
    if not done:
        raise BackendError(
            f"log in: no answer within {limit_s:g} s. Is this machine offline, or does it need a proxy (HTTPS_PROXY)?",
            "log in",
            retryable=True,
        )
    return done[0]
