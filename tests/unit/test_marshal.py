"""Values between Lua and Python: every value survives, and what cannot cross is named by its path."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lupa import lua54

from sparkles.errors import InternalError
from sparkles.lua import marshal
from sparkles.lua.runtime import FOLDER
from tests.support.pace import quiet_s


class Lua:
    """A Lua state with pack.lua alone; `value` is what was unpacked last."""

    def __init__(self):
        self.runtime = lua54.LuaRuntime(encoding=None, register_eval=False, register_builtins=False)
        run = self.runtime.execute(
            b"""
            local weak = {__mode = "k"}
            H = {null = {}, is_empty_list = setmetatable({}, weak), lazy_lists = {}, protected = setmetatable({}, weak), class_of = {}}
            local load = load
            return function(text, ...) return assert(load(text, "=pack"))(...) end
            """
        )
        host = self.runtime.globals()[b"H"]
        run((FOLDER / "pack.lua").read_bytes(), host)
        self._unpack = run(b"return function(bytes) value = H.unpack(bytes) end")
        self._pack = run(b"return function() return H.pack(value, 'rows') end")
        self._problem = run(
            b"""return function(source)
              local ok, e = pcall(H.pack, assert(load("local null = ... return " .. source))(H.null), "rows")
              return ok and "no problem" or e.pack_error
            end"""
        )

    def round_trip(self, value):
        self._unpack(marshal.to_lua(value))
        return marshal.from_lua(self._pack())

    def evaluated(self, source):
        self.runtime.execute(b"value = " + source)
        return marshal.from_lua(self._pack())

    def problem(self, source):
        return self._problem(source).decode()


LUA = Lua()

texts = st.text() | st.binary(max_size=40).filter(lambda data: not _is_utf8(data))
scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | texts
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=40), inner, max_size=20),
    max_leaves=60,
)


def _is_utf8(data):
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def same(left, right):
    """Equal, with 1 and 1.0 and true told apart, and 0.0 and -0.0."""
    if type(left) is not type(right):
        return False
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, float):
        return left == right and math.copysign(1, left) == math.copysign(1, right)
    return left == right


@given(values)
def test_round_trip(value):
    """What goes to Lua comes back the same: types, empty lists and tables, text that is not UTF-8."""
    assert same(LUA.round_trip(value), value)


@given(st.integers(0, 70_000) | st.sampled_from([15, 16, 31, 32, 255, 256, 65_535, 65_536]))
def test_sizes(size):
    """Every length of text has its header."""
    assert LUA.round_trip("é" + "x" * size) == "é" + "x" * size
    assert LUA.round_trip(b"\xff" * size) == (b"\xff" * size if size else "")


@pytest.mark.parametrize("size", [0, 1, 15, 16, 4095, 4096, 65_535, 65_536, 100_000])
def test_lengths_of_lists_and_maps(size):
    """Every length of list and map has its header."""
    assert LUA.round_trip(list(range(size))) == list(range(size))
    assert LUA.round_trip({str(i): i for i in range(size)}) == {str(i): i for i in range(size)}


def test_lua_values():
    """What Lua makes: floats stay floats, keys come sorted, an empty table is a map."""
    assert LUA.evaluated(b"{1, 1.0, 2^53, 'x', true, H.null}") == [1, 1.0, 2.0**53, "x", True, None]
    assert type(LUA.evaluated(b"{1.0}")[0]) is float
    assert list(LUA.evaluated(b"{b = 1, a = 2, c = 3}")) == ["a", "b", "c"]
    assert LUA.evaluated(b"{}") == {}
    assert marshal.as_list(LUA.evaluated(b"{}")) == []
    assert marshal.as_list([1]) == [1]
    with pytest.raises(InternalError):
        marshal.as_list({"a": 1})


def test_an_empty_list_that_grew_is_a_list_and_one_that_got_names_a_map():
    """The mark of an empty list from the host says nothing once there is something in it."""
    LUA._unpack(marshal.to_lua([]))
    LUA.runtime.execute(b"value[1] = 'x'")
    assert marshal.from_lua(LUA._pack()) == ["x"]
    LUA._unpack(marshal.to_lua([]))
    LUA.runtime.execute(b"value.x = 1")
    assert marshal.from_lua(LUA._pack()) == {"x": 1}


@pytest.mark.parametrize(
    ("value", "arrives"),
    [
        (2**63, 2.0**63),
        (2**64 - 1, 2.0**64),
        (2**70, 2.0**70),
        (-(2**64), -(2.0**64)),
        (10**400, math.inf),
        ([{"a": 2**63}], [{"a": 2.0**63}]),
    ],
)
def test_integers_beyond_lua(value, arrives):
    """They arrive as floats, as such a literal does in Lua."""
    assert same(LUA.round_trip(value), arrives)


STORABLE = "expected a value that can be stored (text, number, boolean, table or null)"


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("{{alpha = print}}", f"rows[1].alpha: {STORABLE}, got function"),
        ("{1, {a = {b = coroutine.create(print)}}}", f"rows[2].a.b: {STORABLE}, got thread"),
        ("{['a b'] = print}", f'rows["a b"]: {STORABLE}, got function'),
        ("print", f"rows: {STORABLE}, got function"),
        (
            "{1, 2, x = 3}",
            'rows: a table is either a list (keys 1..n without holes) or has text keys; found key "x" beside 1..2',
        ),
        ("{x = 3, [10] = 1}", "rows: a table is either a list (keys 1..n without holes) or has text keys; found key 10"),
        ("{[true] = 1}", "rows: a table is either a list (keys 1..n without holes) or has text keys; found key true"),
        ("{[{}] = 1}", "rows: a table is either a list (keys 1..n without holes) or has text keys; found key a table"),
        ("{[1.5] = 1}", "rows: a table is either a list (keys 1..n without holes) or has text keys; found key 1.5"),
        ("{{1, nil, 3}}", "rows[1][2]: a list must not have holes; found nil (write null for a missing value)"),
        ("{['\\xff'] = 1}", "rows: a key is text that is not UTF-8"),
        ("(function() local t = {} t.a = {t} return t end)()", "rows.a[1]: the table contains itself"),
        (
            "(function() local t = {} for i = 1, 80 do t = {t} end return t end)()",
            "rows" + "[1]" * 64 + ": tables are nested more than 64 deep",
        ),
        ("(function() local t = {} return {t, t, {t}} end)()", "no problem"),
    ],
)
def test_what_cannot_cross_is_named(source, problem):
    """The message begins with the path of the value."""
    assert LUA.problem(source.encode()) == problem


def _rows(count):
    return [{"alpha": i * 0.1, "beta": i, "name": f"row{i}", "note": "abc"} for i in range(count)]


def test_speed():
    """10,000 rows of 4 columns take less than 40 ms of processor time each way, as on a quiet machine."""
    rows = _rows(10_000)
    assert quiet_s(lambda: LUA._unpack(marshal.to_lua(rows)), tries=8) < 0.040
    assert quiet_s(lambda: marshal.from_lua(LUA._pack()), tries=8) < 0.040
    assert marshal.from_lua(LUA._pack()) == rows


def test_memory():
    """100,000 rows take less than 60 MB of Lua memory, in both directions."""
    lua = lua54.LuaRuntime(encoding=None, max_memory=60_000_000)
    host = lua.execute(b"H = {null = {}, is_empty_list = {}, lazy_lists = {}, protected = {}, class_of = {}} return H")
    lua.execute(b"return function(text, ...) return assert(load(text))(...) end")((FOLDER / "pack.lua").read_bytes(), host)
    lua.execute(b"return function(bytes) value = H.unpack(bytes) end")(marshal.to_lua(_rows(100_000)))
    assert len(marshal.from_lua(lua.execute(b"collectgarbage() return H.pack(value)"))) == 100_000
