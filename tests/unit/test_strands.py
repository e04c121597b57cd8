"""Strands: labels by content, the join and who decides it, limits, cancelling, awaiting, deadlocks; and replay in any order."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparkles.engine.commands import Await, Child, Log, Now, Parallel, Random, Shell, Sleep, Spawn, Submit, Wait
from sparkles.errors import RunFailed, WorkflowError
from tests.support.engine import ScriptError, World, job


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


class Stop(BaseException):
    """The process ends here."""


def parallel(program, functions, **options):
    """The values of functions run side by side, by key: `yield from` it."""
    children = {key: program.child(function) for key, function in functions.items()}
    yield Parallel(children=tuple(Child(number, key) for key, number in children.items()), **options)
    return {key: program.values[number] for key, number in children.items()}


def fails(message="shell failed"):
    def function():
        yield Shell(command=f"echo {message} >&2; exit 1")

    return function


def sleeps(seconds, value=None):
    def function():
        yield Sleep(seconds=seconds)
        return value

    return function


def test_values_come_by_key_and_steps_are_labelled_by_it(world):
    seen = {}

    def script(program):
        def draw():
            return (yield Random())

        seen.update((yield from parallel(program, {"a": draw, "b": draw})))

    world.execute(script)
    assert set(seen) == {"a", "b"}
    assert seen["a"] != seen["b"]
    labels = {step.key.strand for step in world.runs.list_steps(world.run_id) if step.key.kind == "random"}
    assert labels == {"main/a", "main/b"}


def test_equal_keys_are_told_apart_by_occurrence(world):
    def script(program):
        def draw():
            return (yield Random())

        yield from parallel(program, {"a": draw})
        yield from parallel(program, {"a": draw})

    world.execute(script)
    labels = [step.key.strand for step in world.runs.list_steps(world.run_id) if step.key.kind == "random"]
    assert labels == ["main/a", "main/a~2"]


def test_strands_wait_at_the_same_time(world):
    def script(program):
        yield from parallel(program, {str(i): sleeps(100) for i in range(5)})

    began = world.clock.monotonic()
    world.execute(script)
    assert world.clock.monotonic() - began < 105


def test_the_limit_is_respected(world):
    running, most = set(), []

    def work(name):
        def function():
            running.add(name)
            most.append(len(running))
            yield Sleep(seconds=10)
            running.discard(name)

        return function

    def script(program):
        yield from parallel(program, {str(i): work(i) for i in range(7)}, limit=3)

    world.execute(script)
    assert max(most) == 3
    assert len(most) == 7


def test_the_first_error_cancels_the_siblings_and_surfaces_with_its_own_line(world):
    after = []

    def late():
        yield Sleep(seconds=1000)
        after.append("never")

    def script(program):
        yield from parallel(program, {"late": late, "bad": fails()})

    began = world.clock.monotonic()
    with pytest.raises(RunFailed) as raised:
        world.execute(script)
    assert after == []
    assert world.clock.monotonic() - began < 100
    assert "shell failed" in str(raised.value)


def test_a_caught_error_of_a_strand_replays_as_the_same_whoever_is_first_now(world):
    caught = []

    def script(program):
        def other():
            # The first time it is slower than the other error; the second time it would be the faster.
            yield Sleep(seconds=0.0 if caught else 500)
            yield from fails("other")()

        try:
            yield from parallel(program, {"first": fails("decides"), "other": other})
        except ScriptError as error:
            caught.append(error.error.message)
        yield Log(text="went on")
        if len(caught) == 1:
            raise Stop

    with pytest.raises(Stop):
        world.execute(script)
    world.execute(script)
    assert len(caught) == 2
    assert caught[0] == caught[1]
    assert "decides" in caught[0]


def test_siblings_of_a_recorded_decision_do_nothing_new(world):
    effects = world.root / "effects"
    executions = []

    def script(program):
        executions.append(1)

        def sibling():
            yield Sleep(seconds=50)
            yield Shell(command=f"echo done >> {effects}")

        def decides():
            yield Sleep(seconds=1)
            yield from fails("decides")()

        try:
            yield from parallel(program, {"sibling": sibling, "decides": decides})
        except ScriptError:
            pass
        yield Log(text="went on")
        if len(executions) == 1:
            raise Stop

    with pytest.raises(Stop):
        world.execute(script)
    world.clock.advance(1000)
    world.execute(script)
    assert not effects.exists()


def test_an_edited_script_whose_decider_ends_well_lets_the_siblings_go_on(world):
    executions = []
    done = []

    def script(program):
        executions.append(1)

        def sibling():
            yield Sleep(seconds=50)
            done.append("sibling")

        def decides():
            yield Sleep(seconds=1)
            if len(executions) == 1:
                yield from fails("decides")()

        try:
            yield from parallel(program, {"sibling": sibling, "decides": decides})
        except ScriptError:
            pass
        yield Log(text="went on")
        if len(executions) == 1:
            raise Stop

    with pytest.raises(Stop):
        world.execute(script)
    world.execute(script)
    assert done == ["sibling"]


def test_an_error_that_ended_the_run_is_tried_again_in_every_strand(world):
    def script(program):
        def needs_file():
            yield Shell(command="test -e fixed")

        def other():
            yield Now()

        yield from parallel(program, {"a": needs_file, "b": other})

    with pytest.raises(RunFailed):
        world.execute(script)
    (world.root / "fixed").touch()
    world.execute(script)


def test_nesting(world):
    seen = {}

    def script(program):
        def outer(name):
            def function(program):
                def leaf():
                    return (yield Random())

                return (yield from parallel(program, {"x": leaf, "y": leaf}))

            return function

        seen.update((yield from parallel(program, {"a": outer("a"), "b": outer("b")})))

    world.execute(script)
    assert len({value for inner in seen.values() for value in inner.values()}) == 4
    labels = {step.key.strand for step in world.runs.list_steps(world.run_id) if step.key.kind == "random"}
    assert labels == {"main/a/x", "main/a/y", "main/b/x", "main/b/y"}


def test_an_error_cancels_what_is_nested_below_the_siblings(world):
    programs = []

    def script(program):
        programs.append(program)

        def outer(program):
            yield from parallel(program, {"deep": sleeps(1000)})

        try:
            yield from parallel(program, {"outer": outer, "bad": fails()})
        except ScriptError:
            pass

    world.execute(script)
    assert sorted(programs[0].cancelled) == ["main/outer", "main/outer/deep"]


def test_spawn_runs_beside_and_await_gives_its_end(world):
    order = []

    def script(program):
        def child():
            yield Sleep(seconds=10)
            order.append("child")
            return 7

        number = program.child(child)
        yield Spawn(child=Child(number, "w"))
        order.append("main goes on")
        yield Await(strand=number)
        order.append(program.values[number])

    world.execute(script)
    assert order == ["main goes on", "child", 7]


def test_at_its_end_the_script_waits_for_spawned_strands(world):
    done = []

    def script(program):
        def child():
            yield Sleep(seconds=10)
            done.append(1)

        yield Spawn(child=Child(program.child(child), "w"))

    world.execute(script)
    assert done == [1]


def test_a_spawned_error_that_nobody_awaits_fails_the_run(world):
    def script(program):
        yield Spawn(child=Child(program.child(fails("unseen")), "w"))

    with pytest.raises(RunFailed, match="unseen"):
        world.execute(script)


def test_an_awaited_error_can_be_caught(world):
    caught = []

    def script(program):
        number = program.child(fails("seen"))
        yield Spawn(child=Child(number, "w"))
        try:
            yield Await(strand=number)
        except ScriptError as error:
            caught.append(error.error.kind)

    world.execute(script)
    assert caught == ["ShellFailed"]


def test_a_strand_that_waits_for_itself_is_a_deadlock_and_named(world):
    def script(program):
        numbers = {}

        def child():
            yield Now()
            yield Await(strand=numbers["self"])

        numbers["self"] = program.child(child)
        yield Spawn(child=Child(numbers["self"], "w"))
        yield Await(strand=numbers["self"])

    with pytest.raises(WorkflowError, match="deadlock: strand main/w waits for itself"):
        world.execute(script)


def test_many_strands_that_each_wait_for_a_job(world):
    def script(program):
        def one(i):
            def function():
                handle = yield Submit(draft=job(f"j{i}", f"command {i}"))
                yield Wait(jobs=(handle["id"],))
                return i

            return function

        values = yield from parallel(program, {str(i): one(i) for i in range(100)})
        assert values == {str(i): i for i in range(100)}

    world.execute(script)
    assert len(world.fleet.ran) == 100


# A replay in another order gives the same values: random programs, random places to stop

leaves = st.sampled_from(["random", "now", "uuid-like", "sleep"])
trees = st.recursive(
    leaves, lambda inner: st.dictionaries(st.sampled_from("abcd"), inner, min_size=1, max_size=3), max_leaves=8
)


def build(tree, delays, left):
    """A program for a tree: leaves draw, inner nodes run their children in parallel; every command counts down `left`."""

    def function(program):
        if isinstance(tree, str):
            if left is not None:
                left[0] -= 1
                if left[0] < 0:
                    raise Stop
            yield Sleep(seconds=delays.random() * 10) if tree == "sleep" else Log(text=tree)
            return (yield Random())
        return (yield from parallel(program, {key: build(inner, delays, left) for key, inner in tree.items()}))

    return function


@settings(max_examples=40, deadline=None)
@given(tree=trees, stop=st.integers(0, 8), seed=st.integers(0, 100))
def test_interrupted_and_replayed_programs_see_one_history(tmp_path_factory, tree, stop, seed):
    world = World(tmp_path_factory.mktemp("w"))
    seen = []

    def script(left, seed):
        def function(program):
            # Sleeps are keyed by their length, which differs from execution to execution: the order of the strands does too.
            seen.append((yield from build(tree, random.Random(seed), left)(program)))
            raise Stop

        return function

    for left, order in (([stop], seed), (None, seed), (None, seed + 1)):
        with pytest.raises(Stop):
            world.execute(script(left, order))
    assert len(seen) >= 2
    assert all(each == seen[0] for each in seen)
