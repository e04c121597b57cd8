"""The local worker as a process of its own, on a real store, with real programs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from sparkles.backends.local import process
from sparkles.model import Counts, InputFile, OutputGlob, Resources, RetryPolicy, TaskSpec, TaskState
from tests.support import failure_classes
from tests.support.worker import ROOT, Place, until


@pytest.fixture
def place(tmp_path):
    place = Place(tmp_path / ".sparkles")
    yield place
    place.close()


# Failure classes: the table that the cluster worker runs too.


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What became of every row of the table, by its name."""
    return failure_classes.outcomes(tmp_path_factory.mktemp("golden"))


@pytest.mark.parametrize("row", failure_classes.ROWS, ids=[row["name"] for row in failure_classes.ROWS])
def test_failure_class(outcomes, row):
    found, expected = outcomes[row["name"]], row["expected"]
    for name in ("state", "failure", "attempts", "exit_code", "signal"):
        assert found[name] == expected[name], found
    assert expected["reason"] in found["reason"]
    assert bool(found["reason"]) == (expected["state"] == "failed")
    assert (found["task_failure"], found["task_exit_code"]) == (found["failure"], found["exit_code"])
    assert found["seconds"] < expected.get("seconds", 60)
    assert found["log_bytes"] == expected.get("log_bytes", found["log_bytes"])
    assert found["tail"] == expected.get("tail", found["tail"])
    assert found["left"] == 0
    if found.get("kernel"):
        assert "ended by the kernel" in found["reason"]


def test_a_binary_log_gives_a_printable_tail(outcomes):
    tail = outcomes["binary output"]["tail"]
    assert tail.endswith("red")
    assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in tail if character not in "\n\t")


# What a task finds and leaves


def test_what_a_task_finds(place):
    content = place.blobs.put_bytes(b"#!/bin/sh\necho from the input\n")
    files = (InputFile("bin/tool", content, 29, executable=True), InputFile("big.txt", content, 29, link=True))
    command = (
        'env | grep ^SPARKLES_ | grep -v ^SPARKLES_TEST_ALL= | sort; echo "cwd $PWD";'
        " find . -type f -o -type l | sort; ./bin/tool; readlink -f big.txt;"
        ' cat "$SPARKLES_PARAMS"; echo; read line || echo no input; ls /proc/self/fd | wc -l'
    )
    task = TaskSpec(command, params={"alpha": 0.1, "name": "a b"}, files=files, env={"SPARKLES_EXTRA": "task"})
    job = place.add("find", ["true", task], env={"SPARKLES_EXTRA": "job"})
    place.serve(env={"SPARKLES_FROM_DRIVER": "yes"})
    folder = place.folder(job, 2)
    token = place.attempt(job, 2).token
    assert place.log(job, 2).splitlines() == [
        "SPARKLES_ATTEMPT=1",
        "SPARKLES_EXTRA=task",
        "SPARKLES_FROM_DRIVER=yes",
        f"SPARKLES_JOB={job}",
        f"SPARKLES_PARAMS={folder}/params.json",
        f"SPARKLES_RESULTS={folder}/results.json",
        "SPARKLES_TASK=2",
        f"SPARKLES_TOKEN={token}",
        f"SPARKLES_WORKER={place.worker}",
        f"cwd {folder}/work",
        "./big.txt",
        "./bin/tool",
        "from the input",
        str(place.state / "cas" / content[:2] / content),
        '{"alpha":0.1,"name":"a b"}',
        "no input",
        "4",
    ]


def test_what_a_task_leaves(place):
    job = place.add(
        "leave",
        [
            'mkdir out; echo 1 > out/a.bin; echo 2 > out/b.bin; echo 3 > rest; echo hello; echo \'{"x": [1]}\' > "$SPARKLES_RESULTS"'
        ],
        outputs=(OutputGlob("out/*.bin", required=True),),
    )
    place.serve()
    folder = place.folder(job)
    assert sorted(os.listdir(folder)) == ["output.log", "outputs", "result.json", "results.json"]
    assert [artifact.name for artifact in place.attempt(job).outputs] == ["out/a.bin", "out/b.bin"]
    assert (folder / "outputs" / "out" / "b.bin").read_text() == "2\n"
    assert place.attempt(job).results == '{"x": [1]}\n'
    record = msgspec.json.decode((folder / "result.json").read_bytes(), type=type(place.attempt(job)))
    assert record == place.attempt(job)


def test_measured_use(place):
    job = place.add(
        "use",
        ["{ head -c 80000000 /dev/zero; sleep 0.4; } | tail -n 1 | wc -c; i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done"],
    )
    place.serve()
    attempt = place.attempt(job)
    assert 70e6 < attempt.peak_memory_bytes < 400e6
    assert 0.02 < attempt.cpu_s < 20
    assert attempt.ended_at_ms - attempt.started_at_ms >= 400


def test_memory_of_a_short_task_is_what_the_kernel_saw_or_not_known(place):
    hungry = f"exec {sys.executable} -c 'x = bytearray(90 << 20)'"
    job = place.add("short", ["true", hungry])
    place.serve("--sample", "60")
    assert place.attempt(job, 1).peak_memory_bytes is None
    assert 90 << 20 < place.attempt(job, 2).peak_memory_bytes < 200 << 20


def test_wildcards_pass_over_the_inputs(place):
    content = place.blobs.put_bytes(b"in")
    task = TaskSpec("echo out > b.txt", files=(InputFile("a.txt", content, 2), InputFile("l.txt", content, 2, link=True)))
    job = place.add("inputs", [task], outputs=(OutputGlob("**"),))
    place.serve()
    assert [artifact.name for artifact in place.attempt(job).outputs] == ["b.txt"]


def test_a_changed_link_fails_the_task_and_never_changes_the_store(place):
    content = place.blobs.put_bytes(b"precious")
    link = InputFile("big.txt", content, 8, link=True)
    job = place.add("change", [TaskSpec('f=$(readlink -f big.txt); chmod u+w "$f"; echo worse >> "$f"', files=(link,))])
    place.serve()
    attempt = place.attempt(job)
    assert attempt.failure == "staging"
    assert "changed its linked input big.txt" in attempt.reason
    assert place.blobs.missing([content]) == {content}


def test_a_command_too_long_for_an_argument(place):
    job = place.add("long", ["echo start; : " + "x" * 300_000 + "; echo end"])
    place.serve()
    assert place.log(job) == "start\nend\n"


def test_a_huge_log_is_never_read_whole(place):
    job = place.add("log", ["head -c 100000000 /dev/zero | tr '\\0' 'x'; echo; echo the end; exit 1"])
    child = place.start(until_empty=True)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0
    assert (place.folder(job) / "output.log").stat().st_size == 100_000_009
    assert place.attempt(job).tail.endswith("xxx\nthe end")
    assert len(place.attempt(job).tail) <= 8192
    assert usage.ru_maxrss < 80_000  # kilobytes, of the worker and its largest child


def test_a_secret_is_passed_on_and_not_stored(place):
    """A task that prints it has it in its own log, and nowhere else."""
    check = 'test "${#TOKEN}" = 12 && test "${TOKEN#s3}" = "cret""-value"'
    job = place.add("secret", [check, 'echo "$TOKEN"; exit 3'], secret_env={"TOKEN": "env:MY_TOKEN"})
    place.serve(env={"MY_TOKEN": "s3cret-value"})
    assert place.states(job) == ["succeeded", "failed"]
    assert place.attempt(job, 2).tail == "***"
    holding = [path for path in place.state.rglob("*") if path.is_file() and b"s3cret-value" in path.read_bytes()]
    assert holding == [place.folder(job, 2) / "output.log"]


def test_a_scratch_directory_is_fresh_whatever_was_done_to_the_last_one(place):
    commands = ["touch left .hidden", "chmod 0500 .", "mkdir d; chmod 0 d", "true", "rmdir ../work", "true"]
    commands.append("cd ..; rmdir work; mkdir away; ln -s away work")
    check = 'test -z "$(ls -A)" && test "$(stat -c %a .)" = "$(printf %o $((0777 & ~$(umask))))" || { ls -la; exit 9; }; '
    job = place.add("fresh", [check + command for command in commands * 5])
    place.serve("--cpu", "1")
    assert set(place.states(job)) == {"succeeded"}
    assert not list((place.state / "jobs").rglob("work"))


# A full disk

FULL_DISK = """
import sys
from pathlib import Path
from tests.support.worker import Place
place = Place(Path(sys.argv[1]) / ".sparkles")
job = place.add("full", ["cat /dev/zero > filler", "true", "cat /dev/zero > filler || true; echo 1 > out.bin"])
place.serve("--cpu", "1")
for index in (1, 2, 3):
    attempt = place.attempt(job, index)
    print(attempt.failure or "none", place.folder(job, index).joinpath("result.json").exists(), attempt.reason)
place.close()
"""


def test_a_full_disk_is_a_class_of_its_own_and_ends_with_its_task(tmp_path):
    inside = f'mount -t tmpfs -o size=3m tmpfs "{tmp_path}" && exec "{sys.executable}" -c "$SCRIPT" "{tmp_path}"'
    found = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", inside],
        env={**os.environ, "SCRIPT": FULL_DISK, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    lines = found.stdout.splitlines()
    assert lines[0].startswith("disk True exited with code 1: no space is left on the device of ")
    assert lines[1].startswith("none True")


# Memory that runs out for the kernel

KERNEL = """
import sys
from pathlib import Path
from tests.support import failure_classes
from tests.support.cgroups import limited_memory
hungry = 'python3 -c "import time; x = str(1) * (500 << 20); time.sleep(30)"'
rows = [{"name": end, "command": f"{hungry} || {end}"} for end in ("exit 5", "true")]
for row in rows:
    with limited_memory(300 << 20) as limited:
        found = failure_classes.run(Path(sys.argv[1]) / row["name"], [row])[row["name"]] if limited else None
    print(found and (found["failure"] and str(found["failure"]), found["reason"]))
"""


def test_a_program_that_fails_since_the_kernel_ended_its_child_ran_out_of_memory(tmp_path):
    """And one that gets over it has succeeded. Where no control group can be made the kernel cannot be had to end anything: then nothing
    may have been limited."""
    (tmp_path / "exit 5").mkdir()
    (tmp_path / "true").mkdir()
    command = [sys.executable, "-c", KERNEL, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    failed, succeeded = done.stdout.splitlines()
    if failed == succeeded == "None":
        return
    assert failed.startswith(
        "('oom', 'exited with code 5 after the kernel ended one of its processes because the 300 MiB of memory"
    )
    assert succeeded == "(None, '')"


# What tasks leave behind


def test_a_daemon_ends_with_its_task_while_others_run(place):
    daemon = "setsid sh -c 'sleep 300 & sleep 300' & sleep 300 & (setsid sleep 300 &); echo started; sleep 0.1"
    job = place.add("daemon", [daemon, "echo runs; sleep 300", "setsid sleep 300 & echo runs; sleep 300"])
    place.start("--cpu", "3")
    until(lambda: place.task(job, 1).state is TaskState.SUCCEEDED)
    token = place.attempt(job, 1).token
    assert process.marked("SPARKLES_TOKEN", token) == []
    place.running(job, 3)
    assert len(place.programs(job, 3)) >= 2


def test_a_task_that_is_killed_is_ended_at_once(place):
    job = place.add("kill", ["echo runs; setsid sleep 300 & sleep 300", "echo runs; sleep 0.6"])
    place.start("--cpu", "2", "--beat", "5")
    place.running(job, 1)
    place.running(job, 2)
    assert place.jobs.kill_tasks(job, [1]) == 1
    place.notifier.notify()
    until(lambda: not place.programs(job, 1), 3.0, "the end of a killed task")
    until(lambda: place.task(job, 2).state is TaskState.SUCCEEDED)
    assert place.task(job, 1).state is TaskState.CANCELLED


def test_too_many_failures_cancel_what_is_pending(place):
    job = place.add("many", ["exit 1"] * 40, max_failures=2)
    place.serve("--cpu", "1")
    assert place.jobs.count_tasks(job) == Counts(failed=3, cancelled=37)
    assert place.task(job, 40).reason == "3 tasks of the job failed and at most 2 may"


CLAIMED_AHEAD = ["true"] * 300
"""A worker that knows tasks to be short claims 32 of the next job at once."""


@pytest.mark.parametrize("limit", [0, 5])
@pytest.mark.parametrize(
    ("command", "how"),
    [
        ("sleep 0.05; exit 1", {}),
        ("exit 1", {}),
        ("true", {"outputs": (OutputGlob("out.bin", required=True),)}),
    ],
    ids=["slow", "quick", "outputs"],
)
def test_tasks_that_were_claimed_ahead_do_not_start_after_the_limit(place, limit, command, how):
    """At most the limit, the one that breaks it, and what ran beside that one."""
    runs = place.state / "ran"
    place.add("warm", CLAIMED_AHEAD)
    job = place.add("many", [f'echo "$SPARKLES_TASK" >> "{runs}"; {command}'] * 40, max_failures=limit, **how)
    place.serve("--cpu", "2")
    counts = place.jobs.count_tasks(job)
    assert limit < counts.failed <= limit + 2
    assert counts.failed + counts.cancelled == 40
    assert len(runs.read_text().splitlines()) == counts.failed
    assert not any(place.folder(job, index).exists() for index in range(20, 41))


def test_the_inputs_of_a_task_that_will_not_start_are_removed(place):
    content = place.blobs.put_bytes(b"in")
    place.add("warm", CLAIMED_AHEAD)
    job = place.add("many", [TaskSpec("exit 1", files=(InputFile("a.txt", content, 2),))] * 40, max_failures=0)
    place.serve("--cpu", "2")
    counts = place.jobs.count_tasks(job)
    assert 1 <= counts.failed <= 2
    assert counts.failed + counts.cancelled == 40


def test_failures_below_the_limit_cancel_nothing(place):
    job = place.add("many", ["exit 1", "true"] * 10, max_failures=10)
    place.serve("--cpu", "2")
    assert place.jobs.count_tasks(job) == Counts(succeeded=10, failed=10)


def test_a_reset_gives_a_job_over_its_limit_another_chance(place):
    job = place.add("many", ['test "$SPARKLES_ATTEMPT" != 1'] * 8, max_failures=0)
    place.serve("--cpu", "1")
    assert place.jobs.count_tasks(job).failed == 1
    place.start("--cpu", "1", name="-2")
    place.jobs.reset_tasks(job, {TaskState.FAILED, TaskState.CANCELLED})
    place.notifier.notify()
    until(lambda: place.jobs.count_tasks(job).done)
    counts = place.jobs.count_tasks(job)
    assert (counts.failed, counts.succeeded) == (1, 1)  # the first task goes well now, the second had not run before


def test_only_what_was_started_counts_as_running(place):
    place.add("warm", CLAIMED_AHEAD)
    job = place.add("many", ["echo runs; sleep 1"] * 40)
    place.start("--cpu", "2")
    counts = until(lambda: (found := place.jobs.count_tasks(job)).running and found)
    assert counts.claimed > 10
    place.running(job, 1)
    place.running(job, 2)
    until(lambda: place.jobs.count_tasks(job).running == 2)


# Order, pace and sharing


def test_priority_then_age_then_index(place):
    script = 'echo "$SPARKLES_JOB $SPARKLES_TASK" >> "$ORDER"'
    env = {"ORDER": str(place.state / "order")}
    low = place.add("low", [script] * 3, env=env)
    high = place.add("high", [script] * 3, env=env, priority=5)
    place.serve("--cpu", "1")
    order = (place.state / "order").read_text().splitlines()
    assert order == [f"{high} 1", f"{high} 2", f"{high} 3", f"{low} 1", f"{low} 2", f"{low} 3"]


def test_parallelism_holds(place):
    path = place.state / "spans"
    place.add("two", [PROBE] * 8, parallelism=2, resources=Resources(0.1), env={"SPANS": str(path), "POOL": "p"})
    place.serve()
    assert spans(path)[0] == 2


def test_a_job_at_its_parallelism_does_not_wait_for_a_commit_interval(place):
    job = place.add("one", ["true"] * 20, parallelism=1)
    began = time.monotonic()
    place.serve("--commit", "1")
    assert time.monotonic() - began < 8
    assert set(place.states(job)) == {"succeeded"}


def spans(path):
    """The greatest number of tasks at once, from lines `start|end NANOSECONDS POOL`."""
    lines = sorted((int(line.split()[1]), line.split()[0], line.split()[2]) for line in path.read_text().splitlines())
    now = most = 0
    for _, what, _ in lines:
        now += 1 if what == "start" else -1
        most = max(most, now)
    return most, lines


PROBE = 'echo "start $(date +%s%N) $POOL" >> "$SPANS"; sleep 0.08; echo "end $(date +%s%N) $POOL" >> "$SPANS"'


@pytest.mark.parametrize(("limit", "resources"), [(2, Resources(1.0)), (2, Resources(0.1, 100 << 20))], ids=["cpu", "memory"])
def test_two_workers_of_one_host_never_promise_more_than_it_has(place, limit, resources):
    path = place.state / "spans"
    jobs = [
        place.add(f"job{pool}", [PROBE] * 20, pool=pool, resources=resources, env={"SPANS": str(path), "POOL": pool})
        for pool in "ab"
    ]
    workers = [place.start("--cpu", "2", "--memory", str(200 << 20), name=pool, pool=pool, until_empty=True) for pool in "ab"]
    assert [worker.wait(30) for worker in workers] == [0, 0]
    most, lines = spans(path)
    assert most == limit
    assert [set(place.states(job)) for job in jobs] == [{"succeeded"}] * 2
    # Neither had to wait until the other was done.
    first = {pool: min(at for at, _, which in lines if which == pool) for pool in "ab"}
    last = {pool: max(at for at, _, which in lines if which == pool) for pool in "ab"}
    assert max(first.values()) < min(last.values())


def test_more_workers_than_cores_take_turns(place):
    path = place.state / "spans"
    workers = []
    for pool in "abc":
        place.add(f"job{pool}", [PROBE] * 16, pool=pool, env={"SPANS": str(path), "POOL": pool})
        workers.append(place.start("--cpu", "1", name=pool, pool=pool, until_empty=True))
    until(
        lambda: path.exists() and {line.split()[2] for line in path.read_text().splitlines()} == set("abc"),
        15.0,
        "a turn for each",
    )
    assert [worker.wait(60) for worker in workers] == [0, 0, 0]
    assert spans(path)[0] == 1


# Leaving


@pytest.mark.parametrize("how", ["SIGINT", "end of file", "SIGHUP"])
def test_draining_finishes_what_runs_and_gives_back_the_rest(place, how):
    job = place.add("drain", ["echo runs; sleep 0.5"] * 5)
    worker = place.start("--cpu", "2")
    place.running(job, 2)
    if how == "end of file":
        worker.stdin.close()
        worker.stdin = None
    else:
        worker.send_signal(getattr(signal, how))
    assert worker.wait(10) == 0
    assert place.states(job) == ["succeeded", "succeeded", "pending", "pending", "pending"]
    assert place.jobs.list_workers() == []
    assert [task.attempt for task in place.jobs.list_tasks(job)] == [1, 1, 0, 0, 0]


@pytest.mark.parametrize("how", [["SIGTERM"], ["SIGINT", "SIGINT"]], ids=["SIGTERM", "SIGINT twice"])
def test_stopping_ends_what_runs_at_no_cost_to_the_task(place, how):
    stubborn = "trap '' TERM; echo runs; while :; do sleep 0.1; done"
    job = place.add("stop", ["echo runs; sleep 300", stubborn, "true"])
    worker = place.start("--cpu", "2")
    place.running(job, 1)
    place.running(job, 2)
    for name in how:
        worker.send_signal(getattr(signal, name))
        time.sleep(0.1)
    assert worker.wait(10) == 0
    tasks = place.jobs.list_tasks(job)
    assert [(task.state, task.tries, task.losses) for task in tasks] == [(TaskState.PENDING, 0, 0)] * 3
    assert [place.attempt(job, index).failure for index in (1, 2)] == ["preempted", "preempted"]
    assert place.programs(job, 1) == place.programs(job, 2) == []
    assert place.jobs.list_workers() == []


def test_until_empty_waits_for_back_off(place):
    job = place.add("again", ['test "$SPARKLES_ATTEMPT" = 3'], retry=RetryPolicy(attempts=3, backoff_s=0.2))
    place.serve()
    assert (place.task(job).state, place.task(job).attempt, place.task(job).tries) == (TaskState.SUCCEEDED, 3, 3)


def test_an_idle_worker_takes_a_new_job_at_the_hint(place):
    place.start("--beat", "30", "--poll", "30")
    until(place.jobs.list_workers)
    time.sleep(0.3)  # its first look finds nothing
    began = time.monotonic()
    job = place.add("new", ["true"])
    until(lambda: place.task(job).state is TaskState.SUCCEEDED)
    assert time.monotonic() - began < 15


def test_a_worker_whose_row_is_gone_ends_its_programs_and_leaves(place):
    job = place.add("row", ["echo runs; sleep 300"])
    worker = place.start()
    place.running(job)
    place.database.connection().execute("DELETE FROM workers")
    assert worker.wait(10) == 0
    assert place.programs(job, 1) == []
    assert place.task(job).state is TaskState.PENDING
