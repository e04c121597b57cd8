"""Input files: where they are in the task, and which cannot be inputs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sparkles.backends.memory_blobs import MemoryBlobs
from sparkles.engine.commands import FileDraft, JobDraft
from sparkles.engine.files import RunFiles
from sparkles.engine.jobs import build
from sparkles.errors import SpecError
from sparkles.model import InputFile
from tests.support.drafts import content, made, refused, rows, source


@pytest.fixture
def blobs() -> Iterator[MemoryBlobs]:
    """A store in memory."""
    store = MemoryBlobs()
    yield store
    store.close()


@pytest.fixture
def files(tmp_path: Path, blobs: MemoryBlobs) -> RunFiles:
    """A project's files."""
    return source(tmp_path, blobs)


@pytest.mark.parametrize(
    ("drafts", "expected"),
    [
        pytest.param([FileDraft("data/x.csv")], {"x.csv": "x"}, id="base name"),
        pytest.param([FileDraft("data/x.csv", dst="in/./train.csv")], {"in/train.csv": "x"}, id="dst"),
        pytest.param([FileDraft("data/x.csv", dst="in/")], {"in/x.csv": "x"}, id="folder"),
        pytest.param([FileDraft("data/x.csv", dst="./")], {"x.csv": "x"}, id="the directory itself as folder"),
        pytest.param([FileDraft("data/*.csv")], {"x.csv": "x", "y.csv": "y"}, id="glob"),
        pytest.param([FileDraft("data/*.csv", dst="in/")], {"in/x.csv": "x", "in/y.csv": "y"}, id="glob into a folder"),
        pytest.param([FileDraft("data/x.*", dst="one")], {"one": "x"}, id="glob of one file"),
        pytest.param([FileDraft("data/**")], {"x.csv": "x", "y.csv": "y", "deep/x.csv": "deep x"}, id="tree"),
        pytest.param([FileDraft("da*/**/x.csv")], {"data/x.csv": "x", "data/deep/x.csv": "deep x"}, id="tree from the root"),
        pytest.param([FileDraft("odd/[1].txt")], {"[1].txt": "brackets"}, id="a name that looks like a glob"),
        pytest.param([FileDraft("a.txt"), FileDraft("copy/a.txt")], {"a.txt": "alpha"}, id="same content twice"),
        pytest.param([FileDraft("empty/.keep")], {".keep": ""}, id="empty file"),
    ],
)
def test_inputs(files: RunFiles, drafts: list[FileDraft], expected: dict[str, str]) -> None:
    """Where files are in the task: their base name, their dst, or below a folder; a tree keeps its shape."""
    (task,) = made(files, files=tuple(drafts)).tasks
    assert {file.dst: file.digest for file in task.files} == {dst: content(text) for dst, text in expected.items()}
    assert {file.dst: file.size_bytes for file in task.files} == {dst: len(text) for dst, text in expected.items()}


def test_an_artifact_is_an_input(files: RunFiles, blobs: MemoryBlobs) -> None:
    """An output of an earlier task is used by its content, under its base name, or as a parameter's file."""
    stored = blobs.put_bytes(b"model")
    artifact = {"job": "fit-1", "index": 2, "name": "out/model.bin", "digest": stored, "size": 5}
    (task,) = made(files, files=(FileDraft(artifact=artifact, link=True),)).tasks
    assert task.files == (InputFile("model.bin", stored, 5, link=True, src="fit-1/2/out/model.bin"),)
    (task,) = made(files, command="use {^m}", tasks=rows({"m": artifact})).tasks
    assert (task.command, task.files[0].dst, task.files[0].digest) == ("use inputs/model.bin", "inputs/model.bin", stored)


def test_files_that_parameters_name(files: RunFiles) -> None:
    """`{^name}` brings the file and becomes its path, unique where two have one name, seen from the working directory."""
    sweep = rows({"r": "data/x.csv", "q": "data/deep/x.csv"}, {"r": "a.txt", "q": "copy/a.txt"})
    built = made(files, command="align {^r} {^q} {r}", tasks=sweep)
    assert [task.command for task in built.tasks] == [
        "align inputs/x.csv inputs/2/x.csv data/x.csv",
        "align inputs/a.txt inputs/a.txt a.txt",
    ]
    assert [{file.dst: file.digest for file in task.files} for task in built.tasks] == [
        {"inputs/x.csv": content("x"), "inputs/2/x.csv": content("deep x")},
        {"inputs/a.txt": content("alpha")},
    ]
    built = made(files, command=("align", "--in={^r}"), tasks=sweep[:1], work_dir="w/v")
    assert built.tasks[0].command == ("align", "--in=../../inputs/x.csv")


def test_a_file_that_many_tasks_name_is_stored_once(files: RunFiles) -> None:
    """100 tasks with one reference file look at it once."""
    asked: list[str] = []

    class Counting:
        matches, artifact = files.matches, files.artifact

        def stored(self, path: str) -> Any:
            asked.append(path)
            return files.stored(path)

    sweep = rows(*({"ref": "a.txt", "n": n} for n in range(100)))
    build(JobDraft(name="j", command="x {^ref} {n}", tasks=sweep, files=(FileDraft("a.txt"),)), Counting())
    assert asked == ["a.txt"]


@pytest.mark.parametrize(
    ("draft", "message"),
    [
        (FileDraft("data"), "files[1]: data: a directory; name its files or use a glob such as 'data/**'"),
        (FileDraft("data/"), "files[1]: data/: a directory; name its files or use a glob such as 'data/**'"),
        (FileDraft("data/*.tsv"), "files[1]: data/*.tsv: the pattern matches no file"),
        (FileDraft(""), "files[1].src: expected a path, a pattern or an artifact, found an empty text"),
        (
            FileDraft("gs://bucket/x"),
            "files[1]: gs://bucket/x: objects of a bucket are not read as inputs yet: copy it to this machine (gcloud storage cp) and"
            " name the file",
        ),
        (
            FileDraft("https://host/*.txt"),
            "files[1]: https://host/*.txt: expected a path on this machine, found a https:// URL; "
            "fetch it first, in a task or with shell",
        ),
        (
            FileDraft("data/*.csv", dst="all.csv"),
            "files[1].dst: 'all.csv' is one file, and data/*.csv names 2; end it with \"/\" to name a folder",
        ),
        (
            FileDraft("a.txt", dst="/x"),
            "files[1].dst: expected a path, relative to the task's directory; found '/x': it is absolute",
        ),
        (
            FileDraft("a.txt", dst="in/../../x"),
            "files[1].dst: expected a path, relative to the task's directory; found 'in/../../x': it leaves the task's directory",
        ),
        (FileDraft("a.txt", dst=""), "files[1].dst: expected a path, relative to the task's directory; found an empty text"),
        (
            FileDraft("a.txt", dst="a\\b"),
            "files[1].dst: expected a path, relative to the task's directory; found 'a\\\\b': it holds a backslash",
        ),
        (
            FileDraft("a.txt", dst="a\0"),
            "files[1].dst: expected a path, relative to the task's directory; found 'a\\x00': it holds a NUL",
        ),
        (
            FileDraft("a.txt", dst="."),
            "files[1].dst: expected a path, relative to the task's directory; found '.': it names the directory itself",
        ),
        (
            FileDraft("a.txt", dst="x" * 256),
            "files[1].dst: expected a path, relative to the task's directory; found a name of more than 255 bytes",
        ),
        (
            FileDraft(artifact={"job": "j-1", "index": 1, "name": "m", "digest": "0" * 64, "size": 1}),
            "files[1]: j-1/1: output m is not stored any more; `sparkles reset j-1/1` makes it again",
        ),
    ],
    ids=lambda value: repr(value)[:40] if isinstance(value, FileDraft) else "",
)
def test_wrong_inputs(files: RunFiles, draft: FileDraft, message: str) -> None:
    """The path of the field, the file, what was expected and what was found."""
    error = refused(files, files=(draft,))
    assert isinstance(error, SpecError)
    assert str(error) == message


def test_a_missing_file_is_named_with_its_neighbour(files: RunFiles) -> None:
    """A slip in a name is the usual reason."""
    assert str(refused(files, files=(FileDraft("data/z.csv"),))).startswith("files[1]: ")
    assert str(refused(files, files=(FileDraft("data/xy.csv"),))).endswith(" Did you mean 'x.csv'?")


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("../ext/**/*.txt", {"a/one.txt", "b/one.txt", "top.txt"}),
        ("../ext/*/one.txt", {"a/one.txt", "b/one.txt"}),
        ("../e*/a/*", {"ext/a/one.txt"}),
        ("../*/a.txt", {"project/a.txt"}),
        ("data/../../ext/a/*", {"one.txt"}),
        ("{above}/ext/**", {"a/one.txt", "b/one.txt", "top.txt"}),
        ("{above}/project/data/**", {"x.csv", "y.csv", "deep/x.csv"}),
        ("~/ext/**", {"a/one.txt", "b/one.txt", "top.txt"}),
        ("./data/**", {"x.csv", "y.csv", "deep/x.csv"}),
    ],
)
def test_globs_that_leave_the_project(
    tmp_path: Path, blobs: MemoryBlobs, monkeypatch: pytest.MonkeyPatch, pattern: str, expected: set[str]
) -> None:
    """A tree keeps its shape below the fixed part of the glob, wherever that leads and however it is written."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("a/one.txt", "b/one.txt", "top.txt"):
        path = tmp_path / "ext" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (tmp_path / "project").mkdir()
    files = source(tmp_path / "project", blobs)
    (task,) = made(files, files=(FileDraft(pattern.format(above=tmp_path)),)).tasks
    assert {file.dst for file in task.files} == expected


def test_files_of_two_globs_for_one_place(tmp_path: Path, blobs: MemoryBlobs) -> None:
    """Both are named, with where they are."""
    for name in ("one/x.txt", "two/x.txt"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(name)
    (tmp_path / "project").mkdir()
    files = source(tmp_path / "project", blobs)
    error = refused(files, files=(FileDraft("../one/*"), FileDraft("../two/*")))
    assert "../one/x.txt and ../two/x.txt would both be 'x.txt' in the task" in str(error)


def test_two_inputs_for_one_place(files: RunFiles) -> None:
    """Both are named; a file where a folder must be is found as well."""
    error = refused(files, tasks=rows({}, {}, files=(FileDraft("data/x.csv"), FileDraft("data/deep/x.csv"))))
    assert str(error) == (
        "tasks[1].files[2].dst: data/x.csv and data/deep/x.csv would both be 'x.csv' in the task; give one of them another dst"
    )
    error = refused(files, files=(FileDraft("a.txt"), FileDraft("b.txt", dst="a.txt/b")))
    assert str(error) == "files: a.txt would be the file 'a.txt' and b.txt the file 'a.txt/b' below it"
