"""Writes what is generated from the API records: the editor stub sparkles.d.lua, the reference page docs/lua-api.md, and the reference at
the end of docs/testing.md.

`python -m sparkles.lua.stubs` writes them; `--check` only says whether they are current. May import lua.api and lua.test_api.
"""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path

from sparkles.lua import api, test_api
from sparkles.lua.api import Field, Function, Record

STUB = Path(__file__).resolve().parent / "sparkles.d.lua"
PAGE = Path(__file__).resolve().parents[2] / "docs" / "lua-api.md"
TESTING_PAGE = PAGE.with_name("testing.md")

_MAP = re.compile(r"map<([^<>]*)>")


def _lua_type(text: str) -> str:
    """A type of the records as LuaCATS writes it."""
    return _MAP.sub(r"table<string, \1>", text)


def _param(field: Field) -> str:
    mark = "?" if field.optional else ""
    default = f" (default: {field.default})" if field.default else ""
    return f"---@param {field.name}{mark} {_lua_type(field.type)} {field.doc}{default}"


def _methods(owner: str) -> list[Function]:
    """The methods of a record, or the globals for "", of scripts and of test files."""
    return api.by_owner(owner) + [each for each in test_api.TEST_FUNCTIONS if each.owner == owner]


def _class(each: Record) -> list[str]:
    name = f"{each.name}: {{ [integer]: {_lua_type(each.items)} }}" if each.items else each.name
    lines = [f"--- {each.doc}", f"---@class {name}"]
    for field in each.fields:
        default = f" (default: {field.default})" if field.default else ""
        lines.append(f"---@field {field.name}{'?' if field.optional else ''} {_lua_type(field.type)} {field.doc}{default}")
    if _methods(each.name):
        lines.append(f"local {each.name}Methods = {{}}")
    return [*lines, ""]


def _function(each: Function) -> list[str]:
    lines = [f"--- {each.doc}"]
    if each.step:
        lines.append("--- A step: its outcome is recorded, and a replay returns the recorded one at once.")
    lines += [_param(field) for field in each.params]
    names = [field.name for field in each.params]
    if each.rest:
        lines.append(f"---@param ... {_lua_type(each.rest.type)} {each.rest.doc}")
        names.append("...")
    if each.result != "nil":
        lines.append(f"---@return {_lua_type(each.result)}")
    where = f"{each.owner}Methods:" if each.owner else ""
    return [*lines, f"function {where}{each.name}({', '.join(names)}) end", ""]


def stub() -> str:
    """The text of sparkles.d.lua."""
    lines = [
        "---@meta",
        "-- Generated from api.py by `python -m sparkles.lua.stubs`: for editors, never to be run.",
        'error("sparkles.d.lua describes the API to editors; it cannot be loaded")',
        "",
    ]
    for record in (*api.RECORDS, *test_api.TEST_RECORDS):
        lines += _class(record)
        for method in _methods(record.name):
            lines += _function(method)
    for value in api.VALUES:
        lines += [f"--- {value.doc}", f"---@type {_lua_type(value.type)}", f"{value.name} = nil", ""]
    for function in api.by_owner(""):
        lines += _function(function)
    lines += ["-- In test files (*_test.lua) only.", ""]
    for function in test_api.TEST_FUNCTIONS:
        if not function.owner:
            lines += _function(function)
    return "\n".join(lines)


_VARIABLES = {"JobBuilder": "builder:", "Result": "result:", "WorkflowRun": "run:", "Expectation": "expect(value):"}


def _signature(each: Function) -> str:
    names = []
    for field in each.params:
        names.append(f"[{field.name}]" if field.optional else field.name)
    if each.rest:
        names.append("...")
    owner = _VARIABLES.get(each.owner, "")
    return f"{owner}{each.name}({', '.join(names)})"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _table(fields: tuple[Field, ...]) -> list[str]:
    lines = ["| name | type | what | default |", "| --- | --- | --- | --- |"]
    for field in fields:
        default = f"`{field.default}`" if field.default else ("none" if field.optional else "required")
        lines.append(f"| `{field.name}` | `{_cell(field.type)}` | {_cell(field.doc)} | {_cell(default)} |")
    return lines


def _section(each: Function) -> list[str]:
    result = "" if each.result == "nil" else f" → `{each.result}`"
    lines = [f"### `{_signature(each)}`", "", f"{each.doc}{' *A step.*' if each.step else ''} Since {each.since}.{result}", ""]
    fields = each.params + ((each.rest,) if each.rest else ())
    for field in fields:
        dots = "..." if field is each.rest else ""
        default = f" Default: {field.default}." if field.default else ""
        optional = ", optional" if field.optional else ""
        lines.append(f"- `{dots or field.name}` (`{field.type}`{optional}): {field.doc}{default}")
    if fields:
        lines.append("")
    if each.example:
        lines += ["```lua", each.example, "```", ""]
    return lines


_INTRODUCTION = """\
# The Lua API

<!-- Generated from sparkles/lua/api.py by `python -m sparkles.lua.stubs`. Do not edit. -->

A workflow is a Lua 5.4 script. It sees the functions below and what Lua itself brings:

    {base}

There is no `io`, `os`, `debug` or `package`: what reaches outside goes through the functions below, and those marked as *a step* are
recorded (see [replay](replay.md)).

- Reading a name that is not there and assigning a global are errors; every error begins with `path:line:` of the script.
- `pairs` and `next` go through numbers, then texts, then `false` and `true`, each sorted; a table with other keys has no order and is
  refused.
- `table.sort` is stable. `math.random` is seeded from the run; `math.randomseed` is refused. There is no clock but `now()`.
- A step is refused inside a row function, the function of `step`, a comparator of `table.sort` and a callback of `gsub`.
- An empty table is stored as an empty map, `{{}}`, unless the place is declared as a list, or the table came from a file or a step as an
  empty list.
- An error that the API raises is a table with `.message`, `.kind`, `.position` and what belongs to its kind (`.job` and `.failed` for
  JobFailed; `.exitCode`, `.stdout` and `.stderr` for ShellFailed); `tostring(e)` and `..` give its text. `fail` and an interrupt cannot be
  caught.
- A script may hold 512 MiB.
"""


def _tables(records: tuple[Record, ...]) -> list[str]:
    lines = []
    for record in records:
        lines += [f"### {record.name}", "", record.doc, ""]
        if record.items:
            lines += [f"Items 1..n: `{record.items}`.", ""]
        if record.fields:
            lines += [*_table(record.fields), ""]
        for method in _methods(record.name):
            lines += ["#" + line if line.startswith("### ") else line for line in _section(method)]
    return lines


def page() -> str:
    """The text of docs/lua-api.md."""
    lines = _INTRODUCTION.format(base="\n    ".join(textwrap.wrap(" ".join(api.BASE), 100))).splitlines()
    lines += ["", "## Functions", ""]
    for function in api.by_owner(""):
        lines += _section(function)
    lines += ["## Values", ""]
    for value in api.VALUES:
        lines += [f"### `{value.name}`", "", value.doc, ""]
    lines += ["## Tables and objects", ""]
    lines += _tables(api.RECORDS)
    return "\n".join(lines).rstrip("\n") + "\n"


_MARK = "<!-- From here on generated from sparkles/lua/test_api.py by `python -m sparkles.lua.stubs`. Do not edit. -->"


def testing_page() -> str:
    """The text of docs/testing.md: what is written by hand, and the reference after it."""
    by_hand = TESTING_PAGE.read_text("utf-8").partition(_MARK)[0] if TESTING_PAGE.is_file() else ""
    lines = [by_hand + _MARK, "", "## Functions", ""]
    for function in test_api.TEST_FUNCTIONS:
        if not function.owner:
            lines += _section(function)
    lines += ["## Tables and objects", "", *_tables(test_api.TEST_RECORDS)]
    return "\n".join(lines).rstrip("\n") + "\n"


GENERATED = ((STUB, stub), (PAGE, page), (TESTING_PAGE, testing_page))


def main() -> int:
    """Writes the files, or with --check returns 1 where one is not current."""
    stale = [path for path, text in GENERATED if not path.is_file() or path.read_text("utf-8") != text()]
    if "--check" in sys.argv[1:]:
        for path in stale:
            print(f"{path.name} is not what api.py says; run python -m sparkles.lua.stubs", file=sys.stderr)
        return 1 if stale else 0
    for path, text in GENERATED:
        path.write_text(text(), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
