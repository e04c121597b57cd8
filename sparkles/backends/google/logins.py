"""Which login there is, read from files without using it: that of programs (application default credentials), and gcloud's own.

May import projects and credentials. They are two different things, and mistaking one for the other is what most people do first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from sparkles.backends.google.projects import gcloud_value, login_file

KINDS = {
    "authorized_user": "user",
    "service_account": "service account",
    "impersonated_service_account": "impersonated service account",
    "external_account": "workload identity federation",
    "external_account_authorized_user": "workforce identity federation",
    "gdch_service_account": "service account of Google Distributed Cloud",
}


@dataclass(frozen=True)
class LoginFile:
    """What a login says of itself. `kind` is "" where there is none; `account` is "" where it does not name one."""

    kind: str
    account: str
    source: str


def find_login(environ: Mapping[str, str]) -> LoginFile:
    """The login that programs would use; whether it works is another question."""
    path = login_file(environ)
    named = f"{path} (GOOGLE_APPLICATION_CREDENTIALS)" if environ.get("GOOGLE_APPLICATION_CREDENTIALS") else str(path)
    try:
        found = json.loads(path.read_bytes())
    except OSError:
        from sparkles.backends.google.credentials import may_be_google

        if may_be_google(environ) and not environ.get("GOOGLE_APPLICATION_CREDENTIALS"):
            return LoginFile("metadata server", "", "the machine's own service account")
        return LoginFile("", "", "")
    except ValueError:
        return LoginFile("a damaged file", "", named)
    if not isinstance(found, dict):
        return LoginFile("a damaged file", "", named)
    kind = str(found.get("type") or "")
    account = found.get("client_email") or found.get("account") or ""
    impersonated = str(found.get("service_account_impersonation_url") or "").rpartition("/")[2].partition(":")[0]
    return LoginFile(KINDS.get(kind, kind or "a damaged file"), str(impersonated or account), named)


def gcloud_account(environ: Mapping[str, str]) -> str:
    """Whom gcloud's own commands act as; "" where nobody is logged in there."""
    return environ.get("CLOUDSDK_CORE_ACCOUNT") or gcloud_value(environ, "account")[0]
