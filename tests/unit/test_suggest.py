"""The nearest right name: near enough to help, never a guess out of the blue."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkles.suggest import did_you_mean, nearest

NAMES = ["sample", "reads", "memory", "cpu", "setCommandTemplate", "submit", "max_failures"]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        pytest.param("smaple", "sample", id="two letters swapped"),
        pytest.param("sampl", "sample", id="one missing"),
        pytest.param("Sample", "sample", id="case"),
        pytest.param("maxFailures", "max_failures", id="camel case"),
        pytest.param("setComandTemplat", "setCommandTemplate", id="two edits of a long word"),
        pytest.param("sumbit", "submit", id="swap in the middle"),
        pytest.param("mem", "memory", id="start of a name"),
        pytest.param("cup", "cpu", id="short word"),
        pytest.param("x", None, id="one letter"),
        pytest.param("", None, id="empty"),
        pytest.param("banana", None, id="nothing near"),
    ],
)
def test_nearest(word: str, expected: str | None) -> None:
    """Few edits, another case or the start of one name count as near."""
    assert nearest(word, NAMES) == expected


def test_start_of_two_names_is_no_hint() -> None:
    """Where a start fits two names there is no telling which was meant."""
    assert nearest("set", ["setEnvironment", "setImageName"]) is None


def test_first_of_equally_near_names_wins() -> None:
    """The order of the names decides, so that a message does not change from run to run."""
    assert nearest("samplx", ["sampla", "samplb"]) == "sampla"
    assert nearest("samplx", iter(["samplb", "sampla"])) == "samplb"


def test_sentence() -> None:
    """The sentence follows another one; without a near name there is none."""
    assert did_you_mean("smaple", NAMES) == " Did you mean 'sample'?"
    assert did_you_mean("banana", NAMES) == ""


@given(st.text(min_size=1, max_size=12), st.lists(st.text(max_size=12), max_size=6))
def test_a_name_that_is_there_is_found(word: str, others: list[str]) -> None:
    """The word itself is the nearest, or one that differs in case only; whatever is found is one of the names."""
    found = nearest(word, [*others, word])
    assert found in [*others, word]
    assert found is not None
    assert found.casefold().replace("_", "").replace("-", "") == word.casefold().replace("_", "").replace("-", "")
