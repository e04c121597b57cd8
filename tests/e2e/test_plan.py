"""plan, replay and fork through the real command: what would run and why, where a script leaves a record, a run from another's journal."""

import hashlib
import json

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
    return site.sparkles(*arguments, code=code)


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
        ("reused", "read"),
        ("reused", "submit"),
        ("reused", "wait"),
    ]
    (shell,) = [step for step in steps if step["kind"] == "shell"]
    (run,) = site.query("SELECT id FROM runs")
    assert (shell["verdict"], shell["asIn"]) == ("would run", run[0])
    assert [(step["verdict"], step["kind"]) for step in steps[-4:]] == [
        ("reused", "submit"),
        ("reused", "wait"),
        ("would run", "write"),
        ("reused", "read"),
    ]


VOLATILE = """local began, chance, id = now(), random(1, 1000000), uuid()
local rows = readCsv("p.csv")
local lines = map({"x", "y"}, function(item) return shell("echo " .. item).stdout end)
local first = run(JobBuilder("first"):setCommandTemplate("echo {a}; cat in.txt"):addFiles("in.txt"):createTasksFor(rows))
run(JobBuilder("drawn"):setCommandTemplate("echo {chance}"):createTasksFor{{chance = chance}})
"""


def script(site, text):
    (site.folder / "workflow.lua").write_text(text)


def verdicts(steps):
    return [(step["verdict"], step["kind"]) for step in steps]


def test_a_first_plan_of_a_script_with_strands(site):
    """A join is a step too: a plan of a run that does not exist must not record it."""
    script(site, VOLATILE)
    before = state(site)
    steps = plan(site)
    assert verdicts(steps)[3:] == [("would run", "read"), ("would run", "shell"), ("would run", "shell")]
    assert state(site) == before


def test_a_plan_goes_on_past_what_is_drawn_and_run_anew(site):
    script(site, VOLATILE)
    sparkles(site, "run", "workflow.lua")
    before = state(site)
    steps = plan(site)
    assert verdicts(steps) == [
        ("would run", "now"),
        ("would run", "random"),
        ("would run", "uuid"),
        ("reused", "read"),
        ("would run", "shell"),
        ("would run", "shell"),
        ("reused", "submit"),
        ("reused", "wait"),
        ("would run", "submit"),
        ("unknown", "wait"),
    ]
    (reason,) = steps[8]["reasons"]
    assert reason["why"] == "changed: parameter chance", "another number will be drawn, so its task is new"
    assert state(site) == before


@pytest.mark.parametrize(
    ("change", "why", "part"),
    [
        (lambda folder: (folder / "p.csv").write_text("a\n1\n2\n7\n"), "changed: parameter a", "parameter a"),
        (lambda folder: (folder / "in.txt").write_text("else\n"), "changed: input file in.txt", "input file in.txt"),
    ],
)
def test_a_plan_of_a_new_run_says_why_tasks_of_a_sweep_are_new(site, change, why, part):
    script(site, VOLATILE)
    sparkles(site, "run", "workflow.lua")
    change(site.folder)
    submit = plan(site)[6]
    (reason,) = submit["reasons"]
    assert (reason["why"], reason["differences"][0]["part"]) == (why, part)
    assert submit["tasksReused"] + submit["tasksNew"] == 3
    assert reason["count"] == submit["tasksNew"]


def digest(lines):
    return hashlib.sha256(lines.replace(b",", b"\n")).hexdigest()[:12]


def test_a_changed_read_shows_both_digests(site):
    sparkles(site, "run", "workflow.lua", code=1)
    (site.folder / "p.csv").write_text("a\n1\n2\n")
    text = sparkles(site, "plan", "workflow.lua").stdout
    (run,) = site.query("SELECT id FROM runs")
    assert f"would run  read    p.csv (the file changed since run {run[0]} read it)" in text
    assert f"-sha256 {digest(b'a,1,2,3,')}, 8 bytes" in text
    assert f"+sha256 {digest(b'a,1,2,')}, 6 bytes" in text
    (site.folder / "go").touch()
    sparkles(site, "run", "workflow.lua")
    (site.folder / "p.csv").write_text("a\n1\n")
    read = plan(site)[0]
    assert (read["verdict"], read["why"]) == ("would run", f"the file changed since run {run[0]} read it"), "a new run too"
    assert read["differences"][0]["before"] == f"sha256 {digest(b'a,1,2,')}, 6 bytes"


WRITES = """writeText("./o.txt", "a,b")
print(readText("o.txt"))
run(JobBuilder("j"):setCommandTemplate("cat o.txt"):addFiles("*.txt"))
"""


def test_a_written_file_is_one_file_however_it_is_spelt(site):
    script(site, WRITES)
    steps = plan(site)
    assert verdicts(steps) == [("would run", "write"), ("would run", "read"), ("would run", "submit"), ("unknown", "wait")]
    sparkles(site, "run", "workflow.lua")
    assert plan(site)[2]["tasksReused"] == 1


def test_a_recorded_write_whose_file_is_missing_would_be_written_again(site):
    sparkles(site, "run", "workflow.lua", code=1)
    (site.folder / "out.txt").unlink()
    (write,) = [step for step in plan(site) if step["kind"] == "write"]
    assert (write["verdict"], write["why"]) == ("would run", "the file is missing")


def test_a_fetch_is_compared_with_its_destination(site):
    script(site, 'local j = run(JobBuilder("j"):setCommandTemplate("echo a"))\nlocal f = fetch(j, "res")\n'
           'print(f.files)\nfail("stop")\n')  # fmt: skip
    sparkles(site, "run", "workflow.lua", code=1)
    fetched = plan(site)[-1]
    assert (fetched["kind"], fetched["verdict"]) == ("fetch", "reused")
    (site.folder / "res/tasks.csv").unlink()
    fetched = plan(site)[-1]
    assert (fetched["verdict"], fetched["why"]) == ("would run", "1 file to bring, missing there")
    (site.folder / "res/1/output.log").write_text("edited")
    assert plan(site)[-1]["why"].startswith("1 file to bring")


def test_a_fetched_result_has_no_field_of_the_journal(site):
    script(site, 'local j = run(JobBuilder("j"):setCommandTemplate("echo a"))\nprint(fetch(j, "res").outcome)\n')
    error = "workflow.lua:2: FetchResult has no field 'outcome'"
    for command in ("run", "plan"):
        assert error in sparkles(site, command, "workflow.lua", code=2).stderr


def test_a_file_that_a_step_has_to_make_first_is_unknown_not_missing(site):
    script(site, 'parallel{a = function() shell("echo hello > made.txt") end,\n  b = function() readText("made.txt") end}\n')
    steps = plan(site)
    assert verdicts(steps) == [("would run", "shell"), ("unknown", "read")]
    assert steps[1]["why"] == "unknown until the shell command at workflow.lua:1 has run"


def test_results_that_a_run_without_the_cache_makes_again_are_known(site):
    (site.folder / "go").touch()
    sparkles(site, "run", "workflow.lua")
    steps = plan(site, "--no-cache")
    assert (steps[1]["tasksNew"], steps[1]["why"]) == (3, "its tasks are run again whatever is known")
    assert steps[2]["why"] == "its tasks are run again; the plan goes on with what they gave before"
    assert verdicts(steps)[-1] == ("reused", "read")


def test_the_jobs_of_a_loop_are_compared_each_with_its_own(site):
    loop = 'for k = 1, 3 do run(JobBuilder("round"):setCommandTemplate("echo " .. k)) end\n'
    script(site, loop)
    sparkles(site, "run", "workflow.lua")
    script(site, loop.replace('"echo "', '"echo round "'))
    difference = plan(site)[0]["reasons"][0]["differences"][0]
    assert (difference["before"], difference["after"]) == ("echo 1", "echo round 1")


CAUGHT = """local ok = pcall(run, JobBuilder("bad"):setCommandTemplate("exit 3"))
writeText("after.txt", tostring(ok))
"""


def test_a_caught_failure_is_planned_as_it_would_replay(site):
    script(site, CAUGHT + 'shell("exit 4")\n')
    sparkles(site, "run", "workflow.lua", code=1)
    replayed = [("reused", "submit"), ("reused", "wait"), ("reused", "write")]
    assert verdicts(plan(site)) == [*replayed, ("would run", "shell")]


def test_what_a_run_that_its_script_gave_up_tries_again_is_planned(site):
    script(site, 'local done = shell("exit 3", {allowFailure = true})\n' + CAUGHT + 'fail("stop")\n')
    sparkles(site, "run", "workflow.lua", code=1)
    (step,) = plan(site)[:1]
    assert (step["verdict"], step["why"]) == ("would run", "it failed before the run ended")
    sparkles(site, "replay", "LAST")


def test_a_failure_that_ended_the_run_is_tried_again(site):
    script(site, 'run(JobBuilder("bad"):setCommandTemplate("exit 3"))\n')
    sparkles(site, "run", "workflow.lua", code=1)
    wait = plan(site)[-1]
    assert wait["verdict"] == "unknown"
    assert wait["why"].endswith("ends (failed or cancelled and tried again: 1 task)")


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
    planned = sparkles(site, "plan", "workflow.lua", code=2)
    assert "would not go on" in planned.stderr
    assert "asks for nothing that run" in planned.stderr
    assert "would run  submit" in planned.stdout
    sparkles(site, "plan", "workflow.lua", "--new")
    sparkles(site, "run", "workflow.lua", "--new")


DONE_THEN_FAILED = "shell('echo one')\nwriteText('x.txt', 'x')\nfail('stop')\n"


@pytest.mark.parametrize(
    "other",
    [
        "shell('echo two')\nmap({1}, function() shell('echo three') end)\n",
        "map({1}, function(x) return x end)\n",
        "local x = 1\n",
        "",
    ],
    ids=["same kind", "a join", "no steps", "empty"],
)
@pytest.mark.parametrize("how", ["run", "resume", "fork"])
def test_another_workflow_is_refused_and_leaves_no_trace(site, other, how):
    script = site.folder / "workflow.lua"
    script.write_text(DONE_THEN_FAILED)
    sparkles(site, "run", "workflow.lua", code=1)
    script.write_text(other)
    before = site.query("SELECT * FROM steps"), site.query("SELECT id, state, error FROM runs")
    arguments = {
        "run": ["run", "workflow.lua"],
        "resume": ["resume", "LAST"],
        "fork": ["run", "--fork", "LAST", "workflow.lua"],
    }
    error = sparkles(site, *arguments[how], code=2).stderr
    assert "workflow.lua asks for nothing that run r-" in error
    assert ("leave --fork out" if how == "fork" else "--new") in error
    assert (site.query("SELECT * FROM steps"), site.query("SELECT id, state, error FROM runs")) == before
    sparkles(site, "run", "workflow.lua", "--new")


@pytest.mark.parametrize(
    "edited",
    [
        "shell('date')\nshell('echo one')\n",
        "local n = tonumber(shell('echo 3').stdout)\nfor i = 1, n do writeText('x.txt', 'y' .. i) end\n",
        "shell('echo ' .. 'one')\nfileExists('y')\n",
        "shell('date')\nshell('echo ' .. args.n)\n",
    ],
    ids=["a step before", "a path behind an unknown step", "another text for the same step", "a part of the text"],
)
def test_an_edit_of_the_same_workflow_is_resumed(site, edited):
    script = site.folder / "workflow.lua"
    script.write_text(DONE_THEN_FAILED)
    sparkles(site, "run", "workflow.lua", "-p", "n=1", code=1)
    script.write_text(edited)
    sparkles(site, "run", "workflow.lua", "-p", "n=1")
    assert site.query("SELECT count(*) FROM runs") == [(1,)]


def test_a_run_that_keeps_nothing_goes_on_with_any_script(site):
    script = site.folder / "workflow.lua"
    script.write_text("print(now())\nreadText('p.csv')\nshell('exit 3')\n")
    sparkles(site, "run", "workflow.lua", code=1)
    script.write_text("shell('true')\n")
    sparkles(site, "run", "workflow.lua")
    assert site.query("SELECT count(*) FROM runs") == [(1,)]
