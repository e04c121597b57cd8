"""Canonical JSON gives every value back and equal values one text; a fingerprint counts what decides a result, nothing else."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkles.digest import canonical, fingerprint, fingerprinter, of_bytes, of_value, parse
from sparkles.errors import InternalError
from sparkles.model import Digest, InputFile, JobSpec, OutputGlob, Resources, RetryPolicy, TaskSpec

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | TEXT | st.binary()
KEYS = TEXT | st.sampled_from(["$bytes", "$float", "$table", "$"])
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)


def same(one: Any, other: Any) -> bool:
    """Equal, and of equal types: 1, 1.0 and True differ here."""
    if type(one) is not type(other):
        return False
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return repr(one) == repr(other) if isinstance(one, float) else one == other


@given(VALUES)
def test_every_value_survives(value: Any) -> None:
    """`parse` gives back what `canonical` was given: bytes, -0.0 and tables that look like marks included."""
    text = canonical(value)
    assert same(parse(text), value)
    assert same(parse(text.encode()), value)
    assert canonical(parse(text)) == text
    json.loads(text)


@given(st.dictionaries(KEYS, SCALARS, max_size=6), st.randoms())
def test_the_order_of_keys_does_not_count(table: dict[str, Any], random: Any) -> None:
    """Equal tables give equal texts, however they were filled."""
    items = list(table.items())
    random.shuffle(items)
    assert canonical(dict(items)) == canonical(table)
    assert of_value(dict(items)) == of_value(table)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"b": 1, "a": [True, None]}, '{"a":[true,null],"b":1}'),
        (1, "1"),
        (1.0, "1.0"),
        (-0.0, "-0.0"),
        (1e-05, "0.00001"),
        ("é\n", '"é\\n"'),
        (b"\xff", '{"$bytes":"/w=="}'),
        (float("inf"), '{"$float":"inf"}'),
        ({"$bytes": "x"}, '{"$table":{"$bytes":"x"}}'),
        ((), "[]"),
    ],
)
def test_canonical_text(value: Any, text: str) -> None:
    """The exact text: digests that are stored today must be found tomorrow."""
    assert canonical(value) == text


def test_what_json_cannot_hold_is_a_bug() -> None:
    """Whoever passes an object has not marshalled it."""
    with pytest.raises(InternalError, match="canonical JSON cannot hold a set"):
        canonical({"a": {1}})


def test_nan_survives() -> None:
    """nan is not equal to itself, but it is written and read."""
    found = parse(canonical({"x": float("nan")}))
    assert found["x"] != found["x"]


def test_digest_of_bytes() -> None:
    """sha256 in hex."""
    assert of_bytes(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


FILE = InputFile("in.txt", Digest("1" * 64), 3, src="data/in.txt")
JOB = JobSpec(
    "align", command="align {x}", outputs=(OutputGlob("*.bam", required=True), OutputGlob("*.log")), env={"A": "1", "B": "2"}
)
TASK = TaskSpec("align 1", params={"x": 1}, files=(FILE, InputFile("b", Digest("2" * 64), 1)), env={"C": "3"})
replace = msgspec.structs.replace


@pytest.mark.parametrize(
    ("job", "task"),
    [
        pytest.param(JOB, replace(TASK, command="align 2"), id="command"),
        pytest.param(JOB, replace(TASK, command=("align", "1")), id="arguments for a text"),
        pytest.param(JOB, replace(TASK, env={"C": "4"}), id="task's env"),
        pytest.param(replace(JOB, env={"A": "2", "B": "2"}), TASK, id="job's env"),
        pytest.param(JOB, replace(TASK, files=(replace(FILE, digest=Digest("3" * 64)), TASK.files[1])), id="content"),
        pytest.param(JOB, replace(TASK, files=(replace(FILE, dst="other"), TASK.files[1])), id="place"),
        pytest.param(JOB, replace(TASK, files=(replace(FILE, executable=True), TASK.files[1])), id="executable"),
        pytest.param(JOB, replace(TASK, files=(FILE,)), id="a file less"),
        pytest.param(replace(JOB, image="align:3"), TASK, id="image"),
        pytest.param(replace(JOB, work_dir="w"), TASK, id="working directory"),
        pytest.param(replace(JOB, outputs=JOB.outputs[:1]), TASK, id="an output less"),
        pytest.param(replace(JOB, outputs=(OutputGlob("*.bam"), OutputGlob("*.log"))), TASK, id="no longer required"),
        pytest.param(replace(JOB, secret_env={"T": "env:T"}), TASK, id="secret's reference"),
    ],
)
def test_what_decides_a_result_changes_the_fingerprint(job: JobSpec, task: TaskSpec) -> None:
    """Each of these may change what a task computes."""
    assert fingerprint(job, task) != fingerprint(JOB, TASK)


@pytest.mark.parametrize(
    ("job", "task"),
    [
        pytest.param(replace(JOB, name="other"), TASK, id="job's name"),
        pytest.param(replace(JOB, command="align   {x}"), TASK, id="template"),
        pytest.param(replace(JOB, resources=Resources(cpu=8)), TASK, id="resources"),
        pytest.param(replace(JOB, retry=RetryPolicy(attempts=3)), TASK, id="retries"),
        pytest.param(
            replace(JOB, priority=7, timeout_s=5.0, parallelism=1, max_failures=1, cache=False), TASK, id="how it is run"
        ),
        pytest.param(replace(JOB, outputs=JOB.outputs[::-1]), TASK, id="order of outputs"),
        pytest.param(JOB, replace(TASK, files=TASK.files[::-1]), id="order of files"),
        pytest.param(
            JOB, replace(TASK, files=(replace(FILE, src="elsewhere", link=True), TASK.files[1])), id="where a file was"
        ),
        pytest.param(JOB, replace(TASK, params={"x": 2}), id="parameters as such"),
        pytest.param(JOB, replace(TASK, name="n", resources=Resources()), id="task's name and resources"),
        pytest.param(replace(JOB, env={"B": "2"}), replace(TASK, env={"C": "3", "A": "1"}), id="where a variable is set"),
    ],
)
def test_what_decides_nothing_keeps_the_fingerprint(job: JobSpec, task: TaskSpec) -> None:
    """None of these may make a finished task run again."""
    assert fingerprint(job, task) == fingerprint(JOB, TASK)


def test_fingerprinter_is_fingerprint() -> None:
    """The fast way gives what the plain one gives, for tasks with and without an env of their own, in any order."""
    tasks = [TASK, replace(TASK, env={}), replace(TASK, files=()), TASK]
    assert list(map(fingerprinter(JOB), tasks)) == [fingerprint(JOB, task) for task in tasks]


def test_a_stored_fingerprint_is_found_again() -> None:
    """The exact digest of a known task: a change of the encoding would run every finished task of every user again."""
    assert fingerprint(JOB, TASK) == "8494e35b525734caacfc0860635b5d48bb3f03390339fd3c788790a9987e5eb5"
