"""plan, replay and fork through the real command: what would run and why, where a script leaves a record, a run from another's journal."""

import json
import subprocess
import sys

import pytest

from tests.support.site import Site

pytestmark = pytest.mark.e2e

SCRIPT = """local rows = readCsv("p.csv")
local first = run(JobBuilder("first"):setCommandTemplate("echo {a}; cat in.txt")
  :addFiles("in.txt"):setOutputs{"*.none"}:createTasksFor(rows))
local n = step("double", function(x) return x * 2 end, first.total)
local said = shell("echo " .. n)
local second = run(JobBuilder("second"):setCommandTemplate("echo {k}"):createTasksFor{{k = said.stdout}})
writeText("out.txt", "x")
if not fileExists("go") then fail("stop") end
"""


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path)
    (tmp_path / "workflow.lua").write_text(SCRIPT)
    (tmp_path / "p.csv").write_text("a\n1\n2\n3\n")
    (tmp_path / "in.txt").write_text("hello\n")
    yield site
    site.clear()


def sparkles(site, *arguments, code=0):
    done = subprocess.run(
        [sys.executable, "-m", "sparkles", *arguments],
        cwd=site.folder,
        env=site.environ,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == code, done.stderr
    return done


def plan(site, *options):
    return [json.loads(line) for line in sparkles(site, "plan", "workflow.lua", "--json", *options).stdout.splitlines()]


def edit(site, before, after):
    path = site.folder / "workflow.lua"
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def state(site):
    """Everything in the state folder's tables and in the project, to see that nothing was done."""
    rows = [site.query(f"SELECT * FROM {table}") for table in ("runs", "steps", "jobs", "tasks", "attempts")]
    files = {path: path.read_bytes() for path in site.folder.rglob("*") if path.is_file() and ".sparkles" not in path.parts}
    return rows, files


def test_a_first_plan_counts_what_would_run_and_does_nothing(site):
    before = state(site)
    steps = plan(site)
    assert [(step["verdict"], step["kind"]) for step in steps] == [
        ("would run", "read"),
        ("would run", "submit"),
        ("unknown", "wait"),
    ]
    assert (steps[1]["tasksNew"], steps[1]["tasksReused"]) == (3, 0)
    assert steps[2]["why"] == "unknown until first ends (3 tasks to run)"
    assert state(site) == before


def test_after_a_run_everything_is_reused(site):
    sparkles(site, "run", "workflow.lua", code=1)
    before = state(site)
    steps = plan(site)
    assert {step["verdict"] for step in steps} == {"reused"}
    assert [step["kind"] for step in steps] == ["read", "submit", "wait", "step", "shell", "submit", "wait", "write", "read"]
    assert state(site) == before


@pytest.mark.parametrize(
    ("before", "after", "why", "part", "sides"),
    [
        ("echo {a};", "echo x {a};", "changed: command", "command", ("echo 1; cat in.txt", "echo x 1; cat in.txt")),
        (':addFiles("in.txt")', ':addFiles("in.txt"):setImage("i:2")', "changed: image", "image", ("", "i:2")),
        (':addFiles("in.txt")', ':addFiles("in.txt"):setEnv{A="1"}', "changed: environment A", "environment A", ("", "1")),
        (':setOutputs{"*.none"}', ':setOutputs{"*.txt2"}', "changed: outputs", "outputs", ("*.none", "*.txt2")),
    ],
)
def test_an_edit_shows_the_part_that_differs(site, before, after, why, part, sides):
    sparkles(site, "run", "workflow.lua", code=1)
    edit(site, before, after)
    submit = plan(site)[1]
    (reason,) = submit["reasons"]
    assert (reason["why"], reason["count"], submit["tasksNew"]) == (why, 3, 3)
    (difference,) = reason["differences"]
    assert (difference["part"], difference["before"], difference["after"]) == (part, *sides)


def test_an_edited_input_is_named_with_its_old_and_new_digest(site):
    sparkles(site, "run", "workflow.lua", code=1)
    (site.folder / "in.txt").write_text("changed\n")
    text = sparkles(site, "plan", "workflow.lua").stdout
    assert "3 tasks: changed: input file in.txt (first: task 1)" in text
    assert "-sha256 5891b5b522d5, 6 bytes" in text
    assert "+sha256 7f8b1dfc466b, 8 bytes" in text


def test_new_rows_are_counted_apart(site):
    sparkles(site, "run", "workflow.lua", code=1)
    (site.folder / "p.csv").write_text("a\n1\n2\n3\n4\n5\n")
    submit = plan(site)[1]
    assert (submit["tasksReused"], submit["tasksNew"]) == (3, 2)
    assert [(reason["why"], reason["count"], reason["example"]) for reason in submit["reasons"]] == [("never ran", 2, 4)]


def test_a_plan_of_a_finished_run_goes_through_reused_tasks(site):
    (site.folder / "go").touch()
    sparkles(site, "run", "workflow.lua")
    steps = plan(site)
    assert [(step["verdict"], step["kind"]) for step in steps][:3] == [
        ("would run", "read"),
        ("reused", "submit"),
        ("reused", "wait"),
    ]
    assert steps[-1]["kind"] == "shell", "what a command prints is known only when it runs"


def test_replay_of_the_same_script_and_of_another(site):
    sparkles(site, "run", "workflow.lua", code=1)
    before = state(site)
    assert "replays to its end" in sparkles(site, "replay", "LAST").stdout
    edit(site, "x * 2", "x * 3")
    error = sparkles(site, "replay", "LAST", code=1).stderr
    assert "workflow.lua:4: after 3 steps the script asks for step double" in error
    assert "it differs from the one at workflow.lua:4" in error
    assert "-function ( x ) return x * 2 end" in error
    edit(site, "x * 3", "x * 2")
    (site.folder / "other.lua").write_text('log("hello")\nshell("true")\n')
    error = sparkles(site, "replay", "LAST", "other.lua", code=1).stderr
    assert "other.lua:2: " in error
    assert state(site)[0] == before[0]


def test_fork_starts_from_the_journal_and_reruns_what_is_named(site):
    (site.folder / "go").touch()
    sparkles(site, "run", "workflow.lua")
    forked = sparkles(site, "run", "--fork", "LAST")
    assert "tasks, all reused" in forked.stderr
    (attempts,) = site.query("SELECT count(*) FROM attempts")
    sparkles(site, "run", "--fork", "LAST", "--rerun", "first")
    assert site.query("SELECT count(*) FROM attempts") == [(attempts[0] + 3,)]
    again = sparkles(site, "run", "--fork", "LAST", "-p", "k=v")
    assert "reused" in again.stderr
    runs = [json.loads(line) for line in sparkles(site, "runs", "--json").stdout.splitlines()]
    assert len(runs) == 4
    assert runs[0]["params"] == {"k": "v"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "--fork", "r-nothing"), "there is no run 'r-nothing'"),
        (("run", "--fork", "LAST", "--rerun", "frist"), "Did you mean 'first'?"),
        (("run", "--fork", "LAST", "--rerun", "99"), "steps, numbered from 1"),
        (("run", "--rerun", "first", "workflow.lua"), "--rerun goes with --fork"),
        (("run",), "name a workflow"),
        (("replay", "r-nothing"), "there is no run 'r-nothing'"),
        (("plan", "nothing.lua"), "nothing.lua: no such file"),
    ],
)
def test_mistakes_get_a_sentence(site, arguments, message):
    (site.folder / "go").touch()
    sparkles(site, "run", "workflow.lua")
    runs = site.query("SELECT count(*) FROM runs")
    assert message in sparkles(site, *arguments, code=2).stderr
    assert site.query("SELECT count(*) FROM runs") == runs


def test_a_wrong_script_is_found_by_plan(site):
    edit(site, "readCsv", "readCvs")
    assert (
        "workflow.lua:1: unknown name 'readCvs'. Did you mean 'readCsv'?"
        in sparkles(site, "plan", "workflow.lua", code=2).stderr
    )


def test_a_job_whose_command_was_mended_is_resumed(site):
    (site.folder / "workflow.lua").write_text('run(JobBuilder("one"):setCommandTemplate("exit 3"))\n')
    sparkles(site, "run", "workflow.lua", code=1)
    (site.folder / "workflow.lua").write_text('run(JobBuilder("one"):setCommandTemplate("true"))\n')
    sparkles(site, "run", "workflow.lua")
    assert site.query("SELECT count(*) FROM runs") == [(1,)]


def test_a_script_that_asks_for_nothing_recorded_is_refused_on_resume(site):
    sparkles(site, "run", "workflow.lua", code=1)
    (site.folder / "workflow.lua").write_text('run(JobBuilder("other"):setCommandTemplate("true"))\n')
    error = sparkles(site, "run", "workflow.lua", code=2).stderr
    assert "asks for nothing that run" in error
    assert "--new" in error
    assert site.query("SELECT count(*) FROM jobs") == [(2,)]
    sparkles(site, "run", "workflow.lua", "--new")
