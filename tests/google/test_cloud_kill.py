"""kill -9 of driver and workers in the cloud, at every step boundary and at random moments: nothing is lost, nothing runs twice, nothing is
left behind, and the same command goes on."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.cloud_site import CloudSite

HERE = Path(__file__).parent / "kill"
FILES = [HERE / name for name in ("workflow.lua", "task.sh", "params.csv")]
CRASHING = Path(__file__).parents[1] / "e2e" / "kill" / "crashing.py"

MOMENTS = int(os.environ.get("SPARKLES_KILL_MOMENTS", "3"))
"""Random moments for each of VICTIMS."""

AT_A_TIME = 3
"""Sites that are disturbed at the same time: they wait most of the time."""

BOUNDARIES = 15
"""The workflow writes to its journal this often (checked below): each of these is a boundary."""

VICTIMS = {
    "driver": ("driver",),
    "supervisor": ("supervisor",),
    "worker": ("worker",),
    "all": ("supervisor", "worker", "driver"),
}

pytestmark = [pytest.mark.google, pytest.mark.slow]


def result(site):
    """The files that a run leaves."""
    files = [*sorted((site.folder / "fetched").rglob("*")), site.folder / "final.csv", site.folder / "sum.json"]
    return {str(path.relative_to(site.folder)): path.read_bytes() for path in files if path.is_file()}


def gone(site):
    """Whatever is left of the site's processes and workers has to go by itself."""
    site.until(lambda: not site.processes(), "the end of all processes", 10)
    site.until(lambda: not site.store.list_workers(), "the end of all workers' rows", 10)


def check(site, undisturbed, before=frozenset()):
    """After a disturbed run was finished."""
    assert result(site) == undisturbed
    assert before <= site.succeeded(), "a finished task was run again"
    site.check_trace()
    assert site.query("SELECT count(*) FROM runs") == [(1,)]
    assert len(site.store.list_jobs()) == 2, "a job was submitted twice"
    gone(site)


def each(act, cases):
    """Does it for all cases, some at a time; the first failure is raised."""
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        for _ in pool.map(act, cases):
            pass


@pytest.fixture
def sites(tmp_path):
    """Makes sites; ends what is left of them."""
    made = []

    def make(name="site", **variables):
        made.append(CloudSite(tmp_path / name, FILES, **variables))
        return made[-1]

    yield make
    for site in made:
        site.close()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The result, number of journal writes and duration (from the run's beginning) of a run that nobody disturbs."""
    site = CloudSite(tmp_path_factory.mktemp("undisturbed"), FILES)
    try:
        command = site.background("run", "workflow.lua")
        command.wait_for("run r-")
        began = time.monotonic()
        command.end()
        duration = time.monotonic() - began
        gone(site)
        ((writes,),) = site.query("SELECT sum(CASE WHEN kind IN ('log', 'read') THEN 1 ELSE 2 END) FROM steps")
        return result(site), writes, duration
    finally:
        site.close()


def test_the_boundaries_are_all_of_them(undisturbed):
    assert undisturbed[1] == BOUNDARIES


@pytest.mark.parametrize("turn", range(len(VICTIMS)))
def test_killed_at_a_step_boundary(sites, undisturbed, turn):
    """At each boundary one kind of victim, in turn; with SPARKLES_KILL_MOMENTS above 3 all of them at each."""
    names = list(VICTIMS)

    def killed(count):
        whom = names[(count + turn) % len(names)]
        site = sites(f"{count}-{whom}")
        command = site.background(str(CRASHING), str(count), *VICTIMS[whom], program=(sys.executable,))
        if "driver" not in VICTIMS[whom]:
            command.end()
            check(site, undisturbed[0])
            return
        command.end(-signal.SIGKILL)
        before = site.succeeded()
        site.finish()
        check(site, undisturbed[0], before)

    every = range(1, BOUNDARIES + 1)
    each(killed, every if MOMENTS > 3 else every[turn :: len(VICTIMS)])


@pytest.mark.parametrize("whom", VICTIMS)
def test_killed_at_a_random_moment(sites, undisturbed, whom):
    expected, _, duration = undisturbed

    def killed(moment):
        site = sites(f"moment-{moment}")
        command = site.background("run", "workflow.lua")
        command.wait_for("run r-")
        time.sleep(random.Random(f"{whom} {moment}").uniform(0, duration))
        victims = []
        if "supervisor" in VICTIMS[whom]:
            victims += site.supervisors()
        if "worker" in VICTIMS[whom]:
            victims += site.working()
        if "driver" in VICTIMS[whom]:
            victims.append(command.process.pid)
        site.kill(*victims)
        if "driver" not in VICTIMS[whom]:
            command.end()
            check(site, expected)
            return
        command.process.wait()
        before = site.succeeded()
        if command.process.returncode == 0 or site.query("SELECT state FROM runs") == [("succeeded",)]:
            assert result(site) == expected  # it had ended already
            return
        site.finish()
        check(site, expected, before)

    each(killed, range(MOMENTS))


def test_the_programs_of_running_tasks_are_killed(sites, undisturbed):
    """The attempts failed, and the run with them; the same command tries these tasks again, and no others."""
    site = sites()
    command = site.background("run", "workflow.lua")
    groups = site.until(site.task_groups, "a running task")
    for group in groups:
        os.killpg(group, signal.SIGKILL)
    assert "SIGKILL" in command.end(1)
    before = site.succeeded()
    assert before
    site.finish()
    check(site, undisturbed[0], before)


def test_programs_that_outlive_driver_and_worker_are_ended_before_their_tasks_run_again(sites, undisturbed):
    """All of sparkles is killed while tasks run; these run on as orphans until the same command comes."""
    site = sites()
    site.variables["SLOW"] = "60"
    command = site.background("run", "workflow.lua")
    site.until(lambda: len(site.task_groups()) == 2, "two running tasks")
    site.kill(*site.supervisors(), *site.working(), command.process.pid)
    command.end(-signal.SIGKILL)
    assert len(site.task_groups()) == 2
    (left,) = (site.folder / ".sparkles" / "cloud" / "scratch").iterdir()
    del site.variables["SLOW"]
    said = site.finish()
    assert "died: 2 lost" in said
    assert not left.exists()
    assert all(len(attempts) <= 2 for attempts in site.attempts().values())
    check(site, undisturbed[0])


def states(site):
    """(state, tries, losses) of every task."""
    return sorted(
        (task.state, task.tries, task.losses) for job in site.store.list_jobs() for task in site.store.list_tasks(job.id)
    )


def start_slow(site, seconds):
    """Starts a run whose tasks take so long, and waits for the first two."""
    site.variables["SLOW"] = str(seconds)
    command = site.background("run", "workflow.lua")
    site.until(lambda: len(site.task_groups()) == 2, "two running tasks")
    del site.variables["SLOW"]
    return command


def test_ctrl_c_lets_running_tasks_finish(sites, undisturbed):
    site = sites()
    command = start_slow(site, 1.5)
    command.process.send_signal(signal.SIGINT)
    said = command.end(130)
    assert "running tasks finish and are recorded" in said
    assert "resume with: sparkles run workflow.lua" in said
    assert [each.what for each in site.said()].count("ends") == 2
    assert states(site) == [("pending", 0, 0)] * 3 + [("succeeded", 1, 0)] * 2
    gone(site)
    before = site.succeeded()
    site.finish()
    check(site, undisturbed[0], before)


@pytest.mark.parametrize(
    ("numbers", "code"), [((signal.SIGINT, signal.SIGINT), 130), ((signal.SIGTERM,), 143)], ids=["Ctrl-C twice", "SIGTERM"]
)
def test_running_tasks_are_ended_and_keep_their_budgets(sites, undisturbed, numbers, code):
    site = sites()
    command = start_slow(site, 60)
    for number in numbers:
        command.process.send_signal(number)
        time.sleep(0.3)
    said = command.end(code, timeout_s=15)
    assert "resume with: sparkles run workflow.lua" in said
    assert "ends" not in [each.what for each in site.said()]
    assert states(site) == [("pending", 0, 0)] * 5
    assert sorted(each.failure for attempts in site.attempts().values() for each in attempts) == ["preempted"] * 2
    gone(site)
    site.finish()
    check(site, undisturbed[0])


def test_a_hang_up_leaves_running_tasks_to_the_worker(sites, undisturbed):
    site = sites()
    command = start_slow(site, 2)
    command.process.send_signal(signal.SIGHUP)
    assert "running tasks are finished and recorded" in command.end(129, timeout_s=15)
    gone(site)
    assert states(site) == [("pending", 0, 0)] * 3 + [("succeeded", 1, 0)] * 2
    before = site.succeeded()
    site.finish()
    check(site, undisturbed[0], before)


@pytest.mark.parametrize(
    ("service", "flags", "notices"),
    [
        ("firestore", (), "this worker's row is gone"),
        ("datastore", ("--beat", "1h", "--look", "1h"), '"recorded":false'),
    ],
    ids=["it looks", "it records"],
)
def test_a_worker_that_stood_still_longer_than_its_lease_has_lost_its_tasks(sites, service, flags, notices):
    """Workers started by hand, so that no driver ends it: the other one takes its tasks. When it goes on it ends what it runs, or, where it
    does not look first, what it wants to record is refused."""
    site = sites(service=service, SPARKLES_FLEET="none")
    driver = site.background("run", "workflow.lua")
    by_hand = site.by_hand(driver)

    def worker(name, *more, **env):
        told = ["--id", name, "--work", str(site.folder / name), "--lease", "2s", "--cpu", "2"]
        return site.background(*by_hand, *told, *more, env=env, program=(site.variables["SPARKLES_CONSUME"],))

    frozen = worker("w-frozen", *flags, SLOW="1.5")
    site.until(lambda: len(site.task_groups()) == 2, "two running tasks")
    stopped = site.workers()
    site.signal(signal.SIGSTOP, *stopped)
    other = worker("w-other")
    other.wait_for("worker w-frozen stood still: 0 finished but not yet recorded, 2 lost")
    site.until(lambda: sum(each.attempt == 2 for each in site.said()) >= 2, "the second attempts")
    site.signal(signal.SIGCONT, *stopped)
    frozen.wait_for(notices)
    driver.end()
    for command in (frozen, other):
        command.process.terminate()
        command.process.wait(30)
    assert '"recorded":true' not in frozen.stderr
    job = next(job.id for job in site.store.list_jobs() if job.id.startswith("one-"))
    ended = [[(each.ref.attempt, str(each.worker), each.failure) for each in found] for found in site.attempts().values()]
    assert sorted(each for each in ended if len(each) == 2) == [[(1, "w-frozen", "lost"), (2, "w-other", None)]] * 2
    assert sum(job == task for task, _, attempt in site.succeeded() if attempt == 2) == 2
    gone(site)
