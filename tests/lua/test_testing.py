"""Test files of workflows: what stubs answer, what expectations say, and what a wrong test is told."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from sparkles.errors import UsageError
from sparkles.lua.test_host import Suite, find_tests
from tests.support.pace import quiet_s

WORKFLOW = """
local rows = readCsv("p.csv")
local result = run(JobBuilder("fit"):setCommandTemplate("fit {x}"):createTasksFor(rows))
writeCsv("out.csv", result:table())
"""
FILES = 'files { ["p.csv"] = "x\\n1\\n2\\n" }\n'


def outcomes(folder: Path, test: str, workflow: str = WORKFLOW, wanted=lambda _name: True, **others: str):
    """Runs a test file of this text beside w.lua."""
    for name, text in {"w": workflow, "w_test": test, **others}.items():
        (folder / f"{name}.lua").write_text(text)

    def find(word: str, beside: Path) -> tuple[Path, str]:
        if not (beside / word).is_file():
            raise UsageError(f"{word}: no such file beside the test")
        return beside / word, word

    suite = Suite(folder / "w_test.lua", "w_test.lua", root=folder, find=find, roots=lambda script: [script.parent])
    return list(suite.run(wanted))


def passes(folder: Path, body: str, workflow: str = WORKFLOW, **others: str) -> None:
    """One test with this body passes."""
    found = outcomes(folder, FILES + f'test("t", function()\n{body}\nend)', workflow, **others)
    assert [(each.name, each.error) for each in found] == [("t", "")]


def told(folder: Path, body: str, workflow: str = WORKFLOW) -> tuple[str, str]:
    """Where and how the test with this body, which begins in line 2, fails."""
    (found,) = outcomes(folder, 'test("t", function()\n' + body + "\nend)\n" + FILES, workflow)
    assert found.error
    return found.at, found.error


# What the workflow meets


def test_jobs_are_built_for_real(tmp_path: Path) -> None:
    """The stub gets the expanded command, parameters, inputs, variables, names and output patterns of each task."""
    workflow = """
    submit(JobBuilder("a"):setCommandTemplate("run {^file} {n}"):setEnv{A = 1}:setOutputs{"*.bin"}:addFiles("lib/**")
      :createTasksFor({{n = 1, file = "data/in.txt"}}, function() return {name = "first", env = {B = "x y"}} end))
    """
    passes(
        tmp_path,
        """
        files { ["lib/x/one.py"] = "", ["data/in.txt"] = "abc" }
        local seen
        onSubmit("a", function(job) seen = job end)
        local run = runWorkflow("w.lua")
        expect(run.submitted[1]):equals(seen)
        expect(seen.outputs):equals { "*.bin" }
        expect(seen.tasks[1]):equals {
          index = 1,
          name = "first",
          command = "run inputs/in.txt 1",
          params = { n = 1, file = "data/in.txt" },
          env = { A = "1", B = "x y" },
          files = { { dst = "x/one.py", src = "lib/x/one.py" }, { dst = "inputs/in.txt", src = "data/in.txt" } },
        }
        """,
        workflow,
    )


def test_outcomes_are_what_results_show(tmp_path: Path) -> None:
    """State, exit code, class, reason, results and outputs arrive as those of real tasks do; outputs are inputs of later jobs."""
    workflow = """
    local r = run(JobBuilder("a"):setCommandTemplate("a {value}"):setOutputs{"*.bin"}:createTasksFor{1, 2, 3, 4}, {allowFailures = true})
    for _, t in ipairs(r.tasks) do log("%d %s %s %s %s", t.index, t.state, t.exitCode, t.class, t.reason) end
    log("%s %d %d", r:ok(), r.failedCount, r.counts.succeeded)
    log("%s %g", r.tasks[1].results.score, r.tasks[1].seconds)
    run(JobBuilder("b"):setCommandTemplate("b"):addFiles(r.tasks[1].outputs["m.bin"]))
    fetch(r, "got")
    log(readText("got/1/m.bin") .. readText("got/1/results.json") .. #readCsv("got/tasks.csv"))
    """
    passes(
        tmp_path,
        """
        onSubmit("b", { {} })
        onSubmit("a", { { results = { score = 0.5 }, outputs = { ["m.bin"] = "M" }, seconds = 2 }, { exitCode = 3 },
          { class = "oom", reason = "too large" }, { state = "cancelled" } })
        local run = runWorkflow("w.lua")
        expect(run.logs):equals {
          "1 succeeded 0 nil nil",
          "2 failed 3 exit exit code 3",
          "3 failed nil oom too large",
          "4 cancelled nil cancelled cancelled",
          "false 3 1",
          "0.5 2",
          'M{"score":0.5}4',
        }
        expect(run:job("b").tasks[1].files[1].dst):equals("m.bin")
        expect(run.written):equals {}
        """,
        workflow,
    )


def test_an_error_of_a_job_can_be_caught_as_for_real(tmp_path: Path) -> None:
    """The error of a wait has the fields and the sentence of the engine's own."""
    workflow = """
    local ok, e = pcall(run, JobBuilder("a"):setCommandTemplate("a {value}"):createTasksFor{1, 2, 3})
    log("%s %s %d %s", e.kind, e.job, e.failed[1], e.message)
    """
    passes(
        tmp_path,
        """
        onSubmit("a", { {}, { exitCode = 3 }, { class = "timeout" } })
        expect(runWorkflow("w.lua").logs):equals { "JobFailed a-1 2 job a-1: 2 of 3 tasks failed (exit 3: 1, timeout: 1); "
          .. "first: task 2: exit code 3" }
        """,
        workflow,
    )


def test_the_last_stub_that_fits_answers(tmp_path: Path) -> None:
    """Names may have a `*`; a stub of the file holds in every test, one of a test in that one."""
    test = (
        FILES
        + """
    onSubmit("f*", function() return function() return { results = { v = "file" } } end end)
    test("own", function()
      onSubmit("fit", function() return function() return { results = { v = "own" } } end end)
      expect(runWorkflow("w.lua"):writtenCsv("out.csv")[1].v):equals("own")
    end)
    test("file's", function() expect(runWorkflow("w.lua"):writtenCsv("out.csv")[1].v):equals("file") end)
    """
    )
    assert [each.error for each in outcomes(tmp_path, test)] == ["", ""]


@pytest.mark.parametrize(
    ("outputs", "kept"),
    [("", "it has no setOutputs"), (':setOutputs{"m.txt", "*.csv"}', "setOutputs has 'm.txt', '*.csv'")],
)
def test_an_output_that_the_job_does_not_keep_fails_the_test(tmp_path: Path, outputs: str, kept: str) -> None:
    """A real task could not leave it: the message names both."""
    workflow = f"run(JobBuilder('a'):setCommandTemplate('a'){outputs})"
    body = 'onSubmit("a", { { outputs = { ["d/m.bin"] = "M" } } })\nrunWorkflow("w.lua")'
    message = f"runWorkflow: onSubmit gives task 1 of the job 'a' the output 'd/m.bin', which the job does not keep: {kept}"
    assert told(tmp_path, body, workflow) == ("w_test.lua:3", message)


@pytest.mark.parametrize(
    ("outcome", "found"),
    [
        ("", "gives none"),
        ("{ {}, {} }", "gives none"),
        ('{ { outputs = { ["m.bin"] = "M" } }, { outputs = { ["a.log"] = "" } } }', "gives 'a.log'"),
    ],
    ids=["no outcome", "nothing said", "another output"],
)
def test_a_task_does_not_succeed_without_a_required_output(tmp_path: Path, outcome: str, found: str) -> None:
    """No real one would: the message names the task, the output, and both ways to mend the stub."""
    workflow = """run(JobBuilder("a"):setCommandTemplate("a"):setOutputs{{"*.bin", required=true}, "*.log"}
      :createTasksFor(product{n={1, 2}}))"""
    body = f'onSubmit("a"{", " + outcome if outcome else ""})\nrunWorkflow("w.lua")'
    at, message = told(tmp_path, body, workflow)
    which = 2 if "m.bin" in outcome else 1
    assert at == "w_test.lua:3"
    assert message == (
        f"runWorkflow: onSubmit lets task {which} of the job 'a' succeed without its required output '*.bin' ({found}):"
        ' add it to the outcome\'s outputs, or let the task fail with class = "output"'
    )


def test_a_failed_task_needs_no_output(tmp_path: Path) -> None:
    """Nor does one that does not end."""
    workflow = """local r = wait(submit(JobBuilder("a"):setCommandTemplate("a {n}"):setOutputs{{"m.bin", required=true}}
      :createTasksFor(product{n={1, 2}})), {allowFailures=true}) log(r.tasks[1].reason)"""
    body = """onSubmit("a", { { class = "output", reason = "m.bin is missing" }, { outputs = { ["m.bin"] = "M" } } })
    expect(runWorkflow("w.lua").logs[1]):equals("m.bin is missing")"""
    passes(tmp_path, body, workflow)


def test_an_output_that_a_pattern_matches_is_kept(tmp_path: Path) -> None:
    """`**` crosses folders, `*` does not."""
    workflow = """log(next(run(JobBuilder("a"):setCommandTemplate("a"):setOutputs{"**/*.bin"}).tasks[1].outputs))"""
    passes(
        tmp_path,
        'onSubmit("a", { { outputs = { ["d/e/m.bin"] = "M" } } })\nexpect(runWorkflow("w.lua").logs[1]):equals("d/e/m.bin")',
        workflow,
    )


@pytest.mark.parametrize("expectation", ["expect(r.ok):isTrue()", "expect(r.kind):isNil()", 'expect(r.logs):equals{"x"}'])
def test_an_unmet_expectation_shows_why_the_workflow_failed(tmp_path: Path, expectation: str) -> None:
    """Whether or not the test looked at `ok`; once."""
    at, error = told(tmp_path, f'local r = runWorkflow("w.lua")\n{expectation}', 'fail("no luck")')
    assert at == "w_test.lua:3"
    assert error.endswith("\nthe workflow failed: w.lua:1: no luck")
    _, error = told(tmp_path, 'expect(runWorkflow("w.lua").failed):contains("bad")', 'fail("no luck")')
    assert error == 'expected a text with "bad", got "w.lua:1: no luck"'


def test_shell_and_steps(tmp_path: Path) -> None:
    """shell is answered by part or pattern; a step runs its function unless it has a stub."""
    workflow = """
    log(shell("git rev-parse HEAD").stdout)
    log(shell({"wc", "-l", "f"}).stdout)
    local ok, e = pcall(shell, "false")
    log("%s %d %s", e.kind, e.exitCode, e.stderr)
    log("%d", shell("false", {allowFailure = true}).exitCode)
    log("%s", step("odd", function() end, nil, 1, nil, 2, nil))
    log("%d %d", step("double", function(x) return x * 2 end, 4), step("slow", function() return 1 end))
    """
    passes(
        tmp_path,
        """
        onShell("rev-parse", "0a1b")
        onShell("^wc %-l (%w+)$", function(command) return { stdout = command } end)
        onShell("false", { exitCode = 1, stderr = "no" })
        onStep("sl*", 42)
        onStep("odd", function(a, b, c, d, ...) return tostring(a) .. b .. tostring(c) .. d .. select("#", ...) end)
        local run = runWorkflow("w.lua")
        expect(run.logs):equals { "0a1b", "wc -l f", "ShellFailed 1 no", "1", "nil1nil21", "8 42" }
        expect(run.shells):hasLength(4)
        """,
        workflow,
    )


def test_files_are_in_memory_over_real_ones(tmp_path: Path) -> None:
    """Given files hide real ones; what was written can be read again; nothing is written for real."""
    (tmp_path / "real.json").write_text('{"a": 1}')
    (tmp_path / "p.txt").write_text("real")
    workflow = """
    writeText("out/a.txt", readText("p.txt") .. readJson("real.json").a)
    log("%s %s %s %s", fileExists("out"), fileExists("none"), fileExists("real.json"), readText("./out/a.txt"))
    writeJson("b.json", {n = 1})
    """
    passes(
        tmp_path,
        """
        files { ["p.txt"] = "given" }
        local run = runWorkflow("w.lua")
        expect(run.logs):equals { "true false true given1" }
        expect(run.written):equals { ["out/a.txt"] = "given1", ["b.json"] = '{\\n  "n": 1\\n}\\n' }
        expect(run:writtenJson("b.json")):equals { n = 1 }
        expect(readText("p.txt")):equals("real") -- a test's own reads are of its folder
        """,
        workflow,
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.txt", "real.json", "w.lua", "w_test.lua"]


def test_time_passes_at_once_and_in_order(tmp_path: Path) -> None:
    """Sleeping strands wake up as they would; a wait with a timeout for a task that does not end expires."""
    workflow = """
    local began = now()
    parallel{
      a = function() sleep("2h") log("a %g", now() - began) end,
      b = function() sleep("1h") log("b %g", now() - began) end,
    }
    local ok, e = pcall(run, JobBuilder("j"):setCommandTemplate("x"), {timeout = 60})
    log("%s %g", e.kind, now() - began)
    """
    began = time.monotonic()
    passes(
        tmp_path,
        """
        onSubmit("j", { { state = "pending" } })
        local run = runWorkflow("w.lua", nil, { now = 1000 })
        expect(run.logs):equals { "b 3600", "a 7200", "WaitTimeout 7260" }
        expect(run.slept):equals(7260)
        """,
        workflow,
    )
    assert time.monotonic() - began < 30  # of more than 7,000


def test_chance_repeats(tmp_path: Path) -> None:
    """The same seed draws the same, strands in whichever order; another seed others."""
    workflow = """
    local drawn = parallel{a = function() sleep(2) return random(1, 1000000) end, b = function() return random(1, 1000000) end}
    log("%s %d %d %g %d", uuid(), drawn.a, drawn.b, random(), math.random(1000000))
    """
    passes(
        tmp_path,
        """
        local function drawn(seed) return runWorkflow("w.lua", {}, { seed = seed }).logs[1] end
        expect(drawn(1)):equals(drawn(1))
        expect(drawn(1)):equals(runWorkflow("w.lua").logs[1])
        expect(drawn(1)):differsFrom(drawn(2))
        expect(drawn(1)):matches("^%x+%-%x+%-4%x+%-[89ab]%x+%-%x+ %d+ %d+ 0%.%d+ %d+$")
        """,
        workflow,
    )


def test_strands_submit_side_by_side(tmp_path: Path) -> None:
    """Stubs answer jobs of parallel strands; the first error is raised in the parent."""
    workflow = """
    local function one(n) return run(JobBuilder("job-" .. n):setCommandTemplate("x")).tasks[1].results end
    log(table.concat(map({"a", "b", "c"}, one), " "))
    local ok, e = pcall(map, {"a", "bad", "c"}, one)
    log("%s %s", e.kind, e.position)
    """
    passes(
        tmp_path,
        """
        onSubmit("job-*", function(job) return { { results = job.name } } end)
        onSubmit("job-bad", { { exitCode = 1 } })
        local run = runWorkflow("w.lua")
        expect(run.logs):equals { "job-a job-b job-c", "JobFailed w.lua:2" }
        """,
        workflow,
    )


def test_parameters_and_failures(tmp_path: Path) -> None:
    """Parameters are texts as -p gives them; how the run ended can be read."""
    workflow = """
    local p = params{n = {type = "integer"}, x = {type = "number", default = 1}, b = {type = "boolean", default = false}}
    log("%d %g %s", p.n, p.x, p.b)
    if p.n == 0 then fail("n is 0") end
    if p.n == 1 then error("one") end
    """
    passes(
        tmp_path,
        """
        local run = runWorkflow("w.lua", { n = 2, x = 0.5, b = true })
        expect(run.ok):isTrue()
        expect(run.failed):isNil()
        expect(run.logs):equals { "2 0.5 true" }
        run = runWorkflow("w.lua", { n = 0 })
        expect(run.ok):isFalse()
        expect({ run.failed, run.kind }):equals { "w.lua:4: n is 0", "Failed" }
        expect(runWorkflow("w.lua", { n = 1 }).failed):equals("w.lua:5: one")
        run = runWorkflow("w.lua", { m = 1, n = "x" })
        expect(run.failed):contains("-p n=x: expected an integer, found 'x'")
        expect(run.kind):equals("Usage")
        """,
        workflow,
    )


def test_a_workflow_that_does_not_compile_has_failed(tmp_path: Path) -> None:
    """With the line of the mistake."""
    passes(tmp_path, "expect(runWorkflow('w.lua').failed):contains('w.lua:1: ')", "local = 1")


def test_modules_can_be_tested_alone(tmp_path: Path) -> None:
    """require finds what stands beside the test."""
    passes(tmp_path, 'expect(require("sums").add(1, 2)):equals(3)', sums="return {add = function(a, b) return a + b end}")


# Expectations


@pytest.mark.parametrize(
    "met",
    [
        "expect(1):equals(1.0)",
        "expect({a = {1, {b = null}}}):equals{a = {1, {b = null}}}",
        "expect(0/0):equals(0/0)",
        "expect({1}):differsFrom{1, 2}",
        'expect("a.b"):contains(".")',
        "expect({{x = 1}, {x = 2}}):contains{x = 2}",
        "expect({a = 1, b = {2}}):contains{b = {2}}",
        'expect("v12"):matches("^v%d+$")',
        'expect(function() error("no [luck]") end):raises("[luck]")',
        "expect(function() error{} end):raises()",
        'expect(function() error("v12") end):raises("v%d+")',
        "expect(0.1 + 0.2):isNear(0.3):isNear(0.2, 0.2)",
        "expect({1, 2}):hasLength(2)",
        'expect("abc"):hasLength(3)',
        "expect():isNil()",
    ],
)
def test_expectations_that_are_met(tmp_path: Path, met: str) -> None:
    """They pass."""
    passes(tmp_path, met)


@pytest.mark.parametrize(
    ("unmet", "message"),
    [
        ("expect(1):equals(2)", "expected 2, got 1"),
        ("expect(nil):equals(1)", "expected 1, got nil"),
        ('expect("a"):equals(1)', 'expected 1, got "a"'),
        ("expect({a = {1, {b = 2}}}):equals{a = {1, {b = 3}}}", "value.a[2].b: expected 3, got 2"),
        ("expect({1, 2, 3}):equals{1, 2}", "value[3]: expected nothing, got 3"),
        ("expect({1}):equals{1, 2}", "value[2]: expected 2, got nil"),
        ("expect({colour = 1}):equals{color = 1}", "value.color: expected 1, got nothing. Did you mean 'colour'?"),
        ('expect({["a b"] = 1}):equals{["a b"] = {}}', 'value["a b"]: expected {}, got 1'),
        ('expect("a\\nb\\nc\\n"):equals("a\\nB\\nc\\n")', 'line 2: expected "B", got "b"'),
        ('expect("a\\n"):equals("a\\nb\\n")', 'line 2: expected "b", got no more lines'),
        ('expect("a\\n"):equals("a")', 'expected "a", got "a\\n"'),
        ("expect(1):differsFrom(1)", "expected anything but 1"),
        ('expect("abc"):contains("x")', 'expected a text with "x", got "abc"'),
        ("expect({1, 2}):contains(3)", "expected a list with 3, got {1, 2}"),
        ("expect({a = 1}):contains{a = 2}", "value.a: expected 2, got 1"),
        ("expect(nil):contains('x')", "expected a text, a list or a table, got nil"),
        ('expect("abc"):matches("^b")', 'expected a text that matches "^b", got "abc"'),
        ("expect(nil):matches('x')", 'expected a text that matches "x", got nil'),
        ("expect(function() end):raises('x')", 'expected an error with "x", got none'),
        ("expect(function() error('y', 0) end):raises('x')", 'expected an error with "x", got "y"'),
        ("expect(1):raises('x')", "raises: expected expect(function), got expect(number)"),
        ("expect(1):isTrue()", "expected true, got 1"),
        ("expect(true):isFalse()", "expected false, got true"),
        ("expect(false):isNil()", "expected nil, got false"),
        ("expect(1):isNear(2, 0.5)", "expected a number within 0.5 of 2, got 1"),
        ("expect('x'):isNear(2)", "expected a number near 2, got string"),
        ("expect({1}):hasLength(2)", "expected length 2, got 1: {1}"),
        ("expect(1):hasLength(2)", "expected a text or a list of length 2, got number"),
        ("expect(1):equal(2)", "Expectation has no method 'equal'. Did you mean 'equals'?"),
        ("expect(1).equals(2)", "Expectation.equals: called with '.', expected ':' as in value:equals(...)"),
        ("fail('on purpose')", "on purpose"),
    ],
)
def test_expectations_that_are_not_met(tmp_path: Path, unmet: str, message: str) -> None:
    """The line of the expectation, and the first difference."""
    assert told(tmp_path, "local _\n" + unmet) == ("w_test.lua:3", message)


def test_a_difference_in_a_module_is_at_its_line(tmp_path: Path) -> None:
    """A helper's expectation has the helper's line, and a traceback."""
    (found,) = outcomes(
        tmp_path,
        'local h = require("h")\ntest("t", function()\n  h.check(1)\nend)',
        h="return {check = function(x)\n  expect(x):equals(2)\nend}",
    )
    assert (found.at, found.error) == ("h.lua:2", "expected 2, got 1")
    assert found.traceback.splitlines() == ["h.lua:2: in function 'check'", "w_test.lua:3: in function 'fn'"]


# Wrong tests


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            'runWorkflow("w.lua")',
            "runWorkflow: w.lua:3 submits the job 'fit', for which there is no stub (there is no onSubmit in this test)",
        ),
        (
            'onSubmit("fti") onSubmit("g*") runWorkflow("w.lua")',
            "runWorkflow: w.lua:3 submits the job 'fit', for which there is no stub (onSubmit has 'fti', 'g*')",
        ),
        ('onSubmit("fit", {{}}) runWorkflow("w.lua")', "onSubmit 'fit' (w_test.lua:2): expected an outcome for each of 2 tasks, got 1"),
        ('onSubmit("fit", {{}, {exitcode = 1}})', "onSubmit: answer[2].exitcode: unknown option. Did you mean 'exitCode'?"),
        (
            'onSubmit("fit", function() return {{}, {exitcode = 1}} end) runWorkflow("w.lua")',
            "onSubmit 'fit': outcomes[2].exitcode: unknown option. Did you mean 'exitCode'?",
        ),
        (
            'onSubmit("fit", {{}, {state = "faild"}}) runWorkflow("w.lua")',
            "onSubmit 'fit': outcomes[2].state: expected succeeded, failed, cancelled or pending, got 'faild'. Did you mean 'failed'?",
        ),
        (
            'onSubmit("fit", function() return function() return 1 end end) runWorkflow("w.lua")',
            "onSubmit 'fit': outcome of task 1: expected table, got number",
        ),
        (
            'onSubmit("fit", function() return 1 end) runWorkflow("w.lua")',
            "onSubmit 'fit' (w_test.lua:2): expected list of outcomes, function or nil, got number",
        ),
        (
            'onSubmit("fit", function(job) return job.task end) runWorkflow("w.lua")',
            "SubmittedJob has no field 'task'. Did you mean 'tasks'?",
        ),
        (
            'onSubmit("fit", function() readText("x") end) runWorkflow("w.lua")',
            "readText: not allowed inside a stub (allowed: top level of the script)",
        ),
        ('runWorkflow("x.lua")', "runWorkflow: x.lua: no such file beside the test"),
        ("runWorkflow()", "runWorkflow: workflow: expected string, got nil"),
        ('runWorkflow("w.lua", {}, {sede = 1})', "runWorkflow: opts.sede: unknown option. Did you mean 'seed'?"),
        ('test("inner", function() end)', "test: not allowed inside a test"),
        ('submit(JobBuilder("x"))', "JobBuilder: not in a test file: runWorkflow(...) runs the workflow, and stubs answer it"),
        ("exepct(1)", "unknown name 'exepct'. Did you mean 'expect'?"),
        (
            'onSubmit("fit") runWorkflow("w.lua"):job("fut")',
            "job: the workflow submitted no job 'fut' (jobs: fit). Did you mean 'fit'?",
        ),
        (
            'onSubmit("fit") runWorkflow("w.lua"):writtenCsv("uot.csv")',
            "writtenCsv: the workflow did not write 'uot.csv' (written: out.csv). Did you mean 'out.csv'?",
        ),
        (
            'onSubmit("fit", {{}, {exitCode = 1}}) runWorkflow("w.lua")',
            "the workflow failed, and the test does not look at run.failed or run.ok: "
            "w.lua:3: job fit-1: 1 of 2 tasks failed (exit 1: 1); first: task 2: exit code 1",
        ),
        (
            'onSubmit("fit", {{}, {exitCode = 1}}) expect(runWorkflow("w.lua").written["out.csv"]):equals("x")',
            'expected "x", got nil\nthe workflow failed: '
            "w.lua:3: job fit-1: 1 of 2 tasks failed (exit 1: 1); first: task 2: exit code 1",
        ),
        ('onSubmit("fit", function(job) expect(job.name):equals("x") end) pcall(runWorkflow, "w.lua") fail("after")', "after"),
    ],
)  # fmt: skip
def test_wrong_tests(tmp_path: Path, body: str, message: str) -> None:
    """What is wrong, at its line."""
    assert told(tmp_path, body) == ("w_test.lua:2", message)


def test_a_command_without_a_stub(tmp_path: Path) -> None:
    """It is named, and so are the stubs there are."""
    body = 'onShell("ls", "") runWorkflow("w.lua")'
    message = "runWorkflow: w.lua:1 runs `rm -r x` with shell, for which there is no stub (onShell has 'ls')"
    assert told(tmp_path, body, 'shell({"rm", "-r", "x"})') == ("w_test.lua:2", message)


def test_a_wait_without_end_is_refused(tmp_path: Path) -> None:
    """A pending task and no timeout: the test would hang."""
    body = 'onSubmit("fit", {{}, {state = "pending"}}) expect(runWorkflow("w.lua").failed):equals("")'
    assert (
        "w.lua:3: wait: fit-1: a stub leaves tasks pending, and a wait without timeout would not end" in told(tmp_path, body)[1]
    )


def test_a_stub_that_fails_leaves_the_workflow_and_the_next_run_is_whole(tmp_path: Path) -> None:
    """A caught error of a stub: the test goes on with another run."""
    passes(
        tmp_path,
        """
        onSubmit("fit", function() error("oh") end)
        expect(function() runWorkflow("w.lua") end):raises("oh")
        onSubmit("fit")
        expect(runWorkflow("w.lua").ok):isTrue()
        """,
    )


@pytest.mark.parametrize(
    ("text", "at", "message"),
    [
        ("local = 1", "w_test.lua:1", "<name> expected near '='"),
        ("x = 1", "w_test.lua:1", "'x' is not declared. Did you forget 'local'?"),
        ("local x = 1", "w_test.lua", 'declares no tests; test("what holds", function() ... end) declares one'),
        ('\nrunWorkflow("w.lua")', "w_test.lua:2", "runWorkflow: not allowed outside of a test"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path: Path, text: str, at: str, message: str) -> None:
    """One failure without a name."""
    (found,) = outcomes(tmp_path, text)
    assert (found.name, found.at, found.error) == ("", at, message)


def test_tests_are_chosen_by_name_and_draw_the_same(tmp_path: Path) -> None:
    """A test's chance does not depend on which others run; what it prints is kept."""
    test = 'for _, name in ipairs{"a", "b"} do test(name, function() print(math.random(1000000)) end) end'
    both = outcomes(tmp_path, test)
    (alone,) = outcomes(tmp_path, test, wanted=lambda name: name == "b")
    assert [each.name for each in both] == ["a", "b"]
    assert both[0].talk != both[1].talk == alone.talk


def test_a_test_takes_milliseconds(tmp_path: Path) -> None:
    """Under 50 ms of processor time each, as on a quiet machine: a run of a workflow of its own, and reading the file, included."""
    test = FILES + 'onSubmit("fit")\nfor i = 1, 5 do test("t" .. i, function() runWorkflow("w.lua") end) end'
    assert quiet_s(lambda: outcomes(tmp_path, test)) < 5 * 0.05


def test_files_are_found(tmp_path: Path) -> None:
    """Below folders, state and hidden ones aside; each once; a file must be a test."""
    for name in ("a_test.lua", "sub/b_test.lua", ".sparkles/c_test.lua", "sub/.venv/d_test.lua", "sub/w.lua"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found = find_tests([tmp_path, tmp_path / "sub" / "b_test.lua"])
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["a_test.lua", "sub/b_test.lua"]
    with pytest.raises(UsageError, match=r"not a test file: its name does not end in _test\.lua"):
        find_tests([tmp_path / "sub" / "w.lua"])
    with pytest.raises(UsageError, match="none: no such file or folder"):
        find_tests([tmp_path / "none"])
