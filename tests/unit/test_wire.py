"""The documents that drivers and workers share: tests/golden/wire, which consume/internal/wire reads as well."""

import json
from pathlib import Path

import pytest

from sparkles import wire
from sparkles.backends.google import names
from sparkles.errors import Damaged, SchemaTooNew
from sparkles.model import AttemptRef
from sparkles.wire import Event, JobDocument, ShardDocument, WorkerDocument

GOLDEN = Path(__file__).parents[1] / "golden" / "wire"


def read(name):
    return (GOLDEN / name).read_bytes().strip()


@pytest.mark.parametrize(
    ("name", "kind"),
    [("job.json", JobDocument), ("shard.json", ShardDocument), ("worker.json", WorkerDocument), ("event.json", Event)],
)
def test_documents_survive_a_round_trip(name, kind):
    """Byte by byte: what is read is what is written."""
    assert wire.encode(wire.decode(read(name), kind, name)) == read(name)


def test_records_and_lines_survive_a_round_trip():
    """They carry no schema: a document names them."""
    assert wire.encode(wire.decode_attempt(read("result.json"), "result.json")) == read("result.json")
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
