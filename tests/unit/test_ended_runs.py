"""What the next execution of a failed run tries again: what the error that ended it rests on, however that error came to the end."""

import pytest

from sparkles.engine.commands import Await, Child, Log, Parallel, Shell, Spawn, StepError, Submit, Wait
from sparkles.errors import JobFailed, RunFailed, WorkflowError
from tests.support.engine import ScriptError, World, job


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    world.fleet.outcome = lambda command: 3 if command == "bad" else 0
    return world


def mended(world):
    """From now on nothing fails any more."""
    world.fleet.outcome = lambda command: 0
    (world.root / "ready").touch()


def ready():
    yield Shell(command="echo x >> tried; test -e ready")


def tried(world):
    """How often `ready` was carried out."""
    return (world.root / "tried").read_text().count("x")


def waited(**options):
    handle = yield Submit(draft=job("a", "good", "bad"))
    return (yield Wait(jobs=(handle["id"],), **options))


def strand(program, function, key="a"):
    return Child(program.child(function), key)


def cleaned_up(steps):
    """The steps, whose error is caught, cleaned up after, and raised again."""

    def script(program):
        try:
            yield from steps(program)
        except ScriptError as error:
            yield Log(text=f"cleaning up after {error.error.kind}")
            raise

    return script


def in_parallel(program):
    yield Parallel(children=(strand(program, cleaned_up(lambda program: ready())), strand(program, lambda: ready_twice(), "b")))


def ready_twice():
    yield Shell(command="sleep 5; test -e ready")


def spawned(program):
    child = strand(program, lambda: ready(), "w")
    yield Spawn(child=child)
    yield Await(strand=child.strand)


@pytest.mark.parametrize(
    ("steps", "error"),
    [
        pytest.param(lambda program: ready(), RunFailed, id="shell"),
        pytest.param(lambda program: waited(), JobFailed, id="wait"),
        pytest.param(in_parallel, RunFailed, id="parallel"),
        pytest.param(spawned, RunFailed, id="spawn"),
    ],
)
def test_an_error_that_was_caught_and_raised_again_ended_the_run(world, steps, error):
    script = cleaned_up(steps)
    for _ in range(2):
        with pytest.raises(error):
            world.execute(script)
    mended(world)
    world.execute(script)


def test_each_execution_tries_it_again(world):
    script = cleaned_up(lambda program: ready())
    for count in (1, 2, 3):
        with pytest.raises(RunFailed):
            world.execute(script)
        assert tried(world) == count


def test_an_error_that_an_edited_script_does_not_catch_any_more_is_tried_again(world):
    catches = True

    def script():
        try:
            yield from ready()
        except ScriptError:
            if not catches:
                raise
        yield Shell(command="test -e go")

    with pytest.raises(RunFailed, match="test -e go"):
        world.execute(script)
    catches = False
    mended(world)
    (world.root / "go").touch()
    with pytest.raises(RunFailed, match="test -e ready"):
        world.execute(script)
    world.execute(script)


def test_a_caught_error_that_did_not_end_the_run_is_not_tried_again(world):
    def script(program):
        for steps in (lambda program: ready(), in_parallel):
            try:
                yield from steps(program)
            except ScriptError:
                yield Log(text="went on")
        yield Shell(command="test -e go")

    with pytest.raises(RunFailed):
        world.execute(script)
    assert tried(world) == 2
    mended(world)
    with pytest.raises(RunFailed, match="test -e go"):
        world.execute(script)
    (world.root / "go").touch()
    world.execute(script)
    assert tried(world) == 2


def test_a_second_wait_that_ended_the_run_resets_what_the_first_let_pass(world):
    def script():
        handle = yield Submit(draft=job("a", "bad"))
        yield Wait(jobs=(handle["id"],), allow_failures=True)
        yield Wait(jobs=(handle["id"],))

    with pytest.raises(JobFailed):
        world.execute(script)
    mended(world)
    world.execute(script)
    assert world.fleet.ran == ["bad", "bad"]


def failing(value):
    """The script's own verdict."""
    if value:
        raise ScriptError(StepError("too many failed", kind="Failed"))


def counted(program):
    value = yield from waited(allow_failures=True)
    failing(value["jobs"][0]["counts"]["failed"])


def looked(program):
    value = yield Shell(command="echo x >> tried; test -e ready", allow_failure=True)
    assert set(value) == {"exitCode", "stdout", "stderr", "seconds"}
    failing(value["exitCode"])


def caught(program):
    try:
        yield from waited()
    except ScriptError as error:
        yield Log(text="it failed")
        failing(error.error)


@pytest.mark.parametrize("script", [counted, looked, caught])
def test_a_run_whose_script_found_that_it_failed_tries_its_failures_again(world, script):
    for _ in range(2):
        with pytest.raises(RunFailed, match="too many failed"):
            world.execute(script)
    mended(world)
    world.execute(script)
    assert set(world.fleet.ran) <= {"good", "bad"}
    assert world.fleet.ran.count("good") <= 1


def test_keep_failed_leaves_the_tasks_of_a_run_whose_script_found_that_it_failed(world):
    for options in ({}, {"keep_failed": True}):
        with pytest.raises(RunFailed, match="too many failed"):
            world.execute(counted, **options)
    assert world.fleet.ran == ["good", "bad"]


def test_failures_that_the_script_took_stay_where_a_step_ended_the_run(world):
    def script(program):
        yield from waited(allow_failures=True)
        yield Shell(command="echo x >> tried; false", allow_failure=True)
        yield Shell(command="test -e ready")

    with pytest.raises(RunFailed):
        world.execute(script)
    mended(world)
    world.execute(script)
    assert (world.fleet.ran, tried(world)) == (["good", "bad"], 1)


def test_failures_that_the_script_took_stay_after_a_mistake_of_the_script(world):
    mistake = True

    def script(program):
        yield from waited(allow_failures=True)
        if mistake:
            raise ScriptError(StepError("attempt to index a nil value", kind="ScriptError", usage=True))

    with pytest.raises(WorkflowError):
        world.execute(script)
    mistake = False
    mended(world)
    world.execute(script)
    assert world.fleet.ran == ["good", "bad"]
