"""Strands of an edited script: what is inserted, removed, reordered or renamed keeps the steps of the others."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparkles.engine.commands import (
    Await,
    Child,
    Log,
    Parallel,
    Random,
    Shell,
    Sleep,
    Spawn,
    StepBegin,
    StepEnd,
    Submit,
    Unrecorded,
)
from sparkles.model import StepState
from tests.support.engine import ScriptError, World, job


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


class Stop(BaseException):
    """The process ends here."""


class Script:
    """A script of strands: each call is a generator function of the program. Counts how often each effect was carried out."""

    def __init__(self, world):
        self.world = world
        self.effects = {}
        self.drawn = {}

    def run(self, *calls, keys=()):
        """One execution, which is interrupted after the last call."""

        def script(program):
            for call in calls:
                yield from call(program)
            raise Stop

        script.keys = keys
        with pytest.raises(Stop):
            self.world.execute(script)

    def step(self, name):
        begun = yield StepBegin(name=name, args=[], source="")
        if isinstance(begun, Unrecorded):
            self.effects[name] = self.effects.get(name, 0) + 1
            yield StepEnd()

    def map(self, name, items=("s1", "s2"), steps=("a", "b")):
        """Each item's strand does `steps`, which are named after the call and the item."""

        def child(item):
            def function():
                for each in steps:
                    yield from self.step(f"{name} {item} {each}")

            return function

        def call(program):
            yield Parallel(children=tuple(Child(program.child(child(item)), item) for item in items))

        return call

    def spawn(self, text, *steps, numbers=None):
        def function():
            for each in steps:
                yield from self.step(each)

        def call(program):
            number = program.child(function)
            yield Spawn(child=Child(number, f"spawn:{text}"))
            if numbers is None:
                yield Await(strand=number)
            else:
                numbers.append(number)

        return call

    def awaiting(self, numbers):
        def call(program):
            for number in numbers:
                yield Await(strand=number)

        return call

    def again(self):
        """The effects that were carried out more than once."""
        return {name for name, count in self.effects.items() if count > 1}


def test_what_is_put_before_a_map_over_the_same_items_costs_nothing(world):
    script = Script(world)
    align, call = script.map("align"), script.map("call")
    script.run(align, call)
    script.run(script.map("inert", steps=()), align, call)
    script.run(script.map("inert", steps=()), script.map("new"), align, script.map("between"), call)
    script.run(script.map("inert", steps=()), script.map("new"), align, script.map("between"), call)
    script.run(call, align)
    script.run(call)
    script.run(align, call)
    assert script.again() == set()
    assert len(script.effects) == 16


def test_steps_that_were_mended_in_place_keep_the_others(world):
    script = Script(world)
    script.run(script.map("m", steps=("a", "b", "c")), script.map("n"))
    for _ in range(2):
        script.run(script.map("m", steps=("a2", "b", "c")), script.map("n"))
    assert script.again() == set()


def test_chance_goes_on_as_it_was(world):
    """A strand's draws are seeded from the label that its records have."""
    script = Script(world)
    seen = []

    def draws(program):
        def child():
            yield from script.step("first")
            seen.append((program.labels[number], (yield Random())))

        number = program.child(child)
        yield Parallel(children=(Child(number, "s"),))

    script.run(draws)
    script.run(script.map("inert", ("s",), ()), draws)
    assert seen[0] == seen[1]
    assert seen[0][0] == "main/s"


def test_jobs_are_found_again(world):
    ran = world.fleet.ran

    def sweep(program):
        def child():
            yield Submit(draft=job("j", "one", "two"))

        yield Parallel(children=(Child(program.child(child), "s"),))

    script = Script(world)
    script.run(sweep)
    before = [each.id for each in world.jobs.list_jobs()]
    script.run(script.map("inert", ("s",), ()), sweep)
    assert sorted(ran) == ["one", "two"]
    assert [each.id for each in world.jobs.list_jobs()] == before


def test_a_spawned_function_that_was_edited_is_the_same_strand(world):
    script = Script(world)
    script.run(script.spawn("v1", "a", "b"), script.spawn("other", "c"), keys={"spawn:v1", "spawn:other"})
    keys = {"spawn:v2", "spawn:other", "spawn:new"}
    for _ in range(2):
        script.run(script.spawn("new", "x"), script.spawn("v2", "a", "b"), script.spawn("other", "c"), keys=keys)
    assert script.again() == set()


def test_a_spawned_function_whose_first_step_was_mended_keeps_the_rest(world):
    script = Script(world)
    script.run(script.spawn("v1", "a", "b"), keys={"spawn:v1"})
    for _ in range(2):
        script.run(script.spawn("v2", "a2", "b"), keys={"spawn:v2"})
    assert script.effects == {"a": 1, "b": 1, "a2": 1}


def test_a_spawned_function_that_the_script_still_has_is_left_alone(world):
    """Though it is spawned later than one that is new."""
    script = Script(world)
    script.run(script.spawn("old", "a", "b"), keys={"spawn:old"})
    numbers = []
    script.run(
        script.spawn("new", "x", numbers=numbers),
        script.spawn("old", "a", "b", numbers=numbers),
        script.awaiting(numbers),
        keys={"spawn:old", "spawn:new"},
    )
    assert script.effects == {"a": 1, "b": 1, "x": 1}


def test_strands_that_run_at_the_same_time_do_not_share_records(world):
    script = Script(world)
    numbers = []
    script.run(script.spawn("f", "a", "b"), keys={"spawn:f"})
    for _ in range(2):
        numbers.clear()
        script.run(
            script.spawn("f", "x", numbers=numbers),
            script.spawn("f", "a", "b", numbers=numbers),
            script.awaiting(numbers),
            keys={"spawn:f"},
        )
    assert script.effects["x"] == 1
    labels = {step.key.strand for step in world.runs.list_steps(world.run_id) if "x" in step.parts}
    assert len(labels) == 1


def test_a_decision_among_strands_that_took_up_records_replays(world):
    """The error that decided is raised again, and the sibling that it cancelled does nothing more."""
    script = Script(world)
    caught = []

    def decided(program):
        def fails():
            yield from script.step("before")
            yield Shell(command="exit 1")

        def waits():
            yield from script.step("sibling")
            yield Sleep(seconds=100)
            yield from script.step("never")

        try:
            children = (Child(program.child(waits), "w"), Child(program.child(fails), "f"))
            yield Parallel(children=children)
        except ScriptError as error:
            caught.append(error.error.message)
            yield Log(text="caught")

    script.run(decided)
    inserted = script.map("inert", ("w", "f"), ())
    script.run(inserted, decided)
    script.run(inserted, decided)
    assert script.effects == {"before": 1, "sibling": 1}
    assert len(caught) == 3
    assert len(set(caught)) == 1


# Random scripts, random edits, random places to stop


ITEMS = st.lists(st.sampled_from(["s1", "s2", "s3"]), min_size=1, max_size=3, unique=True)
CALLS = st.tuples(st.sampled_from(["map", "spawn", "background"]), ITEMS, st.integers(0, 3), st.booleans())


class Edited(Script):
    """Calls as values: (kind, items, how many steps a strand has, whether it sleeps first), each with a name of its own."""

    def __init__(self, world, seed):
        super().__init__(world)
        self.random = random.Random(seed)
        self.delays = {}
        self.left = None

    def step(self, name):
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise Stop
        yield from super().step(name)
        yield Sleep(seconds=self.delays.setdefault(name, self.random.random() * 10))

    def execute(self, calls, stop):
        self.left = stop
        numbers = []
        made = []
        for name, (kind, items, count, _), text in calls:
            steps = [str(i) for i in range(count)]
            if kind == "map":
                made.append(self.map(name, items, steps))
            else:
                names = [f"{name} {each}" for each in steps]
                made.append(self.spawn(text, *names, numbers=numbers if kind == "background" else None))
        self.run(*made, self.awaiting(numbers), keys={f"spawn:{text}" for _, call, text in calls if call[0] != "map"})

    def recorded(self):
        """The effects on record, with how often each was carried out."""
        steps = self.world.runs.list_steps(self.world.run_id, kinds=("step",))
        names = {step.parts.partition('"name":"')[2].partition('"')[0] for step in steps if step.state is StepState.DONE}
        return {name: self.effects[name] for name in names}


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    calls=st.lists(CALLS, min_size=1, max_size=4),
    new=CALLS,
    edit=st.sampled_from(["insert", "remove", "rename", "swap"]),
    place=st.integers(0, 4),
    stops=st.tuples(st.integers(0, 20), st.integers(0, 20)),
    seed=st.integers(0, 100),
)
def test_no_edit_carries_out_a_recorded_effect_again(tmp_path_factory, calls, new, edit, place, stops, seed):
    script = Edited(World(tmp_path_factory.mktemp("w")), seed)
    before = [(f"c{i}", call, f"c{i}" if call[3] else "shared") for i, call in enumerate(calls)]
    after = list(before)
    at = place % len(before)
    if edit == "insert":
        after.insert(at, ("new", new, "new" if new[3] else "shared"))
    elif edit == "remove":
        del after[at]
    elif edit == "rename":
        text = after[at][2]
        after = [(name, call, "renamed" if each == text else each) for name, call, each in after]
    else:
        after[at], after[0] = after[0], after[at]
    known = {}
    for version, stop in ((before, stops[0]), (before, stops[0]), (after, stops[1]), (after, None), (after, None)):
        script.execute(version, stop)
        assert {name: script.effects[name] for name in known} == known, "what is on record is not carried out again"
        known = script.recorded()
