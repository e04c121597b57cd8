"""`params{...}`: what a declaration may say, what may be given, and the messages about either."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparkles.lua import declared
from tests.lua.fake import run_script

DECLARED = """
params{
  n = {type = "integer", default = 1, min = -2, max = 9},
  ratio = {type = "number", default = 0.5, min = 0},
  size = {type = "number", default = 1, max = 5},
  on = {type = "boolean", default = false},
  color = {choices = {"red", "blue"}, default = "red"},
  word = {pattern = "^%l+$", default = "a"},
  pair = {default = "a,b", check = function(value, all)
    if not value:find(",") then return "expected two words, found '" .. value .. "'" end
    if all.n == 7 then return false end
    return value ~= "x,x" or "expected two words that differ"
  end},
}
for name, value in pairs(args) do log("%s %s %s", name, math.type(value) or type(value), value) end
"""


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"n": "many"}, "-p n=many: expected an integer, found 'many'"),
        ({"n": "1.5"}, "-p n=1.5: expected an integer, found '1.5'"),
        ({"n": "1_0"}, "-p n=1_0: expected an integer, found '1_0'"),
        ({"n": ""}, "-p n=: expected an integer, found nothing"),
        ({"n": "10"}, "-p n=10: expected -2 to 9, found '10'"),
        ({"n": "9223372036854775808"}, "-p n=9223372036854775808: expected an integer of 64 bits, found '9223372036854775808'"),
        ({"ratio": "-0.1"}, "-p ratio=-0.1: expected 0 or more, found '-0.1'"),
        ({"ratio": "nan"}, "-p ratio=nan: expected a finite number, found 'nan'"),
        ({"size": "1e999"}, "-p size=1e999: expected a finite number, found '1e999'"),
        ({"size": "6"}, "-p size=6: expected 5 or less, found '6'"),
        ({"on": "maybe"}, "-p on=maybe: expected true or false, found 'maybe'"),
        ({"colour": "red"}, "-p colour=red: unknown parameter. Did you mean 'color'?"),
        ({"m": "3"}, "-p m=3: unknown parameter (parameters: color, n, on, pair, ratio, size, word)"),
        ({"color": "pink"}, "-p color=pink: expected one of red, blue, found 'pink'"),
        ({"word": "A"}, "-p word=A: expected a text that matches '^%l+$', found 'A'"),
        ({"pair": "a"}, "-p pair=a: expected two words, found 'a'"),
        ({"pair": "x,x"}, "-p pair=x,x: expected two words that differ"),
        ({"pair": "p,q", "n": "7"}, "-p pair=p,q: not a value for pair"),
        ({"n": "x", "size": "9"}, "-p n=x: expected an integer, found 'x'\n  -p size=9: expected 5 or less, found '9'"),
    ],
)
def test_wrong_arguments(tmp_path: Path, given: dict[str, str], message: str) -> None:
    """What is given is checked against the declaration; every mistake is told, and no run need begin for that."""
    ended, _ = run_script(tmp_path, DECLARED, args=given)
    assert f"{ended.position}: {ended.error.message}" == f"w.lua:2: params: {message}"
    assert ended.error.usage
    refusal = declared.refusal(tmp_path / "w.lua", "w.lua", [], given, lambda: False)
    assert refusal is not None
    assert str(refusal) == f"w.lua:2: params: {message}"
    assert sorted(each.name for each in refusal.problems) == sorted(given if len(given) == 1 or "size" in given else ["pair"])


def test_right_arguments(tmp_path: Path) -> None:
    """Values have the declared type; numbers and booleans as CSV files spell them."""
    given = {"n": "-2", "ratio": "1e3", "size": "5", "on": "Yes", "color": "blue", "word": "z", "pair": "p,q"}
    ended, engine = run_script(tmp_path, DECLARED, args=given)
    assert ended.error is None
    assert engine.logged == [
        "color string blue",
        "n integer -2",
        "on boolean true",
        "pair string p,q",
        "ratio float 1000.0",
        "size integer 5",
        "word string z",
    ]
    assert declared.refusal(tmp_path / "w.lua", "w.lua", [], given, lambda: False) is None


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ('n = {type = "numer"}', "n.type: expected string, number, integer or boolean, got 'numer'. Did you mean 'number'?"),
        ('n = {type = "integer", default = "1"}', "n.default: expected integer, got string"),
        ('n = {type = "integer", default = 1.5}', "n.default: expected integer, got 1.5"),
        ("n = {default = 1}", "n.default: expected string, got 1"),
        ('n = {type = "boolean", default = "no"}', "n.default: expected boolean, got string"),
        ('n = {choices = {"a", "b"}, default = "c"}', "n.default: expected one of a, b, got c"),
        ("n = {choices = {}}", "n.choices: expected one or more values, got none"),
        ('n = {choices = {"a", 1}}', "n.choices[2]: expected string, got 1"),
        ('n = {type = "number", min = 2, max = 1}', "n: min 2 is greater than max 1"),
        ('n = {type = "number", min = 2, default = 1}', "n.default: expected 2 or more, got 1"),
        ("n = {min = 2}", "n.min: only a number or an integer has one, and n is a string"),
        ('n = {type = "integer", pattern = "1"}', "n.pattern: only a string has one, and n is an integer"),
        ('n = {pattern = "^a", default = "b"}', "n.default: expected a text that matches '^a', found 'b'"),
        ('n = {pattern = "[", default = "b"}', "n.pattern: not a Lua pattern: ["),
        ('n = {default = "b", check = function() return "no" end}', "n.default: no"),
        ('["my-name"] = {}', "'my-name': expected a name of letters, digits and _ that begins with no digit"),
        ('n = {defualt = "1"}', "specs.n.defualt: unknown option. Did you mean 'default'?"),
        ('n = {min = "1", type = "number"}', "specs.n.min: expected number, got string"),
        ('n = "number"', "specs.n: expected table, got string"),
        (
            'n = {default = "b", check = function() readText("x") end}',
            "readText: not allowed inside a check of params (allowed: top level of the script)",
        ),
    ],
)
def test_wrong_declarations(tmp_path: Path, spec: str, message: str) -> None:
    """A mistake of the author is told at the author's line, whatever is given."""
    ended, _ = run_script(tmp_path, f"\n\nparams{{{spec}}}")
    assert ended.error is not None
    told = f"{ended.position}: {ended.error.message}"
    assert told in (f"w.lua:3: params: {message}", f"w.lua:3: {message}")
    assert ended.error.usage
    refusal = declared.refusal(tmp_path / "w.lua", "w.lua", [], {}, lambda: False)
    assert refusal is not None
    assert (str(refusal), list(refusal.problems)) == (told, [])


@pytest.mark.parametrize(
    "source",
    ['local x = readText("f")\nparams{n = {}}', "local = 1", "log(args.n)", 'error("no")', "while true do end"],
    ids=["step_first", "syntax", "untyped", "error", "spins"],
)
def test_what_cannot_be_known_before_the_run_is_left_to_it(tmp_path: Path, source: str) -> None:
    """A step before `params`, a script that fails before it or has none."""
    (tmp_path / "w.lua").write_text(source)
    assert declared.refusal(tmp_path / "w.lua", "w.lua", [], {"m": "1"}, lambda: False) is None


def test_logging_before_params_hides_nothing(tmp_path: Path) -> None:
    """Log lines have no answer that a script could depend on."""
    (tmp_path / "w.lua").write_text('log("a")\nprint("b")\nparams{n = {min = 1, type = "integer"}}')
    found = declared.parameters(tmp_path / "w.lua", "w.lua", [])
    assert found is not None
    assert [(each.name, each.min) for each in found] == [("n", 1)]
    refusal = declared.refusal(tmp_path / "w.lua", "w.lua", [], {}, lambda: False)
    assert refusal is not None
    assert refusal.position == "w.lua:3"
