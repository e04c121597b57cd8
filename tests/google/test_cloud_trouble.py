"""Settings that cannot work and services that are not there: said in a sentence, within seconds, before anything is lost."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from sparkles import __version__
from tests.support import emulators

pytestmark = [pytest.mark.google, pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
ONE = 'print(run(JobBuilder("one"):setCommandTemplate("echo hi")).tasks[1].state)\n'


@pytest.mark.parametrize(
    ("variables", "code", "sentence"),
    [
        ({"SPARKLES_BACKEND": "clod"}, 2, "SPARKLES_BACKEND: backend: expected 'local' or 'cloud', found 'clod'"),
        ({"SPARKLES_FLEET": "proces"}, 2, "SPARKLES_FLEET: fleet: expected 'processes'"),
        (
            {"SPARKLES_GOOGLE_BUCKET": "there-is-none"},
            2,
            "bucket there-is-none does not exist; make it: `gcloud storage buckets create",
        ),
        ({"SPARKLES_GOOGLE_BUCKET": "gs://bucket"}, 2, "SPARKLES_GOOGLE_BUCKET: google.bucket: expected a bucket's name"),
        ({"SPARKLES_GOOGLE_PROJECT": "My Project"}, 2, "google.project: expected the id of a project, not its name"),
        (
            {"SPARKLES_GOOGLE_PROJECT": ""},
            2,
            "- a project, none of these names one: --project, [google] project in sparkles.toml",
        ),
        ({"SPARKLES_GOOGLE_BUCKET": ""}, 2, "- a bucket, none of these names one: --bucket"),
        (
            {"SPARKLES_CONSUME": "/nowhere/consume"},
            2,
            "consume: /nowhere/consume: expected the program consume, found nothing there",
        ),
        ({"SPARKLES_CONSUME": __file__}, 2, "expected the program consume, found a file that cannot be run"),
        ({"STORAGE_EMULATOR_HOST": "127.0.0.1:1"}, 2, "STORAGE_EMULATOR_HOST: expected http://host:port, found '127.0.0.1:1'"),
        ({"DATASTORE_EMULATOR_HOST": "http://127.0.0.1:1"}, 2, "DATASTORE_EMULATOR_HOST: expected host:port"),
    ],
)
def test_a_setting_that_cannot_work_is_named(cloud, variables, code, sentence):
    """Exit code 2 and what to do; no run begins."""
    cloud.write("w.lua", ONE)
    done = cloud.run("run", "w.lua", code=code, env=variables)
    assert sentence in done.stderr
    assert "run r-" not in done.stderr
    assert cloud.objects() == []


@pytest.mark.parametrize("variable", ["DATASTORE_EMULATOR_HOST", "STORAGE_EMULATOR_HOST"])
def test_a_service_that_is_not_there_is_said_soon_and_nothing_is_lost(cloud, variable):
    """After 5 s the user hears of it, after about 10 s the command ends with 3; the same command goes on later."""
    cloud.write("w.lua", "sleep(0.01)\n" + ONE)
    nobody = f"127.0.0.1:{emulators.free_port()}"
    address = f"http://{nobody}" if variable.startswith("STORAGE") else nobody
    done = cloud.run("run", "w.lua", code=3, env={variable: address})
    assert " does not answer (" in done.stderr
    assert "Nothing is lost meanwhile." in done.stderr
    assert done.stderr.endswith(f"{variable}={address} leads there: start the emulator (make emulators), or unset {variable}\n")
    assert cloud.run("run", "w.lua").stdout == "succeeded\n"


def test_without_pubsub_it_polls_and_says_so_once(cloud):
    """Messages are hints: the run succeeds."""
    cloud.write("w.lua", ONE)
    done = cloud.run("run", "w.lua", env={"PUBSUB_EMULATOR_HOST": f"127.0.0.1:{emulators.free_port()}"})
    assert done.stdout == "succeeded\n"
    assert done.stderr.count("notifications off: polling") == 1


def test_a_worker_of_another_version_is_told_once(cloud):
    """It works as long as the documents agree; the notice says how to look closer."""
    older = cloud.folder / "consume"
    older.write_text(
        f'#!/bin/sh\n[ "$1" = version ] && echo 0.0.7 && exit\nexec "{cloud.variables["SPARKLES_CONSUME"]}" "$@"\n'
    )
    older.chmod(0o755)
    cloud.write("w.lua", ONE)
    done = cloud.run("run", "w.lua", env={"SPARKLES_CONSUME": str(older)})
    assert done.stdout == "succeeded\n"
    assert done.stderr.count(f"consume: {older} is of version 0.0.7, sparkles of {__version__}") == 1


def test_where_the_worker_is_not_built_it_says_make_consume(cloud, tmp_path):
    """Before anything is submitted; commands that only look need no worker."""
    shutil.copytree(ROOT / "sparkles", tmp_path / "elsewhere" / "sparkles", ignore=shutil.ignore_patterns("__pycache__"))
    cloud.write("w.lua", ONE)
    variables = {"PYTHONPATH": str(tmp_path / "elsewhere"), "SPARKLES_CONSUME": ""}
    program = (sys.executable, "-m", "sparkles")
    for words in (["run", "w.lua"], ["sub", "echo hi"]):
        said = cloud.background(*words, env=variables, program=program).end(code=2)
        assert 'fleet = "processes" needs the program consume, which is neither in PATH nor built here' in said
        assert "`make consume`" in said
    assert cloud.objects() == []
    cloud.background("list", env=variables, program=program).end()
    cloud.background("plan", "w.lua", env=variables, program=program).end()
