"""Datastore's client against the emulators: compare-and-set, lost answers, limits, a server that goes away for a while."""

from __future__ import annotations

import os
import threading
import time

import grpc
import pytest

from sparkles.backends.google import datastore as module
from sparkles.backends.google.entities import MOST_BYTES, Entity
from sparkles.errors import BackendError, StorageFull
from tests.support import emulators, google
from tests.support.faults import Faults
from tests.support.needs import requires

pytestmark = pytest.mark.google
KIND = "SparklesTest"


def entity(name, document=b"one", **properties):
    return Entity(KIND, name, document, properties)


def test_what_is_written_is_read(site):
    """Document and properties come back as they were; a property that is None is absent."""
    store = site.datastore()
    written = Entity(KIND, "a", bytes(range(256)), {"text": "x", "number": 7, "list": ["a", "b"], "none": None})
    assert store.insert(written)
    found = store.get(KIND, "a")
    assert (found.document, found.properties) == (written.document, {"text": "x", "number": 7, "list": ["a", "b"]})
    assert found.version > 0
    assert store.get(KIND, "b") is None


def test_an_insert_never_overwrites(site):
    """The second is refused and what is there stays."""
    store = site.datastore()
    assert store.insert(entity("a", b"one"))
    assert not store.insert(entity("a", b"two"))
    assert store.get(KIND, "a").document == b"one"


def test_compare_and_set(site):
    """A write based on a version that is not the current one changes nothing; neither does one of an entity that is gone."""
    store = site.datastore()
    store.insert(entity("a"))
    first = store.get(KIND, "a")
    second = store.replace(entity("a", b"two"), first.version)
    assert second.version > first.version
    assert store.replace(entity("a", b"three"), first.version) is None
    assert store.get(KIND, "a").document == b"two"
    store.delete_all(KIND, ["a"])
    assert store.replace(entity("a", b"three"), second.version) is None
    assert store.get(KIND, "a") is None


def test_sixteen_threads_add_up(site):
    """No change of a counter is lost, whoever writes at once."""
    store = site.datastore(threads=16)
    store.insert(entity("n", b"0"))

    def add(_):
        store.update(KIND, "n", lambda known: entity("n", b"%d" % (int(known.document) + 1)))

    list(store.pool.map(add, range(64)))
    assert store.get(KIND, "n").document == b"64"


@pytest.mark.parametrize("code", ["UNAVAILABLE", "DEADLINE_EXCEEDED", "INTERNAL"])
def test_a_lost_answer_is_looked_up(site, code):
    """The server did it and the answer was lost: insert, compare-and-set and change have succeeded, once."""
    faults = Faults(plan=[f"after {code}"])
    store = site.datastore(faults=faults)
    assert store.insert(entity("a"))
    faults.plan.extend([f"after {code}", f"before {code}"])
    written = store.replace(entity("a", b"two"), store.get(KIND, "a").version)
    assert written is not None
    assert written.version == store.get(KIND, "a").version
    faults.plan.append(f"after {code}")
    assert store.update(KIND, "a", lambda known: entity("a", known.document + b"!")).document == b"two!"
    assert store.get(KIND, "a").document == b"two!"
    assert faults.made == [f"after {code}"] * 2 + [f"before {code}", f"after {code}"]


def test_a_lost_answer_over_which_others_wrote(site):
    """`applied` decides, and what is returned is what the others made of it; without it the write counts as not done."""
    other = site.datastore()

    class Overtaking(Faults):
        def intercept_unary_unary(self, continuation, details, request):
            try:
                return super().intercept_unary_unary(continuation, details, request)
            except grpc.RpcError:
                other.update(KIND, "a", lambda known: entity("a", known.document + b"+theirs"))
                raise

    faults = Overtaking()
    store = site.datastore(faults=faults)
    store.insert(entity("a"))
    faults.plan.append("after UNAVAILABLE")
    base = store.get(KIND, "a").version
    written = store.replace(entity("a", b"mine"), base, lambda current: current.document.startswith(b"mine"))
    assert written.version == store.get(KIND, "a").version
    assert written.document == b"mine+theirs"
    faults.plan.append("after UNAVAILABLE")
    assert store.replace(entity("a", b"mine"), written.version) is None


def test_a_write_that_never_arrived_is_tried_again(site):
    """An answer that was lost before the server did it: the next try does it; somebody else's write in between wins."""
    faults = Faults(plan=["before UNAVAILABLE", "before DEADLINE_EXCEEDED"])
    store = site.datastore(faults=faults)
    assert store.insert(entity("a"))
    assert faults.calls == 3
    base = store.get(KIND, "a").version
    site.datastore().replace(entity("a", b"theirs"), base)
    faults.plan.append("before UNAVAILABLE")
    assert store.replace(entity("a", b"mine"), base) is None
    assert store.get(KIND, "a").document == b"theirs"


def test_aborted_is_a_lost_race(site):
    """ABORTED means that it was not applied: a compare-and-set says so at once, a change reads again and goes on."""
    faults = Faults(plan=["", "before ABORTED"])
    store = site.datastore(faults=faults)
    store.insert(entity("a"))
    assert store.replace(entity("a", b"two"), store.get(KIND, "a").version) is None
    assert faults.calls == 2
    faults.plan.extend(["before ABORTED"] * 3)
    assert store.update(KIND, "a", lambda known: entity("a", known.document + b"!")).document == b"one!"


def test_a_quota_that_passes(site):
    """RESOURCE_EXHAUSTED is waited for; the write is done once."""
    faults = Faults(plan=["before RESOURCE_EXHAUSTED"] * 4)
    store = site.datastore(faults=faults)
    assert store.insert(entity("a"))
    faults.plan.extend(["before RESOURCE_EXHAUSTED"] * 2)
    store.put_all([entity("b"), entity("c")])
    assert set(store.lookup(KIND, ["a", "b", "c"])) == {"a", "b", "c"}


@pytest.mark.parametrize(
    ("code", "sentence"),
    [("UNAVAILABLE", "Datastore cannot be reached"), ("RESOURCE_EXHAUSTED", "a quota of Datastore is used up")],
)
def test_patience_ends(site, code, sentence):
    """With an error that says which call it was, what happened, and that trying again can help."""
    faults = Faults(plan=[f"before {code}"] * 99)
    store = site.datastore(faults=faults, patience_s=0.5)
    with pytest.raises(BackendError, match=f"Datastore: write {KIND} a: {sentence} .{code} made by a test") as caught:
        store.insert(entity("a"))
    assert caught.value.retryable


def test_what_cannot_help_is_not_tried_again(site):
    """PERMISSION_DENIED is told at once."""
    faults = Faults(plan=["before PERMISSION_DENIED"])
    with pytest.raises(BackendError, match="PERMISSION_DENIED") as caught:
        site.datastore(faults=faults).insert(entity("a"))
    assert not caught.value.retryable
    assert faults.calls == 1


def test_reads_are_tried_again(site):
    """A query and a lookup whose answers were lost."""
    lookups, queries = Faults("Lookup", plan=["after UNAVAILABLE"] * 2), Faults("RunQuery", plan=["before UNAVAILABLE"] * 2)
    site.datastore().insert(entity("a", group="g"))
    assert site.datastore(faults=lookups).get(KIND, "a").document == b"one"
    assert [each.name for each in site.datastore(faults=queries).query(KIND, ("group", "=", "g"))] == ["a"]


def test_batches_keep_the_limits(site):
    """No commit has more than 500 entities or 3.5 MiB; everything arrives."""
    sizes = []

    class Sizes(grpc.UnaryUnaryClientInterceptor):
        def intercept_unary_unary(self, continuation, details, request):
            if details.method.endswith("/Commit"):
                sizes.append((len(request.mutations), request.ByteSize()))
            return continuation(details, request)

    store = site.datastore(faults=Sizes())
    store.put_all(entity(f"small-{number}") for number in range(1001))
    assert sorted(count for count, _ in sizes) == [1, 500, 500]
    sizes.clear()
    names = [f"large-{number}" for number in range(20)]
    store.put_all(entity(name, os.urandom(1_000_000)) for name in names)
    assert sum(count for count, _ in sizes) == 20
    assert max(size for _, size in sizes) <= module.COMMIT_BYTES
    assert len(sizes) == 7
    sizes.clear()
    assert store.insert_all(entity(f"list-{number}", b"x", many=["m" * 60] * 64) for number in range(600)) == []
    assert max(size for _, size in sizes) <= module.COMMIT_BYTES
    assert sorted(store.lookup(KIND, names)) == sorted(names)
    store.delete_all(KIND, [f"small-{number}" for number in range(1001)])
    assert store.lookup(KIND, [f"small-{number}" for number in range(1001)]) == {}


def test_the_largest_entity(site):
    """One that just fits is stored; above it the error says whose, how large, and what to do, before anything is sent."""
    store = site.datastore()
    room = MOST_BYTES - 400
    assert store.insert(entity("fits", b"x" * room))
    assert len(store.get(KIND, "fits").document) == room
    for write in (store.insert, lambda each: store.replace(each, 1), lambda each: store.put_all([each])):
        with pytest.raises(
            StorageFull, match=rf"{KIND} over has \d+ bytes; one entity takes 1048572: put large values into files"
        ):
            write(entity("over", b"x" * MOST_BYTES))
    assert store.get(KIND, "over") is None


def test_insert_all_says_what_was_there(site):
    """Of a batch in which some keys exist the others are written; after a lost answer nothing counts as there."""
    faults = Faults(plan=["", "after UNAVAILABLE"])
    store = site.datastore(faults=faults)
    store.insert(entity("b", b"theirs"))
    assert store.insert_all([entity("d"), entity("e")]) == []
    assert [each.name for each in store.insert_all([entity("a"), entity("b"), entity("c")])] == ["b"]
    found = store.lookup(KIND, list("abcde"))
    assert {name: each.document for name, each in found.items()} == {**dict.fromkeys("acde", b"one"), "b": b"theirs"}


def test_queries(site):
    """Filters, order, limits and keys; all pages come."""
    store = site.datastore()
    store.put_all(entity(f"e{number:04}", b"x" * 3000, group="g", rank=number % 7) for number in range(700))
    assert [each.name for each in store.query(KIND, ("group", "=", "g"))] == [f"e{number:04}" for number in range(700)]
    assert [each.name for each in store.query(KIND, after="e0697")] == ["e0698", "e0699"]
    assert [each.properties["rank"] for each in store.query(KIND, ("rank", ">", 4), order="-rank", limit=110)][::109] == [6, 5]
    keys = list(store.query(KIND, keys_only=True, limit=600))
    assert len(keys) == 600
    assert keys[0].document == b""
    assert list(site.datastore().query("SparklesOther")) == []


def test_the_age_is_the_servers(site, service):
    """Where the server says when an entity was written and read, its age is the difference; the Datastore emulator says neither."""
    store = site.datastore()
    store.insert(entity("a"))
    time.sleep(0.3)
    age_s = store.get(KIND, "a").age_s
    if service == "firestore":
        assert 0.2 < age_s < 5
    else:
        assert age_s is None


@pytest.fixture
def own():
    """An emulator that may be stopped."""
    try:
        emulator = emulators.Emulator("firestore")
    except emulators.Missing as error:
        requires(False, str(error))
    yield emulator
    emulator.resume()
    emulator.stop()


def work_through_a_pause(emulator, pause_s, told_after_s, call_s):
    """Writes from eight threads before, during and after a pause of the server; what the user was told."""
    said: list[tuple[float, str]] = []
    warm = google.datastore("firestore", "warm/", at=emulator.address)
    for _ in range(200):  # the first calls of a Java server take seconds
        warm.update(KIND, "warm", lambda known: entity("warm", os.urandom(8)))
    warm.close()
    began = time.monotonic()
    store = google.datastore(
        "firestore",
        "paused/",
        at=emulator.address,
        say=lambda line: said.append((time.monotonic() - began, line)),
        told_after_s=told_after_s,
        call_s=call_s,
    )
    store.put_all(entity(f"n{number}", b"0") for number in range(8))
    stop = time.monotonic() + pause_s + 3
    done = [0] * 8

    def add(number):
        while time.monotonic() < stop:
            store.update(KIND, f"n{number}", lambda known: entity(f"n{number}", b"%d" % (int(known.document) + 1)))
            done[number] += 1

    threads = [threading.Thread(target=add, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(1)
    paused = time.monotonic() - began
    emulator.pause()
    time.sleep(pause_s)
    resumed = time.monotonic() - began
    emulator.resume()
    for thread in threads:
        thread.join()
    found = [int(store.get(KIND, f"n{number}").document) for number in range(8)]
    store.close()
    assert found == done
    assert min(done) > 0
    return (
        [at - paused for at, line in said if "does not answer" in line],
        [at - resumed for at, line in said if line == "Datastore answers again"],
        said,
    )


def test_a_server_that_goes_away_and_comes_back(own):
    """Nothing is lost and nothing done twice; the user is told once, and once that it answers again."""
    away, back, said = work_through_a_pause(own, pause_s=5, told_after_s=2, call_s=1.5)
    assert len(away) == len(back) == 1, said
    assert 1.5 < away[0] < 4
    assert 0 <= back[0] < 8


@pytest.mark.slow
@pytest.mark.parametrize("pause_s", [8, 30])
def test_a_server_that_is_away_for_long(own, pause_s):
    """With the limits that are used: told after 5 s, though a call waits for 20 s; 30 s outlast that."""
    away, back, said = work_through_a_pause(own, pause_s, module.TOLD_AFTER_S, module.CALL_S)
    assert len(away) == len(back) == 1, said
    assert 4.5 < away[0] < 7
    assert 0 <= back[0] < 8
    assert said[0][1].endswith("trying for up to 300 s. Nothing is lost meanwhile.")
