"""`sparkles doctor` with the cloud backend: what was found where, whether the services answer, and what is wrong, everything at once."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from sparkles import __version__
from tests.support import emulators, google
from tests.support.cli import Project
from tests.support.tokens import ACCOUNT, OVER, TokenServer

pytestmark = [pytest.mark.google, pytest.mark.e2e]

NO_EMULATORS = {
    **dict.fromkeys(("DATASTORE_EMULATOR_HOST", "STORAGE_EMULATOR_HOST", "PUBSUB_EMULATOR_HOST"), ""),
    "NO_GCE_CHECK": "true",
}


def looked(project, *arguments, code=0, **variables):
    """What doctor finds, and how the command ended."""

    done = project.run("doctor", "--json", *arguments, code=code, env=variables)
    return json.loads(done.stdout)


def services(found):
    return {each["service"]: each for each in found["cloud"]["services"]}


@pytest.mark.parametrize("cloud", ["datastore", "firestore"], indirect=True)
def test_a_sound_installation(cloud):
    """Each name with where it was found, each service with its time, the worker with its version; exit code 0."""
    found = looked(cloud, "--bucket", emulators.BUCKET)
    assert found["problems"] == []
    named = {each["name"]: (each["value"], each["source"]) for each in found["cloud"]["names"]}
    assert named["project"] == (emulators.PROJECT, "SPARKLES_GOOGLE_PROJECT")
    assert named["bucket"] == (emulators.BUCKET, "--bucket")
    assert named["database"] == ("(default)", "built in")
    assert named["namespace"][0] == cloud.prefix[:-1]
    assert named["prefix"] == (cloud.prefix, "SPARKLES_GOOGLE_PREFIX")
    assert named["topic"][1] == "SPARKLES_GOOGLE_TOPIC"
    answers = services(found)
    assert list(answers) == ["Datastore", "Cloud Storage", "Pub/Sub"]
    for each in answers.values():
        assert 0 < each["ms"] < 10_000
        assert each["problem"] is None
    assert answers["Pub/Sub"]["note"] == "not there yet: whoever watches a job first makes it"
    assert answers["Datastore"]["at"] == google.address(cloud.service)
    assert found["cloud"]["login"]["needed"] is False
    consume = found["cloud"]["consume"]
    assert (consume["program"], consume["source"]) == (cloud.variables["SPARKLES_CONSUME"], "SPARKLES_CONSUME")
    assert consume["version"] == __version__
    shown = cloud.run("doctor").stdout
    assert shown.endswith("nothing is wrong\n")
    assert f"{cloud.prefix[:-1]}" in shown


def test_after_a_run_the_topic_is_there(cloud):
    """Who watched made it; the state folder's part counts what the cloud keeps on this machine."""
    cloud.run("sub", "--", "true")
    found = looked(cloud)
    assert services(found)["Pub/Sub"]["note"] is None
    assert found["state"]["folders"]["cloud"] > 0
    assert found["problems"] == []


def test_every_mistake_is_told_at_once(cloud, tmp_path):
    """A bucket that is not there, a Datastore that is gone, a worker of another version: three sentences, one command, exit code 3."""
    other = tmp_path / "consume"
    other.write_text("#!/bin/sh\necho 0.0.1\n")
    other.chmod(0o755)
    gone = f"127.0.0.1:{emulators.free_port()}"
    began = time.monotonic()
    found = looked(
        cloud,
        code=3,
        SPARKLES_GOOGLE_BUCKET="no-such-bucket",
        DATASTORE_EMULATOR_HOST=gone,
        SPARKLES_CONSUME=str(other),
    )
    assert time.monotonic() - began < 40
    datastore, bucket, consume = found["problems"]
    assert datastore.startswith("Datastore: look whether the database is there: Datastore cannot be reached (")
    assert datastore.endswith(
        f"DATASTORE_EMULATOR_HOST={gone} leads there: start the emulator (make emulators), or unset DATASTORE_EMULATOR_HOST"
    )
    assert "bucket no-such-bucket does not exist; make it: `gcloud storage buckets create gs://no-such-bucket" in bucket
    assert consume.startswith(f"consume: {other} is of version 0.0.1, expected {__version__} as sparkles; ")
    answers = services(found)
    assert answers["Datastore"]["ms"] is None
    assert answers["Cloud Storage"]["problem"] == bucket
    assert answers["Pub/Sub"]["problem"] is None


PROGRAMS = {
    "not there": (None, "expected the program consume, found nothing there"),
    "not executable": ("#!/bin/sh\n", "expected the program consume, found a file that cannot be run"),
    "another program": ("#!/bin/sh\necho no >&2\nexit 2\n", "cannot be run (`consume version` ended with 2: no); "),
    "says nothing": ("#!/bin/sh\n", "cannot be run (`consume version` ended with 0: ); "),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_worker_that_cannot_be_used(cloud, tmp_path, name):
    """Told with the program's path; not asked for at all where workers are started by hand."""
    text, expected = PROGRAMS[name]
    program = tmp_path / "consume"
    if text is not None:
        program.write_text(text)
        program.chmod(0o644 if name == "not executable" else 0o755)
    found = looked(cloud, code=3, SPARKLES_CONSUME=str(program))
    (problem,) = found["problems"]
    assert problem.startswith(f"consume: {program}")
    assert expected in problem
    assert looked(cloud, "--fleet", "none", SPARKLES_CONSUME=str(program))["problems"] == []


def test_no_pubsub_is_no_mistake(cloud):
    """Everything works without; the note says what it means."""
    found = looked(cloud, PUBSUB_EMULATOR_HOST="")
    assert found["problems"] == []
    answer = services(found)["Pub/Sub"]
    assert answer["ms"] is None
    assert answer["note"] == "PUBSUB_EMULATOR_HOST is not set, other emulators are: changes are polled for"


def test_an_emulators_address_without_its_scheme(cloud):
    """The form that the variable takes is told."""
    found = looked(cloud, code=3, STORAGE_EMULATOR_HOST=google.address("storage"))
    assert found["problems"][0].startswith("STORAGE_EMULATOR_HOST: expected http://host:port, found ")


def test_nothing_is_named(tmp_path):
    """No project, no bucket, no login, no worker: each told, and that gcloud's own login is another one."""
    project = Project(tmp_path / "p", **NO_EMULATORS, SPARKLES_BACKEND="cloud", SPARKLES_CONSUME=str(tmp_path / "none"))
    gcloud = project.folder / ".config" / "gcloud" / "configurations"
    gcloud.mkdir(parents=True)
    (gcloud / "config_default").write_text("[core]\naccount = me@example.com\n")
    found = looked(project, code=3)
    place, login, consume = found["problems"]
    assert place.startswith('backend = "cloud" (SPARKLES_BACKEND) needs\n- a project')
    assert "run `gcloud auth application-default login`" in login
    assert consume.startswith("consume: ")
    assert found["cloud"]["login"]["note"] == (
        "gcloud itself is logged in as me@example.com (`gcloud auth login`); that login is not for programs"
    )
    assert found["cloud"]["services"] == []
    told = project.run("doctor", code=3)
    assert told.stderr == "error: 3 things are wrong\n"
    assert told.stdout.count("wrong: ") == 3


def test_a_login_that_is_over(tmp_path):
    """Whose it is and where it lies is told all the same; no service is asked."""
    server = TokenServer(OVER)
    try:
        project = Project(tmp_path / "p", **NO_EMULATORS, SPARKLES_BACKEND="cloud", SPARKLES_GOOGLE_BUCKET="some-bucket")
        key = server.login(Path(project.folder, "key.json"), "its-project")
        found = looked(project, "--fleet", "none", code=3, GOOGLE_APPLICATION_CREDENTIALS=str(key))
    finally:
        server.close()
    (problem,) = found["problems"]
    assert problem.startswith("log in: the login is over (")
    login = found["cloud"]["login"]
    assert (login["kind"], login["account"]) == ("service account", ACCOUNT)
    assert login["source"] == f"{key} (GOOGLE_APPLICATION_CREDENTIALS)"
    named = {each["name"]: (each["value"], each["source"]) for each in found["cloud"]["names"]}
    assert named["project"] == ("its-project", f"project_id of {key}")
    assert server.asked == 1


def test_jobs_of_an_installation_are_seen_from_any_folder(cloud, tmp_path):
    """A job in the cloud is no secret of the folder that it was submitted from."""
    cloud.run("sub", "--name", "mine", "--", "true")
    elsewhere = Project(tmp_path / "elsewhere", **cloud.variables)
    (job,) = elsewhere.json("list")
    assert job["name"] == "mine"
