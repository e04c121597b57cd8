"""Signals, a frozen worker, a full disk, two drivers, a damaged or foreign state folder: said plainly, and nothing is lost."""

import os
import re
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from tests.support.needs import small_disk
from tests.support.site import Site

pytestmark = pytest.mark.e2e

SCRIPT = """
local rows = {}
for i = 1, 6 do rows[i] = {i = i} end
local result = run(JobBuilder("slow"):setCommandTemplate([[
  exec 9>"$TRACE/lock.$SPARKLES_TASK"
  flock -n 9 || echo overlap >>"$TRACE/overlaps"
  echo "$SPARKLES_TASK" >>"$TRACE/started"
  sleep SECONDS 9>&9
  echo "$SPARKLES_TASK" >>"$TRACE/ended"]]):createTasksFor(rows))
writeText("done.txt", tostring(#result.tasks))
"""


def lines(site, name):
    path = site.folder / "trace" / name
    return path.read_text().split() if path.exists() else []


def until(condition, what, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds} s"
        time.sleep(0.02)


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path)
    yield site
    site.clear()


def write(site, seconds=0.6, script=SCRIPT):
    (site.folder / "workflow.lua").write_text(script.replace("SECONDS", str(seconds)))


def start_and_wait_for_tasks(site, count=2):
    process = site.start(site.command)
    until(lambda: len(lines(site, "started")) >= count, "the start of tasks")
    return process


def finishes_well(site):
    site.finish()
    assert (site.folder / "done.txt").read_text() == "6"
    assert lines(site, "overlaps") == []
    until(lambda: site.processes() == [], "the end of every process")
    assert site.query("SELECT state, count(*) FROM tasks GROUP BY state") == [("succeeded", 6)]


def attempts(site):
    return dict(site.query("SELECT idx, attempt FROM tasks"))


def test_ctrl_c_lets_running_tasks_finish_and_a_resume_does_the_rest(site):
    write(site)
    process = start_and_wait_for_tasks(site)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 130, output.decode()
    assert b"sparkles run workflow.lua" in output, "how to come back is said"
    assert sorted(lines(site, "started")) == sorted(lines(site, "ended")), "what ran has finished"
    assert 2 <= len(lines(site, "started")) < 6
    assert site.processes() == []
    ended = len(lines(site, "ended"))
    finishes_well(site)
    assert len(lines(site, "ended")) == 6
    assert len(site.succeeded()) == 6
    assert ended == 6 - (len(lines(site, "started")) - ended)


def test_ctrl_c_twice_ends_running_tasks_which_keep_their_attempts(site):
    write(site, seconds=20)
    process = start_and_wait_for_tasks(site)
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 130, output.decode()
    assert time.monotonic() - began < 5
    assert lines(site, "ended") == []
    assert site.processes() == []
    assert site.query("SELECT DISTINCT state, tries, losses FROM tasks") == [("pending", 0, 0)]
    write(site, seconds=0.01)
    site.finish()


HANGING = """
writeText("before.txt", "x")
log("hanging")
if not fileExists("mended") then string.find(("a"):rep(40), ("a*"):rep(40) .. "b") end
writeText("done.txt", "6")
"""


def hang(site):
    write(site, script=HANGING)
    process = site.start(site.command)
    until(lambda: (site.folder / "before.txt").exists(), "the first step")
    time.sleep(0.5)
    return process


@pytest.mark.parametrize(
    ("numbers", "code", "seconds"),
    [((signal.SIGINT,) * 2, 130, 2), ((signal.SIGTERM,) * 2, 143, 2), ((signal.SIGTERM,), 143, 8), ((signal.SIGHUP,), 129, 8)],
    ids=["Ctrl-C twice", "SIGTERM twice", "SIGTERM", "SIGHUP"],
)
def test_a_script_that_hangs_inside_a_pattern_is_ended(site, numbers, code, seconds):
    """Python's own handlers do not run then: a thread ends the process, and the next run goes on."""
    process = hang(site)
    for number in numbers:
        time.sleep(0.2)
        process.send_signal(number)
    began = time.monotonic()
    output, _ = process.communicate(timeout=30)
    assert process.returncode == code, output.decode()
    assert time.monotonic() - began < seconds
    assert b"resume with: sparkles run workflow.lua" in output
    assert b"Traceback" not in output
    (site.folder / "mended").touch()
    done = run(site, "run", "workflow.lua")
    assert done.returncode == 0, done.stderr
    assert "goes on: 3 steps recorded" in done.stderr


def test_the_first_ctrl_c_says_that_the_script_hangs(site):
    process = hang(site)
    process.send_signal(signal.SIGINT)
    time.sleep(1.8)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    output, _ = process.communicate(timeout=30)
    assert time.monotonic() - began < 1, "it is known by then"
    assert process.returncode == 130
    assert re.search(rb"no new tasks(.|\n)*hangs inside one call; Ctrl-C again ends(.|\n)*this process ends here", output), (
        output
    )


def test_plan_is_ended_by_the_second_ctrl_c_too(site):
    started = hang(site)
    started.kill()
    started.communicate()
    process = site.start([*site.command[:-2], "plan", "workflow.lua"])
    time.sleep(2)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
    process.communicate(timeout=10)
    assert process.returncode == 130


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_script_that_spins_is_interrupted(site, number, code):
    write(site, script='writeText("before.txt", "x")\nwhile true do pcall(function() while true do end end) end')
    process = site.start(site.command)
    until(lambda: (site.folder / "before.txt").exists(), "the first step")
    time.sleep(0.3)
    process.send_signal(number)
    output, _ = process.communicate(timeout=10)
    assert process.returncode == code, output.decode()
    assert b"resume with: sparkles run workflow.lua" in output


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_sigterm_and_sighup_end_the_driver_in_order(site, number, code):
    write(site, seconds=0.8)
    process = start_and_wait_for_tasks(site)
    process.send_signal(number)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == code, output.decode()
    until(lambda: site.processes() == [], "the end of every process")
    ended = len(lines(site, "ended"))
    assert ended == (0 if number == signal.SIGTERM else 2), "SIGTERM ends tasks, SIGHUP lets them finish"
    assert site.query("SELECT count(*) FROM tasks WHERE state = 'claimed'") == [(0,)]
    finishes_well(site)


def test_a_frozen_worker_is_ended_and_replaced_after_its_lease(site):
    write(site, seconds=0.5)
    site.environ["SPARKLES_LOCAL_LEASE"] = "1.5"
    process = start_and_wait_for_tasks(site)
    (worker,) = site.workers()
    os.kill(worker, signal.SIGSTOP)
    output, _ = process.communicate(timeout=40)
    assert process.returncode == 0, output.decode()
    assert worker not in [pid for pid, _ in site.processes()]
    assert lines(site, "overlaps") == []
    assert (site.folder / "done.txt").read_text() == "6"


def test_a_second_driver_of_the_same_run_is_refused_by_name(site):
    write(site, seconds=1)
    first = start_and_wait_for_tasks(site)
    second = site.start(site.command)
    output, _ = second.communicate(timeout=30)
    assert second.returncode == 2
    assert re.search(rf"driven by pid {first.pid} on host ", output.decode()), output.decode()
    output, _ = first.communicate(timeout=30)
    assert first.returncode == 0, output.decode()


def test_of_two_drivers_that_begin_at_once_one_is_refused(site):
    """Neither finds a run to resume, and only one may begin it: the work is done once."""
    (site.folder / "workflow.lua").write_text(
        'run(JobBuilder("once"):setCache(false)'
        ':setCommandTemplate("echo x >> $TRACE/did; until [ -e $TRACE/go ]; do sleep 0.05; done"))'
    )
    for turn in range(3):
        command = [*site.command, "-p", f"turn={turn}"]
        pair = [site.start(command), site.start(command)]
        until(lambda: any(each.poll() is not None for each in pair), "the end of one")  # noqa: B023 - called in this turn
        refused, other = sorted(pair, key=lambda each: each.poll() is None)
        (site.folder / "trace" / "go").touch()
        output, _ = refused.communicate(timeout=30)
        assert re.search(rf"driven by pid {other.pid} on host ", output.decode()), output.decode()
        output, _ = other.communicate(timeout=30)
        assert other.returncode == 0, output.decode()
        (site.folder / "trace" / "go").unlink()
    assert len((site.folder / "trace" / "did").read_text().split()) == 3


def test_two_runs_side_by_side_do_not_over_commit(site):
    write(site, seconds=0.3, script=SCRIPT.replace('JobBuilder("slow")', 'JobBuilder("slow"):setCache(false)'))
    both = [site.start([*site.command, "--new"]) for _ in range(2)]
    most = 0
    while any(process.poll() is None for process in both):
        running = len([1 for _, line in site.processes() if line.startswith("sleep")])
        most = max(most, running)
        time.sleep(0.02)
    assert [process.communicate()[0] and process.returncode for process in both] == [0, 0]
    assert most <= 2, "the machine has two cores by its settings"
    assert len(lines(site, "ended")) == 12


def test_a_full_disk_is_named_and_nothing_is_lost(tmp_path):
    with small_disk(tmp_path / "disk", 3_000_000) as disk:
        site = Site(disk)
        try:
            write(site, seconds=0.2)
            process = start_and_wait_for_tasks(site)
            with open(disk / "ballast", "wb") as ballast:
                try:
                    while True:
                        ballast.write(b"x" * 65536)
                        ballast.flush()
                except OSError:
                    pass
            output, _ = process.communicate(timeout=60)
            assert process.returncode in (1, 3), output.decode()
            assert "space" in output.decode()
            assert "Traceback" not in output.decode()
            before = site.succeeded()
            (disk / "ballast").unlink()
            until(lambda: site.processes() == [], "the end of every process")
            site.finish()
            assert (disk / "done.txt").read_text() == "6"
            assert before <= site.succeeded()
        finally:
            site.clear()


DAEMON = "setsid sh -c 'echo >daemon; exec sleep 300' >/dev/null 2>&1 & until test -e daemon; do sleep 0.01; done"


def test_what_a_shell_command_leaves_ends_with_it_and_not_with_another(site):
    """A child that called setsid; the command of another strand goes on."""
    script = f"""
    parallel{{
      a = function() shell([[{DAEMON}]]); writeText("a.txt", "ended") end,
      b = function() shell([[until test -e a.txt; do sleep 0.01; done; touch b.txt]]) end,
    }}"""
    write(site, script=script)
    process = site.start(site.command)
    until((site.folder / "b.txt").exists, "the end of the other command")
    assert [line for _, line in site.processes() if "sleep 300" in line] == []
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 0, output.decode()


def test_ctrl_c_ends_what_a_shell_command_started(site):
    write(site, script=f"shell([[{DAEMON}; touch runs; sleep 300]])")
    process = site.start(site.command)
    until((site.folder / "runs").exists, "the start of the command")
    assert [line for _, line in site.processes() if line.startswith("sleep 300")]
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 130, output.decode()
    assert site.processes() == []


def run(site, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "sparkles", *arguments],
        cwd=site.folder,
        env=site.environ,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_database_of_a_newer_version_is_refused_by_name(site):
    write(site, seconds=0.01)
    site.finish()
    connection = sqlite3.connect(site.folder / ".sparkles" / "sparkles.db")
    connection.execute("INSERT INTO migrations SELECT max(number) + 1, 'from the future', '9.9', 0 FROM migrations")
    connection.commit()
    connection.close()
    done = run(site, "run", "workflow.lua")
    assert done.returncode == 3
    assert "newer" in done.stderr


@pytest.mark.parametrize("backup", [True, False])
def test_a_database_that_was_emptied_is_no_new_one(site, backup):
    """Beside a backup or what jobs left; the way out that is named works."""
    write(site, seconds=0.01)
    site.finish()
    database = site.folder / ".sparkles" / "sparkles.db"
    if backup:
        site.sparkles("doctor")
    for each in database.parent.glob("sparkles.db-*"):
        each.unlink()
    os.truncate(database, 0)
    for command in (("runs",), ("run", "workflow.lua"), ("doctor",)):
        done = site.sparkles(*command, code=3)
        told = done.stdout + done.stderr
        assert "sparkles.db is damaged: it is an empty file" in told
    assert database.stat().st_size == 0
    way = told.partition("of this folder; " if backup else "content kept: ")[2].splitlines()[0]
    subprocess.run(["sh", "-ec", way], check=True)
    site.sparkles("run", "workflow.lua")
    assert len(site.sparkles("runs", "--json").stdout.splitlines()) == (2 if backup else 1)


def test_a_damaged_database_is_named_with_the_way_to_the_backup(site):
    write(site, seconds=0.01)
    site.finish()
    assert run(site, "doctor").returncode == 0
    database = site.folder / ".sparkles" / "sparkles.db"
    for suffix in ("-wal", "-shm"):
        database.with_name(database.name + suffix).unlink(missing_ok=True)
    database.write_bytes(b"not a database at all" * 500)
    done = run(site, "runs")
    assert done.returncode == 3
    assert "damaged" in done.stderr
    assert "backup" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_read_only_state_folder_is_named(tmp_path):
    with small_disk(tmp_path / "disk", 3_000_000) as disk:
        site = Site(disk)
        write(site, seconds=0.01)
        site.finish()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        done = run(site, "run", "workflow.lua", "--new")
        assert done.returncode == 3, done.stderr
        assert str(disk / ".sparkles") in done.stderr
        assert "Traceback" not in done.stderr


def test_an_input_that_is_a_folder_is_refused_at_the_authors_line(site):
    (site.folder / "folder").mkdir()
    write(site, script='log("x")\nrun(JobBuilder("a"):setCommandTemplate("true")\n  :addFiles("folder"))\n')
    done = run(site, "run", "workflow.lua")
    assert done.returncode == 2
    assert done.stderr.startswith("error: workflow.lua:3: ") or "workflow.lua:3: " in done.stderr
    assert site.query("SELECT count(*) FROM jobs") == [(0,)]


def test_a_wait_that_takes_too_long_says_what_goes_on(site):
    """The script ends, what runs is finished, and nobody is said to have pressed Ctrl-C; then what is left can go on."""
    write(site, seconds=1, script=SCRIPT.replace("createTasksFor(rows))", "createTasksFor(rows), {timeout = 0.6})"))
    done = run(site, "run", "workflow.lua")
    assert done.returncode == 1
    assert "the script has ended: running tasks finish and are recorded; Ctrl-C ends them" in done.stderr
    assert re.search(r"workflow\.lua:4: wait: slow-\w+ did not end within 0\.6 s\n", done.stderr), done.stderr
    assert re.search(r"run r-\w+ can go on with 4 tasks that no worker runs now: sparkles run workflow\.lua\n", done.stderr), (
        done.stderr
    )
    assert "again" not in done.stderr.replace("run again on resume", "")
    assert lines(site, "started")
    assert sorted(lines(site, "started")) == sorted(lines(site, "ended"))


def test_after_the_end_of_the_script_one_ctrl_c_ends_what_runs(site):
    write(site, seconds=30, script=SCRIPT.replace("createTasksFor(rows))", "createTasksFor(rows), {timeout = 1})"))
    process = start_and_wait_for_tasks(site)
    time.sleep(2.5)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    output, _ = process.communicate(timeout=30)
    assert time.monotonic() - began < 6
    assert process.returncode == 1, output.decode()
    assert lines(site, "ended") == []


def test_a_link_to_a_script_or_its_project_is_the_same_workflow(site):
    write(site, script='log("once")\nfail("stop")')
    assert run(site, "run", "workflow.lua").returncode == 1
    (site.folder / "link.lua").symlink_to("workflow.lua")
    assert "goes on" in run(site, "run", "link.lua").stderr
    outside = site.folder.parent / f"{site.folder.name}-link"
    outside.symlink_to(site.folder)
    assert "goes on" in run(site, "run", str(outside / "workflow.lua")).stderr
    assert site.query("SELECT count(*) FROM runs") == [(1,)]


def test_a_script_that_does_not_compile_makes_no_run(site):
    (site.folder / "workflow.lua").write_text("local x = = 1")
    done = run(site, "run", "workflow.lua")
    assert (done.returncode, done.stderr) == (2, "error: workflow.lua:1: unexpected symbol near '='\n")
    assert run(site, "runs", "--json").stdout == ""
