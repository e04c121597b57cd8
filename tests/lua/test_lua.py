"""Runs the tests that are written in Lua, and holds what only the host can see: commands, pages, seeds, sources, generated files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sparkles.engine import commands as ask
from sparkles.engine.commands import Asked, Done, Ended, FileDraft, Raised, ResourcesDraft, StepError, TaskDraft
from sparkles.errors import UsageError
from sparkles.lua import api, stubs
from sparkles.lua.host import ScriptHost
from sparkles.lua.runtime import FOLDER
from sparkles.lua.source import function_source, literals
from sparkles.model import OomRetry, OutputGlob, RetryPolicy
from tests.lua.fake import FakeEngine, host_for, run, run_script
from tests.support.pace import quiet_s

HERE = Path(__file__).resolve().parent
CASES = [
    (path.stem, name)
    for path in sorted(HERE.glob("*_test.lua"))
    for name in re.findall(r"^function tests\.(\w+)\(", path.read_text(), re.MULTILINE)
]
ARGS = {"alpha": "0.5", "verbose": "yes", "name": "007"}


@pytest.mark.parametrize(("module", "name"), CASES)
def test_in_lua(tmp_path, module, name):
    """The function returns without an error."""
    args = ARGS if name == "params_type_the_arguments" else {}
    ended, _ = run_script(tmp_path, f'require("{module}").{name}()', roots=[HERE], args=args)
    assert ended.error is None, f"{ended.position}: {ended.error.message}\n{ended.traceback}"


def _draft(tmp_path, text):
    ended, engine = run_script(tmp_path, 'local b = JobBuilder("fit")\n' + text + "\nsubmit(b)")
    assert ended.error is None, ended.error
    return engine.asked[-1].draft


def test_setters_fill_the_draft(tmp_path):
    """Every setter's value arrives in the form that the engine expects."""
    draft = _draft(
        tmp_path,
        """
        b:setCommandTemplate{"echo", "{x}"}
        b:setOutputs{"a.txt", {"model.bin", "m/**", required = true}}
        b:setImage("align:3"):setResources{cpu = "500m", memory = "1.5Gi", disk = 1000, gpu = 1}
        b:setEnv{A = 1, B = "x", C = 0.1}:setSecretEnv{T = "k8s:s/k"}:setWorkDir("sub"):setTimeout("1h 30m")
        b:setRetry{attempts = 3, exitCodes = {1, 75}, backoff = "10s", backoffFactor = 3, maxBackoff = 60,
          oom = {memory = "x2", max = "64Gi"}}
        b:setParallelism(4):setPriority(-2):setProperties{team = "bio", n = 3, x = 1.5, ok = true}:setZones{"z1", "z2"}
        b:setProvisioning("flex"):setPodTemplate{spec = {nodeSelector = {a = "b"}}}:setCache(false):setMaxFailures("10%")
        b:addFiles("a", {src = "b", dst = "c/", link = true}, {"d", {src = "e"}})
        b:addFiles("f")
        """,
    )
    assert draft.command == ("echo", "{x}")
    assert draft.outputs == (OutputGlob("a.txt"), OutputGlob("model.bin", True), OutputGlob("m/**", True))
    assert (draft.image, draft.resources) == ("align:3", ResourcesDraft("500m", "1.5Gi", 1000, 1))
    assert draft.env == {"A": "1", "B": "x", "C": "0.1"}
    assert (draft.secret_env, draft.work_dir, draft.timeout_s) == ({"T": "k8s:s/k"}, "sub", 5400.0)
    assert draft.retry == RetryPolicy(3, (1, 75), 10.0, 3.0, 60.0, OomRetry(2.0, 64 << 30))
    assert (draft.parallelism, draft.priority, draft.zones, draft.provisioning) == (4, -2, ("z1", "z2"), "flex")
    assert draft.properties == {"team": "bio", "n": 3, "x": 1.5, "ok": True}
    assert draft.pod_template == {"spec": {"nodeSelector": {"a": "b"}}}
    assert (draft.cache, draft.max_failures, draft.tasks) == (False, "10%", None)
    assert draft.files == (FileDraft("a"), FileDraft("b", "c/", True), FileDraft("d"), FileDraft("e"), FileDraft("f"))
    assert draft.positions["JobBuilder"] == "w.lua:1"
    assert draft.positions["setImage"] == "w.lua:5"
    assert draft.positions["addFiles"] == "w.lua:12"


def test_outputs_may_share_their_options(tmp_path):
    """`required` beside patterns holds for them."""
    assert _draft(tmp_path, 'b:setOutputs{"model.bin", required = true}').outputs == (OutputGlob("model.bin", True),)
    assert _draft(tmp_path, "b:setOutputs{}").outputs == ()
    assert _draft(tmp_path, "b:setMaxFailures(3)").max_failures == 3


def test_rows_become_tasks(tmp_path):
    """Values keep their types; a row function adds what it returned."""
    draft = _draft(
        tmp_path,
        """
        b:createTasksFor({{x = 1, y = 1.0, s = "007", n = null, l = {1, 2}}, {x = "\\xff"}}, function(row, i)
          if i == 2 then
            return {command = {"a"}, files = {"f", {src = "g", link = true}}, env = {N = i}, resources = {cpu = 2}, name = "two"}
          end
        end)
        """,
    )
    assert draft.tasks == [
        TaskDraft({"x": 1, "y": 1.0, "s": "007", "n": None, "l": [1, 2]}),
        TaskDraft(
            {"x": b"\xff"}, ("a",), (FileDraft("f"), FileDraft("g", link=True)), {"N": "2"}, ResourcesDraft(cpu=2), "two"
        ),
    ]
    assert type(draft.tasks[0].params["y"]) is float


def test_artifacts_become_files(tmp_path):
    """An artifact goes into the draft as the result gave it."""
    ended, engine = run_script(
        tmp_path,
        """
        local r = run(JobBuilder("a"):createTasksFor{{x = 1}})
        local out = r.tasks[1].outputs["out.txt"]
        submit(JobBuilder("b"):addFiles(out, {src = out, dst = "in.txt"}))
        """,
    )
    assert ended.error is None, ended.error
    artifact = {"job": "a-1", "index": 1, "name": "out.txt", "digest": "d" * 64, "size": 5}
    assert engine.asked[-1].draft.files == (FileDraft(artifact=artifact), FileDraft(artifact=artifact, dst="in.txt"))


def test_commands_carry_position_and_values(tmp_path):
    """Each primitive becomes its command, at the author's line."""
    ended, engine = run_script(
        tmp_path,
        """local h = submit(JobBuilder("a"):createTasksFor{1})
wait(h, {timeout = 5, allowFailures = true})
fetch(h, "out")
shell({"a", "b"}, {env = {N = 1}, timeout = 2})
readCsv("p.csv", {types = {a = "number"}})
random(3, 9)
sleep("2s")
print("x", 1, nil, true)
log("%d of %s", 3, "y")
""",
        files={"p.csv": "a\n1\n"},
    )
    assert ended == Ended(1)
    assert engine.asked[1:] == [
        ask.Wait(position="w.lua:2", jobs=("a-1",), allow_failures=True, timeout_s=5.0),
        ask.Fetch(position="w.lua:3", job="a-1", dest="out"),
        ask.Shell(position="w.lua:4", command=("a", "b"), env={"N": "1"}, timeout_s=2.0),
        ask.Read(position="w.lua:5", reader="csv", path="p.csv", options={"types": {"a": "number"}}),
        ask.Random(position="w.lua:6", low=3, high=9),
        ask.Sleep(position="w.lua:7", seconds=2.0),
        ask.Log(position="w.lua:8", text="x\t1\tnil\ttrue"),
        ask.Log(position="w.lua:9", text="3 of y"),
    ]


def test_positions_survive_tail_calls_and_coroutines(tmp_path):
    """Where the calling frame is gone, the next one out counts."""
    source = "local function f()\n  return now()\nend\nlocal x = f()\nlocal y = coroutine.wrap(function() return now() end)()\nlocal z = y"
    ended, engine = run_script(tmp_path, source)
    assert ended.error is None
    assert [command.position for command in engine.asked] == ["w.lua:4", "w.lua:5"]


def test_a_step_is_keyed_by_the_source_of_its_function(tmp_path):
    """Comments and white space aside; a recorded value is returned without running the function."""

    class Recorded(FakeEngine):
        def perform(self, command):
            if isinstance(command, ask.StepBegin):
                self.asked.append(command)
                return Done(41, reused=True)
            return super().perform(command)

    engine = Recorded()
    source = 'print(step("s", function(a) -- doubles\n  return a   * 2 --[[ really ]]\nend, {k = 1.5}, nil))'
    ended = run(host_for(tmp_path, source, engine), engine)
    assert ended.error is None
    assert engine.asked[0] == ask.StepBegin(
        position="w.lua:1", name="s", args=[{"k": 1.5}, None], source="function ( a ) return a * 2 end"
    )
    assert engine.logged == ["41"]


@pytest.mark.parametrize(
    ("source", "first", "last", "expected"),
    [
        ("f(function() if a then b() elseif c then d() else e() end end)", 1, 1,
         "function ( ) if a then b ( ) elseif c then d ( ) else e ( ) end end"),
        ("x = function()\nfor i = 1, 2 do while true do break end end repeat until x\nend y()", 1, 3,
         "function ( ) for i = 1 , 2 do while true do break end end repeat until x end"),
        ("function f() return function() end end", 1, 1, "function f ( ) return function ( ) end end"),
        ("f(function() return 'end -- no', [[ end ]], \"\\\" end\" end)", 1, 1,
         "function ( ) return 'end -- no' , [[ end ]] , \"\\\" end\" end"),
        ("--[==[ function()\nend ]==]\nlocal f = function() return 0x1F, 1e-3, 3 // 2, a.b ~= c end", 3, 3,
         "function ( ) return 0x1F , 1e-3 , 3 // 2 , a . b ~= c end"),
        ("a(function() x() end, function() y() end)", 1, 1, "function ( ) x ( ) end | function ( ) y ( ) end"),
    ],
)  # fmt: skip
def test_function_sources(source, first, last, expected):
    """The tokens from `function` to its own `end`."""
    assert function_source(source.encode(), first, last) == expected


def test_literals_of_a_source():
    """Texts in quotes and in long brackets; what only looks like one does not count."""
    source = b"""local a = "one" .. 'two' -- "three"\nlocal b, c = [[\nfour]], [==[five]]]==]\nlocal d = t[t[1]]"""
    assert literals(source) == {"one", "two", "four", "five]]"}


def test_pages_are_read_on_demand(tmp_path):
    """Looking at one task reads its hundred; nothing is read for counts."""
    rows = "local rows = {}\nfor i = 1, 1000 do rows[i] = {x = i} end\n"
    source = rows + 'local r = run(JobBuilder("a"):createTasksFor(rows))\nprint(r:ok(), r.total, #r.tasks, #r:failed())\n'
    _, engine = run_script(tmp_path, source)
    assert engine.pages == []
    _, engine = run_script(tmp_path, source + "print(r.tasks[250].index, r.tasks[201].index, r.tasks[1000].index)")
    assert engine.pages == [("a-1", 201, 100), ("a-1", 901, 100)]


def test_large_sweeps_stay_small(tmp_path):
    """100,000 rows are built, submitted and read back under the limit of a script of 128 MiB."""
    source = """
    local rows = {}
    for i = 1, 100000 do rows[i] = {alpha = i * 0.1, beta = i, name = "row" .. i, x = i} end
    local r = run(JobBuilder("big"):createTasksFor(rows))
    local sum = 0
    for _, task in ipairs(r.tasks) do sum = sum + task.results.score end
    print(#r.tasks, sum)
    """
    ended, engine = run_script(tmp_path, source, max_memory=128 << 20)
    assert ended.error is None, ended.error
    assert engine.logged == ["100000\t10000100000"]


def test_chance_repeats_by_seed(tmp_path):
    """The same seed gives the same numbers, another one others."""
    source = "print(math.random(), math.random(1000000), math.random(-5, 5))"
    drawn = [run_script(tmp_path, source, seed=seed)[1].logged for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_failures_of_the_work_are_told_from_mistakes(tmp_path):
    """`fail` and `error` end a run as failed; the facts of an uncaught error stay with it."""
    ended, _ = run_script(tmp_path, 'wait(submit(JobBuilder("a"):createTasksFor{{fail = 1}}))')
    assert (ended.error.kind, ended.error.usage) == ("JobFailed", False)
    assert ended.error.fields == {"job": "a-1", "failed": [1]}
    ended, _ = run_script(tmp_path, "local function f()\n  fail('no')\nend\nf()\n")
    assert (ended.error.kind, ended.position) == ("Failed", "w.lua:2")
    assert ended.traceback == "w.lua:2: in function 'f'\nw.lua:4: in the script"


def test_scripts_that_cannot_be_read(tmp_path):
    """A missing file is a mistake of the caller; a byte order mark and a #! line are not."""
    host = ScriptHost(
        tmp_path / "none.lua", shown_as="none.lua", args={}, seed=1, roots=[], interrupted=lambda: False, outcomes=lambda *_: []
    )
    with pytest.raises(UsageError, match=r"none\.lua: No such file"):
        host.start()
    for source in (b"\xef\xbb\xbf#!/usr/bin/env sparkles\nprint('ok')", b"#!/usr/bin/env sparkles\nprint('ok')"):
        ended, engine = run_script(tmp_path, source)
        assert (ended.error, engine.logged) == (None, ["ok"])


def test_round_trip_of_a_command_is_quick(tmp_path):
    """now() takes less than 8 microseconds from Lua to a Command and back; as on a quiet machine."""
    count, done = 5000, Done(1.5)

    def run():
        host = host_for(tmp_path, f"for i = 1, {count} do local x = now() end", FakeEngine())
        strand, answer = host.start(), None
        while isinstance(host.resume(strand, answer), Asked):
            answer = done

    # The host itself, once for all of them, costs some milliseconds.
    assert quiet_s(run, tries=8) < count * 8e-6


def test_every_function_is_there(tmp_path):
    """What api.py declares is what a script finds, and nothing else."""
    _, engine = run_script(tmp_path, "for name in pairs(_G) do print(name) end")
    declared = {each.name for each in api.by_owner("")} | {value.name for value in api.VALUES} | set(api.BASE)
    assert set(engine.logged) == declared


@pytest.mark.parametrize(("path", "text"), stubs.GENERATED, ids=["stub", "page", "testing"])
def test_generated_files_are_current(path, text):
    """sparkles.d.lua, docs/lua-api.md and the reference in docs/testing.md are what the records say."""
    assert path.read_text("utf-8") == text(), "run python -m sparkles.lua.stubs"


def test_the_stub_is_lua_that_refuses_to_run(tmp_path):
    """Editors read it; loading it by mistake says so."""
    ended, _ = run_script(tmp_path, (FOLDER / "sparkles.d.lua").read_bytes())
    assert ended.error.message == "sparkles.d.lua describes the API to editors; it cannot be loaded"


def test_a_mistake_found_at_submit_is_reported_where_it_was_made(tmp_path):
    """The engine may name another line than the one that asked."""

    class Refusing(FakeEngine):
        def perform(self, command):
            if isinstance(command, ask.Submit):
                position = command.draft.positions["setCommandTemplate"]
                message = "setCommandTemplate: {y} is not a task parameter"
                return Raised(StepError(message, kind="Usage", usage=True, fields={"position": position}))
            return super().perform(command)

    engine = Refusing()
    source = 'local b = JobBuilder("a")\nb:setCommandTemplate("{y}")\nsubmit(b)'
    ended = run(host_for(tmp_path, source, engine), engine)
    assert (ended.position, ended.error.fields) == ("w.lua:2", {})
    assert ended.error.message == "setCommandTemplate: {y} is not a task parameter"


def test_an_error_of_a_step_is_recorded_with_its_line(tmp_path):
    """What is sent for the record holds the line in the function, so that a replay raises the same."""
    ended, engine = run_script(tmp_path, 'step("s", function()\n  error("boom")\nend)')
    sent = engine.asked[-1]
    assert sent.error == StepError("step 's': boom", kind="StepFailed", fields={"position": "w.lua:2"})
    assert ended.position == "w.lua:2"


def test_a_cancelled_strand_is_let_go(tmp_path):
    """A strand that is not resumed any more is dropped with what it holds; its chance came from its label."""
    engine = FakeEngine()
    host = host_for(tmp_path, "local x = math.random(1000000)\nprint(x)\nprint('never')", engine)
    strand = host.start()
    first = host.resume(strand, None)
    host.cancel(strand)
    other = host_for(tmp_path, "local x = math.random(1000000)\nprint(x)", engine)
    again = other.start()
    other.name(again, "map/1a2b")
    assert other.resume(again, None).command != first.command
