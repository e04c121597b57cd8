"""Sizes, cores and durations as people write them. Pure; imports nothing of sparkles.

Every function raises ValueError with "expected ..., found ...", for its caller to say where.

Surprise: in Kubernetes "800m" of memory is 0.8 bytes. Here it is refused, because "800M" was meant.
"""

from __future__ import annotations

import math
import re
import sys
from typing import Any

_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([A-Za-z]*)")
_SIZES = {
    "": 1,
    **{name: 1000**power for power, name in enumerate(("k", "M", "G", "T", "P", "E"), 1)},
    **{f"{name}i": 1024**power for power, name in enumerate(("K", "M", "G", "T", "P", "E"), 1)},
}
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_MOST_DIGITS = 100
_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*(ms|[smhdw])\s*")


def plural(count: int, noun: str) -> str:
    """`1 task`, `12 tasks`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def shown(value: Any) -> str:
    """A value that was found where another was expected, as people write it in TOML, JSON and Lua rather than in Python."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return repr(value if len(value) <= 100 else value[:97] + "...")
    if isinstance(value, int):
        return str(value) if abs(value) < 10**30 else "an integer of more than 30 digits"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, dict):
        return "a table"
    return "a list" if isinstance(value, list | tuple) else str(value)


def parse_size(value: int | float | str) -> int:
    """Bytes, rounded up: 1610612736 of "1.5Gi", 800000000 of "800M" or "800MB"; a bare number is bytes. Above 0."""
    if not isinstance(value, str):
        size: float = _positive(value, "a size in bytes")
    else:
        match = _QUANTITY.fullmatch(value.strip())
        unit = match[2] if match else ""
        if unit not in _SIZES:
            unit = unit.removesuffix("B").replace("K", "k") if not unit.endswith("iB") else unit.removesuffix("B")
        if match is None or unit not in _SIZES:
            raise ValueError(f"expected a size such as 4Gi or 800M, found {shown(value)}{_meant(match)}")
        # Whole numbers stay integers: a float cannot hold every count of bytes above 2**53.
        number = match[1]
        if len(number) > _MOST_DIGITS:
            raise ValueError(f"expected a size below 8Ei, found {shown(value)}")
        size = int(number) * _SIZES[unit] if number.isdigit() else float(number) * _SIZES[unit]
        if size <= 0:
            raise ValueError(f"expected a size above 0, found {shown(value)}")
    bytes_ = math.ceil(size)
    if bytes_ >= 2**63:
        raise ValueError(f"expected a size below 8Ei, found {shown(value)}")
    return bytes_


def parse_cpu(value: int | float | str) -> float:
    """Cores: 0.5 of "500m" or 0.5. Above 0."""
    if not isinstance(value, str):
        return float(_positive(value, "a number of cores"))
    text = value.strip()
    match = _QUANTITY.fullmatch(text)
    if match is None or match[2] not in ("", "m"):
        raise ValueError(f"expected a number of cores such as 2, 0.5 or 500m, found {shown(value)}")
    cores = float(match[1]) / (1000 if match[2] else 1)
    if cores <= 0 or math.isinf(cores):
        raise ValueError(f"expected a number of cores above 0, found {shown(value)}")
    return cores


def parse_duration(value: int | float | str) -> float:
    """Seconds: 86400 of "24h", 90 of "1m30s" or "1.5m"; a bare number is seconds. 0 or more."""
    if isinstance(value, str):
        text = value.strip()
        bare = bool(_QUANTITY.fullmatch(text)) and text[-1] in "0123456789."
        parts = [(text, "s")] if bare else _PART.findall(text)
        seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
        if not parts or math.isinf(seconds) or not (bare or not _PART.sub("", text)):
            raise ValueError(f"expected a duration such as 90s, 1.5m or 24h, found {shown(value)}")
        return seconds
    if value == 0 and not isinstance(value, bool):
        return 0.0
    return float(_positive(value, "a number of seconds"))


def _positive(value: Any, what: str) -> int | float:
    # An integer beyond every float is refused by comparison: math.isfinite would raise for it.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= sys.float_info.max:
        raise ValueError(f"expected {what} above 0, found {shown(value)}")
    return value


def _meant(match: re.Match[str] | None) -> str:
    """A suggestion where only the case of the unit is wrong."""
    if match is None:
        return ""
    unit = match[2].removesuffix("B").removesuffix("b").lower()
    near = next((name for name in _SIZES if name and name.lower() == unit), None)
    return f" (did you mean {match[1]}{near}?)" if near else ""
