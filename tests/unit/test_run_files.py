"""What a job or a read gets of a file that the run itself writes: as it was at that point of the run, also where the script was edited."""

import pytest

from sparkles.engine.commands import Child, Fetch, FileDraft, Parallel, Read, Shell, Sleep, Submit, Wait, Write
from sparkles.engine.events import Noticed
from sparkles.engine.forking import fork
from sparkles.errors import RunFailed, UsageError, WorkflowError
from sparkles.model import Run, RunId, RunState
from tests.support.engine import DRIVER, ScriptError, World, job


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def uses(name, *patterns):
    return Submit(draft=job(name, f"use {name}", files=tuple(FileDraft(src=each) for each in patterns)))


def writes(path, text):
    return Write(writer="text", path=path, content=text.encode())


def reads(path):
    return Read(reader="text", path=path)


FAILS = Shell(command="test -e go")


def run_of(name, *patterns):
    """A job, submitted and waited for."""
    handle = yield uses(name, *patterns)
    yield Wait(jobs=(handle["id"],))
    return handle


def fails(world, program, **options):
    with pytest.raises(RunFailed):
        world.execute(program, **options)


def given(world, name):
    """The inputs of each job of a name, the oldest first: what the files held, by their names."""
    jobs = sorted((each for each in world.jobs.list_jobs() if each.spec.name == name), key=lambda each: each.sequence)
    return [
        {file.src: world.blobs.read(file.digest).decode() for file in world.jobs.get_spec(each.id, 1).files} for each in jobs
    ]


def test_a_glob_does_not_see_what_the_run_wrote_later(world):
    (world.root / "in.csv").write_text("in")

    def program():
        yield from run_of("count", "*.csv")
        yield writes("best.csv", "best")
        yield FAILS

    fails(world, program)
    (world.root / "go").touch()
    world.execute(program)
    assert given(world, "count") == [{"in.csv": "in"}]
    assert world.fleet.ran == ["use count"]


def test_a_glob_sees_what_the_run_wrote_before(world):
    def program():
        yield writes("one.csv", "1")
        yield from run_of("count", "*.csv")
        yield writes("two.csv", "2")
        yield FAILS

    fails(world, program)
    (world.root / "go").touch()
    world.execute(program)
    assert given(world, "count") == [{"one.csv": "1"}]


def test_a_glob_does_not_see_what_was_fetched_later(world):
    (world.root / "data").mkdir()
    (world.root / "data/in.csv").write_text("in")

    def program():
        handle = yield from run_of("count", "data/**")
        yield Fetch(job=handle["id"], dest="data/res")
        yield FAILS

    fails(world, program)
    assert (world.root / "data/res/1/results.json").exists()
    (world.root / "go").touch()
    world.execute(program)
    assert given(world, "count") == [{"data/in.csv": "in"}]


def test_a_glob_sees_what_an_earlier_fetch_left_there(world):
    (world.root / "res/1").mkdir(parents=True)
    (world.root / "res/1/results.json").write_text("of another run")
    seen = []

    def program():
        seen.append((yield Read(reader="exists", path="res")))
        seen.append((yield Read(reader="exists", path="res/2")))
        yield from run_of("count", "res/**")
        handle = yield Submit(draft=job("two", "one", "two"))
        yield Wait(jobs=(handle["id"],))
        yield Fetch(job=handle["id"], dest="res")
        yield FAILS

    fails(world, program)
    (world.root / "res/1/results.json").write_text("of another run")
    (world.root / "go").touch()
    world.execute(program)
    assert given(world, "count") == [{"res/1/results.json": "of another run"}]
    assert seen == [True, False, True, False]


def test_a_forked_run_does_not_take_what_its_source_fetched(world):
    (world.root / "in.csv").write_text("in")

    def program():
        handle = yield from run_of("count", "**")
        yield Fetch(job=handle["id"], dest=".")

    world.execute(program)
    forked(world)
    world.execute(program, run_id=RunId("r-2"))
    assert given(world, "count") == [{"in.csv": "in"}, {"in.csv": "in"}]


def forked(world):
    """Makes the run r-2, which starts from r-1."""
    run = Run(RunId("r-2"), "w.lua", "{}", RunState.RUNNING, 7, DRIVER, forked_from=RunId("r-1"))
    world.runs.create_run(run)
    fork(world.runs, world.runs.get_run(RunId("r-1")), RunId("r-2"), [])


def test_a_job_gets_a_file_whose_write_the_edited_script_left_out(world):
    """It is there, and the record does not say that it came later."""

    def program(write=True):
        if write:
            yield writes("grid.csv", "x\n1\n")
        yield reads("grid.csv")
        yield from run_of("first")
        yield from run_of("second", "grid.csv")
        yield FAILS

    fails(world, program)
    fails(world, lambda: program(write=False))
    assert world.told(Noticed) == []
    assert given(world, "second") == [{"grid.csv": "x\n1\n"}]


def test_a_new_read_gets_a_file_whose_write_the_edited_script_left_out(world):
    seen = []

    def first():
        yield writes("seed.txt", "42")
        yield FAILS

    def edited():
        seen.append((yield reads("seed.txt")))
        yield from run_of("job", "seed.txt")
        yield from run_of("glob", "seed*")

    fails(world, first)
    world.execute(edited)
    assert seen == ["42"]
    assert given(world, "job") == given(world, "glob") == [{"seed.txt": "42"}]


def test_a_read_that_found_no_file_finds_none_again_though_the_run_made_it(world):
    seen = []

    def program():
        try:
            yield reads("cache.txt")
            seen.append("found")
        except ScriptError:
            seen.append("none")
            yield writes("cache.txt", "made")
        yield FAILS

    fails(world, program)
    fails(world, program)
    assert seen == ["none", "none"]
    (world.root / "cache.txt").write_text("by hand")
    (world.root / "go").touch()
    world.execute(program)
    assert seen == ["none", "none", "found"]


def test_a_read_that_ended_the_run_is_tried_again(world):
    seen = []

    def program():
        seen.append((yield reads("in.txt")))

    with pytest.raises(WorkflowError, match=r"in\.txt: no such file"):
        world.execute(program)
    (world.root / "in.txt").write_text("there")
    world.execute(program)
    assert seen == ["there"]
    assert world.told(Noticed) == []


def test_an_edit_that_is_undone_brings_back_what_the_script_wrote(world):
    def program(alpha):
        yield writes("n.txt", alpha)
        yield from run_of("use", "n.txt")
        yield FAILS
        yield from run_of("after", "n.txt")

    fails(world, lambda: program("1"))
    fails(world, lambda: program("2"))
    (world.root / "go").touch()
    world.execute(lambda: program("1"))
    assert given(world, "use") == [{"n.txt": "1"}, {"n.txt": "2"}]
    assert given(world, "after") == [{"n.txt": "1"}]
    assert (world.root / "n.txt").read_text() == "1"


def test_a_command_finds_what_the_script_wrote_after_an_edit_was_undone(world):
    def program(alpha):
        yield writes("n.txt", alpha)
        yield Shell(command="cat n.txt > seen.txt; test -e go")

    fails(world, lambda: program("1"))
    fails(world, lambda: program("2"))
    fails(world, lambda: program("1"))
    assert (world.root / "seen.txt").read_text() == "1"


def test_an_edited_table_that_is_restored_brings_back_what_followed_from_it(world):
    def program():
        rows = yield reads("p.csv")
        yield writes("n.txt", f"n={rows}")
        yield from run_of("use", "n.txt")
        yield FAILS

    for text in ("1", "2", "1"):
        (world.root / "p.csv").write_text(text)
        fails(world, program)
    assert given(world, "use") == [{"n.txt": "n=1"}, {"n.txt": "n=2"}]
    (world.root / "go").touch()
    world.execute(program)
    assert (world.root / "n.txt").read_text() == "n=1"


def test_a_job_gets_what_another_strand_had_written_by_then(world):
    (world.root / "a.txt").write_text("old")

    def program(script):
        def early():
            yield Sleep(seconds=0.5)
            yield from run_of("use", "a.txt")

        def late():
            yield Sleep(seconds=0.1)
            yield writes("a.txt", "new")

        yield Parallel(children=children(script, a=early, b=late))
        yield writes("a.txt", "end")
        yield FAILS

    fails(world, program)
    assert given(world, "use") == [{"a.txt": "new"}]
    fails(world, program)
    assert given(world, "use") == [{"a.txt": "new"}]
    assert (world.root / "a.txt").read_text() == "end"


def children(script, **functions):
    return tuple(Child(strand=script.child(function), key=key) for key, function in functions.items())


def test_a_later_write_over_what_this_execution_wrote_is_written_again(world):
    def program():
        rows = yield reads("p.csv")
        yield writes("cfg.txt", f"n={len(rows)}")
        yield from run_of("a", "cfg.txt")
        yield writes("cfg.txt", "final")
        yield from run_of("b", "cfg.txt")
        yield FAILS

    (world.root / "p.csv").write_text("1")
    fails(world, program)
    (world.root / "p.csv").write_text("12")
    (world.root / "go").touch()
    world.execute(program)
    assert not any("left alone" in text for text in world.told(Noticed))
    assert given(world, "a") == [{"cfg.txt": "n=1"}, {"cfg.txt": "n=2"}]
    assert given(world, "b") == [{"cfg.txt": "final"}]
    assert (world.root / "cfg.txt").read_text() == "final"


def test_a_file_that_is_gone_ends_as_the_script_wrote_it_last(world):
    def program():
        for number in (1, 2, 3):
            yield writes("status.txt", f"phase {number}")
        yield FAILS

    fails(world, program)
    (world.root / "status.txt").unlink()
    fails(world, program)
    assert (world.root / "status.txt").read_text() == "phase 3"


def test_a_file_that_is_read_and_rewritten_and_gone_ends_as_it_was(world):
    (world.root / "s.txt").write_text("0")

    def program():
        for _ in range(3):
            number = int((yield reads("s.txt")))
            yield writes("s.txt", str(number + 1))
        yield FAILS

    fails(world, program)
    (world.root / "s.txt").unlink()
    fails(world, program)
    assert (world.root / "s.txt").read_text() == "3"


def test_what_another_run_put_there_is_written_over(world):
    def program(alpha):
        yield writes("cfg.txt", f"alpha={alpha}")
        yield from run_of("use", "cfg.txt")

    world.execute(lambda: program(1))
    world.execute(lambda: program(5), run_id=RunId("r-5"))
    forked(world)
    world.execute(lambda: program(1), run_id=RunId("r-2"), rerun=frozenset({"use"}))
    assert world.told(Noticed) == ["cfg.txt holds what run r-5 wrote; it is written again"]
    assert given(world, "use") == [{"cfg.txt": "alpha=1"}, {"cfg.txt": "alpha=5"}, {"cfg.txt": "alpha=1"}]
    assert (world.root / "cfg.txt").read_text() == "alpha=1"


def test_what_a_person_put_there_is_left_alone_and_used(world):
    def program():
        yield writes("cfg.txt", "1")
        yield writes("cfg.txt", "2")
        yield FAILS
        yield from run_of("use", "cfg.txt")

    fails(world, program)
    (world.root / "cfg.txt").write_text("mine")
    (world.root / "go").touch()
    world.execute(program)
    assert (world.root / "cfg.txt").read_text() == "mine"
    assert given(world, "use") == [{"cfg.txt": "mine"}]


def test_what_is_wrong_with_a_file_that_is_there_is_said_as_it_is(world, monkeypatch):
    (world.root / "grow.bin").write_text("x")

    def changes(path):
        raise UsageError(f"{path}: changed while it was read")

    monkeypatch.setattr(world.blobs, "put_file", changes)
    with pytest.raises(WorkflowError, match=r"files\[1\]: .*grow\.bin: changed while it was read$"):
        world.execute(lambda: run_of("use", "grow.bin"))


def test_a_pattern_below_a_file_names_nothing(world):
    (world.root / "file").write_text("x")
    with pytest.raises(WorkflowError, match="the pattern matches no file"):
        world.execute(lambda: run_of("use", "file/**"))


def test_what_an_interrupted_execution_wrote_anew_is_written_over_by_the_next(world):
    def program(stop):
        rows = yield reads("p.csv")
        yield writes("cfg.txt", f"n={rows}")
        if stop:
            raise KeyboardInterrupt
        yield writes("cfg.txt", "final")
        yield FAILS

    (world.root / "p.csv").write_text("1")
    fails(world, lambda: program(False))
    (world.root / "p.csv").write_text("2")
    world.clock.advance(1)
    with pytest.raises(KeyboardInterrupt):
        world.execute(lambda: program(True))
    assert (world.root / "cfg.txt").read_text() == "n=2"
    fails(world, lambda: program(False))
    assert (world.root / "cfg.txt").read_text() == "final"


def test_a_resumed_run_does_not_use_what_another_run_wrote_meanwhile(world):
    def program(alpha):
        yield writes("cfg.txt", f"alpha={alpha}")
        yield FAILS
        yield from run_of("use", "cfg.txt")

    fails(world, lambda: program(1))
    fails(world, lambda: program(5), run_id=RunId("r-5"))
    (world.root / "go").touch()
    world.execute(lambda: program(1))
    assert given(world, "use") == [{"cfg.txt": "alpha=1"}]


def test_an_earlier_content_that_a_command_brought_back_is_left_alone(world):
    """The script's course is: a, b, a. The command is answered from the record, so nothing would bring it back once more."""

    def program():
        yield writes("x.txt", "a")
        yield writes("x.txt", "b")
        yield Shell(command="printf a > x.txt")
        yield FAILS

    fails(world, program)
    fails(world, program)
    assert (world.root / "x.txt").read_text() == "a"


def test_a_file_that_was_gone_is_completed_by_the_execution_after_next(world):
    def program(stop):
        yield writes("x.txt", "a")
        if stop:
            raise KeyboardInterrupt
        yield writes("x.txt", "b")
        yield FAILS

    fails(world, lambda: program(False))
    (world.root / "x.txt").unlink()
    world.clock.advance(1)
    with pytest.raises(KeyboardInterrupt):
        world.execute(lambda: program(True))
    fails(world, lambda: program(False))
    assert (world.root / "x.txt").read_text() == "b"
