"""Values between Lua and Python, as MessagePack bytes. May import errors and digest.

The bytes are written and read in C on this side (msgspec) and by `pack.lua` on the other, which costs a fifth of touching each Lua
table through the binding. What maps to what:

| Lua | Python |
| --- | --- |
| text that is valid UTF-8 / other text | str / bytes |
| integer, float, boolean | int, float, bool |
| `null`, nil | None |
| table with keys 1..n | list |
| table with text keys | dict (keys sorted) |
| empty table | `{}`; `[]` where a list was declared, or where the table came from the host as an empty list |

Surprise: an int that Lua's 64 bits cannot hold arrives as a float, as a literal of that size does in Lua.
"""

from __future__ import annotations

from typing import Any

import msgspec

from sparkles import digest
from sparkles.errors import InternalError
from sparkles.model import Json

_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder()

_WORDS = 40

LARGEST = 2**63 - 1
SMALLEST = -(2**63)


def to_lua(value: Json) -> bytes:
    """The bytes that `pack.lua` turns into Lua values."""
    try:
        return _ENCODER.encode(value)
    except OverflowError:
        return _ENCODER.encode(_narrow(value))


def from_lua(data: bytes) -> Json:
    """The Python value of bytes that `pack.lua` wrote."""
    return _DECODER.decode(data)


def in_words(data: bytes) -> bytes:
    """The value that `pack.lua` wrote as people read it: text as it is, anything else as JSON, both cut to 40 characters."""
    value = from_lua(data)
    text = value if isinstance(value, str) else digest.canonical(value)
    return (text if len(text) <= _WORDS else f"{text[: _WORDS - 3]}...").encode()


def as_list(value: Json) -> list[Any]:
    """A value whose field is declared as a list: the empty table is an empty list there."""
    if value == {}:
        return []
    if isinstance(value, list):
        return value
    raise InternalError(f"expected a list from Lua, got {type(value).__name__}")


def _narrow(value: Json) -> Json:
    """Turns integers beyond 64 bits into floats."""
    if type(value) is int and not SMALLEST <= value <= LARGEST:
        try:
            return float(value)
        except OverflowError:
            return float("inf") if value > 0 else float("-inf")
    if type(value) is list:
        return [_narrow(item) for item in value]
    if type(value) is dict:
        return {key: _narrow(item) for key, item in value.items()}
    return value
