"""What a script must not be able to do: each attempt is refused, and none reaches the machine, the host or another run."""

from __future__ import annotations

import os
import re
import time

import pytest

from sparkles.engine.commands import Ended
from sparkles.errors import InternalError, RunCancelled
from sparkles.lua.runtime import FOLDER
from tests.lua.fake import FakeEngine, host_for, run, run_script

UNAVAILABLE = [
    "io", "os", "debug", "package", "python", "dofile", "loadfile", "collectgarbage", "loadstring", "setfenv", "getfenv", "module",
    "newproxy", "jit", "ffi", "lupa",
]  # fmt: skip

REFUSED = [
    ("string.dump", "string.dump(function() end)", "bytecode is not available"),
    ("string.dump by method", "local s = ('x').dump", "bytecode is not available"),
    ("rawget of dump", "assert(rawget(string, 'dump'), 'nothing')", "nothing"),
    ("bytecode by load", "assert(load('\\27Lua', 'x', 'b'))", "attempt to load a binary chunk"),
    ("bytecode by mode", "assert(load('\\27Lua', 'x', 'bt'))", "attempt to load a binary chunk"),
    ("bytecode in pieces", "local n = 0\nassert(load(function() n = n + 1 return ({'\\27', 'Lua'})[n] end))", "binary chunk"),
    ("loaded code has the same names", "load('return io')()", "'io' is not available"),
    ("loaded code cannot assign", "load('x = 1')()", "'x' is not declared"),
    ("chunk names cannot be forged", "load('error(\"forged\")', '@other.lua')()", "forged"),
    ("globals by rawset", "rawset(_G, 'x', 1)", "read-only"),
    ("globals by _G", "_G.x = 1", "not declared"),
    ("globals by _ENV", "_ENV.x = 1", "not declared"),
    ("globals by table.insert", "table.insert(_G, 1)", "not declared"),
    ("metatable of globals", "setmetatable(_G, {})", "protected metatable"),
    ("reading metatables of globals", "getmetatable(_G).__index = nil", "attempt to index a string value"),
    ("metatable of strings", "getmetatable('').__index = {}", "attempt to index a string value"),
    ("methods of strings", "string.upper = function() return 'x' end", "cannot be changed"),
    ("methods of strings by rawset", "rawset(string, 'upper', print)", "read-only"),
    ("libraries by table.insert", "table.insert(string, 1)", "cannot be changed"),
    ("libraries by table.move", "table.move({1}, 1, 1, 1, math)", "cannot be changed"),
    ("libraries by assignment", "math.pi = 3", "cannot be changed"),
    ("metatable of libraries", "setmetatable(string, {})", "protected metatable"),
    ("builders' internals", "setmetatable(JobBuilder('a'), {})", "protected metatable"),
    ("builders by rawset", "rawset(JobBuilder('a'), 'setImage', 1)", "read-only"),
    ("errors' metatable", "local _, e = pcall(now, 1)\nsetmetatable(e, {})", "protected metatable"),
    ("null's metatable", "setmetatable(null, {})", "protected metatable"),
    ("null by rawset", "rawset(null, 'x', 1)", "read-only"),
    ("finalizers", "setmetatable({}, {__gc = function() end})", "__gc is not available"),
    ("weak tables", "setmetatable({}, {__mode = 'k'})", "__mode is not available"),
    ("addresses by %p", "string.format('%p', {})", "%p is not available"),
    ("addresses by %-20p", "('%-20p'):format({})", "%p is not available"),
    ("random seeds", "math.randomseed(1)", "not available"),
    ("require upwards", "require('..x')", "expected letters"),
    ("require a path", "require('/etc/passwd')", "expected letters"),
    ("require dots", "require('a..b')", "expected letters"),
    ("require a zero byte", "require('a\\0b')", "expected letters"),
    ("require the host's files", "require('prelude')", "no module 'prelude'"),
    ("require the marshalling", "require('pack')", "no module 'pack'"),
    ("resuming a strand", "local co = coroutine.running()\n"
     "assert(coroutine.wrap(function() return coroutine.resume(co) end)())", "cannot resume a strand"),
    ("closing a strand", "local co = coroutine.running()\ncoroutine.wrap(function() coroutine.close(co) end)()", "cannot close"),
    ("yielding to the host", "coroutine.yield({}, 'submit', 'w.lua:1', '')", "not inside a coroutine"),
    ("a huge text", "local s = ('x'):rep(1 << 40)", "memory|too large"),
    ("a huge table", "local t = table.pack(('x'):rep(1 << 26):byte(1, -1))", "memory|too many|string slice too long"),
    ("a huge concatenation", "local s = 'x'\nwhile true do s = s .. s end", "memory"),
    ("a huge format", "local s = ('%99s'):rep(1 << 24):format('x')", "memory|invalid|no value"),
    ("hoarding between commands", "local t = {}\nfor i = 1, 1e9 do\n  t[i] = ('x'):rep(1 << 20) .. i\n  local _ = now()\nend", "memory"),
    ("hoarding under pcall", "local t = {}\nwhile true do pcall(function() t[#t + 1] = ('x'):rep(1 << 20) .. #t end)\n"
     "  if #t > 30 then error('held') end end", "memory|held"),
    ("deep recursion", "local function f() return f() + 1 end\nf()", "stack overflow|memory"),
    ("recursive __index", "local t = setmetatable({}, {})\ngetmetatable(t).__index = t\nlocal x = t.x", "loop"),
    ("reading a handle's Python side", "local h = JobBuilder('a')\nlocal x = h.__class__", "no method '__class__'"),
    ("a failure caught", "pcall(fail, 'really')\nerror('went on')", "^really$"),
    ("a failure caught by a coroutine", "coroutine.resume(coroutine.create(function() fail('really') end))\nerror('went on')", "^really$"),
    ("a failure caught by xpcall", "xpcall(fail, print, 'really')\nerror('went on')", "^really$"),
]  # fmt: skip


@pytest.mark.parametrize("name", UNAVAILABLE)
def test_names_of_lua_that_reach_the_machine(tmp_path, name):
    """They are not there, by name or by the table of globals."""
    for source in (
        f"local x = {name}",
        f"local x = _G.{name}",
        f"local x = _G['{name}']",
        f"local x = load('return {name}')()",
    ):
        ended, _ = run_script(tmp_path, source)
        assert ended.error is not None
        assert ended.error.usage
        assert name in ended.error.message
    ended, _ = run_script(tmp_path, f"assert(rawget(_G, '{name}') == nil)\nfor k in pairs(_G) do assert(k ~= '{name}') end")
    assert ended.error is None


@pytest.mark.parametrize(("source", "message"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_refused(tmp_path, source, message):
    """The attempt ends the script with an error that says what is refused, at the author's line."""
    ended, _ = run_script(tmp_path, source, max_memory=32 << 20, roots=[FOLDER])
    assert ended.error is not None, "nothing refused it"
    assert any(re.search(part, ended.error.message) for part in message.split("|")), ended.error.message
    assert ended.position.startswith("w.lua:")


HARMLESS = [
    (
        "tostring of tables",
        "print(tostring({}), tostring(print), tostring(coroutine.create(print)))",
        "table\tfunction\tthread",
    ),
    ("%s of tables", "print(('%s %s'):format({}, print))", "table function"),
    ("print of handles", "print(JobBuilder('a'), null, args)", 'JobBuilder("a")\tnull\targs'),
    ("getmetatable of strings", "print(getmetatable(''))", "protected"),
    ("getmetatable of handles", "print(getmetatable(JobBuilder('a')))", "JobBuilder"),
    ("own environments", "local _ENV = {print = print}\nx = 1\nprint(x)", "1"),
    ("own environments in load", "local e = {}\nload('y = 2', 'n', 't', e)()\nprint(e.y)", "2"),
    ("_G is the environment", "print(_G._G == _G, rawget(_G, 'print') == print)", "true\ttrue"),
]


@pytest.mark.parametrize(("source", "printed"), [case[1:] for case in HARMLESS], ids=[case[0] for case in HARMLESS])
def test_harmless(tmp_path, source, printed):
    """What is allowed shows nothing of the host and nothing that differs from run to run."""
    ended, engine = run_script(tmp_path, source)
    assert ended.error is None, ended.error
    assert engine.logged == [printed]


SPINNING = {
    "a loop": "while true do end",
    "a loop in pcall": "while true do pcall(function() while true do end end) end",
    "a loop in xpcall": "while true do xpcall(function() while true do end end, function() while true do end end) end",
    "a coroutine": "coroutine.wrap(function() while true do end end)()",
    "coroutines in pcall": "while true do pcall(coroutine.wrap(function() while true do end end)) end",
    "resumed coroutines": "while true do coroutine.resume(coroutine.create(function() while true do end end)) end",
    "a comparator": "table.sort({3, 2, 1}, function() while true do end end)",
    "a gsub callback": "while true do pcall(string.gsub, 'abc', '.', function() while true do end end) end",
    "a metamethod": "local t = setmetatable({}, {__tostring = function() while true do end end})\nwhile true do pcall(tostring, t) end",
    "a loaded chunk": "while true do pcall(load('while true do end')) end",
    "a close handler": "local x <close> = setmetatable({}, {__close = function() while true do end end})\nwhile true do end",
    "a row function": "JobBuilder('a'):createTasksFor({1}, function() while true do end end)",
    "the function of a step": "while true do pcall(step, 's', function() while true do end end) end",
}


@pytest.mark.parametrize("name", SPINNING)
def test_an_interrupt_ends_it(tmp_path, name):
    """However the script spins and whatever it catches, an interrupt ends it promptly."""
    ticks = 0

    def interrupted():
        nonlocal ticks
        ticks += 1
        return ticks > 3

    engine = FakeEngine()
    host = host_for(tmp_path, SPINNING[name], engine, interrupted=interrupted)
    started = time.monotonic()
    with pytest.raises(RunCancelled):
        run(host, engine)
    assert time.monotonic() - started < 5


def test_a_failing_call_into_python_is_not_caught(tmp_path):
    """A bug or a Ctrl-C inside a helper ends the script, although it is called under pcall."""
    for failure in (InternalError("no pages"), KeyboardInterrupt()):
        engine = FakeEngine()
        host = host_for(
            tmp_path,
            'local r = run(JobBuilder("a"):createTasksFor{1})\nwhile true do pcall(function() return r.tasks[1] end) end',
            engine,
        )

        def broken(*_args, failure=failure):
            raise failure

        host._outcomes = broken
        with pytest.raises(type(failure)):
            run(host, engine)


def test_modules_do_not_lead_out_by_links(tmp_path):
    """A link inside a module folder that points out of it is refused; one that stays inside is followed."""
    outside = tmp_path / "outside"
    inside = tmp_path / "inside"
    outside.mkdir()
    inside.mkdir()
    (outside / "secret.lua").write_text("return 'secret'")
    (inside / "real.lua").write_text("return 'real'")
    os.symlink(outside / "secret.lua", inside / "leak.lua")
    os.symlink(outside, inside / "folder")
    os.symlink("real.lua", inside / "alias.lua")
    for name in ("leak", "folder.secret"):
        ended, _ = run_script(inside, f"require('{name}')")
        assert "leads out of its folder" in ended.error.message
    ended, engine = run_script(inside, "print(require('alias'))")
    assert ended.error is None
    assert engine.logged == ["real"]


def test_large_values_do_not_end_the_process(tmp_path):
    """A value that does not fit under the limit is an error of the script, raised where it asked."""
    source = 'local ok, e = pcall(readText, "big")\nprint(ok, e)\nprint(#readText("small"))'
    ended, engine = run_script(tmp_path, source, files={"big": b"x" * (64 << 20), "small": b"ok"}, max_memory=32 << 20)
    assert ended.error is None, ended.error
    assert engine.logged == ["false\tnot enough memory", "2"]


def test_memory_limit_leaves_room_for_the_next_script(tmp_path):
    """Two hosts in one process do not share a limit."""
    hoard = 'local t = {}\nfor i = 1, 1e9 do t[i] = ("x"):rep(1000) .. i end'
    first, _ = run_script(tmp_path, hoard, max_memory=32 << 20)
    second, engine = run_script(tmp_path, "print('fine')", max_memory=32 << 20)
    assert first.error.message == "the script uses more than its 32 MiB of memory"
    assert isinstance(second, Ended)
    assert engine.logged == ["fine"]
