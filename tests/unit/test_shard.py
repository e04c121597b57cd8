"""What may happen to a shard, played from tests/golden/shard.json as consume/internal/shard plays it; and what no shard may become."""

import json
from pathlib import Path

import msgspec
import pytest

from sparkles import wire
from sparkles.backends.google import shard
from sparkles.errors import InternalError
from sparkles.model import Attempt, AttemptRef, FailureClass, Finish, TaskState
from sparkles.wire import ShardDocument, TaskRow

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "shard.json").read_text())


def document(plain):
    return wire.decode(json.dumps(plain).encode(), ShardDocument, "golden")


def claims_of(plain):
    return [(msgspec.convert(each["ref"], AttemptRef), each["token"]) for each in plain]


def play(operation, before, arguments):
    if operation == "claim":
        return shard.claim(before, **arguments)
    if operation == "finish":
        finishes = msgspec.convert(arguments["finishes"], list[Finish])
        return shard.finish(before, finishes, claims_of(arguments.get("started", [])))
    if operation == "release":
        return shard.release(before, claims_of(arguments["claims"]))
    return {"cancel": shard.cancel, "reset": shard.reset}[operation](before, **arguments)


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["name"])
def test_the_golden_cases(case):
    """The document after it, the answer, and the indexed properties; where nothing happened it is the very document."""
    before = document(case["before"])
    after, result = play(case["operation"], before, case["arguments"])
    assert after == document(case["after"])
    assert result == case["result"]
    properties = {"claimable": shard.claimable(after), "open": shard.unfinished(after), "reuses": shard.reuses(after)}
    assert properties == case["properties"]
    assert (after is before) == (case["before"] == case["after"])
    assert after.seq == before.seq + (after is not before)


def test_names_of_cases_are_unique():
    """A case that is named twice hides one in a report."""
    names = [case["name"] for case in GOLDEN["cases"]]
    assert sorted(set(names)) == sorted(names)


@pytest.mark.parametrize("case", GOLDEN["keys"], ids=lambda case: case["key"])
def test_keys(case):
    """Both languages find the same entity."""
    assert shard.key_name(case["job"], case["number"]) == case["key"]


@pytest.mark.parametrize("case", GOLDEN["lines"], ids=lambda case: case["line"])
def test_lines(case):
    """Both languages serve in the same order."""
    assert shard.line(case["pool"], case["priority"], case["sequence"]) == case["line"]
    assert case["line"].startswith(shard.line_prefix(case["pool"]))


def test_lines_are_in_order_of_service():
    """Greater priority first, then the older job."""
    order = [(7, 9), (5, 1), (5, 2), (0, 1), (0, 10), (-3, 1)]
    lines = [shard.line("p", priority, sequence) for priority, sequence in order]
    assert lines == sorted(lines)


def test_a_claim_cannot_end_as_claimed():
    """That is a bug of the caller, and nothing of the batch is recorded."""
    before = ShardDocument(1, "j", 0, 1, (TaskRow(state=TaskState.CLAIMED, attempt=1, token="t"),))
    attempt = Attempt(AttemptRef("j", 1, 1), "t", "w")
    with pytest.raises(InternalError, match="cannot go from claimed to claimed"):
        shard.finish(before, [Finish(attempt, TaskState.CLAIMED, 1, 0)])


@pytest.mark.parametrize("letter", ["x", "\x01"], ids=["plain", "escaped"])
def test_a_full_shard_fits_in_an_entity(letter):
    """64 tasks, each tried 12 times, with the longest records and reasons that there are."""
    found = ShardDocument(1, "j" * 70, 0, 1, tuple(TaskRow() for _ in range(64)), owner="r" * 40, pool="p" * 40)
    for number in range(1, 13):
        tokens = [f"{place:024x}" for place in range(64)]
        found, indexes = shard.claim(found, "w" * 60, tokens, 0)
        finishes = []
        for index, token in zip(indexes, tokens, strict=True):
            attempt = Attempt(AttemptRef(found.job, index, number), token, "w" * 60, FailureClass.EXIT, reason=letter * 600)
            room = shard.RECORD_BYTES - len(wire.encode(attempt)) - len(',"tail":""')
            finishes.append(Finish(msgspec.structs.replace(attempt, tail="x" * max(room, 0)), TaskState.PENDING, number, 0))
        found, recorded = shard.finish(found, finishes)
        assert all(recorded)
        assert len(wire.encode(found)) < 1_000_000, f"after {number} attempts"
    assert found.tasks[0].records[-1].ref.attempt == 12
