"""Drivers' and workers' languages claim from the same job at the same time: no task is claimed twice, none is lost, and the job's
parallelism holds over both."""

import json
import os
import secrets
import subprocess
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sparkles import wire
from sparkles.backends.google import names
from sparkles.model import Counts, Job, JobId, JobSpec, NewTask, TaskSpec, TaskState
from tests.support import emulators, google
from tests.support.faults import Faults
from tests.support.needs import requires
from tests.support.stores import create, ended, enter, fingerprint, run_all

pytestmark = pytest.mark.google
MODULE = Path(__file__).parents[2] / "consume"


@pytest.fixture(scope="module")
def claimer(tmp_path_factory):
    program = tmp_path_factory.mktemp("claimer") / "claimer"
    package = "./internal/jobstore/datastore/claimer"
    try:
        built = subprocess.run(
            ["go", "build", "-tags", "disable_grpc_modules", "-o", program, package], cwd=MODULE, capture_output=True, text=True
        )
    except FileNotFoundError:
        requires(False, "this machine has no Go")
        raise
    assert built.returncode == 0, built.stderr
    return program


@pytest.fixture(params=["datastore", "firestore"])
def installation(request):
    prefix = f"race{secrets.token_hex(6)}/"
    opened = []

    def store(**options):
        made, clients = google.job_store(request.param, prefix, **{"max_workers": 4, **options})
        opened.extend(clients)
        return made

    yield request.param, prefix, store
    for each in opened:
        each.close()


def start(program, kind, prefix, *options):
    """Go workers of the pool "", claiming at once."""
    environ = {
        **os.environ,
        "DATASTORE_EMULATOR_HOST": google.address(kind),
        "STORAGE_EMULATOR_HOST": f"http://{google.address('storage')}",
    }
    places = ["--project", emulators.PROJECT, "--namespace", names.namespace(prefix), "--bucket", emulators.BUCKET]
    return subprocess.Popen(
        [program, *places, "--prefix", prefix, *options], env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def claim_all(store, worker, *, hold_s=0.0, finish=False):
    """What the Go program does, in Python: the same lines."""
    enter(store, worker)
    lines = []
    while True:
        claims = store.claim(worker, pool="", limit=4, now_ms=time.time_ns() // 1_000_000)
        if not claims:
            if store.next_due_ms("") is None:
                return lines
            time.sleep(0.01)
            continue
        began = time.time_ns() // 1_000_000
        time.sleep(hold_s)
        over = time.time_ns() // 1_000_000
        if finish:
            assert all(store.finish([ended(each, TaskState.SUCCEEDED) for each in claims]))
        lines += [
            {"job": each.ref.job, "index": each.ref.index, "token": each.token, "began_ms": began, "ended_ms": over}
            for each in claims
        ]


def race(claimer, installation, *, workers, hold_s=0.0, finish=False, faults=0.0):
    """Go and Python claim together, `workers` of each; that part of their commits fails. Returns all lines, and how many are of Go."""
    kind, prefix, store = installation
    options = ["--claimers", str(workers), "--hold", f"{hold_s}s", "--faults", str(faults), *(["--finish"] if finish else [])]
    child = start(claimer, kind, prefix, *options)
    with ThreadPoolExecutor(workers) as pool:
        stores = [store(faults=Faults(chance=faults, seed=number)) for number in range(workers)]
        futures = [
            pool.submit(claim_all, each, f"py-{number}", hold_s=hold_s, finish=finish) for number, each in enumerate(stores)
        ]
        lines = [line for future in futures for line in future.result()]
    out, said = child.communicate(timeout=120)
    assert child.returncode == 0, said
    theirs = [json.loads(line) for line in out.splitlines()]
    return lines + theirs, len(theirs)


def test_both_languages_claim_from_one_job(claimer, installation):
    """Every task is claimed once, and the store has the token that its claimer has."""
    _, _, store = installation
    create(store(), "j", [f"c{number % 7}" for number in range(400)])
    lines, theirs = race(claimer, installation, workers=4)
    assert Counter(line["index"] for line in lines) == Counter(range(1, 401))
    assert 0 < theirs < 400
    reader = store()
    held = {}
    for worker in reader.list_workers():
        held.update({claim.ref.index: claim.token for claim in reader.list_claims(worker.id)})
    assert held == {line["index"]: line["token"] for line in lines}


@pytest.mark.slow
def test_32_claimers_share_2000_tasks_while_much_goes_wrong(claimer, installation):
    """One commit in ten fails, half of these after the server has carried them out, and four claimers are killed in the middle: every
    task is claimed once, and by whom the store says."""
    kind, prefix, store = installation
    create(store(max_workers=32), "j", [f"c{number % 7}" for number in range(2000)])
    doomed = start(claimer, kind, prefix, "--name", "doomed", "--claimers", "4", "--faults", "0.1")
    told = [json.loads(doomed.stdout.readline())]
    with ThreadPoolExecutor(1) as pool:
        racing = pool.submit(race, claimer, installation, workers=14, faults=0.1)
        told += [json.loads(doomed.stdout.readline()) for _ in range(40)]
        doomed.kill()
        rest, _ = doomed.communicate()
        lines, theirs = racing.result()
    told += [json.loads(line) for line in rest.splitlines()]
    reader = store()
    held = {
        worker.id: {claim.ref.index: claim.token for claim in reader.list_claims(worker.id)} for worker in reader.list_workers()
    }
    assert Counter(index for claims in held.values() for index in claims) == Counter(range(1, 2001))
    of_doomed = {
        index: token for worker, claims in held.items() if worker.startswith("doomed") for index, token in claims.items()
    }
    assert {line["index"]: line["token"] for line in told}.items() <= of_doomed.items()
    assert len(of_doomed) < 2000
    of_others = {index: token for claims in held.values() for index, token in claims.items() if index not in of_doomed}
    assert Counter(line["index"] for line in lines) == Counter(of_others.keys())
    assert {line["index"]: line["token"] for line in lines} == of_others
    assert 0 < theirs < len(lines)


def test_both_languages_keep_a_job_s_parallelism(claimer, installation):
    """At no moment do more run than the job allows; all are done in the end, and the records of both can be read."""
    _, _, store = installation
    create(store(), "j", ["c"] * 40, spec=JobSpec("j", parallelism=3))
    lines, theirs = race(claimer, installation, workers=3, hold_s=0.03, finish=True)
    assert Counter(line["index"] for line in lines) == Counter(range(1, 41))
    changes = sorted([(line["ended_ms"], -1) for line in lines] + [(line["began_ms"], 1) for line in lines])
    running = most = 0
    for _, change in changes:
        running += change
        most = max(most, running)
    assert most <= 3
    reader = store()
    assert reader.count_tasks("j") == Counts(succeeded=40)
    assert {outcome.attempt.token for outcome in reader.list_outcomes("j")} == {line["token"] for line in lines}
    assert theirs > 0


def test_a_job_that_two_create_at_once_is_created_once_and_can_be_claimed(site):
    """The second writes its shards over those of the first, which then inserts the job: the shards are the first one's all the same."""
    first, second = site.jobs(shard_size=2), site.jobs(shard_size=2)
    tasks = [NewTask(TaskSpec(f"c{index}"), fingerprint(f"c{index}")) for index in range(8)]
    job = Job(JobId("j"), JobSpec("j"), len(tasks))
    created = []
    write = second._write_shards

    def write_and_meet(document, rows):
        done = write(document, rows)
        created.append(("first", insert(*inserted)))
        return done

    insert, inserted = first._datastore.insert, []

    def meet(entity):
        if entity.kind != names.JOB:
            return insert(entity)
        inserted.append(entity)
        created.append(("second", second.create_job(job, tasks)))
        return created[0][1]

    second._write_shards, first._datastore.insert = write_and_meet, meet
    assert first.create_job(job, tasks)
    assert created == [("first", True), ("second", False)]
    (known,) = first.list_jobs()
    shards = first._shards.of_job(wire.decode(first._datastore.get(names.JOB, "j").document, wire.JobDocument, "j"))
    assert {stored.document.sequence for stored in shards} == {known.sequence}
    enter(first)
    assert run_all(first) == len(tasks)
