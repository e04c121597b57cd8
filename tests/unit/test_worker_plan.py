"""The pure parts of the worker: capacity, verdicts, patterns, the end of a log."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkles.engine.attempt import Plan, escapes
from sparkles.engine.capacity import Amount, claims_ahead, fair_share, needed, size, too_large, wanted
from sparkles.engine.outputs import TAIL_BYTES, TAIL_LINES, compile_glob, judge, tail_text
from sparkles.engine.runner import Cause, Ended
from sparkles.model import AttemptRef, Claim, FailureClass, JobSpec, ProcessId, Resources, TaskSpec, Worker, WorkerId

GIB = 1 << 30
TOTAL = Amount(4.0, 8 * GIB)
ME = WorkerId("w-me")


def worker(name, *, cpu=0.0, memory=0, waiting=False, host="here"):
    process = ProcessId(host, 1, 1.0, "boot")
    return Worker(WorkerId(name), "pool", process, cpu=cpu, memory_bytes=memory, waiting=waiting)


amounts = st.builds(Amount, st.floats(0, 64, width=16), st.integers(0, 64 * GIB))


# Capacity


@pytest.mark.parametrize(
    ("need", "gpu", "sentence"),
    [
        (Amount(4.0, 8 * GIB), 0, ""),
        (Amount(4.1, 0), 0, "the task asks for 4.1 cpu and this machine offers 4"),
        (Amount(1, 9 * GIB), 0, "the task asks for 9 GiB of memory and this machine offers 8 GiB"),
        (Amount(1, 0), 2, "the task asks for 2 GPU and the local backend offers none"),
    ],
    ids=["all of it", "cpu", "memory", "gpu"],
)
def test_a_task_that_can_never_run_is_refused_with_both_numbers(need, gpu, sentence):
    assert too_large(need, gpu, TOTAL) == sentence


def test_fractions_of_cores_add_up():
    used = Amount()
    for _ in range(10):
        used = used.plus(Amount(0.1))
    assert used.within(Amount(1.0))
    for _ in range(10):
        used = used.minus(Amount(0.1))
    assert used == Amount()


def test_nobody_waits_so_all_may_be_kept():
    assert fair_share(TOTAL, [worker(ME, cpu=4), worker("w-2", cpu=0)], ME) is None


def test_the_waiting_get_an_equal_part():
    assert fair_share(TOTAL, [worker(ME, cpu=4), worker("w-2", waiting=True)], ME) == Amount(2.0, 4 * GIB)


def test_idle_workers_and_other_hosts_count_for_nothing():
    rows = [worker(ME, cpu=4), worker("w-2", waiting=True), worker("w-3"), worker("w-4", waiting=True, host="there")]
    assert fair_share(TOTAL, rows, ME) == Amount(2.0, 4 * GIB)


def test_reserved_is_what_runs_and_what_could_start():
    demand = [Amount(1, GIB)] * 2
    assert wanted(Amount(1, 0), demand, TOTAL, None) == Amount(3, 2 * GIB)
    assert wanted(Amount(1, 0), demand * 10, TOTAL, None) == TOTAL


def test_what_runs_is_kept_even_above_the_share():
    assert wanted(Amount(3, 0), [Amount(1, 0)], TOTAL, Amount(2, 4 * GIB)) == Amount(3, 0)
    assert wanted(Amount(1, 0), [Amount(1, 0)] * 5, TOTAL, Amount(2, 4 * GIB)) == Amount(2, 0)


@given(amounts, st.lists(amounts, max_size=8), amounts, st.none() | amounts)
def test_never_more_than_the_host_has_is_sought(used, demand, total, share):
    used = used.lesser(total)
    sought = wanted(used, demand, total, share)
    assert sought.within(total)
    assert used.within(sought)


@pytest.mark.parametrize(
    ("slots", "mean_s", "expected"),
    [(2, None, 0), (2, 0.001, 32), (2, 0.0125, 32), (2, 0.1, 4), (2, 0.5, 0), (64, 0.2, 32), (4, 0.0, 32)],
)
def test_claims_ahead_are_a_fifth_of_a_second_of_work(slots, mean_s, expected):
    assert claims_ahead(slots, mean_s, 32) == expected


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (1536, "1.5 KiB"), (3 * GIB, "3 GiB"), (1 << 50, "1024 TiB")])
def test_sizes_for_people(count, text):
    assert size(count) == text


# Verdicts


def ended(exit_code=0, signal=0, cause=Cause.NONE, peak=0, limit=0):
    return Ended(1, None if signal else exit_code, signal, cause, 1.0, 0.5, peak, limit)


@pytest.mark.parametrize(
    ("end", "failure", "part"),
    [
        (ended(), None, ""),
        (ended(3), FailureClass.EXIT, "exited with code 3"),
        (ended(127), FailureClass.EXIT, "a command was not found"),
        (ended(137), FailureClass.EXIT, "ended by signal 9"),
        (ended(signal=11), FailureClass.EXIT, "ended by signal 11 (SIGSEGV)"),
        (ended(signal=64), FailureClass.EXIT, "ended by signal 64"),
        (ended(signal=15, cause=Cause.TIMEOUT), FailureClass.TIMEOUT, "time limit of 2.5 s"),
        (ended(0, cause=Cause.TIMEOUT), FailureClass.TIMEOUT, "time limit of 2.5 s"),
        (
            ended(signal=9, cause=Cause.MEMORY, peak=3 * GIB),
            FailureClass.OOM,
            "used 3 GiB of memory where 1 GiB were asked for",
        ),
        (
            ended(signal=9, cause=Cause.KERNEL_OOM),
            FailureClass.OOM,
            "ended by the kernel because the machine's memory ran out (1 GiB were asked for)",
        ),
        (
            ended(137, cause=Cause.KERNEL_OOM, peak=GIB, limit=2 * GIB),
            FailureClass.OOM,
            "ended by the kernel because the 2 GiB of memory of its container or control group ran out"
            " (1 GiB were asked for; it had used 1 GiB)",
        ),
        (
            ended(1, cause=Cause.KERNEL_OOM, limit=2 * GIB),
            FailureClass.OOM,
            "exited with code 1 after the kernel ended one of its processes because the 2 GiB of memory",
        ),
    ],
)
def test_how_a_program_ended_gives_class_and_sentence(end, failure, part):
    found, sentence = judge(end, JobSpec("job", timeout_s=2.5), GIB)
    assert found is failure
    assert part in sentence
    assert bool(sentence) == (failure is not None)


# Patterns


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("*.csv", ["a.csv", ".csv"], ["d/a.csv", "a.csvx", "a"]),
        ("**/*.csv", ["a.csv", "d/a.csv", "d/e/a.csv"], ["a.txt"]),
        ("out/**", ["out/a", "out/d/b"], ["a", "outer/a"]),
        ("**", ["a", "d/a"], []),
        ("./part-?.[ab]", ["part-1.a", "part-2.b"], ["part-10.a", "part-1.c", "part-/.a"]),
        ("x[!0-9]", ["xa"], ["x1", "x/"]),
        ("a+(b).txt", ["a+(b).txt"], ["aab.txt"]),
        ("new\nline*", ["new\nline2"], ["newline2"]),
        ("open[", ["open["], ["open"]),
    ],
)
def test_patterns(pattern, yes, no):
    compiled = compile_glob(pattern)
    assert [name for name in yes if not compiled.fullmatch(name)] == []
    assert [name for name in no if compiled.fullmatch(name)] == []


@given(st.text(st.characters(exclude_characters="*?[/.", exclude_categories=["Cs"]), min_size=1))
def test_a_name_without_wildcards_matches_itself_alone(name):
    assert compile_glob(name).fullmatch(name)
    assert not compile_glob(name).fullmatch(name + "x")


@pytest.mark.parametrize("path", ["../a", "a/../../b", "/etc/passwd", "a/..", "nul\0"])
def test_paths_that_leave_the_scratch_directory(path):
    assert escapes(path)


@pytest.mark.parametrize("path", ["a", "a/b", "..a", "a..b/c"])
def test_paths_that_stay(path):
    assert not escapes(path)


# The end of a log


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", ""),
        (b"one\ntwo\n", "one\ntwo"),
        (b"10%\r20%\r100%\ndone\r\n", "100%\ndone"),
        (b"\x1b[31mred\x1b[0m \x1b]0;title\x07plain\x00\x07", "red plain"),
        (b"caf\xc3\xa9 \xff\xfe", "café \ufffd\ufffd"),
        ("\n".join(map(str, range(50))).encode(), "\n".join(map(str, range(30, 50)))),
    ],
    ids=["empty", "lines", "progress bar", "escapes", "not UTF-8", "last lines"],
)
def test_the_tail_is_text_for_people(data, text):
    assert tail_text(data) == text


@given(st.binary(max_size=20_000))
def test_the_tail_is_short_and_printable_whatever_was_logged(data):
    text = tail_text(data)
    assert len(text.encode()) <= TAIL_BYTES
    assert text.count("\n") < TAIL_LINES
    assert not any(ord(character) < 32 and character not in "\n\t" for character in text)


# What a task finds


def claim(**spec):
    return Claim(AttemptRef("job-1", 3, 2), "token-1", ME, TaskSpec("true", **spec))


def environment(spec, task, environ):
    entries = Plan(spec, "job-1", ME, environ).environment(task, "/state/jobs/job-1/3/a2")
    names = [entry.split(b"=", 1)[0] for entry in entries]
    assert len(names) == len(set(names))
    return dict(entry.split(b"=", 1) for entry in entries)


def test_the_environment_is_the_workers_then_the_jobs_then_the_tasks():
    spec = JobSpec("job", env={"A": "job", "B": "job"})
    found = environment(spec, claim(env={"B": "task"}), {b"A": b"worker", b"C": b"worker", b"SPARKLES_TOKEN": b"outer"})
    assert found == {
        b"A": b"job",
        b"B": b"task",
        b"C": b"worker",
        b"SPARKLES_JOB": b"job-1",
        b"SPARKLES_TASK": b"3",
        b"SPARKLES_ATTEMPT": b"2",
        b"SPARKLES_PARAMS": b"/state/jobs/job-1/3/a2/params.json",
        b"SPARKLES_RESULTS": b"/state/jobs/job-1/3/a2/results.json",
        b"SPARKLES_WORKER": b"w-me",
        b"SPARKLES_TOKEN": b"token-1",
    }


def test_a_task_cannot_shadow_the_markers():
    spec = JobSpec("job", env={"SPARKLES_WORKER": "x"})
    found = environment(spec, claim(env={"SPARKLES_TOKEN": "x", "SPARKLES_JOB": "x"}), {})
    assert (found[b"SPARKLES_WORKER"], found[b"SPARKLES_TOKEN"], found[b"SPARKLES_JOB"]) == (b"w-me", b"token-1", b"job-1")


def test_secrets_come_from_the_workers_environment_and_are_named_where_missing():
    spec = JobSpec("job", secret_env={"TOKEN": "env:MY_TOKEN"})
    assert environment(spec, claim(), {b"MY_TOKEN": b"s3cret"})[b"TOKEN"] == b"s3cret"
    problem = Plan(spec, "job-1", ME, {b"OTHER": b"s3cret"}).problem
    assert "env:MY_TOKEN is not set" in problem
    assert "s3cret" not in problem
    assert "k8s:a/b cannot be resolved" in Plan(JobSpec("job", secret_env={"T": "k8s:a/b"}), "job-1", ME, {}).problem


def test_resources_are_what_was_asked_or_raised():
    assert needed(Resources(0.5, GIB), None) == Amount(0.5, GIB)
    assert needed(Resources(0.5, GIB), 2 * GIB) == Amount(0.5, 2 * GIB)
    assert needed(Resources(), None) == Amount(1.0, 0)
