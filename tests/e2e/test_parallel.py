"""parallel, map and spawn in real scripts, through the real command."""

import re
import subprocess

import pytest

from tests.support.site import Site

pytestmark = pytest.mark.e2e


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path)
    yield site
    site.clear()


def run(site, script, *options):
    (site.folder / "workflow.lua").write_text(script)
    return subprocess.run(
        [*site.command, *options], cwd=site.folder, env=site.environ, capture_output=True, text=True, timeout=60
    )


def test_jobs_in_parallel_and_results_in_the_callers_order(site):
    done = run(
        site,
        """
        local results = map({3, 1, 2, 1}, function(n, i)
          local job = JobBuilder("j"):setCommandTemplate("echo {n} > out.txt"):setOutputs{"out.txt"}:createTasksFor{{n = n}}
          return {n = n, i = i, total = run(job).total}
        end, {limit = 2})
        for _, r in ipairs(results) do print(r.n, r.i, r.total) end
        """,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:4] == ["3\t1\t1", "1\t2\t1", "2\t3\t1", "1\t4\t1"]


def test_an_error_surfaces_with_the_line_that_raised_it(site):
    done = run(
        site,
        "parallel{\n  a = function() sleep(60) end,\n  b = function()\n    shell('exit 4')\n  end,\n}\n",
    )
    assert done.returncode == 1
    assert "workflow.lua:4: " in done.stderr
    assert "exit code 4" in done.stderr


def test_pcall_around_a_strand_and_the_error_as_a_value(site):
    done = run(
        site,
        """
        local ok, e = pcall(parallel, {a = function() error("no luck", 0) end, b = function() return sleep(30) end})
        print(ok, e.message, e.kind)
        local s = spawn(function() error("later") end)
        print(pcall(s.await, s))
        """,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "false\tno luck\tScriptError"
    assert re.match(r"false\tworkflow.lua:\d+: later", done.stdout.splitlines()[1])


def test_a_table_keeps_its_fields_from_strand_to_strand_and_on_replay(site):
    script = """
        local marked = setmetatable({}, {__tostring = function() return "marked" end})
        local _, a = pcall(parallel, {x = function() parallel{y = function() error({code = 3, deep = {1}}) end} end})
        local s = spawn(function() error(marked) end)
        local _, b = pcall(s.await, s)
        local _, c = pcall(s.await, s)
        local _, d = pcall(step, "s", function() error({code = 5}) end)
        local _, e = pcall(parallel, {a = function() shell("exit 7") end})
        writeText("seen.txt", table.concat({a.code, a.deep[1], tostring(b == marked and c == marked), d.code, d.kind, e.exitCode}, " "))
        if not fileExists("go") then fail("not yet") end
        parallel{a = function()
          error({code = 3})
        end}
    """
    assert run(site, script).returncode == 1
    assert (site.folder / "seen.txt").read_text() == "3 1 true 5 StepFailed 7"
    (site.folder / "go").touch()
    again = run(site, script)
    assert (site.folder / "seen.txt").read_text() == "3 1 true 5 StepFailed 7"
    assert "workflow.lua:12: error value: {code = 3}" in again.stderr


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("return shell('false')", "workflow.lua:1: shell"),
        ("local j = submit(JobBuilder('a'):setCommandTemplate('false'))\nreturn wait(j)", "workflow.lua:2: job a-"),
        (
            "map({1}, function(x)\n  local y = 1\n  if y == 2 then return tostring(y) end\n  return shell('false')\nend)",
            "workflow.lua:4: shell",
        ),
        (
            "local function f(x) return shell('false') end\nmap({1},\n  function(x)\n    return f(x)\n  end)",
            "workflow.lua:4: shell",
        ),
        ("map({1},\n  function() if x then return shell('a') end\n  return shell('') end)", "workflow.lua"),
        ("map({1}, function()\n  return shell('')\nend)", "workflow.lua:2: shell: command: expected a command"),
        ("local function f() return shell('false') end\n\nlocal x = f()", "workflow.lua:3: shell"),
        ("local s\ns = spawn(function() now() return s:await() end)\nreturn s:await()", "workflow.lua:2: await: deadlock"),
    ],
)
def test_an_error_in_a_tail_call_has_a_position(site, script, message):
    done = run(site, script)
    assert f"error: {message}" in done.stderr


def test_fail_in_a_strand_ends_the_run_and_is_not_caught(site):
    done = run(
        site, 'pcall(parallel, {\n  a = function() sleep(60) end,\n  b = function() fail("enough") end})\nprint("never")'
    )
    assert done.returncode == 1
    assert "workflow.lua:3: enough" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("parallel{a = 5}", "workflow.lua:1: parallel: a: expected function, got number"),
        ("parallel{limit = 0, a = function() end}", "workflow.lua:1: parallel: limit: expected 1 or more, got 0"),
        ("map({1}, 2)", "workflow.lua:1: map: fn: expected function, got number"),
        ("map({1}, print, {limmit = 2})", "workflow.lua:1: map: opts.limmit: unknown option. Did you mean 'limit'?"),
        ("map({function() end}, print)", "workflow.lua:1: map: list[1]"),
        (
            'writeJson("x.json", {a = {spawn(now)}})',
            "workflow.lua:1: writeJson: value.a[1]: expected a value that can be stored",
        ),
        ("spawn(1)", "workflow.lua:1: spawn: fn: expected function, got number"),
        ("local s = spawn(function() end) s.await()", "workflow.lua:1: Strand.await: called with '.', expected ':'"),
        ("local s\ns = spawn(function() now() s:await() end)\ns:await()", "deadlock"),
    ],
)
def test_mistakes_are_refused_at_the_authors_line(site, script, message):
    done = run(site, script)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr


def test_a_run_with_strands_resumes_to_the_same_values(site):
    script = """
        local out = map({"a", "b", "c"}, function(name) sleep(random() / 50) return name .. random(1, 1000000) end)
        writeText("out.txt", table.concat(out, " "))
        if not fileExists("go") then fail("not yet") end
    """
    first = run(site, script)
    assert first.returncode == 1
    before = (site.folder / "out.txt").read_text()
    (site.folder / "go").touch()
    second = run(site, script)
    assert second.returncode == 0, second.stderr
    assert (site.folder / "out.txt").read_text() == before


def test_a_caught_error_of_a_strand_is_not_tried_again_and_its_siblings_effects_are_there(site):
    script = """
        local count = {slept = 0}
        local ok, e = pcall(map, {"bad", "slow"}, function(name)
          count[name] = "began"
          if name == "bad" then sleep(0.2) shell("echo tried >> tried; exit 3") end
          for i = 1, 100 do sleep(0.05) count.slept = count.slept + 1 end
        end)
        local awaited = pcall(function() return spawn(function() shell("echo tried >> tried; exit 3") end):await() end)
        writeText("seen.txt", tostring(ok) .. tostring(awaited) .. count.bad .. count.slow .. tostring(count.slept > 0) .. count.slept)
        shell("test -e go")
    """
    assert run(site, script).returncode == 1
    before = (site.folder / "seen.txt").read_text()
    assert before.startswith("falsefalsebeganbegantrue")
    (site.folder / "go").touch()
    second = run(site, script)
    assert second.returncode == 0, second.stderr
    assert (site.folder / "seen.txt").read_text() == before
    assert (site.folder / "tried").read_text() == "tried\n" * 2


def test_the_same_command_in_two_strands_has_its_own_output(site):
    done = run(
        site,
        'local t = map({"x", "y", "z"}, function() return shell("echo $$; sleep 0.1").stdout end)\n'
        "print(t[1] ~= t[2] and t[2] ~= t[3] and t[1] ~= t[3])\n",
    )
    assert done.stdout == "true\n", done.stderr


@pytest.mark.parametrize(
    "script",
    [
        'shell("echo a\\0b")',
        'shell("true", {env = {["A=B"] = "1"}})',
        'readText("~nosuchuser/x")',
        'readText(("x"):rep(300))',
        'run(JobBuilder("a"):setCommandTemplate("true"):setOutputs{"[z-a].txt"})',
        'fetch(submit(JobBuilder("a"):setCommandTemplate("true")), ".sparkles/cas")',
    ],
)
def test_odd_arguments_are_the_scripts_mistake(site, script):
    done = run(site, script)
    assert done.returncode == 2, done.stderr
    assert "workflow.lua:1: " in done.stderr


def test_a_task_that_removes_its_scratch_directory_is_one_attempt(site):
    done = run(site, """run(JobBuilder("a"):setCommandTemplate('rmdir "$PWD"'):setOutputs{"*.csv"})""")
    assert done.returncode == 0, done.stderr
    assert site.query("SELECT state, attempt FROM tasks") == [("succeeded", 1)]


def test_a_thousand_strands_that_wait(site):
    done = run(
        site,
        """
        local list = {}
        for i = 1, 1000 do list[i] = i end
        local t = map(list, function(i) sleep(0.5) return i end)
        print(#t)
        """,
    )
    assert (done.returncode, done.stdout) == (0, "1000\n"), done.stderr


def test_a_module_that_another_strand_is_loading(site):
    """The strands do not require each other; one that was cancelled while it loaded a module does not keep it from being loaded."""
    (site.folder / "lib.lua").write_text('shell("sleep 0.2")\nreturn {a = 1}\n')
    done = run(site, 'parallel{function() require("lib") end, function()\n  require("lib") end}')
    assert done.returncode == 2
    assert (
        "workflow.lua:2: require: 'lib' is being loaded by another strand, which waits for a step at the top of it"
        in done.stderr
    )
    again = 'pcall(parallel, {a = function() require("lib") end, b = function() error("x") end})\nprint(require("lib").a)'
    done = run(site, again, "--new")
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
