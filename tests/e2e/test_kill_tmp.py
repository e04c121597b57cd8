"""kill -9 at every step boundary and at random moments: nothing is lost, nothing runs twice, nothing is left behind."""

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "kill"
COMMAND = [sys.executable, str(HERE / "crashing.py"), "1000000", "nobody"]

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


class Site:
    """A project folder, its processes (found by a variable of their environment) and what its tasks saw."""

    def __init__(self, folder):
        self.folder = folder
        self.mark = f"SPARKLES_KILL_TEST={uuid.uuid4().hex}"
        for name in ("workflow.lua", "task.sh", "params.csv"):
            shutil.copy(HERE / name, folder / name)
        (folder / "trace").mkdir()
        (folder / ".sparkles").mkdir()
        name, _, value = self.mark.partition("=")
        self.environ = {**os.environ, name: value, "TRACE": str(folder / "trace"), "SPARKLES_LOCAL_CPU": "2"}

    def start(self, command):
        return subprocess.Popen(
            command, cwd=self.folder, env=self.environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def finish(self):
        """Resumes until the run has ended well; returns what it printed."""
        process = self.start(COMMAND)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output.decode()
        return output.decode()

    def processes(self):
        found = []
        for entry in os.listdir("/proc"):
            if entry.isdigit() and int(entry) != os.getpid():
                try:
                    environ = Path(f"/proc/{entry}/environ").read_bytes()
                    state = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[0]
                except OSError:
                    continue
                if self.mark.encode() in environ and state != "Z":
                    found.append((int(entry), Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode()))
        return found

    def workers(self):
        return [pid for pid, line in self.processes() if "worker_process.py" in line]

    def query(self, sql):
        database = self.folder / ".sparkles" / "sparkles.db"
        if not database.exists():
            return []
        connection = sqlite3.connect(database)
        try:
            return connection.execute(sql).fetchall()
        except sqlite3.OperationalError:
            return []  # killed before the first migration
        finally:
            connection.close()

    def succeeded(self):
        return set(self.query("SELECT job, idx, attempt FROM tasks WHERE state = 'succeeded'"))

    def result(self):
        fetched = {str(p.relative_to(self.folder)): p.read_bytes() for p in sorted((self.folder / "fetched").rglob("*")) if p.is_file()}
        return fetched | {name: (self.folder / name).read_bytes() for name in ("final.csv", "sum.json")}

    def check(self, undisturbed, before):
        assert self.result() == undisturbed
        assert not (self.folder / "trace" / "overlaps").exists(), (self.folder / "trace" / "overlaps").read_text()
        assert before <= self.succeeded(), "a finished task was run again"
        assert self.query("SELECT count(*) FROM runs") == [(1,)]
        assert self.query("SELECT count(*) FROM jobs") == [(3,)], "a job was submitted twice"
        deadline = time.monotonic() + 5
        while self.processes() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert self.processes() == []
        assert self.query("SELECT count(*) FROM workers") == [(0,)]


@pytest.fixture()
def site(tmp_path):
    site = Site(tmp_path)
    yield site
    for pid, _ in site.processes():
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The result, number of journal writes and duration of a run that nobody disturbs."""
    site = Site(tmp_path_factory.mktemp("undisturbed"))
    began = time.monotonic()
    site.finish()
    return site.result(), time.monotonic() - began


BOUNDARIES = 32
"""The workflow writes to its journal this often, at least (checked below): every boundary is one kill."""


def test_the_boundaries_are_all_of_them(site):
    site.finish()
    ((writes,),) = site.query("SELECT sum(CASE WHEN kind IN ('log', 'read') THEN 1 ELSE 2 END) FROM steps")
    assert writes <= BOUNDARIES


@pytest.mark.parametrize("whom", ["driver", "worker", "both"])
@pytest.mark.parametrize("count", range(1, BOUNDARIES + 1))
def test_killed_at_a_step_boundary(site, undisturbed, count, whom):
    process = site.start([sys.executable, str(HERE / "crashing.py"), str(count), whom])
    process.communicate(timeout=60)
    if whom != "worker" and process.returncode != -signal.SIGKILL:
        assert process.returncode == 0  # fewer writes than COUNT
    before = site.succeeded()
    site.finish()
    if whom == "worker" or process.returncode == 0:
        # The first execution ended well in spite of it; the second began a run of its own, whose tasks are all reused.
        assert site.query("SELECT count(*) FROM runs") == [(2,)]
        assert site.result() == undisturbed[0]
        assert before <= site.succeeded()
        assert not (site.folder / "trace" / "overlaps").exists()
    else:
        site.check(undisturbed[0], before)


@pytest.mark.parametrize("moment", range(50))
def test_killed_at_a_random_moment(site, undisturbed, moment):
    result, duration = undisturbed
    chance = random.Random(moment)
    whom = chance.choice(["driver", "worker", "both"])
    process = site.start(COMMAND)
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
        site.check(result, set())
        return
    process.communicate(timeout=60)
    before = site.succeeded()
    if process.returncode == 0:
        return  # it had ended already
    site.finish()
    site.check(result, before)
