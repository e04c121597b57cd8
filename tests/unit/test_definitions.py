"""What a driver writes into a manifest: the golden part, which consume/internal/jobstore reads, and how parts are cut."""

import gzip
from pathlib import Path

import pytest

from sparkles import digest
from sparkles.backends.google import definitions
from sparkles.backends.google.definitions import ManifestWriter
from sparkles.model import Digest, InputFile, NewTask, TaskSpec

GOLDEN = Path(__file__).parents[1] / "golden" / "wire" / "manifest_part.ndjson"
COMMON = (InputFile("a.txt", Digest("a" * 64), 1), InputFile("b.txt", Digest("b" * 64), 2, executable=True))
OWN = (InputFile("a.txt", Digest("c" * 64), 3),)


def manifest(specs, **options):
    writer = ManifestWriter("big-00000000", **options)
    for number, spec in enumerate(specs, 1):
        writer.add(NewTask(spec, Digest(f"{number:064x}")))
    return writer.finish()


def test_the_golden_part():
    """Inputs that are those of the line before are not said again, whether the same or merely equal; a task without inputs ends that."""
    files = [COMMON, COMMON, (*COMMON,), OWN, COMMON, (), (), COMMON]
    _, data, fingerprints = manifest([TaskSpec(f"true {number}", files=each) for number, each in enumerate(files, 1)])
    assert gzip.decompress(data) == GOLDEN.read_bytes()
    assert fingerprints == b"".join(number.to_bytes(32, "big") for number in range(1, 9))


def test_each_part_begins_anew():
    """A part can be read alone: its first line says its inputs; each is where the manifest has it, with its digest."""
    found, data, _ = manifest([TaskSpec("true", files=COMMON)] * 5, part_tasks=2)
    lines = []
    for part in found.parts:
        member = data[part.offset : part.offset + part.size_bytes]
        assert digest.of_bytes(member) == part.digest
        lines += gzip.decompress(member).splitlines()
    assert ["same_files" in line.decode() for line in lines] == [False, True, False, True, False]


@pytest.mark.parametrize(
    ("sizes", "part_tasks", "parts"),
    [
        ([10] * 2500, 1000, 3),
        ([100_000] * 300, 84, 4),
        ([1_000_000] * 130, 64, 3),
        ([3_000_000] + [10] * 299, 300, 1),
    ],
    ids=["small", "large", "very-large", "one-large"],
)
def test_parts_of_large_definitions_are_shorter(sizes, part_tasks, parts):
    """Whoever needs one task reads its part: about 8 MiB where the first tasks show that they are large, of 64 tasks at least."""
    texts = {size: "x" * size for size in sizes}
    found, _, _ = manifest([TaskSpec("true", {"blob": texts[size]}) for size in sizes])
    assert len(found.parts) == parts
    assert found.part_tasks == (part_tasks if parts > 1 else definitions.PART_TASKS)
