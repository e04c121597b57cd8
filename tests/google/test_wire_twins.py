"""Python and Go mean the same by every document: what Python made up is read by Go and written again, byte by byte."""

import enum
import functools
import json
import subprocess
import types
import typing
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from sparkles import wire
from sparkles.errors import Damaged, SchemaTooNew
from sparkles.model import Attempt
from sparkles.wire import Event, JobDocument, ManifestRow, ShardDocument, WorkerDocument
from tests.support.needs import requires

pytestmark = pytest.mark.google
ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "wire"
DOCUMENTS = {
    "job.json": JobDocument,
    "shard.json": ShardDocument,
    "worker.json": WorkerDocument,
    "event.json": Event,
    "manifest_row.json": ManifestRow,
    "result.json": Attempt,
    "full_job.json": JobDocument,
    "full_shard.json": ShardDocument,
    "full_manifest_row.json": ManifestRow,
}


class Twin:
    """The Go program that reads documents and writes them again."""

    def __init__(self, program):
        self._child = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def rewrite(self, kind, data):
        """Raises ValueError with what the other side says."""
        self._child.stdin.write(kind.__name__.encode() + b" " + data + b"\n")
        self._child.stdin.flush()
        answer = self._child.stdout.readline().removesuffix(b"\n")
        if answer.startswith(b"error: "):
            raise ValueError(answer.decode())
        return answer

    def close(self):
        self._child.stdin.close()
        self._child.stdout.close()
        self._child.wait()


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    program = tmp_path_factory.mktemp("twin") / "rewriter"
    command = ["go", "build", "-tags", "disable_grpc_modules", "-o", program, "./internal/wire/rewriter"]
    try:
        built = subprocess.run(command, cwd=ROOT / "consume", capture_output=True, text=True)
    except FileNotFoundError:
        requires(False, "this machine has no Go")
        raise
    assert built.returncode == 0, built.stderr
    twin = Twin(program)
    yield twin
    twin.close()


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
PLAIN = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | TEXT
JSON = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=6)


def made(kind, default=msgspec.NODEFAULT):
    """Values of a type, as its fields are declared."""
    if isinstance(kind, typing.NewType):
        return made(kind.__supertype__, default)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return fields_made(kind)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return st.sampled_from(list(kind))
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return st.one_of(*map(made, inner))
    if origin is tuple:
        return st.lists(made(inner[0]), max_size=3).map(tuple)
    if origin is dict:
        return st.dictionaries(TEXT, made(inner[1]), max_size=3)
    if kind is float:
        # A default that is spelled out is left out by the other side: the same value in other bytes.
        return st.floats(allow_nan=False, allow_infinity=False).filter(lambda number: number != default)
    found = {str: TEXT, int: st.integers(-(2**63), 2**63 - 1), bool: st.booleans(), type(None): st.none(), typing.Any: JSON}
    return found[kind]


@functools.cache
def fields_made(kind):
    hints = typing.get_type_hints(kind)
    fields = {}
    for field in msgspec.structs.fields(kind):
        values = made(hints[field.name], field.default)
        if field.name == "schema":
            values = st.just(wire.SCHEMA)
        if not field.required:
            default = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
            values = st.just(default) | values
        fields[field.name] = values
    return st.fixed_dictionaries(fields).map(lambda given: kind(**given))


def encoded(document):
    return wire.encode_row(document) if isinstance(document, ManifestRow) else wire.encode(document)


def decoded(data, kind, where="document"):
    if kind is ManifestRow:
        return wire.decode_row(data, where)
    return wire.decode_attempt(data, where) if kind is Attempt else wire.decode(data, kind, where)


@pytest.mark.parametrize("kind", dict.fromkeys(DOCUMENTS.values()), ids=lambda kind: kind.__name__)
@settings(max_examples=60, deadline=None, phases=[Phase.generate, Phase.shrink], suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_both_languages_write_the_same_bytes(twin, kind, data):
    """Whatever is in a document: text of any kind, numbers up to their limits, defaults, what is left out."""
    values = fields_made(kind)
    document = data.draw(values.filter(lambda row: not row.same_files) if kind is ManifestRow else values)
    sent = encoded(document)
    theirs = twin.rewrite(kind, sent)
    assert decoded(sent, kind) == decoded(theirs, kind) == document
    assert twin.rewrite(kind, theirs) == encoded(decoded(theirs, kind)) == theirs
    if kind is not JobDocument:
        # There Python spells out defaults that were given as such, and Go does not; only drivers write it.
        assert theirs == sent


def spoiled(document, path=()):
    """(path, the document with a field that nobody knows there) of each table in it whose fields are known."""
    if isinstance(document, dict):
        yield path, {**document, "unheard_of": 1}
    entries = document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    for key, item in entries:
        if key in ("params", "env", "secret_env", "properties", "pod_template", "results"):
            continue  # the author's own
        for below, changed in spoiled(item, (*path, key)):
            yield (
                below,
                {**document, key: changed}
                if isinstance(document, dict)
                else [changed if place == key else each for place, each in enumerate(document)],
            )


@pytest.mark.parametrize("name", DOCUMENTS)
def test_unknown_fields_are_refused_by_both(twin, name):
    """In every table of every document, as docs/wire.md says: a field that one side does not know is a newer schema."""
    kind = DOCUMENTS[name]
    found = list(spoiled(json.loads((GOLDEN / name).read_bytes())))
    assert found
    for path, document in found:
        sent = json.dumps(document).encode()
        with pytest.raises(Damaged, match="unheard_of"):
            decoded(sent, kind)
        with pytest.raises(ValueError, match="there is no field `unheard_of`"):
            twin.rewrite(kind, sent)
        assert path is not None


@pytest.mark.parametrize("name", ["job.json", "shard.json", "worker.json", "event.json"])
def test_newer_documents_are_refused_by_both(twin, name):
    """With the same sentence, which says which side to upgrade, whatever else a newer sparkles has put there."""
    kind = DOCUMENTS[name]
    document = {**json.loads((GOLDEN / name).read_bytes()), "schema": wire.SCHEMA + 1, "unheard_of": {"a": []}}
    for key in list(document):
        if key not in ("schema", "unheard_of"):
            document[key] = ["of another kind"]
    sent = json.dumps(document).encode()
    with pytest.raises(SchemaTooNew) as mine:
        decoded(sent, kind, kind.__name__)
    with pytest.raises(ValueError, match="newer") as theirs:
        twin.rewrite(kind, sent)
    assert str(theirs.value) == f"error: {mine.value}"
    assert str(mine.value).endswith("(its documents have schema 2, this version reads 1); upgrade this one")
