"""Words that name runs, jobs and tasks."""

from __future__ import annotations

import pytest

from sparkles.backends.memory import MemoryJobStore, MemoryRunStore
from sparkles.engine import selecting
from sparkles.errors import NotFound, UsageError
from sparkles.model import Digest, Job, JobId, JobSpec, NewTask, Run, RunId, RunState, TaskSpec


@pytest.fixture
def jobs() -> MemoryJobStore:
    store = MemoryJobStore()
    for name, count in (("align-1a2b3c4d", 3), ("align-1a9f0000", 1), ("fine-00000001", 2), ("sort-11111111", 1)):
        tasks = [NewTask(TaskSpec(command="true"), Digest("0" * 64)) for _ in range(count)]
        store.create_job(Job(JobId(name), JobSpec(name.split("-")[0]), count), tasks)
    return store


@pytest.fixture
def runs() -> MemoryRunStore:
    store = MemoryRunStore()
    for number, name in enumerate(("r-7f3a0000", "r-7f3b0000", "sort-of-a-run"), 1):
        store.create_run(Run(RunId(name), "w.lua", "{}", RunState.FAILED, 1, created_at_ms=number))
    return store


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("LAST", "sort-11111111"),
        ("align-1a2b3c4d", "align-1a2b3c4d"),
        ("align-1a2", "align-1a2b3c4d"),
        ("f", "fine-00000001"),
        ("align", "align-1a9f0000"),
        ("fine", "fine-00000001"),
        ("*-0000000?", "fine-00000001"),
    ],
)
def test_one_job(jobs: MemoryJobStore, word: str, expected: str) -> None:
    """LAST, an id, the beginning of one only, or a pattern that matches one."""
    assert selecting.job(jobs, word).id == expected


@pytest.mark.parametrize(
    ("word", "error", "message"),
    [
        ("align-1a", UsageError, "align-1a is not unique: align-1a9f0000, align-1a2b3c4d"),
        ("align-*", UsageError, "align-* matches 2 jobs, expected one: align-1a9f0000, align-1a2b3c4d"),
        (
            "algin-1a2b3c4d",
            NotFound,
            "there is no job 'algin-1a2b3c4d' (`sparkles list` lists them). Did you mean align-1a2b3c4d?",
        ),
        ("fien", NotFound, "there is no job 'fien' (`sparkles list` lists them). Did you mean fine-00000001?"),
        ("zzz-*", NotFound, "there is no job 'zzz-*' (`sparkles list` lists them)."),
        ("", NotFound, "there is no job '' (`sparkles list` lists them)."),
        ("last", NotFound, "there is no job 'last' (`sparkles list` lists them)."),
    ],
)
def test_no_job(jobs: MemoryJobStore, word: str, error: type[Exception], message: str) -> None:
    """An ambiguous word lists the candidates, an unknown one the nearest name."""
    with pytest.raises(error) as raised:
        selecting.job(jobs, word)
    assert str(raised.value) == message


def test_several_jobs_in_the_order_named(jobs: MemoryJobStore) -> None:
    """Each job once; a pattern gives the newest first."""
    found = selecting.select_jobs(jobs, ["fine", "align-*", "LAST", "align-1a2b3c4d"])
    assert [job.id for job in found] == ["fine-00000001", "align-1a9f0000", "align-1a2b3c4d", "sort-11111111"]


def test_nothing_yet() -> None:
    """LAST in an empty state folder says so."""
    with pytest.raises(NotFound, match=r"^there is no job yet in this state folder$"):
        selecting.job(MemoryJobStore(), "LAST")
    with pytest.raises(NotFound, match=r"^there is no run yet in this state folder$"):
        selecting.run(MemoryRunStore(), "LAST")


def test_tasks(jobs: MemoryJobStore) -> None:
    """JOB/INDEX; JOB alone where there is one task; an index that is not there says how many are."""
    assert str(selecting.task(jobs, "align-1a2/3")) == "align-1a2b3c4d/3"
    assert str(selecting.task(jobs, "LAST/1")) == "sort-11111111/1"
    assert str(selecting.task(jobs, "LAST")) == "sort-11111111/1"
    with pytest.raises(UsageError, match=r"fine: expected a task, JOB/INDEX: fine-00000001 has 2 tasks, fine-00000001/1 is"):
        selecting.task(jobs, "fine")
    with pytest.raises(NotFound, match="3"):
        selecting.task(jobs, "align-1a2/4")


def test_runs(runs: MemoryRunStore) -> None:
    """LAST is the newest run."""
    assert selecting.run(runs, "LAST").id == "sort-of-a-run"
    assert selecting.run(runs, "r-7f3a").id == "r-7f3a0000"
    with pytest.raises(UsageError, match=r"^r-7 is not unique: r-7f3b0000, r-7f3a0000$"):
        selecting.run(runs, "r-7")


def test_anything(runs: MemoryRunStore, jobs: MemoryJobStore) -> None:
    """A word may name a run, jobs or a task; LAST is a job; what begins both a run and a job is not unique."""
    assert [each.id for each in selecting.anything(runs, jobs, "r-7f3a")] == ["r-7f3a0000"]
    assert [each.id for each in selecting.anything(runs, jobs, "LAST")] == ["sort-11111111"]
    assert [str(each) for each in selecting.anything(runs, jobs, "fine/2")] == ["fine-00000001/2"]
    assert [each.id for each in selecting.anything(runs, jobs, "align-*")] == ["align-1a9f0000", "align-1a2b3c4d"]
    with pytest.raises(UsageError, match=r"^sor is not unique: sort-of-a-run, sort-11111111$"):
        selecting.anything(runs, jobs, "sor")
    assert [each.id for each in selecting.anything(runs, jobs, "sort")] == ["sort-11111111"], "a name is more than a beginning"
    with pytest.raises(NotFound, match=r"there is no run and no job 'r-7f3c0000'.*Did you mean r-7f3"):
        selecting.anything(runs, jobs, "r-7f3c0000")


def test_indexes() -> None:
    """Numbers and ranges, each index once, within the job."""
    assert selecting.indexes(["3", "5-7", "6"], 9) == [3, 5, 6, 7]
    for word in ("0", "10", "8-10", "7-5"):
        with pytest.raises(UsageError, match=f"^{word}: expected indexes from 1 to 9$"):
            selecting.indexes([word], 9)
    with pytest.raises(UsageError, match=r"^x: expected a task's index or a range such as 5-9$"):
        selecting.indexes(["x"], 9)
