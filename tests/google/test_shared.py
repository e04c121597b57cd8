"""One installation, several state folders: what people share who work with the same bucket and database."""

from __future__ import annotations

import pytest

from tests.support.cli import Project

pytestmark = [pytest.mark.google, pytest.mark.e2e]

WORKFLOW = """
local rows = readCsv("rows.csv")
wait(submit(JobBuilder("theirs"):setCommandTemplate("cat rows.csv && echo {n}"):addFiles("rows.csv"):createTasksFor(rows)))
"""


def test_clean_leaves_the_jobs_of_other_folders_runs(cloud, tmp_path):
    """Who cleans here removes what was run here, and jobs that no run has; the other folder's run still answers from its record."""
    cloud.write("w.lua", WORKFLOW)
    cloud.write("rows.csv", "n\n1\n2\n")
    cloud.run("run", "w.lua")
    here = Project(tmp_path / "here", **cloud.variables)
    here.run("sub", "--name", "loose", "--", "true")
    assert {job["name"] for job in here.json("list")} == {"theirs", "loose"}
    (value,) = here.json("clean", "--yes")
    assert [job.rpartition("-")[0] for job in value["jobs"]] == ["loose"]
    assert value["contentFiles"] == 0  # somebody may be about to use what was stored within the hour
    assert cloud.run("logs", "theirs/2").stdout == "n\n1\n2\n2\n"
    assert "all reused" in cloud.run("run", "w.lua").stderr
    (value,) = cloud.json("clean", "--yes")
    assert {job.rpartition("-")[0] for job in value["jobs"]} == {"theirs"}
    assert here.json("list") == []
