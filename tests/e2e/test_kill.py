"""kill -9 at every step boundary and at random moments: nothing is lost, nothing runs twice, nothing is left behind."""

import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.support.site import Site

CRASHING = Path(__file__).parent / "kill" / "crashing.py"
FILES = [CRASHING.with_name(name) for name in ("workflow.lua", "task.sh", "params.csv")]

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def result(site):
    fetched = {
        str(p.relative_to(site.folder)): p.read_bytes() for p in sorted((site.folder / "fetched").rglob("*")) if p.is_file()
    }
    return fetched | {name: (site.folder / name).read_bytes() for name in ("final.csv", "sum.json")}


def check(site, undisturbed, before):
    assert result(site) == undisturbed
    assert not (site.folder / "trace" / "overlaps").exists(), (site.folder / "trace" / "overlaps").read_text()
    assert before <= site.succeeded(), "a finished task was run again"
    assert site.query("SELECT count(*) FROM runs") == [(1,)]
    assert site.query("SELECT count(*) FROM jobs") == [(3,)], "a job was submitted twice"
    deadline = time.monotonic() + 5
    while site.processes() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert site.processes() == []
    assert site.query("SELECT count(*) FROM workers") == [(0,)]


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path, FILES)
    yield site
    site.clear()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The result, number of journal writes and duration of a run that nobody disturbs."""
    site = Site(tmp_path_factory.mktemp("undisturbed"), FILES)
    began = time.monotonic()
    site.finish()
    return result(site), time.monotonic() - began


BOUNDARIES = 32
"""The workflow writes to its journal this often, at least (checked below): every boundary is one kill."""


def test_the_boundaries_are_all_of_them(site):
    site.finish()
    ((writes,),) = site.query("SELECT sum(CASE WHEN kind IN ('log', 'read') THEN 1 ELSE 2 END) FROM steps")
    assert writes <= BOUNDARIES


@pytest.mark.parametrize("whom", ["driver", "worker", "both"])
@pytest.mark.parametrize("count", range(1, BOUNDARIES + 1))
def test_killed_at_a_step_boundary(site, undisturbed, count, whom):
    process = site.start([sys.executable, str(CRASHING), str(count), *(("worker", "driver") if whom == "both" else (whom,))])
    process.communicate(timeout=60)
    if whom != "worker" and process.returncode != -signal.SIGKILL:
        assert process.returncode == 0  # fewer writes than COUNT
    before = site.succeeded()
    site.finish()
    if whom == "worker" or process.returncode == 0:
        # The first execution ended well in spite of it; the second began a run of its own, whose tasks are all reused.
        assert site.query("SELECT count(*) FROM runs") == [(2,)]
        assert result(site) == undisturbed[0]
        assert before <= site.succeeded()
        assert not (site.folder / "trace" / "overlaps").exists()
    else:
        check(site, undisturbed[0], before)


@pytest.mark.parametrize("moment", range(50))
def test_killed_at_a_random_moment(site, undisturbed, moment):
    expected, duration = undisturbed
    chance = random.Random(moment)
    whom = chance.choice(["driver", "worker", "both"])
    process = site.start(site.command)
    time.sleep(chance.uniform(0.1, duration))
    victims = []
    if whom in ("worker", "both"):
        victims += site.workers()
    if whom in ("driver", "both"):
        victims.append(process.pid)
    for pid in victims:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    if whom == "worker":
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output.decode()
        check(site, expected, set())
        return
    process.communicate(timeout=60)
    before = site.succeeded()
    if process.returncode == 0 or site.query("SELECT state FROM runs") == [("succeeded",)]:
        assert result(site) == expected  # it had ended already
        return
    site.finish()
    check(site, expected, before)
