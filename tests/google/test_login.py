"""Logging in: a login that is missing, over or damaged is told before any work, at once and as a sentence, by every command."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import time

import pytest
from google.auth import credentials as auth
from google.oauth2.credentials import Credentials

from sparkles.backends.google import credentials
from sparkles.backends.google.logins import LoginFile, find_login, gcloud_account
from sparkles.errors import BackendError
from tests.support.cli import Project
from tests.support.cloud import consume
from tests.support.tokens import ACCOUNT, GOOD, OVER, TokenServer

pytestmark = pytest.mark.google

CLOUD = {
    "SPARKLES_BACKEND": "cloud",
    "SPARKLES_GOOGLE_PROJECT": "some-project",
    "SPARKLES_GOOGLE_BUCKET": "some-bucket",
    **dict.fromkeys(("DATASTORE_EMULATOR_HOST", "STORAGE_EMULATOR_HOST", "PUBSUB_EMULATOR_HOST"), ""),
    **dict.fromkeys(("GOOGLE_APPLICATION_CREDENTIALS", "CLOUDSDK_CONFIG"), ""),
    "NO_GCE_CHECK": "true",
}
WORK = """
shell("touch work-was-done")
wait(submit(JobBuilder("x"):setCommandTemplate("true"):createTasksFor{{}}))
"""
COMMANDS = ["run w.lua", "plan w.lua", "sub -- true", "list", "status", "logs x/1", "fetch x out", "kill x", "reset x",
            "clean --yes", "wait x", "watch x", "show x"]  # fmt: skip
MISSING = "error: log in: not logged in to Google Cloud (there is no {}); run `gcloud auth application-default login`\n"


@pytest.fixture
def project(tmp_path):
    made = Project(tmp_path / "project", **CLOUD, SPARKLES_CONSUME=consume())
    made.write("w.lua", WORK)
    return made


@pytest.fixture
def token_server(request):
    server = TokenServer(getattr(request, "param", GOOD))
    yield server
    server.close()


@pytest.mark.parametrize("command", COMMANDS)
def test_no_login_is_told_before_any_work(project, command):
    """Exit code 3 and the command that mends it; no line of the script was run and no 60 s went by."""
    began = time.monotonic()
    done = project.run(*command.split(), code=3)
    assert time.monotonic() - began < 20
    login = project.folder / ".config" / "gcloud" / "application_default_credentials.json"
    assert done.stderr.endswith(MISSING.format(login))
    assert not (project.folder / "work-was-done").exists()


@pytest.mark.parametrize("command", ["runs", "workflows", "version"])
def test_what_needs_no_cloud_needs_no_login(project, command):
    """Runs and their steps are on this machine."""
    project.run(command)


@pytest.mark.parametrize("token_server", [OVER], indirect=True)
@pytest.mark.parametrize("command", ["run w.lua", "list"])
def test_a_login_that_is_over_is_asked_for_once(project, token_server, command):
    """What Google's token endpoint says, once; not asked again for a minute."""
    token_server.login(project.folder / ".config" / "gcloud" / "application_default_credentials.json")
    began = time.monotonic()
    done = project.run(*command.split(), code=3)
    assert time.monotonic() - began < 20
    assert "the login is over (" in done.stderr
    assert "Token has been expired or revoked" in done.stderr
    assert "run `gcloud auth application-default login` again" in done.stderr
    assert token_server.asked == 1
    assert not (project.folder / "work-was-done").exists()


DAMAGED = {
    "not JSON": "{",
    "not an object": "[]",
    "no type": "{}",
    "an unknown type": '{"type": "house_key"}',
    "a key that is none": json.dumps(
        {"type": "service_account", "private_key": "x", "client_email": "a@b", "token_uri": "http://127.0.0.1:1/"}
    ),
    "a user without a refresh token": '{"type": "authorized_user", "client_id": "a", "client_secret": "b"}',
}


@pytest.mark.parametrize("text", DAMAGED.values(), ids=list(DAMAGED))
def test_a_login_file_that_is_damaged(tmp_path, text):
    """One sentence that speaks of the login, whatever Google's library makes of the file."""
    path = tmp_path / "login.json"
    path.write_text(text)
    with pytest.raises(BackendError, match=r"^log in: .*log(ged )?in") as caught:
        credentials.log_in({"GOOGLE_APPLICATION_CREDENTIALS": str(path)})
    assert "\n" not in str(caught.value)
    assert not caught.value.retryable


def test_a_login_file_that_is_not_there(tmp_path):
    """One that a variable names is not passed over in silence for another."""
    other = tmp_path / ".config" / "gcloud" / "application_default_credentials.json"
    other.parent.mkdir(parents=True)
    other.write_text("{}")
    named = str(tmp_path / "nowhere.json")
    with pytest.raises(BackendError, match=r"nowhere\.json"):
        credentials.log_in({"HOME": str(tmp_path), "GOOGLE_APPLICATION_CREDENTIALS": named})


def test_a_login_that_works(tmp_path, token_server):
    """Its token is there before the first call, and it says whose it is."""
    path = token_server.login(tmp_path / "key.json")
    login = credentials.log_in({"GOOGLE_APPLICATION_CREDENTIALS": str(path)})
    assert isinstance(login.credentials, auth.Credentials)
    assert login.credentials.valid
    assert login.principal == ACCOUNT
    assert token_server.asked == 1


@pytest.mark.parametrize("token_server", [None], indirect=True)
def test_a_token_endpoint_that_does_not_answer(tmp_path, token_server):
    """The limit is kept."""
    path = token_server.login(tmp_path / "key.json")
    began = time.monotonic()
    with pytest.raises(BackendError, match="log in: no answer within 1 s") as caught:
        credentials.log_in({"GOOGLE_APPLICATION_CREDENTIALS": str(path)}, limit_s=1)
    assert time.monotonic() - began < 5
    assert caught.value.retryable


def test_whose_a_users_login_is(token_server):
    """The file of a user's login names nobody; the token that comes with the first refresh does."""
    claims = base64.urlsafe_b64encode(json.dumps({"email": "me@example.com"}).encode()).decode().rstrip("=")
    token_server.answer = (200, {**GOOD[1], "id_token": f"head.{claims}.signature"})
    user = Credentials(None, refresh_token="r", token_uri=token_server.url, client_id="c", client_secret="s")
    user.refresh(credentials._request())
    assert credentials._principal(user) == "me@example.com"


FILES = {
    "user": ({"type": "authorized_user", "account": "me@example.com"}, "user", "me@example.com"),
    "user who is not named": ({"type": "authorized_user"}, "user", ""),
    "service account": ({"type": "service_account", "client_email": ACCOUNT}, "service account", ACCOUNT),
    "impersonated": (
        {
            "type": "impersonated_service_account",
            "service_account_impersonation_url": f"https://iam/v1/projects/-/serviceAccounts/{ACCOUNT}:generateAccessToken",
        },
        "impersonated service account",
        ACCOUNT,
    ),
    "federation": ({"type": "external_account"}, "workload identity federation", ""),
    "of a later version": ({"type": "something_new"}, "something_new", ""),
    "damaged": ([], "a damaged file", ""),
}


@pytest.mark.parametrize("row", FILES.values(), ids=list(FILES))
def test_which_login_there_is(tmp_path, row):
    """Kind and account, from the file alone."""
    text, kind, account = row
    path = tmp_path / "login.json"
    path.write_text(json.dumps(text))
    found = find_login({"GOOGLE_APPLICATION_CREDENTIALS": str(path)})
    assert found == LoginFile(kind, account, f"{path} (GOOGLE_APPLICATION_CREDENTIALS)")


def test_where_no_login_is_and_on_a_machine_of_googles(tmp_path):
    """Nothing is asked over the network to find out."""
    assert find_login({"HOME": str(tmp_path), "NO_GCE_CHECK": "true"}) == LoginFile("", "", "")
    assert find_login({"HOME": str(tmp_path), "GCE_METADATA_HOST": "127.0.0.1:1"}).kind == "metadata server"


def test_gclouds_own_account(tmp_path):
    """Of the active configuration; a variable of gcloud's goes first."""
    configurations = tmp_path / "configurations"
    configurations.mkdir()
    (configurations / "config_default").write_text("[core]\naccount = other@example.com\n")
    (configurations / "config_work").write_text("[core]\naccount = me@example.com\n")
    (tmp_path / "active_config").write_text("work\n")
    assert gcloud_account({"CLOUDSDK_CONFIG": str(tmp_path)}) == "me@example.com"
    assert gcloud_account({"CLOUDSDK_CONFIG": str(tmp_path), "CLOUDSDK_CORE_ACCOUNT": "x@y"}) == "x@y"
    assert gcloud_account({"CLOUDSDK_CONFIG": str(tmp_path / "nowhere")}) == ""


@pytest.mark.parametrize("token_server", [OVER], indirect=True)
def test_a_worker_whose_login_is_over_says_so_and_is_not_to_be_started_again(tmp_path, token_server):
    key = token_server.login(tmp_path / "key.json")
    environ = {**os.environ, **CLOUD, "GOOGLE_APPLICATION_CREDENTIALS": str(key)}
    words = ["run", "-project", "p-12345", "-bucket", "b", "-pool", "p", "-id", "w-1", "-work", str(tmp_path)]
    done = subprocess.run(
        [consume(), *words], env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 78
    assert "the login is over; run `gcloud auth application-default login` again" in done.stderr
