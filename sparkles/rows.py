"""CSV and JSON text <-> rows and values, with positions in errors. Pure; may import errors, model and suggest.

Surprise: values of a CSV file stay text unless a type is asked for, so that "007" survives.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from sparkles.errors import RowsError
from sparkles.model import Json
from sparkles.suggest import did_you_mean

# The reader's own limit of 128 KiB a field is a setting of the whole process; a parameter may well be a longer text.
csv.field_size_limit(2**31 - 1)

_INTEGER = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|[+-]?(?:inf|infinity|nan)", re.IGNORECASE)
_BOOLEANS = {"true": True, "false": False}
_LARGEST = 2**63


def parse_csv(
    data: bytes, source: str, *, types: Mapping[str, str] | None = None, delimiter: str | None = None
) -> list[dict[str, Json]]:
    """The rows of a CSV file, each a dict from column name to value, in the file's order.

    Args:
        source: The file's name: for messages, and for the delimiter (.tsv and .tab: a tab, else a comma).
        types: Column -> "string", "number", "integer" or "boolean".

    Raises:
        RowsError: With `source:line`, the line on which the record begins.
    """
    return [row for _, row in numbered_csv(data, source, types=types, delimiter=delimiter)]


def numbered_csv(
    data: bytes, source: str, *, types: Mapping[str, str] | None = None, delimiter: str | None = None
) -> Iterator[tuple[int, dict[str, Json]]]:
    """The rows as `parse_csv` gives them, each with the line on which it begins."""
    text = _decode(data, source)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(source, delimiter), strict=True)
    header, line = _header(reader, source)
    converts = _converters(types or {}, header, f"{source}:{line}")
    width = len(header)
    while True:
        line = reader.line_num + 1
        row = _next(reader, f"{source}:{line}")
        if row is None:
            return
        if len(row) != width:
            if not row or (len(row) == 1 and not row[0].strip()):
                continue
            raise RowsError(_ragged(header, row), f"{source}:{line}")
        record: dict[str, Json] = dict(zip(header, row, strict=True))
        for column, convert in converts:
            try:
                record[column] = convert(record[column])
            except ValueError as error:
                raise RowsError(f"column {column}: {error}", f"{source}:{line}") from None
        yield line, record


def typed(kind: str, text: str) -> Json:
    """A text as a "string", "number", "integer" or "boolean". Raises ValueError with what was expected and what was found."""
    return _CONVERT[kind](text)


def format_csv(rows: Sequence[Mapping[str, Json]], columns: Iterable[str] | None = None) -> bytes:
    """A CSV file with a header: `columns` first, then every other key in the order of its first appearance.

    nil and a missing key give an empty cell; numbers are written in full precision.

    Raises:
        RowsError: A row is not a table with text keys, or a value is a table; the message begins with its path (`rows[2].x`).
    """
    names = dict.fromkeys(columns or ())
    for index, row in enumerate(rows, 1):
        if not isinstance(row, Mapping):
            raise RowsError(f"rows[{index}]: expected a table with column names as keys, found {_kind(row)}")
        names.update(dict.fromkeys(row))
    if not names:
        return b""
    for name in names:
        if not isinstance(name, str) or not name.strip():
            raise RowsError(f"a column needs a name: expected text, found {name!r}")
    lines = [",".join(map(_quoted, names))]
    alone = len(names) == 1
    for index, row in enumerate(rows, 1):
        cells = [_cell(row.get(name), index, name) for name in names]
        # A lone empty cell would be a blank line, which readers pass over.
        lines.append('""' if alone and not cells[0] else ",".join(cells))
    lines.append("")
    return "\n".join(lines).encode("utf-8", "surrogateescape")


def parse_json(data: bytes, source: str) -> Json:
    """The value of a JSON file. Raises RowsError with `source:line:column` where it is not JSON."""
    text = _decode(data, source)
    if not text.strip():
        raise RowsError("expected a JSON value, found an empty file", f"{source}:1")
    try:
        return msgspec.json.decode(text)
    except RecursionError:
        raise RowsError("nested too deeply", f"{source}:1") from None
    except msgspec.DecodeError as error:
        why = str(error)
    try:
        json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise RowsError(f"not JSON: {error.msg}", f"{source}:{error.lineno}:{error.colno}") from None
    except _NotJson as error:
        raise RowsError(f"not JSON: {error.word} is not a JSON value", _place(why, text, source)) from None
    raise RowsError(f"not JSON: {why}", _place(why, text, source))


class _NotJson(Exception):  # internal: what Python's reader accepts and JSON does not have
    def __init__(self, word: str) -> None:
        super().__init__(word)
        self.word = word


def _refuse_constant(word: str) -> Any:
    raise _NotJson(word)


def _place(why: str, text: str, source: str) -> str:
    """`source:line:column` from the byte offset in a msgspec message."""
    found = re.search(r"\(byte (\d+)\)", why)
    if not found:
        return f"{source}:1"
    before = text.encode("utf-8")[: int(found[1])].decode("utf-8", "replace")
    return f"{source}:{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"


def _decode(data: bytes, source: str) -> str:
    """The text without its byte order mark."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise RowsError("expected UTF-8, found UTF-16; save the file as UTF-8", f"{source}:1")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise RowsError(
            f"expected UTF-8, found the byte 0x{data[error.start]:02x}; save the file as UTF-8", f"{source}:{line}"
        ) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise RowsError("expected text, found a NUL byte; this looks like a binary file", f"{source}:{line}")
    return text


def _delimiter(source: str, delimiter: str | None) -> str:
    if delimiter is None:
        return "\t" if source.lower().endswith((".tsv", ".tab")) else ","
    if not isinstance(delimiter, str) or len(delimiter) != 1 or delimiter in '"\r\n':
        raise RowsError(f"delimiter: expected one character other than a quote or a newline, found {delimiter!r}", source)
    return delimiter


Reader = Any
"""What csv.reader gives: its type has no public name."""


def _next(reader: Reader, position: str) -> list[str] | None:
    """The next record, None at the end."""
    try:
        row: list[str] | None = next(reader, None)
    except csv.Error as error:
        why = str(error)
        if "unexpected end of data" in why:
            why = "a quote is opened here and never closed"
        elif "expected after" in why:
            why = 'after a closing quote: expected a delimiter or the end of the line (write "" for a quote inside quotes)'
        raise RowsError(why, position) from None
    return row


def _header(reader: Reader, source: str) -> tuple[list[str], int]:
    """The column names and the line they stand on."""
    while True:
        line = reader.line_num + 1
        row = _next(reader, f"{source}:{line}")
        if row is None:
            raise RowsError("expected a header line, found an empty file", f"{source}:1")
        if not row or (len(row) == 1 and not row[0].strip()):
            continue
        names = [name.strip() for name in row]
        seen: dict[str, int] = {}
        for number, name in enumerate(names, 1):
            if not name:
                raise RowsError(f"column {number} of {len(names)} has no name in the header", f"{source}:{line}")
            if name in seen:
                raise RowsError(f"columns {seen[name]} and {number} are both named {name!r}", f"{source}:{line}")
            seen[name] = number
        return names, line


def _ragged(header: list[str], row: list[str]) -> str:
    shown = ", ".join(header[:12]) + (", ..." if len(header) > 12 else "")
    fields = "1 field" if len(header) == 1 else f"{len(header)} fields"
    message = f"expected {fields} ({shown}), found {len(row)}"
    if len(row) == 1:
        for mark, name in (("\t", "a tab"), (";", "';'"), (",", "','"), ("|", "'|'")):
            if row[0].count(mark) == len(header) - 1:
                return f"{message}; is the delimiter {name}?"
    return message


def _converters(types: Mapping[str, str], header: list[str], position: str) -> list[tuple[str, Callable[[str], Json]]]:
    found: list[tuple[str, Callable[[str], Json]]] = []
    for column, kind in types.items():
        if column not in header:
            shown = ", ".join(header[:20]) + (", ..." if len(header) > 20 else "")
            raise RowsError(f"types: there is no column {column!r} (columns: {shown}).{did_you_mean(column, header)}", position)
        if kind not in _CONVERT:
            raise RowsError(
                f"types.{column}: expected one of {', '.join(_CONVERT)}, found {kind!r}.{did_you_mean(str(kind), _CONVERT)}",
                position,
            )
        if kind != "string":
            found.append((column, _CONVERT[kind]))
    return found


def _number(text: str) -> Json:
    """An integer where it is written as one and fits into 64 bits, else a float."""
    bare = text.strip()
    if _INTEGER.fullmatch(bare):
        value = int(bare) if len(bare) <= 20 else None
        return value if value is not None and -_LARGEST <= value < _LARGEST else float(bare)
    if not _NUMBER.fullmatch(bare):
        raise ValueError(f"expected a number, found {_found(text)}")
    return float(bare)


def _integer(text: str) -> Json:
    try:
        value = _number(text)
    except ValueError:
        raise ValueError(f"expected an integer, found {_found(text)}") from None
    if isinstance(value, float):
        if not math.isfinite(value) or not value.is_integer():
            raise ValueError(f"expected an integer, found {_found(text)}")
        if not -_LARGEST <= value < _LARGEST:
            raise ValueError(f"expected an integer of 64 bits, found {_found(text)}")
        return int(value)
    return value


def _boolean(text: str) -> Json:
    value = _BOOLEANS.get(text.strip().lower())
    if value is None:
        raise ValueError(f"expected true or false, found {_found(text)}")
    return value


def _string(text: str) -> Json:
    return text


_CONVERT: dict[str, Callable[[str], Json]] = {
    "string": _string,
    "number": _number,
    "integer": _integer,
    "boolean": _boolean,
}


def _found(text: str) -> str:
    if not text.strip():
        return "an empty cell"
    return repr(text if len(text) <= 60 else text[:60] + "...")


def _kind(value: Any) -> str:
    if value is None:
        return "nil"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str | bytes):
        return "text"
    return "a list" if isinstance(value, list | tuple) else "a table"


def _cell(value: Json, index: int, name: str) -> str:
    if value is None:
        return ""
    kind = type(value)
    if kind is str:
        return _quoted(value)
    if kind is bool:
        return "true" if value else "false"
    if kind is int or kind is float:
        return repr(value)
    if kind is bytes:
        return _quoted(value.decode("utf-8", "surrogateescape"))
    raise RowsError(f"rows[{index}].{name}: a cell holds text, a number or a boolean, found {_kind(value)}")


_SPECIAL = re.compile('[",\r\n\ufeff]')


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if _SPECIAL.search(text) else text
