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


@pytest.mark.parametrize("cloud", ["datastore", "firestore"], indirect=True)
def test_the_example_gives_the_same_winners_as_on_this_machine(cloud, tmp_path):
    """Byte for byte; again it is answered from the record, without workers; afterwards nothing runs."""
    local = Project(tmp_path / "local")
    for project in (cloud, local):
        shutil.copytree(EXAMPLES, project.folder / "examples")
        project.done = project.run("run", "examples/csv_submit.lua")
    for name in ("best.csv", "summary.txt"):
        assert (cloud.folder / "examples" / name).read_bytes() == (local.folder / "examples" / name).read_bytes()
    assert cloud.done.stdout == local.done.stdout
    assert marked(cloud.mark) == []

    before = children_cpu_s()
    again = cloud.run("run", "examples/csv_submit.lua")
    assert children_cpu_s() - before < 2
    assert again.stdout == cloud.done.stdout
    assert ", all reused;" in again.stderr
    local.close()
