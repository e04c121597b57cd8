"""The editor stub, read as an editor reads it, against the API records: every function, parameter, option and field, with its doc."""

import re

import pytest

from sparkles.lua import api, test_api
from sparkles.lua.runtime import FOLDER

STUB = (FOLDER / "sparkles.d.lua").read_text("utf-8")
FUNCTIONS = [*api.FUNCTIONS, *test_api.TEST_FUNCTIONS]
DECLARED = [each for each in FUNCTIONS if each.owner or each.name not in api.BASE]
RECORDS = [*api.RECORDS, *test_api.TEST_RECORDS]


def parse(text):
    """What a stub declares: functions by (owner, name) with their annotations, classes with their fields, and what is not understood."""
    functions, classes, strange = {}, {}, []
    doc, params, returns, current = [], [], [], None
    for line in text.splitlines():
        if match := re.fullmatch(r"---@param (\.\.\.|\w+)(\??) (.+)", line):
            params.append((match[1], match[2] == "?", match[3]))
        elif match := re.fullmatch(r"---@return (.+)", line):
            returns.append(match[1])
        elif match := re.fullmatch(r"---@class (\w+)(:.*)?", line):
            current = match[1]
            classes[current] = {"doc": " ".join(doc), "fields": {}}
        elif match := re.fullmatch(r"---@field (\w+)(\??) (.+)", line):
            classes[current]["fields"][match[1]] = (match[2] == "?", match[3])
        elif match := re.fullmatch(r"function (?:(\w+)Methods:)?(\w+)\((.*)\) end", line):
            names = [name.strip() for name in match[3].split(",") if name.strip()]
            functions[(match[1] or "", match[2])] = (" ".join(doc), params, returns, names)
            doc, params, returns = [], [], []
        elif line.startswith("--- "):
            doc.append(line[4:])
        elif not line.strip() or re.fullmatch(r"local \w+ = \{\}", line):
            doc, params, returns = [], [], []
        elif not re.match(r"---@(meta|type|overload)|-- |error\(|\w+ = ", line):
            strange.append(line)
    return functions, classes, strange


PARSED, CLASSES, STRANGE = parse(STUB)


def test_the_stub_is_well_formed():
    """It begins as a stub, refuses to be loaded, and holds nothing that an editor would not understand."""
    assert STUB.startswith("---@meta\n")
    assert STRANGE == []
    assert "\nerror(" in STUB


def test_it_declares_what_the_records_declare_and_nothing_else():
    """Both ways: a function in one place only is a mistake."""
    assert set(PARSED) == {(each.owner, each.name) for each in DECLARED}


@pytest.mark.parametrize("function", DECLARED, ids=lambda each: f"{each.owner}.{each.name}")
def test_a_function_has_its_parameters_types_and_doc(function):
    """Names in order, which ones may be left out, a type and a sentence for each, and what it returns."""
    doc, params, returns, names = PARSED[(function.owner, function.name)]
    wanted = [(each.name, each.optional) for each in function.params] + ([("...", False)] if function.rest else [])
    assert [(name, optional) for name, optional, _ in params] == wanted
    assert names == [name for name, _ in wanted]
    assert doc
    assert all(" " in rest for _, _, rest in params), "a type and a doc each"
    assert bool(returns) == (function.result != "nil")


@pytest.mark.parametrize("record", RECORDS, ids=lambda each: each.name)
def test_a_record_has_its_fields_types_and_docs(record):
    """Every option of a table and every field of a result."""
    found = CLASSES[record.name]
    assert found["doc"]
    assert list(found["fields"]) == [each.name for each in record.fields]
    for each in record.fields:
        optional, rest = found["fields"][each.name]
        assert optional == each.optional, each.name
        assert each.doc.split("\n")[0][:20] in rest, each.name


def test_every_type_is_known():
    """A class that is used is declared."""
    basic = {"string", "number", "integer", "boolean", "table", "function", "any", "nil", "fun", "null"}
    used = set()
    for _, params, returns, _ in PARSED.values():
        for text in [rest.split(" ")[0] for _, _, rest in params] + [text.split(" ")[0] for text in returns]:
            used |= set(re.findall(r"[A-Za-z_]\w*", text))
    assert used - basic - set(CLASSES) == set()
