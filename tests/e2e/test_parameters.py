"""Typed parameters on the command line: the workflow's own help, files of them, mistakes."""

import shlex
import signal

import pytest

from tests.support.cli import Project
from tests.support.workflows import eventually

pytestmark = [pytest.mark.e2e]

SCRIPT = """-- Adds numbers.
--
-- In one sentence.
local p = params{
  n = {type = "integer", doc = "how many", max = 9},
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
        "Usage: sparkles run w.lua [--NAME VALUE]...",
        "",
        "  Adds numbers.",
        "",
        "  In one sentence.",
        "",
        "Parameters:",
        "  --n      integer  required  how many (9 or less)",
        "  --alpha  number   0.5       step size",
        "  --mode   string   fast      (fast, slow)",
        "",
        "--NAME VALUE is short for -p NAME=VALUE. Options of run: sparkles run --help",
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


def test_every_row_is_checked_before_the_first_runs(project):
    """Each mistake has its line and column; what is wrong in every row is told once."""
    project.write("rows.csv", 'n,mode,alhpa\n1,fast,0\n"x\ny",fast,0\n\n3,quick,0\n10,slow,0\n')
    done = project.run("run", "w.lua", "--params-file", "rows.csv", code=2)
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "error: rows.csv: alhpa: unknown parameter. Did you mean 'alpha'?",
        r"  rows.csv:3: column n: expected an integer, found 'x\ny'",
        "  rows.csv:6: column mode: expected one of fast, slow, found 'quick'",
        "  rows.csv:7: column n: expected 9 or less, found '10'",
        "  no run was begun",
    ]
    assert project.json("runs") == []


def test_a_parameter_is_an_option_behind_the_workflow(project):
    """`--name value`, `--name=value`, a boolean alone; the option of the command wins where the names are the same."""
    project.write(
        "o.lua",
        "local p = params{n = {}, on = {type = 'boolean', default = false}, json = {default = '-'}}\nprint(p.n, p.on, p.json)",
    )
    assert project.run("run", "o.lua", "--n", "-1").stdout == "-1\tfalse\t-\n"
    assert project.run("run", "-q", "o.lua", "--on", "--n=a=b", "-qp", "json=x").stdout == "a=b\ttrue\tx\n"
    assert project.run("run", "o.lua", "--on", "no", "--n", "").stdout == "\tfalse\t-\n"
    assert project.json("runs")[0]["params"] == {"n": "", "on": "no"}
    assert project.json("run", "o.lua", "--n", "2")[-1]["state"] == "succeeded"
    assert "a new run would begin" in project.run("plan", "o.lua", "--n", "3").stderr
    assert "  -p json=  string   -" in project.run("run", "o.lua", "--help").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["w.lua", "--alhpa", "1"], "No such option: --alhpa, and w.lua has no such parameter. Did you mean '--alpha'?"),
        (["w.lua", "--qqq=1"], "No such option: --qqq, and w.lua has no such parameter. Parameters: --n, --alpha, --mode."),
        (["w.lua", "--frosen"], "Did you mean '--frozen'?"),
        (["w.lua", "--n"], "Option '--n' requires a value."),
        (["w.lua", "--n", "1", "-p", "n=2"], "n is given twice: '1' and '2'"),
        (["w.lua", "--n", "x"], "w.lua:4: params: -p n=x: expected an integer, found 'x'"),
        (["free.lua", "--n", "1"], "No such option: --n. free.lua declares no parameters; give one with -p."),
        (["--n", "1", "w.lua"], "No such option '--n'"),
        (["none.lua", "--n", "1"], "none.lua: no such file"),
    ],
)
def test_options_that_there_are_not(project, arguments, message):
    project.write("free.lua", "print(args.n)")
    assert message in project.run("run", *arguments, code=2).stderr


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
        (
            ["--params-file", "x.json"],
            {"x.json": '{"n": {"a": 1}}'},
            "x.json: n: expected text, a number or a boolean, found an object;",
        ),
        (["--params-file", "x.json"], {"x.json": '{"n": 1, "n": 2}'}, "x.json: n is given twice: 1 and 2"),
        (["--params-file", "x.json"], {"x.json": '{"n": 10}'}, "x.json: n: expected 9 or less, found '10'"),
        (["--params-file", "x.json", "-p", "n=10"], {"x.json": '{"n": 1}'}, "-p n: expected 9 or less, found '10'"),
        (["--params-file", "x.toml"], {"x.toml": "n ="}, "x.toml: not TOML"),
        (["--params-file", "x.toml"], {"x.toml": "n = 1\nn = 2"}, "x.toml: not TOML: Cannot overwrite a value"),
        (["--params-file", "x.toml"], {"x.toml": "n = 2026-01-02"}, "found a date; write it in quotes: n = '2026-01-02'"),
        (["--params-file", "x.toml"], {"x.toml": "n = 07:00:00"}, "found a time; write it in quotes: n = '07:00:00'"),
        (
            ["--params-file", "x.toml"],
            {"x.toml": "[n]\na = 1"},
            "x.toml: n: expected text, a number or a boolean, found an object; par",
        ),
        (
            ["--params-file", "x.toml"],
            {"x.toml": "n = [1]"},
            "x.toml: n: expected text, a number or a boolean, found a list; write a",
        ),
        (["--params-file", "x.csv"], {"x.csv": "n\n"}, "x.csv: expected a row of parameters for each run"),
        (["--params-file", "x.csv"], {"x.csv": "n,a\n1\n"}, "x.csv:2: "),
        (["--params-file", "x.txt"], {"x.txt": ""}, "x.txt: expected a .json, .toml, .csv or .tsv file"),
    ],
)
def test_mistakes_get_a_sentence(project, arguments, files, message):
    for name, text in files.items():
        project.write(name, text)
    assert message in project.run("run", "w.lua", *arguments, code=2).stderr
    assert project.json("runs") == [], "no run began"


def test_a_fork_takes_a_file(project):
    """Its values win over those of the run that is forked, and -p wins over both."""
    project.run("run", "w.lua", "-p", "n=9", "-p", "mode=slow")
    source = project.json("runs")[0]["run"]
    project.write("p.json", '{"n": 4, "alpha": 2}')
    assert project.run("run", "--fork", source, "--params-file", "p.json").stdout == "4\t2\tslow\n"
    assert project.run("run", "--fork", source, "--params-file", "p.json", "-p", "n=5").stdout == "5\t2\tslow\n"
    project.write("p.csv", "n\n1\n3\n")
    assert project.run("run", "--fork", source, "--params-file", "p.csv").stdout == "1\t0.5\tslow\n3\t0.5\tslow\n"
    project.write("p.json", '{"n": 40}')
    assert "p.json: n: expected 9 or less" in project.run("run", "--fork", source, "--params-file", "p.json", code=2).stderr


def test_who_is_interrupted_in_a_row_is_told_the_command_for_all(project):
    """Following it brings the rows that were not begun too."""
    project.write(
        "r.lua",
        "local p = params{x = {type = 'integer'}, y = {}}\n"
        "if p.x == 2 then shell('until [ -e go ]; do sleep 0.1; done') end\nprint(p.x, p.y)",
    )
    project.write("p.csv", "x\n1\n2\n3\n")
    words = ("run", "r.lua", "--frozen", "--params-file", "p.csv", "-p", "y=a b")
    driver = project.start(*words)
    assert driver.stdout is not None
    assert driver.stdout.readline() == "1\ta b\n"
    eventually(lambda: [each["state"] for each in project.json("runs")] == ["running", "succeeded"])
    driver.send_signal(signal.SIGINT)
    _, told = driver.communicate(timeout=20)
    assert driver.returncode == 130, told
    hint = told.splitlines()[-1].removeprefix("resume with: ")
    assert hint == shlex.join(["sparkles", *words])
    assert told.count(hint) == 2
    project.write("go", "")
    assert project.run(*shlex.split(hint)[1:]).stdout.splitlines()[-2:] == ["2\ta b", "3\ta b"]
    assert [each["params"]["x"] for each in project.json("runs")][:1] == ["3"]
