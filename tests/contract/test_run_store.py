"""What every RunStore promises (sparkles/ports.py): runs, their owners, and the journal of steps."""

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from msgspec.structs import replace

from sparkles.errors import Conflict, LeaseLost, NotFound, RunBusy, UsageError
from sparkles.model import Cleaned, ProcessId, Run, RunId, RunState, Step, StepKey, StepState
from tests.support.stores import BACKENDS, Backend

HERE = ProcessId("here", 4242, 1_700_000_000.25, "boot-1")
THERE = ProcessId("there", 7, 1_700_000_100.0, "boot-2")

KEY = StepKey("main", "submit", "a" * 64, 1)


@pytest.fixture(params=BACKENDS)
def backend(request, tmp_path):
    backend = Backend(request.param, tmp_path)
    yield backend
    backend.close()


@pytest.fixture
def runs(backend):
    return backend.runs


def run(name="r-1", **fields):
    return Run(
        RunId(name), **{"workflow": "w.lua", "args": "{}", "state": RunState.RUNNING, "seed": 7, "driver": HERE, **fields}
    )


def step(sequence=1, key=KEY, state=StepState.DONE, **fields):
    return Step(key=key, state=state, sequence=sequence, **{"parts": '["x"]', "position": "w.lua:3", **fields})


def dead(process):
    return True


def alive(process):
    return False


# Runs


@pytest.mark.parametrize(
    "stored",
    [
        run(),
        run(
            driver=None,
            state=RunState.SUCCEEDED,
            ended_at_ms=12,
            error="e",
            workflow_digest="d" * 64,
            beat_ms=9,
            created_at_ms=3,
            forked_from="r-0",
        ),
        run("r-ü 東京/'\"", workflow="wörk flöws/é.lua", args='{"s":"a\\u0000b","ü":1}'),
        run(seed=2**53 - 1, created_at_ms=2**42),
        run(driver=ProcessId("h", 1, 5, "")),
    ],
    ids=["plain", "every field", "unicode", "large numbers", "whole seconds"],
)
def test_a_run_comes_back_as_it_was(backend, stored):
    """Every field survives, in another process too."""
    backend.runs.create_run(stored)
    assert backend.runs.get_run(stored.id) == stored
    backend.reopen()
    assert backend.runs.get_run(stored.id) == stored


def test_a_run_is_created_once(runs):
    """The second of the same id is refused and changes nothing."""
    runs.create_run(run())
    with pytest.raises(Conflict, match="run r-1 exists already"):
        runs.create_run(run(seed=8))
    assert runs.get_run("r-1").seed == 7


def test_a_missing_run_is_named(runs):
    """And where the list of runs is."""
    with pytest.raises(NotFound, match="there is no run r-9; `sparkles runs` lists them"):
        runs.get_run("r-9")


def test_runs_are_listed_newest_first(runs):
    """By creation, whatever the wall clock said at the time."""
    for number, at in enumerate([500, 300, 400]):
        runs.create_run(run(f"r-{number}", created_at_ms=at))
    assert [each.id for each in runs.list_runs()] == ["r-2", "r-1", "r-0"]
    assert [each.id for each in runs.list_runs(limit=2)] == ["r-2", "r-1"]


def test_runs_are_found_by_what_they_execute(runs):
    """Workflow and parameters, each or both."""
    runs.create_run(run("r-1", workflow="a.lua", args='{"n":1}'))
    runs.create_run(run("r-2", workflow="b.lua", args='{"n":1}'))
    runs.create_run(run("r-3", workflow="a.lua", args='{"n":2}'))
    assert [each.id for each in runs.list_runs(workflow="a.lua")] == ["r-3", "r-1"]
    assert [each.id for each in runs.list_runs(args='{"n":1}')] == ["r-2", "r-1"]
    assert [each.id for each in runs.list_runs(workflow="a.lua", args='{"n":1}')] == ["r-1"]
    assert runs.list_runs(workflow="c.lua") == []


def test_a_run_is_begun_where_none_is_unfinished(runs):
    """Only the newest of the same workflow and parameters counts, whoever drives it."""
    assert runs.begin_run(run("r-1")) == run("r-1")
    assert runs.begin_run(run("r-2")) == run("r-1")
    assert runs.begin_run(run("r-3", args='{"n":1}')).id == "r-3"
    assert runs.begin_run(run("r-4", workflow="v.lua")).id == "r-4"
    runs.end_run("r-1", HERE, RunState.FAILED, "e", 5)
    assert runs.begin_run(run("r-5")).id == "r-1"
    runs.take_run("r-1", THERE, dead, 6)
    runs.end_run("r-1", THERE, RunState.SUCCEEDED, "", 7)
    assert runs.begin_run(run("r-6")) == runs.get_run("r-6")
    assert [each.id for each in runs.list_runs()] == ["r-6", "r-4", "r-3", "r-1"]
    with pytest.raises(Conflict, match="run r-6 exists already"):
        runs.begin_run(run("r-6", workflow="u.lua"))


def test_of_two_who_begin_at_once_one_stores_its_run(backend):
    """Both are told the same run."""
    barrier = threading.Barrier(2)

    def begin(name):
        barrier.wait(5)
        return [backend.runs.begin_run(run(f"r-{name}-{turn}", args=f'{{"n":{turn}}}')).id for turn in range(40)]

    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(begin, ("a", "b"))
    assert one == other
    assert len(backend.runs.list_runs()) == 40


# Owners


def test_a_live_owner_keeps_its_run(runs):
    """The refusal names the process, its host and since when; it survives pickling."""
    runs.create_run(run())
    with pytest.raises(RunBusy) as refused:
        runs.take_run("r-1", THERE, alive, 5)
    assert str(refused.value) == (
        "run r-1 (w.lua) is driven by pid 4242 on host here since 2023-11-14T22:13:20Z; wait for it, or end it with `sparkles kill r-1`"
    )
    assert str(pickle.loads(pickle.dumps(refused.value))) == str(refused.value)
    assert runs.get_run("r-1").driver == HERE


def test_a_dead_owner_is_followed(backend):
    """The run is running again, with no trace of how it ended before."""
    backend.runs.create_run(run())
    backend.reopen()
    asked = []
    taken = backend.runs.take_run("r-1", THERE, lambda process: not asked.append(process), 55)
    assert asked == [HERE]
    assert taken == run(driver=THERE, beat_ms=55)
    assert backend.runs.get_run("r-1") == taken


@pytest.mark.parametrize("state", [RunState.FAILED, RunState.INTERRUPTED, RunState.CANCELLED])
def test_an_unfinished_run_is_taken_without_asking(runs, state):
    """Nobody drives it: nobody's death matters."""
    runs.create_run(run())
    runs.end_run("r-1", HERE, state, "it broke", 9)
    assert runs.get_run("r-1") == run(driver=None, state=state, error="it broke", ended_at_ms=9)
    taken = runs.take_run("r-1", THERE, lambda process: pytest.fail("nobody to ask about"), 10)
    assert taken == run(driver=THERE, beat_ms=10)


def test_an_owner_may_take_its_own_run(runs):
    """Without being asked whether it is dead."""
    runs.create_run(run())
    assert runs.take_run("r-1", HERE, alive, 3).driver == HERE


def test_a_succeeded_run_is_over(runs):
    """It cannot be taken; the message says how another one begins."""
    runs.create_run(run())
    runs.end_run("r-1", HERE, RunState.SUCCEEDED, "", 9)
    with pytest.raises(Conflict, match=r"run r-1 has succeeded and is over; `sparkles run w\.lua` begins another"):
        runs.take_run("r-1", THERE, dead, 10)


def test_taking_a_missing_run_is_refused(runs):
    """There is nothing to own."""
    with pytest.raises(NotFound):
        runs.take_run("r-1", HERE, dead, 1)


def test_the_owner_can_write_while_it_is_being_watched(backend):
    """`is_dead` may take its time: the heartbeat that it waits for must get through."""
    backend.runs.create_run(run())

    def watches(process):
        before = backend.runs.get_run("r-1").beat_ms
        thread = threading.Thread(target=backend.runs.beat_run, args=("r-1", HERE, before + 1))
        thread.start()
        thread.join(5)
        return backend.runs.get_run("r-1").beat_ms == before

    with pytest.raises(RunBusy):
        backend.runs.take_run("r-1", THERE, watches, 1)


def test_who_was_taken_over_meanwhile_is_asked_about_again(backend):
    """While one driver looks at a dead owner another may take the run: that one is alive."""
    backend.runs.create_run(run())
    third = replace(THERE, pid=99)

    def is_dead(process):
        if process == HERE:
            backend.runs.take_run("r-1", third, dead, 1)
            return True
        return False

    with pytest.raises(RunBusy, match="pid 99"):
        backend.runs.take_run("r-1", THERE, is_dead, 2)
    assert backend.runs.get_run("r-1").driver == third


def test_of_two_takers_one_gets_the_run(backend):
    """Both find the owner dead at the same moment."""
    backend.runs.create_run(run())
    barrier = threading.Barrier(2)

    def take(pid):
        barrier.wait(5)
        try:
            backend.runs.take_run("r-1", replace(THERE, pid=pid), lambda process: process == HERE, pid)
        except RunBusy:
            return None
        return pid

    with ThreadPoolExecutor(2) as pool:
        winners = [pid for pid in pool.map(take, (1, 2)) if pid]
    assert len(winners) == 1
    assert backend.runs.get_run("r-1").driver.pid == winners[0]


def test_a_heartbeat_is_recorded(runs):
    """Only the owner's."""
    runs.create_run(run())
    runs.beat_run("r-1", HERE, 77)
    assert runs.get_run("r-1").beat_ms == 77
    with pytest.raises(LeaseLost, match="run r-1 is not driven by pid 7 on host there any more"):
        runs.beat_run("r-1", THERE, 78)
    assert runs.get_run("r-1").beat_ms == 77


def test_a_former_owner_cannot_end_the_run(runs):
    """It was taken over: what the former owner thinks of the run counts no more."""
    runs.create_run(run())
    runs.take_run("r-1", THERE, dead, 1)
    with pytest.raises(LeaseLost):
        runs.end_run("r-1", HERE, RunState.FAILED, "late", 2)
    assert runs.get_run("r-1").state is RunState.RUNNING


def test_a_run_is_ended_once(runs):
    """The end gives up ownership, so a second end has no owner."""
    runs.create_run(run())
    runs.end_run("r-1", HERE, RunState.SUCCEEDED, "", 9)
    with pytest.raises(LeaseLost):
        runs.end_run("r-1", HERE, RunState.FAILED, "", 10)
    assert runs.get_run("r-1").state is RunState.SUCCEEDED


# Steps


@pytest.mark.parametrize(
    "stored",
    [
        step(),
        step(state=StepState.STARTED, started_at_ms=5),
        step(value='{"x":1.0}', error=True, started_at_ms=5, ended_at_ms=8),
        step(value="null"),
        step(value=""),
        step(key=StepKey("main/map[ü]", "read", "b" * 64, 3), parts='{"日":"\\u0000"}', position="ordner ü/é.lua:1"),
        step(value='"' + "x" * 300_000 + '"'),
    ],
    ids=["plain", "started", "error", "null", "empty", "unicode", "large"],
)
def test_a_step_comes_back_as_it_was(backend, stored):
    """Every field survives, in another process too."""
    backend.runs.create_run(run())
    backend.runs.put_step("r-1", stored)
    backend.reopen()
    assert backend.runs.get_step("r-1", stored.key) == stored


@pytest.mark.parametrize(
    "other",
    [replace(KEY, strand="b"), replace(KEY, kind="wait"), replace(KEY, digest="b" * 64), replace(KEY, occurrence=2)],
    ids=["strand", "kind", "digest", "occurrence"],
)
def test_every_part_of_a_key_counts(runs, other):
    """A step that differs in one part is another one."""
    runs.create_run(run())
    runs.put_step("r-1", step(1))
    assert runs.get_step("r-1", other) is None
    runs.put_step("r-1", step(2, key=other))
    assert runs.get_step("r-1", KEY).sequence == 1
    assert runs.get_step("r-1", other).sequence == 2


def test_runs_do_not_share_steps(runs):
    """The same key in another run is another step."""
    runs.create_run(run("r-1"))
    runs.create_run(run("r-2"))
    runs.put_step("r-1", step(value="1"))
    assert runs.get_step("r-2", KEY) is None
    assert runs.list_steps("r-2") == []
    assert runs.last_sequence("r-2") == 0


def test_a_step_is_replaced_and_keeps_its_place(backend):
    """started -> done, or asked for again by a later execution: the order is that of the first asking."""
    backend.runs.create_run(run())
    backend.runs.put_step("r-1", step(1, state=StepState.STARTED, started_at_ms=5))
    backend.runs.put_step("r-1", step(2, key=replace(KEY, occurrence=2)))
    backend.reopen()
    again = step(3, parts="[]", position="w.lua:9", value="1", error=True, started_at_ms=6, ended_at_ms=7)
    backend.runs.put_step("r-1", again)
    assert backend.runs.get_step("r-1", KEY) == replace(again, sequence=1)
    assert backend.runs.last_sequence("r-1") == 2


def test_steps_are_moved(backend):
    """Only their position changes; a key of which nothing is recorded, or a run that there is not, is passed over."""
    other = replace(KEY, occurrence=2)
    for each in ("r-1", "r-2"):
        backend.runs.create_run(run(each))
        backend.runs.put_step(each, step(1, value="1", started_at_ms=3, ended_at_ms=4))
        backend.runs.put_step(each, step(2, key=other))
    moved = {KEY: "w.lua:9", replace(KEY, kind="wait"): "w.lua:10"}
    backend.runs.move_steps("r-1", moved)
    backend.runs.move_steps("r-9", moved)
    backend.reopen()
    assert backend.runs.list_steps("r-1") == [
        step(1, value="1", started_at_ms=3, ended_at_ms=4, position="w.lua:9"),
        step(2, key=other),
    ]
    assert backend.runs.get_step("r-2", KEY).position == "w.lua:3"


def test_steps_are_listed_in_order(runs):
    """Of sequence, not of storing; only of the kinds that were asked for."""
    runs.create_run(run())
    for sequence, kind in [(3, "read"), (1, "write"), (2, "read"), (4, "now")]:
        runs.put_step("r-1", step(sequence, key=replace(KEY, kind=kind, occurrence=sequence)))
    assert [each.sequence for each in runs.list_steps("r-1")] == [1, 2, 3, 4]
    assert [each.sequence for each in runs.list_steps("r-1", kinds=("read", "write"))] == [1, 2, 3]
    assert runs.list_steps("r-1", kinds=()) == []
    assert runs.last_sequence("r-1") == 4


def test_a_strands_next_steps_are_listed(runs):
    """Those of one strand, after a sequence, in order, no more than asked for."""
    runs.create_run(run())
    for sequence, strand in enumerate(["main", "main/a", "main", "main", "main/a"], 1):
        runs.put_step("r-1", step(sequence, replace(KEY, strand=strand, occurrence=sequence)))
    listed = runs.list_strand("r-1", "main", after=1, limit=9)
    assert [found.sequence for found in listed] == [3, 4]
    assert [found.sequence for found in runs.list_strand("r-1", "main", after=0, limit=2)] == [1, 3]
    assert runs.list_strand("r-1", "none", after=0, limit=2) == []
    assert runs.get_step("r-1", listed[0].key) == listed[0]


def test_the_strands_of_a_run_are_listed(runs):
    """Each once, in the order of its first step."""
    for run_id in ("r-1", "r-2"):
        runs.create_run(run(run_id))
    for sequence, strand in [(4, "main/a"), (1, "main"), (2, "main/b"), (3, "main")]:
        runs.put_step("r-1", step(sequence, replace(KEY, strand=strand, occurrence=sequence)))
    assert runs.list_strands("r-1") == ["main", "main/b", "main/a"]
    assert runs.list_strands("r-2") == []


def test_no_step_without_a_run(runs):
    """A driver whose run was deleted is told, rather than recording into nothing."""
    with pytest.raises(NotFound, match="there is no run r-1"):
        runs.put_step("r-1", step())


def test_a_run_has_a_folder(backend):
    """For the output of its commands; it goes with the run, and its size is told. No id leads elsewhere."""
    backend.runs.create_run(run("r-1"))
    folder = backend.runs.folder("r-1")
    assert folder != backend.runs.folder("r-2")
    assert not folder.exists()
    folder.mkdir(parents=True)
    (folder / "shell-1.out").write_bytes(b"x" * 100)
    assert backend.runs.delete_run("r-1") == 100
    assert not folder.exists()
    assert backend.runs.delete_run("r-1") == 0
    for odd in ("../r-1", "", "a/b", ".."):
        with pytest.raises(UsageError, match="not the id of a run"):
            backend.runs.folder(odd)


def test_deleting_a_run_takes_its_steps(backend):
    """Only its own; harmless when repeated; the id may be used again."""
    for name in ("r-1", "r-2"):
        backend.runs.create_run(run(name))
        backend.runs.put_step(name, step(value=f'"{name}"'))
    backend.runs.delete_run("r-1")
    backend.runs.delete_run("r-1")
    backend.reopen()
    assert [each.id for each in backend.runs.list_runs()] == ["r-2"]
    assert backend.runs.get_step("r-1", KEY) is None
    assert backend.runs.get_step("r-2", KEY).value == '"r-2"'
    backend.runs.create_run(run("r-1"))
    assert backend.runs.list_steps("r-1") == []


def test_steps_are_recorded_from_several_threads(backend):
    """The heartbeat's thread and the session's write at once."""
    backend.runs.create_run(run())

    def record(number):
        backend.runs.put_step("r-1", step(number, key=replace(KEY, occurrence=number)))
        backend.runs.beat_run("r-1", HERE, number)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(record, range(1, 101)))
    assert [each.sequence for each in backend.runs.list_steps("r-1")] == list(range(1, 101))


# What was cleaned


def test_what_was_cleaned_is_remembered(runs):
    """Newest first; the same id twice counts once, as the newest; runs and jobs alike."""
    one, two = Cleaned("r-1", "run", "w.lua", 5), Cleaned("align-1", "job", "align", 5)
    runs.put_cleaned([one, two])
    assert runs.list_cleaned() == [two, one]
    again = replace(one, cleaned_at_ms=9)
    runs.put_cleaned([again])
    assert runs.list_cleaned() == [again, two]
    runs.put_cleaned([])
    assert runs.list_cleaned() == [again, two]


def test_the_oldest_cleaned_are_forgotten(runs):
    """10,000 are remembered, so that a state folder cannot grow without end by being cleaned."""
    runs.put_cleaned([Cleaned(f"j-{number}", "job", "j", number) for number in range(9_999)])
    runs.put_cleaned([Cleaned(f"k-{number}", "job", "k", number) for number in range(3)])
    kept = runs.list_cleaned()
    assert (len(kept), kept[0].id, kept[-1].id) == (10_000, "k-2", "j-2")
