"""The bytes of the files that writeCsv and writeJson publish. Pure; may import errors only."""

from __future__ import annotations

import csv
import io
import math
from typing import Any

import msgspec

from sparkles.errors import SpecError
from sparkles.model import Json

_ENCODER = msgspec.json.Encoder(order="sorted")


def delimiter_of(path: str) -> str:
    """A tab for .tsv and .tab, else a comma."""
    return "\t" if path.lower().endswith((".tsv", ".tab")) else ","


def csv_bytes(rows: list[Any], path: str, options: dict[str, Any]) -> bytes:
    """A CSV text with header, for the file at `path`. Without `options.columns` the header has every column of the rows, sorted.

    Numbers are written so that they read back the same, true and false as words, what is missing or null as nothing; lists and tables are
    refused unless `options.nested`: then they are written as JSON. Raises SpecError.
    """
    seen: dict[str, None] = {}
    for i, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise SpecError(f"writeCsv: rows[{i}]: expected table of columns, got list")
        seen.update(dict.fromkeys(row))
    columns = options.get("columns") or sorted(seen)
    nested = options.get("nested") is True
    if not columns:
        raise SpecError("writeCsv: rows: expected at least one column, got none; give opts.columns to write a header alone")
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=options.get("delimiter") or delimiter_of(path), lineterminator="\n")
    writer.writerow(columns)
    for i, row in enumerate(rows, 1):
        writer.writerow([_cell(row.get(column), f"rows[{i}].{column}", nested) for column in columns])
    return text.getvalue().encode("utf-8", "surrogateescape")


def _cell(value: Json, path: str, nested: bool) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if nested:
        _check(value, path, "writeCsv")
        return _ENCODER.encode(value).decode("utf-8")
    found = "list" if isinstance(value, list) else "table"
    raise SpecError(f"writeCsv: {path}: expected string, number, boolean or null, got {found}; opts.nested writes it as JSON")


def json_bytes(value: Json, indent: int) -> bytes:
    """A JSON text with sorted keys and a newline at its end. Raises SpecError where JSON cannot hold the value."""
    _check(value, "value", "writeJson")
    text = _ENCODER.encode(value)
    return (msgspec.json.format(text, indent=indent) if indent else text) + b"\n"


def _check(value: Json, path: str, writer: str) -> None:
    if isinstance(value, bytes):
        raise SpecError(f"{writer}: {path}: JSON cannot hold text that is not UTF-8")
    if isinstance(value, float) and not math.isfinite(value):
        raise SpecError(f"{writer}: {path}: JSON cannot hold {value!r} (write null for a missing value)")
    if isinstance(value, list):
        for i, item in enumerate(value, 1):
            _check(item, f"{path}[{i}]", writer)
    elif isinstance(value, dict):
        for key, item in value.items():
            _check(item, f"{path}.{key}", writer)
