"""Uploads in the background: what they hold in memory, and who hears of those that fail."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from sparkles.backends.google import uploads as module
from sparkles.backends.google.uploads import Uploads


@pytest.fixture
def pool():
    with ThreadPoolExecutor(4) as pool:
        yield pool


class Slow:
    """Uploads of 10 bytes that take a while, and how many bytes there were at most from being handed in to being done."""

    def __init__(self, uploads):
        self.uploads = uploads
        self.held = self.most = self.done = 0
        self.lock = threading.Lock()

    def begin(self):
        self.uploads.begin(self.send, 10)
        with self.lock:
            self.held += 10
            self.most = max(self.most, self.held)

    def send(self):
        time.sleep(0.002)
        with self.lock:
            self.held -= 10
            self.done += 1


def test_what_waits_in_memory_is_limited(pool):
    """Whoever hands in more waits; all are done once settled."""
    slow = Slow(Uploads(pool, most_bytes=35))
    for _ in range(50):
        slow.begin()
    slow.uploads.settle()
    assert (slow.done, slow.held) == (50, 0)
    assert 10 < slow.most <= 40  # one more may be counted before the thread has given its bytes back


def test_one_that_is_larger_than_the_room_is_sent_alone(pool):
    """Nothing waits for ever."""
    uploads = Uploads(pool, most_bytes=5)
    done = []
    for number in range(3):
        uploads.begin(lambda number=number: done.append(number), 50)
    uploads.settle()
    assert done == [0, 1, 2]


def test_settling_waits_for_all_and_tells_of_the_first_that_failed(pool):
    """The others are done all the same, and what failed is told once."""
    uploads = Uploads(pool)
    done = []

    def fail(text):
        time.sleep(0.01)
        raise ValueError(text)

    uploads.begin(lambda: fail("one"), 10)
    uploads.begin(lambda: fail("two"), 10)
    for number in range(20):
        uploads.begin(lambda number=number: (time.sleep(0.002), done.append(number)), 10)
    with pytest.raises(ValueError, match="one"):
        uploads.settle()
    assert sorted(done) == list(range(20))
    uploads.settle()


def test_a_failure_is_heard_before_more_is_handed_in(pool):
    """Nobody goes on hashing for a bucket that takes nothing, and the room of what failed is free again."""
    uploads = Uploads(pool, most_bytes=10)
    failed = threading.Event()

    def fail():
        failed.set()
        raise ValueError("no permission")

    def hand_in_more():
        for _ in range(100):
            uploads.begin(lambda: None, 10)

    uploads.begin(fail, 10)
    failed.wait()
    with pytest.raises(ValueError, match="no permission"):
        hand_in_more()
    done = []
    uploads.begin(lambda: done.append(1), 10)
    uploads.settle()
    assert done == [1]


def test_many_small_ones_do_not_pile_up(pool, monkeypatch):
    """However small they are, a few thousand wait at most."""
    monkeypatch.setattr(module, "_MOST_WAITING", 8)
    uploads = Uploads(pool)
    seen = 0
    for _ in range(100):
        uploads.begin(lambda: time.sleep(0.001))
        seen = max(seen, len(uploads._begun))
    uploads.settle()
    assert seen <= 9
