"""Strands: labels by content, the join and who decides it, limits, cancelling, awaiting, deadlocks; and replay in any order."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparkles.engine.commands import (
    Await,
    Child,
    Log,
    Now,
    Parallel,
    Random,
    Shell,
    Sleep,
    Spawn,
    StepBegin,
    StepEnd,
    StepError,
    Submit,
    Unrecorded,
    Wait,
)
from sparkles.engine.events import RunEnded
from sparkles.errors import RunFailed, WorkflowError
from tests.support.engine import ScriptError, World, job


@pytest.fixture
def world(tmp_path):
    return counting(World(tmp_path))


EFFECTS = {}
FAILED = set()


def counting(world):
    """The world with what `counted` did in it."""
    EFFECTS.clear()
    FAILED.clear()
    world.effects, world.failed = EFFECTS, FAILED
    return world


def counted(name, *, fails):
    """A step that counts how often its function ran."""

    def function():
        begun = yield StepBegin(name=name, args=[], source="")
        if isinstance(begun, Unrecorded):
            EFFECTS[name] = EFFECTS.get(name, 0) + 1
            if fails:
                FAILED.add(name)
            yield StepEnd(error=StepError(f"{name} failed") if fails else None)

    return function


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


def test_what_was_cancelled_is_not_counted_as_reused(world):
    def script(program):
        with pytest.raises(ScriptError):
            yield from parallel(program, {"a": fails(), "b": sleeps(100)})

    world.execute(script)
    ended = [event for event in world.events if isinstance(event, RunEnded)]
    assert [event.reused for event in ended] == [0]


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


def test_an_error_caught_around_strands_is_not_tried_again(world):
    executions = []

    def script(program):
        executions.append(1)

        def inner(program):
            yield from parallel(program, {"deep": counted("deep", fails=True)})

        try:
            yield from parallel(program, {"a": inner})
        except ScriptError:
            pass
        number = program.child(counted("spawned", fails=True))
        yield Spawn(child=Child(number, "w"))
        try:
            yield Await(strand=number)
        except ScriptError:
            pass
        yield Log(text="went on")
        if len(executions) == 1:
            raise Stop

    with pytest.raises(Stop):
        world.execute(script)
    assert world.effects == {"deep": 1, "spawned": 1}
    world.execute(script)
    assert world.effects == {"deep": 1, "spawned": 1}


def test_an_error_caught_at_the_end_of_a_child_is_not_tried_again(world):
    def script(program):
        def child():
            try:
                yield from counted("fails", fails=True)()
            except ScriptError:
                return "caught"

        assert (yield from parallel(program, {"a": child})) == {"a": "caught"}
        raise Stop

    for _ in range(2):
        with pytest.raises(Stop):
            world.execute(script)
    assert world.effects == {"fails": 1}


def test_an_error_that_ended_the_run_is_tried_again_though_an_edit_put_steps_before_it(world):
    executions = []

    def script(program):
        executions.append(1)
        if len(executions) > 1:
            yield Log(text="inserted")
        yield Shell(command="test -e fixed")

    for _ in range(2):
        with pytest.raises(RunFailed):
            world.execute(script)
    (world.root / "fixed").touch()
    world.execute(script)


def test_siblings_come_as_far_as_they_had_come_before_the_error_is_raised_again(world):
    seen = []

    def script(program):
        progress = {}

        def sibling(name, seconds):
            def function(program):
                progress[name] = "began"
                yield Sleep(seconds=seconds)
                progress[name] = "slept"
                yield from parallel(program, {"below": below})

            def below():
                progress[name] += ", below"
                yield Sleep(seconds=1000)
                progress[name] = "never"

            return function

        def decides():
            yield Sleep(seconds=60)
            yield from counted("decides", fails=True)()

        children = {"decides": decides, "fast": sibling("fast", 10), "slow": sibling("slow", 100), "later": sibling("later", 1)}
        try:
            yield from parallel(program, children, limit=3)
        except ScriptError:
            yield Log(text="caught")
        seen.append(progress)
        raise Stop

    for _ in range(3):
        with pytest.raises(Stop):
            world.execute(script)
        world.clock.advance(10000)
    assert seen[0] == {"fast": "slept, below", "slow": "began"}
    assert seen[1:] == [seen[0], seen[0]]


def test_awaiting_a_strand_that_was_cancelled_with_its_parent_raises(world):
    caught = []

    def script(program):
        numbers = {}

        def outer(program):
            numbers["spawned"] = program.child(between)
            yield Spawn(child=Child(numbers["spawned"], "w"))
            yield Sleep(seconds=1000)

        def between(program):
            # It ends, and what it spawned does not.
            yield Spawn(child=Child(program.child(sleeps(100000)), "deep"))

        def bad():
            yield Sleep(seconds=10)
            yield from fails()()

        try:
            yield from parallel(program, {"outer": outer, "bad": bad})
        except ScriptError:
            pass
        yield Log(text="caught")
        assert (yield Await(strand=numbers["spawned"])) is None
        numbers["late"] = program.child(waits_for(numbers))
        yield Spawn(child=Child(numbers["late"], "late"))
        try:
            yield Await(strand=numbers["late"])
        except ScriptError as error:
            caught.append(error.error.kind)

    def waits_for(numbers):
        def function(program):
            def holds(program):
                numbers["held"] = program.child(sleeps(1000))
                yield Spawn(child=Child(numbers["held"], "held"))
                yield Sleep(seconds=1000)

            def bad():
                yield Sleep(seconds=10)
                yield from fails()()

            try:
                yield from parallel(program, {"holds": holds, "bad": bad})
            except ScriptError:
                yield Await(strand=numbers["held"])

        return function

    began = world.clock.monotonic()
    world.execute(script)
    assert caught == ["Cancelled"]
    assert world.clock.monotonic() - began < 1000, "nobody waits for the grandchild"


def test_keys_with_a_slash_are_no_other_strands(world):
    def script(program):
        def draw():
            return (yield Random())

        def nested(program):
            return (yield from parallel(program, {"b": draw}))

        yield from parallel(program, {"a": nested, "a/b": draw, "a~2": draw})
        yield from parallel(program, {"a": draw})

    world.execute(script)
    labels = [step.key.strand for step in world.runs.list_steps(world.run_id) if step.key.kind == "random"]
    assert sorted(labels) == ["main/a%2Fb", "main/a%7E2", "main/a/b", "main/a~2"]


# Random programs, random places to stop: whatever happened before a place that was passed is the same in every later execution

LEAVES = st.sampled_from(["draw", "sleep", "works", "fails", "caught"])
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda nodes: ("sequence", nodes)),
        st.tuples(st.sampled_from(["parallel", "caught parallel"]), st.lists(inner, min_size=1, max_size=3), st.integers(1, 3)),
        st.tuples(st.sampled_from(["spawn", "caught spawn"]), inner),
    ),
    max_leaves=10,
)


class Execution:
    """One execution of a tree: its timing, when it stops, and what its strands saw at places that they passed."""

    def __init__(self, world, tree, seed, stop):
        self.world = world
        self.tree = tree
        self.delays = random.Random(seed)
        self.left = stop
        self.seen = {}
        self.progress = {}

    def script(self, program):
        try:
            yield from self.node(self.tree, "0")(program)
        except ScriptError as error:
            yield from self.note("0", error.error.message)
        raise Stop

    def node(self, tree, path):
        def function(program):
            self.progress[path] = self.progress.get(path, 0) + 1
            if isinstance(tree, str):
                yield from self.leaf(tree, path)
            elif tree[0] == "sequence":
                for i, each in enumerate(tree[1]):
                    yield from self.node(each, f"{path}.{i}")(program)
            elif not tree[0].startswith("caught"):
                yield from self.strands(tree, path, program)
            else:
                try:
                    yield from self.strands(tree, path, program)
                except ScriptError as error:
                    yield from self.note(path, error.error.message)
            self.progress[path] += 1
            yield from self.note(path, "")

        return function

    def strands(self, tree, path, program):
        if tree[0].endswith("spawn"):
            number = program.child(self.node(tree[1], f"{path}.0"))
            yield Spawn(child=Child(number, "w"))
            yield Await(strand=number)
        else:
            functions = {str(i): self.node(each, f"{path}.{i}") for i, each in enumerate(tree[1])}
            yield from parallel(program, functions, limit=tree[2])

    def leaf(self, what, path):
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise Stop
        # A sleep is keyed by its length: told apart by its path, of a length that the first execution draws.
        yield Sleep(seconds=self.world.delays.setdefault(path, self.delays.random() * 10))
        if what == "draw":
            yield from self.note(path, str((yield Random())))
        elif what != "sleep":
            try:
                yield from counted(path, fails=what != "works")()
            except ScriptError:
                if what == "fails":
                    raise
                yield from self.note(path, "caught")

    def note(self, path, what):
        """What can be seen here, once the strand has gone on past it: all that happened at and below this place."""
        here = {each: count for each, count in self.progress.items() if f"{each}.".startswith(f"{path}.")}
        yield Log(text=f"{path} {what}")
        self.seen.setdefault((path, what[:6]), (what, here))


@settings(max_examples=120, deadline=None)
@given(tree=TREES, stops=st.lists(st.integers(0, 12), min_size=1, max_size=3), seed=st.integers(0, 100))
def test_interrupted_and_replayed_programs_see_one_history(tmp_path_factory, tree, stops, seed):
    world = counting(World(tmp_path_factory.mktemp("w")))
    world.delays = {}
    seen = {}
    for i, stop in enumerate([*stops, None, None]):
        before = dict(world.effects)
        execution = Execution(world, tree, seed + i, stop)
        with pytest.raises(Stop):
            world.execute(execution.script)
        assert all(seen.get(place, value) == value for place, value in execution.seen.items())
        if stop is None:
            assert set(seen) <= set(execution.seen), "what was seen once is seen again"
        seen.update(execution.seen)
    assert world.effects == before, "nothing is done again"
    assert all(count == 1 for name, count in world.effects.items() if name not in world.failed)
