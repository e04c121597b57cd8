"""Typed parameters on the command line: the workflow's own help, files of them, mistakes."""

import pytest

from tests.support.cli import Project

pytestmark = [pytest.mark.e2e]

SCRIPT = """-- Adds numbers.
--
-- In one sentence.
local p = params{
  n = {type = "integer", doc = "how many"},
  alpha = {type = "number", default = 0.5, doc = "step size"},
  mode = {choices = {"fast", "slow"}, default = "fast"},
}
print(p.n, p.alpha, p.mode)
if p.n == 2 then fail("no twos") end
"""


@pytest.fixture
def project(tmp_path):
    project = Project(tmp_path / "project")
    project.write("w.lua", SCRIPT)
    yield project
    project.close()


def test_a_workflow_has_its_own_help_page(project):
    done = project.run("run", "w.lua", "--help")
    assert done.stdout.splitlines() == [
        "Usage: sparkles run w.lua [-p KEY=VALUE]...",
        "",
        "  Adds numbers.",
        "",
        "  In one sentence.",
        "",
        "Parameters:",
        "  -p n=      integer  required  how many",
        "  -p alpha=  number   0.5       step size",
        "  -p mode=   string   fast       (fast, slow)",
    ]
    assert "Usage: sparkles run [OPTIONS] [WORKFLOW]" in project.run("run", "--help").stdout


def test_help_of_a_wrong_script_is_its_error(project):
    project.write("bad.lua", "local x = = 1")
    assert "bad.lua:1: " in project.run("run", "bad.lua", "--help", code=2).stderr


@pytest.mark.parametrize(
    ("name", "text"),
    [("p.json", '{"n": 3, "mode": "slow"}'), ("p.toml", 'n = 3\nmode = "slow"\n'), ("p.csv", "n,mode\n3,slow\n")],
)
def test_a_file_gives_a_set(project, name, text):
    project.write(name, text)
    done = project.run("run", "w.lua", "--params-file", name, "-p", "alpha=2")
    assert done.stdout == "3\t2\tslow\n"


def test_a_csv_gives_a_run_for_each_row_and_a_failed_one_does_not_stop_the_others(project):
    project.write("rows.csv", "n,alpha\n1,0.1\n2,0.2\n3,0.3\n")
    done = project.run("run", "w.lua", "--params-file", "rows.csv", code=1)
    assert done.stdout.splitlines() == ["1\t0.1\tfast", "2\t0.2\tfast", "3\t0.3\tfast"]
    assert "row 2 of 3: n=2 alpha=0.2" in done.stderr
    assert "w.lua:10: no twos" in done.stderr
    assert "1 of 3 runs failed" in done.stderr
    assert sorted(run["state"] for run in project.json("runs")) == ["failed", "succeeded", "succeeded"]


@pytest.mark.parametrize(
    ("arguments", "files", "message"),
    [
        (["-p", "n=x"], {}, "w.lua:4: params: -p n=x: expected an integer, found 'x'"),
        ([], {}, "w.lua:4: params: 'n' (how many) has no value; give it with -p n=..."),
        (["-p", "n=1", "-p", "alhpa=2"], {}, "-p alhpa=2: unknown parameter. Did you mean 'alpha'?"),
        (["-p", "n=1", "-p", "mode=quick"], {}, "-p mode=quick: expected one of fast, slow"),
        (["--params-file", "none.json"], {}, "none.json: No such file or directory"),
        (["--params-file", "x.json"], {"x.json": "{"}, "x.json"),
        (["--params-file", "x.json"], {"x.json": "[1]"}, "x.json: expected an object of parameters, found a list"),
        (["--params-file", "x.json"], {"x.json": '{"n": null}'}, "x.json: n: expected text, a number or a boolean, found null"),
        (["--params-file", "x.toml"], {"x.toml": "n ="}, "x.toml: not TOML"),
        (["--params-file", "x.csv"], {"x.csv": "n\n"}, "x.csv: expected a row of parameters for each run"),
        (["--params-file", "x.csv"], {"x.csv": "n,a\n1\n"}, "x.csv:2: "),
        (["--params-file", "x.txt"], {"x.txt": ""}, "x.txt: expected a .json, .toml or .csv file"),
    ],
)
def test_mistakes_get_a_sentence(project, arguments, files, message):
    for name, text in files.items():
        project.write(name, text)
    assert message in project.run("run", "w.lua", *arguments, code=2).stderr
    assert project.json("runs") == [], "no run began"
