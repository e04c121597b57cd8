"""Runs, steps and replay: every rule with a test of its own, against the real engine over memory stores."""

import pytest

from sparkles.engine.commands import (
    Fetch,
    Log,
    Now,
    Random,
    Read,
    Shell,
    Sleep,
    StepBegin,
    StepEnd,
    Submit,
    Unrecorded,
    Uuid,
    Wait,
    Write,
)
from sparkles.engine.events import Logged, Noticed, Submitted
from sparkles.errors import JobFailed, NotFound, RunBusy, RunFailed, WorkflowError
from sparkles.model import RunId, RunState, StepState, TaskState
from tests.support.engine import Crash, ScriptError, World, job


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


class Stop(BaseException):
    """The process ends here."""


def interrupted(world, program, **options):
    """Executes a program that raises Stop somewhere: as if the process had been killed there."""
    with pytest.raises(Stop):
        world.execute(program, **options)


# What is drawn is drawn once


def test_time_chance_and_ids_are_the_same_on_resume(world):
    seen = []

    def program():
        seen.append(((yield Now()), (yield Random()), (yield Random(low=1, high=6)), (yield Uuid())))
        if len(seen) == 1:
            raise Stop

    interrupted(world, program)
    world.clock.advance(1000)
    world.execute(program)
    assert seen[0] == seen[1]
    assert 1 <= seen[0][2] <= 6


def test_equal_commands_are_told_apart_by_occurrence(world):
    seen = []

    def program():
        seen.append([(yield Random()), (yield Random()), (yield Random())])
        if len(seen) == 1:
            raise Stop

    interrupted(world, program)
    world.execute(program)
    assert seen[0] == seen[1]
    assert len(set(seen[0])) == 3


def test_log_is_shown_and_stored_once(world):
    shown = []

    def program():
        yield Log(text="one")
        if not shown:
            raise Stop
        yield Log(text="two")

    interrupted(world, program)
    shown = world.told(Logged)
    world.execute(program)
    assert (shown, world.told(Logged)) == (["one"], ["two"])


def test_sleep_is_durable(world):
    woke = []

    def program():
        yield Sleep(seconds=100)
        woke.append(world.clock.now_ms())
        if len(woke) == 1:
            raise Stop

    began = world.clock.now_ms()
    interrupted(world, program)
    assert woke[0] - began == pytest.approx(100_000, abs=2)
    world.execute(program)
    assert woke[1] == woke[0], "a sleep that is over is not slept again"


def test_an_interrupted_sleep_goes_on_to_its_recorded_end(world):
    def cut_short(run_id, step):
        put_step(run_id, step)
        if step.key.kind == "sleep":
            raise Crash

    def program():
        yield Sleep(seconds=100)

    put_step = world.runs.put_step
    world.runs.put_step = cut_short
    began = world.clock.now_ms()
    with pytest.raises(Crash):
        world.execute(program)
    world.runs.put_step = put_step
    world.clock.advance(60)
    world.execute(program)
    assert world.clock.now_ms() - began == pytest.approx(100_000, abs=2)


def test_a_clock_set_back_does_not_lengthen_a_sleep(world):
    def program():
        yield Sleep(seconds=100)

    def cut_short(run_id, step):
        put_step(run_id, step)
        raise Crash

    put_step = world.runs.put_step
    world.runs.put_step = cut_short
    with pytest.raises(Crash):
        world.execute(program)
    world.runs.put_step = put_step
    world.clock.set_back(3600)
    began = world.clock.monotonic()
    world.execute(program)
    assert world.clock.monotonic() - began == pytest.approx(100, abs=0.01)


# An edited script keeps every step that still asks for the same thing


def test_inserting_and_reordering_keeps_the_steps(world):
    seen = {}

    def before():
        seen["a"] = yield StepBegin(name="a", args=[1], source="f")
        yield StepEnd(value="A")
        yield StepBegin(name="b", args=[2], source="f")
        yield StepEnd(value="B")
        raise Stop

    def after():
        yield Log(text="a line that was not there before")
        seen["b"] = yield StepBegin(name="b", args=[2], source="f")
        seen["a"] = yield StepBegin(name="a", args=[1], source="f")

    interrupted(world, before)
    world.execute(after)
    assert seen == {"a": "A", "b": "B"}


@pytest.mark.parametrize("change", [{"name": "b"}, {"args": [2]}, {"source": "g"}])
def test_a_step_runs_anew_when_what_it_is_keyed_on_changes(world, change):
    asked = {"name": "a", "args": [1], "source": "f"}

    def before():
        yield StepBegin(**asked)
        yield StepEnd(value="A")
        raise Stop

    seen = []

    def after():
        seen.append((yield StepBegin(**{**asked, **change})))
        yield StepEnd(value="new")

    interrupted(world, before)
    world.execute(after)
    assert isinstance(seen[0], Unrecorded)


def test_a_step_that_was_interrupted_runs_again(world):
    seen = []

    def program():
        seen.append((yield StepBegin(name="a", args=[], source="f")))
        if len(seen) == 1:
            raise Stop
        yield StepEnd(value=1)

    interrupted(world, program)
    world.execute(program)
    assert [type(each) for each in seen] == [Unrecorded, Unrecorded]


# Errors


def test_a_caught_error_replays_as_the_same_error(world):
    seen = []

    def program():
        try:
            yield Shell(command="echo gone >&2; exit 3")
        except ScriptError as caught:
            seen.append((caught.error.kind, caught.error.message, caught.error.fields["exitCode"]))
        yield Log(text="went on")
        if len(seen) == 1:
            raise Stop

    interrupted(world, program)
    world.execute(program)
    assert seen[0] == seen[1]
    assert seen[0][0] == "ShellFailed"
    assert "exit code 3" in seen[0][1]
    assert "gone" in seen[0][1]


def test_the_error_that_ended_a_run_is_tried_again(world):
    def program():
        yield Shell(command="test -e fixed")

    with pytest.raises(RunFailed, match="exit code 1"):
        world.execute(program)
    assert world.runs.get_run(world.run_id).state is RunState.FAILED
    (world.root / "fixed").touch()
    world.execute(program)
    assert world.runs.get_run(world.run_id).state is RunState.SUCCEEDED


# Jobs


def test_submit_finds_its_job_again_when_the_record_of_it_was_lost(world):
    put_step = world.runs.put_step

    def crash(run_id, step):
        if step.key.kind == "submit" and step.state is StepState.DONE:
            raise Crash
        put_step(run_id, step)

    def program():
        handle = yield Submit(draft=job("a", "one", "two"))
        yield Wait(jobs=(handle["id"],))

    world.runs.put_step = crash
    with pytest.raises(Crash):
        world.execute(program)
    world.runs.put_step = put_step
    world.execute(program)
    assert [each.count for each in world.jobs.list_jobs()] == [2]
    assert world.fleet.ran == ["one", "two"]


def test_the_same_spec_twice_is_two_jobs_and_the_second_reuses(world):
    def program():
        first = yield Submit(draft=job("a", "one"))
        yield Wait(jobs=(first["id"],))
        second = yield Submit(draft=job("a", "one"))
        yield Wait(jobs=(second["id"],))

    world.execute(program)
    assert len(world.jobs.list_jobs()) == 2
    assert world.fleet.ran == ["one"]
    assert [event.reused for event in world.events if isinstance(event, Submitted)] == [0, 1]


def test_cache_false_runs_again(world):
    def program():
        for _ in range(2):
            handle = yield Submit(draft=job("a", "one", cache=False))
            yield Wait(jobs=(handle["id"],))

    world.execute(program)
    assert world.fleet.ran == ["one", "one"]


def test_a_new_run_reuses_tasks_and_only_new_rows_run(world):
    def program():
        handle = yield Submit(draft=job("a", "one", "two"))
        yield Wait(jobs=(handle["id"],))

    def larger():
        handle = yield Submit(draft=job("a", "one", "three", "two"))
        yield Wait(jobs=(handle["id"],))

    world.execute(program)
    world.execute(larger, run_id=RunId("r-2"))
    assert world.fleet.ran == ["one", "two", "three"]


def test_a_failed_job_ends_the_run_and_resume_tries_its_failed_tasks_again(world):
    def program():
        handle = yield Submit(draft=job("a", "good", "bad"))
        yield Wait(jobs=(handle["id"],))

    world.fleet.outcome = lambda command: 3 if command == "bad" else 0
    with pytest.raises(JobFailed, match=r"1 of 2 tasks failed \(exit 3: 1\); first: task 2: exit code 3"):
        world.execute(program)
    world.fleet.outcome = lambda command: 0
    world.execute(program)
    assert world.fleet.ran == ["good", "bad", "bad"]


def test_keep_failed_leaves_them(world):
    def program():
        handle = yield Submit(draft=job("a", "bad"))
        yield Wait(jobs=(handle["id"],))

    world.fleet.outcome = lambda command: 3
    with pytest.raises(JobFailed):
        world.execute(program)
    world.fleet.outcome = lambda command: 0
    with pytest.raises(JobFailed):
        world.execute(program, keep_failed=True)
    assert world.fleet.ran == ["bad"]


def test_a_caught_failure_replays_and_its_tasks_are_not_tried_again(world):
    caught = []

    def program():
        handle = yield Submit(draft=job("a", "bad"))
        try:
            yield Wait(jobs=(handle["id"],))
        except ScriptError as error:
            caught.append((error.error.kind, error.error.fields))
        yield Log(text="went on")
        if len(caught) == 1:
            raise Stop

    world.fleet.outcome = lambda command: 3
    interrupted(world, program)
    world.execute(program)
    assert caught[0] == caught[1]
    assert caught[0][1]["failed"] == [1]
    assert world.fleet.ran == ["bad"]


def test_allow_failures_answers_with_counts(world):
    seen = []

    def program():
        handle = yield Submit(draft=job("a", "good", "bad"))
        seen.append((yield Wait(jobs=(handle["id"],), allow_failures=True)))

    world.fleet.outcome = lambda command: 3 if command == "bad" else 0
    world.execute(program)
    counts = seen[0]["jobs"][0]["counts"]
    assert (counts["succeeded"], counts["failed"]) == (1, 1)


def test_a_wait_is_performed_anew_when_the_job_changed_since(world):
    ids = []

    def program():
        handle = yield Submit(draft=job("a", "one"))
        ids.append(handle["id"])
        yield Wait(jobs=(handle["id"],))
        yield Log(text="after")
        if len(ids) == 1:
            raise Stop

    interrupted(world, program)
    world.jobs.reset_tasks(ids[0], {TaskState.SUCCEEDED})
    world.execute(program)
    assert world.fleet.ran == ["one", "one"]
    assert any("changed since this run waited for it" in text for text in world.told(Noticed))


def test_an_abandoned_job_is_cancelled_and_named(world):
    ensure = world.fleet.ensure

    def before():
        yield Submit(draft=job("old", "never"))
        raise Stop

    def after():
        handle = yield Submit(draft=job("new", "one"))
        yield Wait(jobs=(handle["id"],))

    world.fleet.ensure = lambda pool: None
    interrupted(world, before)
    world.fleet.ensure = ensure
    world.execute(after)
    assert world.fleet.ran == ["one"]
    assert any("does not ask for it any more" in text for text in world.told(Noticed))


def test_a_job_that_nobody_waits_for_is_still_finished(world):
    ensure, count = world.fleet.ensure, []

    def late(pool):
        count.append(pool)
        if len(count) > 2:
            ensure(pool)

    def program():
        yield Submit(draft=job("a", "one"))

    world.fleet.ensure = late
    world.execute(program)
    assert world.fleet.ran == ["one"]
    assert any("did not wait for" in text for text in world.told(Noticed))


def test_a_job_that_was_cleaned_away_is_submitted_again(world):
    ids = []

    def program():
        handle = yield Submit(draft=job("a", "one"))
        ids.append(handle["id"])
        yield Wait(jobs=(handle["id"],))
        if len(ids) == 1:
            raise Stop

    interrupted(world, program)
    world.jobs.delete_jobs(ids)
    world.execute(program)
    assert ids[0] == ids[1]
    assert world.fleet.ran == ["one", "one"]


# Files


def test_an_edited_input_is_read_anew_and_named(world):
    seen = []
    (world.root / "p.csv").write_text("a\n1\n")

    def program():
        seen.append((yield Read(reader="csv", path="p.csv")))
        if len(seen) == 1:
            raise Stop

    interrupted(world, program)
    (world.root / "p.csv").write_text("a\n2\n")
    world.execute(program)
    assert seen == [[{"a": "1"}], [{"a": "2"}]]
    assert world.told(Noticed) == [
        "p.csv changed since this run read it; the new content is used (--frozen keeps the recorded)"
    ]


def test_frozen_keeps_what_was_read(world):
    seen = []
    (world.root / "t.txt").write_text("old")

    def program():
        seen.append((yield Read(reader="text", path="t.txt")))
        if len(seen) == 1:
            raise Stop

    interrupted(world, program)
    (world.root / "t.txt").write_text("new")
    world.execute(program, frozen=True)
    assert seen == ["old", "old"]


def test_a_script_that_rewrites_its_own_file_replays_as_it_ran(world):
    seen = []
    (world.root / "state.json").write_text('{"n": 0}')

    def program():
        values = []
        for _ in range(3):
            value = yield Read(reader="json", path="state.json")
            values.append(value["n"])
            yield Write(writer="json", path="state.json", content=b'{"n": %d}' % (value["n"] + 1))
        seen.append(values)
        if len(seen) == 1:
            raise Stop

    interrupted(world, program)
    world.execute(program)
    assert seen == [[0, 1, 2], [0, 1, 2]]
    assert (world.root / "state.json").read_text() == '{"n": 3}'
    assert world.told(Noticed) == []


def test_file_exists_replays_though_the_run_made_the_file(world):
    seen = []

    def program():
        seen.append((yield Read(reader="exists", path="made.txt")))
        yield Write(writer="text", path="made.txt", content=b"x")
        if len(seen) == 1:
            raise Stop

    interrupted(world, program)
    world.execute(program)
    assert seen == [False, False]


def test_an_input_that_the_run_rewrote_later_is_hashed_as_it_was(world):
    (world.root / "in.txt").write_text("first")

    def program():
        handle = yield Submit(draft=job("a", "cat", files=(draft("in.txt"),)))
        yield Wait(jobs=(handle["id"],))
        yield Write(writer="text", path="in.txt", content=b"second")
        yield Log(text="end")
        raise Stop

    interrupted(world, program)
    interrupted(world, program)
    assert len(world.jobs.list_jobs()) == 1
    assert world.fleet.ran == ["cat"]


def test_an_input_that_the_user_edited_runs_what_depends_on_it(world):
    (world.root / "in.txt").write_text("first")

    def program():
        handle = yield Submit(draft=job("a", "cat", files=(draft("in.txt"),)))
        yield Wait(jobs=(handle["id"],))
        raise Stop

    interrupted(world, program)
    (world.root / "in.txt").write_text("edited")
    interrupted(world, program)
    assert world.fleet.ran == ["cat", "cat"]


def test_a_write_whose_file_is_missing_is_written_again(world):
    def program():
        yield Write(writer="text", path="out/x.txt", content=b"x")
        raise Stop

    interrupted(world, program)
    (world.root / "out/x.txt").unlink()
    interrupted(world, program)
    assert (world.root / "out/x.txt").read_bytes() == b"x"
    assert any("written again" in text for text in world.told(Noticed))


def test_a_write_whose_file_differs_is_left_alone_and_named(world):
    def program():
        yield Write(writer="text", path="x.txt", content=b"x")
        raise Stop

    interrupted(world, program)
    (world.root / "x.txt").write_text("mine")
    interrupted(world, program)
    assert (world.root / "x.txt").read_text() == "mine"
    assert any("left alone" in text for text in world.told(Noticed))


def test_fetch_brings_what_is_missing(world):
    def program():
        handle = yield Submit(draft=job("a", "one"))
        yield Wait(jobs=(handle["id"],))
        yield Fetch(job=handle["id"], dest="got")
        raise Stop

    interrupted(world, program)
    (world.root / "got/1/results.json").unlink()
    interrupted(world, program)
    assert (world.root / "got/1/results.json").exists()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (Read(reader="csv", path="none.csv"), "none.csv: no such file"),
        (Read(reader="text", path="folder"), "folder"),
        (Write(writer="text", path="folder", content=b""), "folder: a folder, not a file"),
        (Write(writer="text", path=".sparkles/x", content=b""), "inside sparkles' own state folder"),
        (Wait(jobs=("none-00000000",)), "none-00000000"),
        (Fetch(job="none-00000000", dest="x"), "none-00000000"),
    ],
)
def test_a_mistake_of_the_script_is_refused_and_loses_nothing(world, command, message):
    (world.root / "folder").mkdir()

    def program():
        yield Log(text="kept")
        yield command

    with pytest.raises(WorkflowError) as raised:
        world.execute(program)
    assert message in str(raised.value)
    assert str(raised.value).startswith("w.lua:1: ")
    assert next(step.key.kind for step in world.runs.list_steps(world.run_id)) == "log"


def test_a_second_driver_is_refused_by_name(world):
    def program():
        with pytest.raises(RunBusy, match="4242"):
            world.runs.take_run(world.run_id, world_driver(9999), lambda process: False, 0)
        yield Now()

    world.execute(program)


def world_driver(pid):
    from sparkles.model import ProcessId

    return ProcessId("here", pid, 2.0, "boot")


def draft(path):
    from sparkles.engine.commands import FileDraft

    return FileDraft(src=path)


def test_a_run_that_does_not_exist_is_named(world):
    with pytest.raises(NotFound, match="r-9"):
        world.runs.get_run(RunId("r-9"))
