"""What goes over Pub/Sub: attributes, whose messages are heard, subscriptions from beginning to end, gaps, and a service that is away."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from pathlib import Path

import pytest
from google.pubsub_v1.types import pubsub as api

from sparkles import wire
from sparkles.backends.google.notifier import POLLING, PubsubNotifier
from sparkles.model import TaskState
from sparkles.wire import SCHEMA, Change, Event
from tests.support import emulators, google

pytestmark = pytest.mark.google

ROOT = Path(__file__).resolve().parents[2]


class Installation:
    """Notifiers of one installation, on a topic of its own, and what each said."""

    def __init__(self, at: str = "") -> None:
        self.prefix = f"t{secrets.token_hex(4)}/"
        self.topic_name = f"topic-{self.prefix[:-1]}"
        self.at = at or google.address("pubsub")
        self.said: list[str] = []
        self._opened: list[PubsubNotifier] = []

    def topic(self, prefix: str = ""):
        return google.topic(prefix or self.prefix, self.topic_name, self.at)

    def notifier(self, prefix: str = "", *, ready: bool = True) -> PubsubNotifier:
        made = PubsubNotifier(self.topic(prefix), self.said.append)
        self._opened.append(made)
        if ready:
            assert made.ready(20)
            made.wait(0)
            assert made.take() is None  # what was before is unknown
        return made

    def close(self) -> None:
        for each in self._opened:
            each.close()


@pytest.fixture
def place():
    made = Installation()
    yield made
    made.close()


@pytest.fixture
def alone():
    """An emulator that the test may stop."""
    emulator = emulators.Emulator("pubsub")
    made = Installation(emulator.address)
    made.emulator = emulator
    yield made
    made.emulator.resume()
    made.close()
    made.emulator.stop()


def event(seq, job="job-1", shard=0):
    return Event(SCHEMA, job, shard, seq, (Change(1, TaskState.SUCCEEDED, 1),))


def heard(notifier, count, timeout_s=10.0):
    """The events that come, until there are `count`."""
    found, deadline = [], time.monotonic() + timeout_s
    while len(found) < count and time.monotonic() < deadline:
        notifier.wait(0.2)
        found += notifier.take() or ()
    return found


def pulled(topic, name, count=1):
    """Messages as they are on the wire."""
    found, deadline = [], time.monotonic() + 10
    pull = topic._unary("/google.pubsub.v1.Subscriber/Pull", api.PullRequest.pb(), api.PullResponse.pb())
    while len(found) < count and time.monotonic() < deadline:
        answer = pull(api.PullRequest.pb()(subscription=name, max_messages=100), timeout=10)
        found += [each.message for each in answer.received_messages]
    return found


def subscriptions(topic):
    """All of the topic's, as Pub/Sub has them."""
    page = topic._list(api.ListSubscriptionsRequest.pb()(project="projects/" + emulators.PROJECT, page_size=1000), timeout=10)
    return [each for each in page.subscriptions if each.topic == topic.name]


def test_what_a_message_carries(place):
    """The event as wire JSON, and in attributes the job, the installation and who sent it; a hint has no data."""
    topic = place.topic()
    name = topic.subscribe()
    teller = place.notifier(ready=False)
    teller.publish(event(3))
    teller.notify()
    messages = pulled(topic, name, 2)
    told, hint = sorted(messages, key=lambda message: not message.data)
    assert wire.decode(told.data, Event, "here") == event(3)
    assert dict(told.attributes) == {
        "job": "job-1",
        "installation": place.prefix[:-1],
        "sender": teller._topic._sender,
    }
    assert hint.data == b""
    assert hint.attributes["installation"] == place.prefix[:-1]
    topic.unsubscribe(name)
    topic.close()


def test_events_reach_others_and_not_their_sender_twice(place):
    """In the order of their sending; the sender has its own at once, and does not hear it again."""
    teller, watcher = place.notifier(), place.notifier()
    for seq in range(1, 6):
        teller.publish(event(seq))
    assert [each.seq for each in heard(watcher, 5)] == [1, 2, 3, 4, 5]
    assert [each.seq for each in teller.take()] == [1, 2, 3, 4, 5]
    time.sleep(0.5)
    assert teller.take() == []


def test_another_installation_on_the_same_topic_is_not_heard(place):
    """The subscription's filter does it, and since the emulator ignores filters, the client."""
    watcher = place.notifier()
    stranger, friend = place.notifier("other/"), place.notifier()
    stranger.publish(event(1, "theirs"))
    stranger.notify()
    friend.publish(event(2, "ours"))
    assert [each.job for each in heard(watcher, 1)] == ["ours"]
    assert watcher.take() == []
    (mine, *_) = [each for each in subscriptions(watcher._topic) if each.name == watcher._subscription]
    assert mine.filter == f'attributes.installation = "{place.prefix[:-1]}"'


def test_nothing_is_subscribed_before_somebody_waits(place):
    """A command that only looks or tells leaves no subscription behind, not for a second."""
    topic = place.topic()
    topic.create()
    teller = place.notifier(ready=False)
    teller.notify()
    teller.publish(event(1))
    teller.take()
    assert subscriptions(topic) == []
    topic.close()


def test_a_subscription_from_beginning_to_end(place):
    """The first who waits makes the topic. A subscription expires a day after its last use, keeps messages for 10 minutes, says whose it
    is, and is removed at the end."""
    topic = place.topic()
    assert not topic.is_there()
    watcher = place.notifier()
    assert topic.is_there()
    (mine,) = subscriptions(topic)
    assert mine.expiration_policy.ttl.seconds == 86_400
    assert mine.message_retention_duration.seconds == 600
    assert mine.labels["pid"] == str(os.getpid())
    assert topic.leftovers() == []
    watcher.close()
    assert subscriptions(topic) == []
    topic.close()


KILLED = """
import sys
from tests.support import google
notifier = google.notifier(sys.argv[1], at=sys.argv[2])
notifier._topic.name = notifier._topic.name.rpartition("/")[0] + "/" + sys.argv[3]
assert notifier.ready(20)
print("ready", flush=True)
sys.stdin.readline()
"""


def test_what_a_killed_watcher_left_is_removed_by_clean(cloud):
    """Its subscription and nobody else's: of a process of this machine that is gone, never of a living one or of another installation."""
    topic = google.topic(cloud.prefix, cloud.variables["SPARKLES_GOOGLE_TOPIC"])
    arguments = [sys.executable, "-c", KILLED]
    children = []
    for prefix in (cloud.prefix, cloud.prefix, "other/"):
        words = [*arguments, prefix, google.address("pubsub"), cloud.variables["SPARKLES_GOOGLE_TOPIC"]]
        child = subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert child.stdout.readline() == "ready\n"
        children.append(child)
    try:
        assert len(subscriptions(topic)) == 3
        for child in (children[0], children[2]):
            child.kill()
            child.wait()
        assert len(topic.leftovers()) == 1
        (value,) = cloud.json("clean", "--yes")
        assert value["subscriptions"] == 1
        left = {each.labels["pid"] for each in subscriptions(topic)}
        assert left == {str(children[1].pid), str(children[2].pid)}
        (value,) = cloud.json("clean", "--yes")
        assert value["subscriptions"] == 0
    finally:
        for child in children:
            child.kill()
            child.wait()
            child.stdin.close()
            child.stdout.close()
        topic.close()


def test_a_subscription_that_somebody_removed(place):
    """It is made again, and what may have been missed meanwhile is known as missed."""
    watcher, teller = place.notifier(), place.notifier()
    watcher._topic.unsubscribe(watcher._subscription)
    watcher._call.cancel()  # the emulator goes on with the stream; Google ends it
    deadline = time.monotonic() + 15
    while watcher.take() is not None and time.monotonic() < deadline:
        watcher.wait(0.1)
    deadline = time.monotonic() + 15
    while watcher.take() is None and time.monotonic() < deadline:
        watcher.wait(0.1)
    teller.publish(event(7))
    assert [each.seq for each in heard(watcher, 1)] == [7]


@pytest.mark.parametrize(
    "data",
    [b"not JSON", b"[]", b'{"schema": 99, "job": "j", "shard": 0, "seq": 1, "changes": []}'],
    ids=["no JSON", "a list", "newer"],
)
def test_a_message_that_is_not_understood(place, data):
    """Somebody newer wrote something: all that it says is that everything is to be looked at."""
    watcher = place.notifier()
    topic = place.topic()
    topic.publish([topic.message(data, "j")]).result()
    assert watcher.wait(10)
    assert watcher.take() is None
    assert watcher.take() == []
    topic.close()


def test_where_there_is_no_pubsub(place):
    """It says once that it polls and why, hints within the process go on, and nothing is ever taken for an event."""
    said = []
    notifier = PubsubNotifier(None, said.append, why="none here")
    for _ in range(3):
        notifier.publish(event(1))
        notifier.notify()
        assert notifier.wait(1)
        assert notifier.take() is None
    assert said == [f"{POLLING} (none here)"]
    notifier.close()


def test_publishing_where_nobody_ever_listened(place):
    """There is no topic yet; that is no trouble and not a word is said."""
    teller = place.notifier(ready=False)
    for seq in range(3):
        teller.publish(event(seq))
    began = time.monotonic()
    teller.close()
    assert time.monotonic() - began < 5
    assert place.said == []


def test_a_service_that_does_not_answer_holds_nobody_up(alone):
    """Telling returns at once; the end comes within seconds; one line says that others see changes later."""
    teller = alone.notifier()
    alone.emulator.pause()
    began = time.monotonic()
    for seq in range(2_000):
        teller.publish(event(seq))
    assert time.monotonic() - began < 1
    time.sleep(3)
    for seq in range(100):
        teller.publish(event(seq))
    began = time.monotonic()
    teller.close()
    assert time.monotonic() - began < 8
    (line,) = alone.said
    assert line.startswith("a change could not be announced, others see it up to 30 s later (Pub/Sub: publish: ")


def test_a_service_that_goes_and_comes_back(alone):
    """Told once when it goes and once when it is there again; what may be missing is known as missing, and events come again."""
    watcher = alone.notifier()
    port = alone.emulator.port
    alone.emulator.stop()
    deadline = time.monotonic() + 20
    while not alone.said and time.monotonic() < deadline:
        watcher.wait(0.1)
    assert watcher.take() is None
    alone.emulator = emulators.Emulator("pubsub", port)  # which the fixture ends
    deadline = time.monotonic() + 60
    while len(alone.said) < 2 and time.monotonic() < deadline:
        watcher.wait(0.2)
    off, on = alone.said
    assert off.startswith(f"{POLLING} (Pub/Sub: listen: ")
    assert on == "notifications on"
    assert watcher.take() is None
    alone.notifier().publish(event(9))
    assert [each.seq for each in heard(watcher, 1)] == [9]
