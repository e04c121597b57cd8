"""`sparkles test` as a user meets it: what it prints, which files it takes, its exit codes; and the tests of the ready workflows."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.support.cli import Project
from tests.support.pace import quiet_children_s

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "testing.md").read_text("utf-8")

pytestmark = pytest.mark.e2e


@pytest.fixture
def project(tmp_path: Path):
    project = Project(tmp_path / "p")
    yield project
    project.close()


def write_example(project: Project) -> None:
    workflow, test = re.findall(r"```lua\n(.*?)```", PAGE.split("<!--")[0], re.DOTALL)
    project.write("score.lua", workflow)
    project.write("score_test.lua", test)


def test_the_example_of_the_page(project: Project) -> None:
    """It passes, prints what the page says, and leaves nothing: no state folder, no file."""
    write_example(project)
    (shown,) = re.findall(r"    \$ sparkles test\n((?:    .+\n)+)", PAGE)
    done = project.run("test")
    expected = [line.strip() for line in shown.splitlines()]
    assert done.stdout.splitlines() == expected[:2]
    assert re.fullmatch(r"2 tests passed; \d\.\d\d s\n", done.stderr)
    assert sorted(path.name for path in project.folder.iterdir()) == ["score.lua", "score_test.lua"]


def test_a_failure_is_shown_as_the_page_says(project: Project) -> None:
    """File and line of the expectation, the first difference; the other tests go on; exit code 1."""
    write_example(project)
    test = project.folder / "score_test.lua"
    test.write_text(test.read_text().replace("score = task.index * 10", "score = task.index").replace("a,10\\nb", "a,1\\nb"))
    (shown,) = re.findall(r"    FAIL  score_test\.lua.*\n(.*)\n", PAGE)
    done = project.run("test", "score_test.lua", code=1)
    first, second, third = done.stdout.splitlines()
    assert first == "FAIL  score_test.lua: writes the scores"
    assert second.strip() == shown.strip()
    assert third.startswith("ok ")
    assert re.fullmatch(r"error: 1 of 2 tests failed; \d\.\d\d s\n", done.stderr)


def test_json_has_an_object_a_test(project: Project) -> None:
    """With stable keys."""
    project.write("a_test.lua", 'test("good", function() end)\ntest("bad", function()\n  expect(1):equals(2)\nend)\n')
    good, bad = project.json("test", code=1)
    assert good.pop("seconds") < 1
    assert good == {
        "file": "a_test.lua",
        "name": "good",
        "position": "a_test.lua:1",
        "state": "passed",
        "error": None,
        "at": None,
    }
    assert (bad["state"], bad["error"], bad["at"], bad["position"]) == (
        "failed",
        "expected 2, got 1",
        "a_test.lua:3",
        "a_test.lua:2",
    )


def test_which_tests_run(project: Project) -> None:
    """Those below the current folder, of the named files and folders, with the text of -k; none is a mistake."""
    assert "no tests in this folder and below" in project.run("test", code=2).stderr
    for name in ("one_test.lua", "sub/two_test.lua", ".sparkles/three_test.lua"):
        project.write(name, f'test("{Path(name).stem} runs", function() end)\ntest("Other", function() end)')
    assert len(project.json("test")) == 4
    assert [each["file"] for each in project.json("test", "sub")] == ["sub/two_test.lua"] * 2
    assert [each["name"] for each in project.json("test", "-k", "one_test runs")] == ["one_test runs"]
    assert [each["name"] for each in project.json("test", "-k", "other")] == ["Other", "Other"]
    assert len(project.json("test", "-k", "sub/two")) == 2
    assert "no test has 'nothing'" in project.run("test", "-k", "nothing", code=2).stderr
    assert "none: no such file or folder" in project.run("test", "none", code=2).stderr
    project.write("w.lua", "")
    assert "w.lua: not a test file" in project.run("test", "w.lua", code=2).stderr


def test_ready_workflows_can_be_run_by_name(project: Project) -> None:
    """From a test anywhere; what is misspelt gets the nearest name."""
    project.write(
        "my_test.lua",
        """
files { ["p.csv"] = "x\\n1\\n" }
onSubmit("sweep")
test("by name", function() expect(runWorkflow("sweep", { csv = "p.csv", command = "f {x}" }).ok):isTrue() end)
test("misspelt", function()
  expect(function() runWorkflow("sweeep", {}) end)
    :raises("sweeep: no such file beside the test, and no ready workflow. Did you mean 'sweep'?")
end)
""",
    )
    assert [each["error"] for each in project.json("test")] == [None, None]


def test_paths_of_a_workflow_start_at_the_project(project: Project) -> None:
    """As in a real run; what is not there is looked for beside the workflow."""
    project.write("sparkles.toml", "")
    project.write("data/p.txt", "project")
    project.write("flows/beside.txt", "beside")
    project.write("flows/w.lua", 'log(readText("data/p.txt") .. " " .. readText("beside.txt"))')
    project.write("flows/w_test.lua", 'test("t", function() expect(runWorkflow("w.lua").logs):equals{"project beside"} end)')
    assert [each["error"] for each in project.json("test", "flows")] == [None]


def test_the_ready_workflows_pass_their_tests(project: Project) -> None:
    """Each has tests, a test takes less than 50 ms of processor time (as on a quiet machine), and none is taken for a workflow."""
    shutil.copytree(ROOT / "workflows", project.folder / "workflows")
    names = {path.stem for path in (ROOT / "workflows").glob("*.lua")}
    assert {f"{name}_test" for name in names if not name.endswith("_test")} == {
        name for name in names if name.endswith("_test")
    }
    tests = project.json("test", "workflows")
    assert [each for each in tests if each["error"]] == []
    assert quiet_children_s(lambda: project.run("test", "workflows"), tries=3) < 0.05 * len(tests)
    assert "_test" not in project.run("workflows").stdout


def test_colours_and_control_characters(project: Project) -> None:
    """What a test prints is shown with its failure, without control characters."""
    project.write("a_test.lua", 'test("t\\27[31m", function() print("one\\ttwo\\27[2J") expect(1):isNil() end)')
    assert project.run("test", code=1).stdout.splitlines() == [
        "FAIL  a_test.lua: t\\x1b[31m",
        "      a_test.lua:1: expected nil, got 1",
        "      | one two\\x1b[2J",
    ]
