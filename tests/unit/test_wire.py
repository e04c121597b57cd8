"""The documents that drivers and workers share: tests/golden/wire, which consume/internal/wire reads as well."""

import json
import typing
from pathlib import Path

import msgspec
import pytest

from sparkles import wire
from sparkles.backends.google import names
from sparkles.errors import Damaged, SchemaTooNew
from sparkles.model import Attempt, AttemptRef, TaskSpec
from sparkles.wire import Event, JobDocument, ManifestRow, ShardDocument, WorkerDocument

GOLDEN = Path(__file__).parents[1] / "golden" / "wire"


def read(name):
    return (GOLDEN / name).read_bytes().strip()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (f"{which}{name}.json", kind)
        for which in ("", "full_")
        for name, kind in (("job", JobDocument), ("shard", ShardDocument), ("worker", WorkerDocument), ("event", Event))
    ],
)
def test_documents_survive_a_round_trip(name, kind):
    """Byte by byte: what is read is what is written."""
    assert wire.encode(wire.decode(read(name), kind, name)) == read(name)


def test_records_and_lines_survive_a_round_trip():
    """They carry no schema: a document names them."""
    for name in ("result.json", "full_result.json"):
        assert wire.encode(wire.decode_attempt(read(name), name)) == read(name)
    assert wire.encode_row(wire.decode_row(read("full_manifest_row.json"), "manifest")) == read("full_manifest_row.json")
    row = wire.decode_row(read("manifest_row.json"), "manifest")
    assert wire.encode_row(row) == read("manifest_row.json")
    assert row.spec.params["big"] == 9007199254740993


def test_a_newer_document_is_refused_by_name():
    """Whatever else is in it."""
    with pytest.raises(SchemaTooNew) as caught:
        wire.decode(read("newer_job.json"), JobDocument, "job align-1a2b3c4d")
    assert str(caught.value) == (
        "job align-1a2b3c4d was written by a newer sparkles (its documents have schema 2, this version reads 1); upgrade this one"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a document of sparkles"),
        ("[]", "expected a document of sparkles"),
        ('{"schema":1,"job":"\\ud800"', "expected a document of sparkles"),
        ('{"schema":1,"job":"j","shard":1,"seq":1,"more":1}', "unknown field `more`"),
        ('{"schema":1,"Job":"j","shard":1,"seq":1}', "unknown field `Job`"),
        ('{"schema":1,"job":"j","shard":1}', "missing required field `seq`"),
        ('{"schema":1,"job":"j","shard":null,"seq":1}', "`$.shard`"),
        ('{"schema":1,"job":"j","shard":1.5,"seq":1}', "`$.shard`"),
        (
            '{"schema":1,"job":"j","shard":1,"seq":1,"changes":[{"index":1,"state":"paused","attempt":1}]}',
            "`$.changes[0].state`",
        ),
    ],
)
def test_what_is_not_a_document_is_refused(text, message):
    """Nothing is guessed, and the message has the path of the field."""
    with pytest.raises(Damaged) as caught:
        wire.decode(text.encode(), Event, "event")
    assert str(caught.value).startswith("event: ")
    assert message in str(caught.value)


def test_defaults_are_left_out():
    """A task that waits is `{}`; a default that is not zero (one core, the cache on) is not said either."""
    plain = json.loads(read("shard.json"))
    assert plain["tasks"][2] == {}
    spec = wire.decode(read("job.json"), JobDocument, "job").job.spec
    assert spec.cache
    assert (spec.retry.backoff_s, spec.retry.max_backoff_s) == (1.0, 300.0)
    assert "cache" not in json.loads(read("job.json"))["job"]["spec"]


def test_names():
    """Of objects and namespaces."""
    golden = json.loads(read("names.json"))
    job = wire.decode(read("job.json"), JobDocument, "job")
    assert names.manifest(job.job.id, job.manifest) == golden["manifest"]
    assert names.fingerprints(job.job.id) == golden["fingerprints"]
    assert names.attempt(AttemptRef(job.job.id, 2, 1), "result.json") == golden["result"]
    assert {prefix: names.namespace(prefix) for prefix in golden["namespaces"]} == golden["namespaces"]


def test_a_line_with_the_inputs_of_the_line_before():
    """They are filled in where a part is read; the first line of a part cannot ask for that."""
    first = wire.decode_row(read("full_manifest_row.json"), "manifest")
    line = b'{"spec":{"command":"b"},"fingerprint":"x","same_files":true}'
    second = wire.decode_row(line, "manifest", first)
    assert second == ManifestRow(TaskSpec("b", files=first.spec.files), "x")
    with pytest.raises(Damaged, match=r"manifest: expected the inputs of the first task, found `same_files`"):
        wire.decode_row(line, "manifest")


GOLDEN_KINDS = {
    "job": JobDocument,
    "shard": ShardDocument,
    "worker": WorkerDocument,
    "event": Event,
    "manifest_row": ManifestRow,
    "result": Attempt,
}


def seen(value, kind, found):
    """Notes the fields of each table in a golden file, by the struct that it is."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and isinstance(value, dict):
        hints = typing.get_type_hints(kind)
        for name, item in value.items():
            found.setdefault(kind, set()).add(name)
            seen(item, hints[name], found)
    elif isinstance(value, list):
        for item in value:
            for inner in typing.get_args(kind):
                seen(item, inner, found)
    elif isinstance(value, dict):
        for inner in typing.get_args(kind):
            seen(value, inner, found)


def test_the_golden_files_are_complete():
    """Every field of every struct stands in one of them, so that neither side can forget one unseen."""
    found = {}
    for name, kind in GOLDEN_KINDS.items():
        for file in (f"{name}.json", f"full_{name}.json"):
            seen(json.loads(read(file)), kind, found)
    missing = {
        f"{kind.__name__}.{field.name}"
        for kind, names in found.items()
        for field in msgspec.structs.fields(kind)
        if field.name not in names
    }
    assert missing == {"ManifestRow.same_files"}  # which takes a line before it: below
