"""Sizes, cores and durations as people write them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkles.units import parse_cpu, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1.5Gi", 1610612736),
        ("4GiB", 4 << 30),
        ("800M", 800_000_000),
        ("800MB", 800_000_000),
        ("64Ki", 65536),
        ("1k", 1000),
        ("1KB", 1000),
        ("1024", 1024),
        (" 2 G ", 2_000_000_000),
        ("0.5Ti", 1 << 39),
        ("9007199254740993", 9007199254740993),
        (1024, 1024),
        (1.5, 2),
        (2.0**40, 1 << 40),
    ],
)
def test_size(text: Any, expected: int) -> None:
    """Binary and decimal units, with or without B; a bare number is bytes; parts of a byte round up."""
    assert parse_size(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("800m", "expected a size such as 4Gi or 800M, found '800m' (did you mean 800M?)"),
        ("4gi", "expected a size such as 4Gi or 800M, found '4gi' (did you mean 4Gi?)"),
        ("4 gb", "expected a size such as 4Gi or 800M, found '4 gb' (did you mean 4G?)"),
        ("big", "expected a size such as 4Gi or 800M, found 'big'"),
        ("", "expected a size such as 4Gi or 800M, found ''"),
        ("-1Gi", "expected a size such as 4Gi or 800M, found '-1Gi'"),
        ("1e9", "expected a size such as 4Gi or 800M, found '1e9'"),
        ("0", "expected a size above 0, found '0'"),
        ("0Gi", "expected a size above 0, found '0Gi'"),
        ("99Ei", "expected a size below 8Ei, found '99Ei'"),
        (0, "expected a size in bytes above 0, found 0"),
        (True, "expected a size in bytes above 0, found true"),
        (float("inf"), "expected a size in bytes above 0, found inf"),
        (10**400, "expected a size in bytes above 0, found an integer of more than 30 digits"),
        ({"a": 1}, "expected a size in bytes above 0, found a table"),
        (None, "expected a size in bytes above 0, found nothing"),
    ],
)
def test_wrong_size(text: Any, message: str) -> None:
    """What is not a size is said with what was expected, and with the right spelling where only the case is wrong."""
    with pytest.raises(ValueError, match="expected") as caught:
        parse_size(text)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "expected"), [("500m", 0.5), ("2", 2.0), (0.5, 0.5), (3, 3.0), ("1.5", 1.5), (" 250m ", 0.25)]
)
def test_cpu(text: Any, expected: float) -> None:
    """Cores, or thousandths of one."""
    assert parse_cpu(text) == expected


@pytest.mark.parametrize("text", ["", "two", "500M", "0", "0m", "-1", 0, -2, True, float("nan"), None])
def test_wrong_cpu(text: Any) -> None:
    """No task asks for nothing, or for what is not a number."""
    with pytest.raises(ValueError, match=r"expected a number of cores.*, found "):
        parse_cpu(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("24h", 86400.0),
        ("90s", 90.0),
        ("1.5m", 90.0),
        ("1m30s", 90.0),
        ("1h 30m", 5400.0),
        ("250ms", 0.25),
        ("2d", 172800.0),
        ("1w", 604800.0),
        ("90", 90.0),
        ("0", 0.0),
        (90, 90.0),
        (0, 0.0),
        (0.25, 0.25),
    ],
)
def test_duration(text: Any, expected: float) -> None:
    """Units may be put together; a bare number is seconds."""
    assert parse_duration(text) == expected


@pytest.mark.parametrize("text", ["", "soon", "10x", "h", "1m30", "-5s", "m5", -1, True, float("inf"), None])
def test_wrong_duration(text: Any) -> None:
    """What is not a duration is refused, half a one too."""
    with pytest.raises(ValueError, match=r"expected .*, found "):
        parse_duration(text)


@given(st.integers(1, 2**62))
def test_a_size_in_bytes_is_itself(size: int) -> None:
    """Whole numbers lose nothing, however large."""
    assert parse_size(size) == parse_size(str(size)) == size


@given(st.integers(1, 2**20), st.sampled_from(["Ki", "Mi", "Gi", "Ti"]))
def test_binary_units_are_exact(number: int, unit: str) -> None:
    """A binary unit is a power of 1024."""
    assert parse_size(f"{number}{unit}") == number * 1024 ** (1 + "KMGT".index(unit[0]))
