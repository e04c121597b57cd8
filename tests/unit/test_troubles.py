"""What keeps the workers of a pool from going on is told once, and once that it is over."""

import pytest

from sparkles.backends.clock import ManualClock
from sparkles.backends.google.troubles import LOOK_S, Troubles

AWAY = "Cloud Storage does not answer"


@pytest.fixture
def site():
    return Site()


class Site:
    """A clock, what workers have to say, and what people are told."""

    def __init__(self):
        self.clock, self.says, self.told, self.asked = ManualClock(), {}, [], []
        self.troubles = Troubles(self._of, self.clock, self.told.append)

    def _of(self, pool):
        self.asked.append(pool)
        return self.says

    def look(self, pool="p"):
        """What is told at the next look."""
        self.told.clear()
        self.clock.sleep(LOOK_S)
        self.troubles.look(pool)
        return list(self.told)


def test_each_is_told_once_and_so_is_its_end(site):
    assert site.look() == []
    site.says = {"w-2": AWAY}
    assert site.look() == [f"worker w-2 says: {AWAY}. It is tried again; nothing is lost meanwhile."]
    site.says = {"w-2": AWAY, "w-3": AWAY, "w-1": "another matter"}
    assert site.look() == ["worker w-1 says: another matter. It is tried again; nothing is lost meanwhile."]
    site.says = {"w-3": AWAY}
    assert site.look() == ["workers go on, after: another matter"]
    site.says = {}
    assert site.look() == [f"workers go on, after: {AWAY}"]
    site.says = {"w-3": AWAY, "w-1": AWAY, "w-2": AWAY}
    assert site.look() == [f"worker w-1 and 2 more say: {AWAY}. It is tried again; nothing is lost meanwhile."]


def test_every_pool_is_told_of_its_own(site):
    site.says = {"w-1": AWAY}
    assert len(site.look("a")) == len(site.look("b")) == 1
    assert site.asked == ["a", "b"]


def test_the_store_is_asked_now_and_then(site):
    """However often a wait looks."""
    for _ in range(100):
        site.troubles.look("p")
    assert site.asked == ["p"]
