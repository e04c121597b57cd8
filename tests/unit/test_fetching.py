"""What `fetch` brings, a second time too, and the table that it makes."""

import csv

import pytest

from sparkles.engine.commands import Fetch, Submit, Wait
from sparkles.engine.events import Noticed
from sparkles.engine.fetching import row_of
from tests.support.engine import World, job


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


class Stop(BaseException):
    """The process ends here."""


def fetched(world, seen):
    def program():
        handle = yield Submit(draft=job("a", "one", "two"))
        yield Wait(jobs=(handle["id"],))
        seen.append((yield Fetch(job=handle["id"], dest="got")))
        raise Stop

    with pytest.raises(Stop):
        world.execute(program)


def test_a_replayed_fetch_brings_what_is_missing_and_gives_what_it_gave(world):
    seen = []
    fetched(world, seen)
    (world.root / "got/1/results.json").unlink()
    fetched(world, seen)
    assert (world.root / "got/1/results.json").exists()
    assert seen == [{"path": "got", "files": 3}] * 2


def test_a_replayed_fetch_leaves_alone_what_was_edited_and_names_it(world):
    fetched(world, [])
    (world.root / "got/1/results.json").write_text("mine")
    (world.root / "got/2/results.json").unlink()
    fetched(world, [])
    assert (world.root / "got/1/results.json").read_text() == "mine"
    assert (world.root / "got/2/results.json").exists()
    assert world.told(Noticed) == ["got: 1/results.json differs from what was fetched; it is left alone"]


def test_the_table_keeps_its_own_columns(world):
    row = row_of(7, "failed", 3, {"index": "x", "state": "CA", "param.state": 1, "alpha": 0.5, "list": []})
    assert row == {
        "index": 7,
        "state": "failed",
        "exit_code": 3,
        "param.index": "x",
        "param.param.state": "CA",
        "param.state": 1,
        "alpha": 0.5,
    }


def test_the_table_has_a_row_for_each_task(world):
    fetched(world, [])
    with (world.root / "got/tasks.csv").open(newline="") as stream:
        assert [(each["index"], each["state"], each["n"]) for each in csv.DictReader(stream)] == [
            ("1", "succeeded", "0"),
            ("2", "succeeded", "1"),
        ]
