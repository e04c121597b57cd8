"""Workflows with the cloud backend, run as a user runs them: the real command, the real worker, the services' emulators."""

from __future__ import annotations

import resource
import shutil
from pathlib import Path

import pytest

from tests.support.cli import Project
from tests.support.processes import marked

pytestmark = [pytest.mark.google, pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(300)]

EXAMPLES = Path(__file__).parents[2] / "examples"


def children_cpu_s():
    """CPU seconds of the commands that ended so far: unlike the clock, the same on a busy machine."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.fixture(scope="module")
def on_this_machine(tmp_path_factory):
    """What the example printed and wrote with the local backend."""
    local = Project(tmp_path_factory.mktemp("local"))
    local.timeout_s = 200
    shutil.copytree(EXAMPLES, local.folder / "examples")
    printed = local.run("run", "examples/csv_submit.lua").stdout
    yield printed, written(local)
    local.close()


def written(project):
    return [(project.folder / "examples" / name).read_bytes() for name in ("best.csv", "summary.txt")]


@pytest.mark.parametrize("cloud", ["datastore", "firestore"], indirect=True)
def test_the_example_gives_the_same_winners_as_on_this_machine(cloud, on_this_machine):
    """Byte for byte; again it is answered from the record, without workers; afterwards nothing runs."""
    shutil.copytree(EXAMPLES, cloud.folder / "examples")
    first = cloud.run("run", "examples/csv_submit.lua")
    assert (first.stdout, written(cloud)) == on_this_machine
    assert marked(cloud.mark) == []

    before = children_cpu_s()
    again = cloud.run("run", "examples/csv_submit.lua")
    assert children_cpu_s() - before < 2
    assert again.stdout == first.stdout
    assert ", all reused;" in again.stderr
