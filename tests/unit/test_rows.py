"""CSV and JSON text: what becomes of it, and where it is wrong."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkles.errors import RowsError
from sparkles.rows import format_csv, parse_csv, parse_json


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(b"a,b\n1,2\n", [{"a": "1", "b": "2"}], id="plain"),
        pytest.param(b"a,b\n007, x \n", [{"a": "007", "b": " x "}], id="values stay as they are"),
        pytest.param(b"\xef\xbb\xbfa,b\n1,2\n", [{"a": "1", "b": "2"}], id="byte order mark"),
        pytest.param(b"a,b\r\n1,2\r\n", [{"a": "1", "b": "2"}], id="CRLF"),
        pytest.param(b"a,b\r1,2\r", [{"a": "1", "b": "2"}], id="CR"),
        pytest.param(b"a,b\n1,2", [{"a": "1", "b": "2"}], id="no newline at the end"),
        pytest.param(b'a,b\n"x\ny","say ""hi"", you"\n', [{"a": "x\ny", "b": 'say "hi", you'}], id="quoted"),
        pytest.param(b'a,b\n"x\r\ny",2\n', [{"a": "x\r\ny", "b": "2"}], id="CRLF inside quotes stays"),
        pytest.param(b"\n\na,b\n\n1,2\n  \n3,4\n\n", [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}], id="blank lines"),
        pytest.param(b'a\nx\n\n""\ny\n', [{"a": "x"}, {"a": ""}, {"a": "y"}], id="an empty value of one column"),
        pytest.param(b"a,b\n,\n", [{"a": "", "b": ""}], id="empty values"),
        pytest.param(b" a , b\n1,2\n", [{"a": "1", "b": "2"}], id="spaces around names"),
        pytest.param("größe,名\né,\u2028\n".encode(), [{"größe": "é", "名": "\u2028"}], id="unicode"),
        pytest.param(b"a,b\n", [], id="header only"),
        pytest.param(b'a\nx"y\n', [{"a": 'x"y'}], id="a quote inside a value"),
        pytest.param(b"a\n" + b"x" * 300_000 + b"\n", [{"a": "x" * 300_000}], id="a long value"),
    ],
)
def test_csv(data: bytes, expected: list[dict[str, str]]) -> None:
    """The shapes that files come in."""
    assert parse_csv(data, "t.csv") == expected


@pytest.mark.parametrize(
    ("source", "delimiter", "data"),
    [
        ("t.tsv", None, b"a\tb\n1\t2\n"),
        ("T.TAB", None, b"a\tb\n1\t2\n"),
        ("t.tsv", ",", b"a,b\n1,2\n"),
        ("t.csv", ";", b"a;b\n1;2\n"),
    ],
)
def test_delimiter(source: str, delimiter: str | None, data: bytes) -> None:
    """By the extension, unless one is given."""
    assert parse_csv(data, source, delimiter=delimiter) == [{"a": "1", "b": "2"}]


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("1", "number", 1),
        ("007", "number", 7),
        ("-2", "number", -2),
        (" 0.5 ", "number", 0.5),
        ("1e-05", "number", 1e-05),
        ("1.0", "number", 1.0),
        ("-inf", "number", -math.inf),
        ("123456789012345678901234567890", "number", 123456789012345678901234567890.0),
        ("9223372036854775807", "integer", 2**63 - 1),
        ("3.0", "integer", 3),
        ("TRUE", "boolean", True),
        (" false ", "boolean", False),
        ("007", "string", "007"),
    ],
)
def test_types(text: str, kind: str, expected: Any) -> None:
    """A column that has a type holds values of it."""
    (row,) = parse_csv(f"a,b\n{text},x\n".encode(), "t.csv", types={"a": kind})
    assert row == {"a": expected, "b": "x"}
    assert type(row["a"]) is type(expected)


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        pytest.param(b"", {}, "t.csv:1: expected a header line, found an empty file", id="empty"),
        pytest.param(b"\xef\xbb\xbf\n \n", {}, "t.csv:1: expected a header line, found an empty file", id="blank"),
        pytest.param(b"a,b,a\n", {}, "t.csv:1: columns 1 and 3 are both named 'a'", id="repeated name"),
        pytest.param(b"\na,,b\n", {}, "t.csv:2: column 2 of 3 has no name in the header", id="no name"),
        pytest.param(b"a,b\n1,2\n3\n", {}, "t.csv:3: expected 2 fields (a, b), found 1", id="too few"),
        pytest.param(b"a,b\n1,2,3\n", {}, "t.csv:2: expected 2 fields (a, b), found 3", id="too many"),
        pytest.param(b"a\n1,2\n", {}, "t.csv:2: expected 1 field (a), found 2", id="too many for one"),
        pytest.param(b"a,b\n1;2\n", {}, "t.csv:2: expected 2 fields (a, b), found 1; is the delimiter ';'?", id="delimiter"),
        pytest.param(
            b'a,b\n"x\n\ny",1\n\n3\n', {}, "t.csv:6: expected 2 fields (a, b), found 1", id="line after a quoted newline"
        ),
        pytest.param(b'a,b\n"x\ny\n', {}, "t.csv:2: a quote is opened here and never closed", id="open quote"),
        pytest.param(
            b'a,b\n1,2\n"x"y,1\n',
            {},
            't.csv:3: after a closing quote: expected a delimiter or the end of the line (write "" for a quote inside quotes)',
            id="text after a quote",
        ),
        pytest.param(
            b"a\nb\n\xe9\n", {}, "t.csv:3: expected UTF-8, found the byte 0xe9; save the file as UTF-8", id="not UTF-8"
        ),
        pytest.param(
            "a\n1\n".encode("utf-16"), {}, "t.csv:1: expected UTF-8, found UTF-16; save the file as UTF-8", id="UTF-16"
        ),
        pytest.param(b"a\n1\0\n", {}, "t.csv:2: expected text, found a NUL byte; this looks like a binary file", id="NUL"),
        pytest.param(
            b"alpha,b\n1,2\n",
            {"types": {"alhpa": "number"}},
            "t.csv:1: types: there is no column 'alhpa' (columns: alpha, b). Did you mean 'alpha'?",
            id="type of no column",
        ),
        pytest.param(
            b"a\n1\n",
            {"types": {"a": "nubmer"}},
            "t.csv:1: types.a: expected one of string, number, integer, boolean, found 'nubmer'. Did you mean 'number'?",
            id="no type",
        ),
        pytest.param(
            b'a,b\n1,2\n"x\ny",2\n',
            {"types": {"a": "number"}},
            "t.csv:3: column a: expected a number, found 'x\\ny'",
            id="no number",
        ),
        pytest.param(
            b"a,b\n,2\n",
            {"types": {"a": "number"}},
            "t.csv:2: column a: expected a number, found an empty cell",
            id="empty cell",
        ),
        pytest.param(
            b"a\n1_0\n", {"types": {"a": "number"}}, "t.csv:2: column a: expected a number, found '1_0'", id="underscore"
        ),
        pytest.param(
            b"a\n1.5\n", {"types": {"a": "integer"}}, "t.csv:2: column a: expected an integer, found '1.5'", id="fraction"
        ),
        pytest.param(
            b"a\n9223372036854775808\n",
            {"types": {"a": "integer"}},
            "t.csv:2: column a: expected an integer of 64 bits, found '9223372036854775808'",
            id="65 bits",
        ),
        pytest.param(
            b"a\nyes\n", {"types": {"a": "boolean"}}, "t.csv:2: column a: expected true or false, found 'yes'", id="no boolean"
        ),
        pytest.param(
            b"a\n",
            {"delimiter": "::"},
            "t.csv: delimiter: expected one character other than a quote or a newline, found '::'",
            id="long delimiter",
        ),
    ],
)
def test_wrong_csv(data: bytes, options: dict[str, Any], message: str) -> None:
    """Each error begins with the file and the line on which the record begins."""
    with pytest.raises(RowsError) as caught:
        parse_csv(data, "t.csv", **options)
    assert str(caught.value) == message
    assert caught.value.position == message[: message.index(": ")]


def test_format_csv() -> None:
    """Columns asked for come first, the others in order of appearance; numbers in full, nil empty."""
    rows = [{"b": 1, "a": 0.1}, {"c": "x,y", "a": True}, {"b": None, "d": 'q"', "a": 1e-05}]
    assert format_csv(rows) == b'b,a,c,d\n1,0.1,,\n,true,"x,y",\n,1e-05,,"q"""\n'
    assert format_csv(rows, ["d", "a"]) == b'd,a,b,c\n,0.1,1,\n,true,,"x,y"\n"q""",1e-05,,\n'
    assert format_csv([], ["a", "b"]) == b"a,b\n"
    assert format_csv([]) == b""
    assert format_csv([{"a": b"\xff"}]) == b"a\n\xff\n"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"x": 1}, {"x": {"y": 1}}], "rows[2].x: a cell holds text, a number or a boolean, found a table"),
        ([{"x": [1]}], "rows[1].x: a cell holds text, a number or a boolean, found a list"),
        ([{"x": 1}, 5], "rows[2]: expected a table with column names as keys, found a number"),
        ([[1, 2]], "rows[1]: expected a table with column names as keys, found a list"),
        ([{"": 1}], "a column needs a name: expected text, found ''"),
    ],
)
def test_wrong_rows(rows: list[Any], message: str) -> None:
    """The path of what cannot be written."""
    with pytest.raises(RowsError) as caught:
        format_csv(rows)
    assert str(caught.value) == message


CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")) | st.text('",\n\r \ufeffx', max_size=6)
NAMES = CELLS.map(str.strip).filter(lambda name: name and not name.isspace())


@given(
    st.lists(NAMES, min_size=1, max_size=4, unique=True).flatmap(
        lambda names: st.lists(st.fixed_dictionaries(dict.fromkeys(names, CELLS)), min_size=1, max_size=5)
    )
)
def test_rows_survive(rows: list[dict[str, str]]) -> None:
    """What was written is read back, whatever the text."""
    assert parse_csv(format_csv(rows), "t.csv") == rows


@given(st.lists(st.floats() | st.integers(-(2**63), 2**63 - 1), min_size=1))
def test_numbers_survive(numbers: list[float | int]) -> None:
    """To the last bit, and an integer stays one."""
    back = [row["x"] for row in parse_csv(format_csv([{"x": number} for number in numbers]), "t.csv", types={"x": "number"})]
    assert list(map(repr, back)) == list(map(repr, numbers))


@given(st.binary(max_size=60))
def test_any_bytes_are_rows_or_a_clear_error(data: bytes) -> None:
    """No file makes the reader fail in another way."""
    try:
        rows = parse_csv(data, "t.csv")
    except RowsError as error:
        assert error.position.startswith("t.csv:")  # noqa: PT017 - which bytes are refused is the business of the table above
    else:
        assert len({tuple(row) for row in rows}) <= 1


def test_json() -> None:
    """Values as they are; a byte order mark is passed over."""
    assert parse_json(b'\xef\xbb\xbf{"a": [1, 1.0, null, true, "\\u00e9"]}\n', "t.json") == {"a": [1, 1.0, None, True, "é"]}
    assert type(parse_json(b"1.0", "t.json")) is float


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(b"", "t.json:1: expected a JSON value, found an empty file", id="empty"),
        pytest.param(b'{"a": 1,\n "b": }', "t.json:2:7: not JSON: Expecting value", id="no value"),
        pytest.param(
            b"{'a': 1}", "t.json:1:2: not JSON: Expecting property name enclosed in double quotes", id="single quotes"
        ),
        pytest.param(b"[1] x", "t.json:1:5: not JSON: Extra data", id="text after it"),
        pytest.param(b"[1,\n NaN]", "t.json:2:2: not JSON: NaN is not a JSON value", id="NaN"),
        pytest.param(
            b'["\xc3\xa9",\n\xe9]', "t.json:2: expected UTF-8, found the byte 0xe9; save the file as UTF-8", id="latin-1"
        ),
        pytest.param(b"[" * 200_000, "t.json:1: nested too deeply", id="deep"),
    ],
)
def test_wrong_json(data: bytes, message: str) -> None:
    """Each error begins with file, line and column."""
    with pytest.raises(RowsError) as caught:
        parse_json(data, "t.json")
    assert str(caught.value) == message
