"""Submitting to the cloud, on Google's emulators: time and memory of the driver by the number of tasks, and of many input files.

Tasks: the real command, the whole process, with a script that submits and ends by `fail`, so that nothing is waited for. Files: the
driver's own store of content, with 10 ms added to every request, which stand for the way to a bucket.
"""

from __future__ import annotations

import math
import os
import resource
import secrets
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import requests.adapters
from common import ROOT, SPARKLES, Failed, Row, run, scratch, show

sys.path.insert(0, str(ROOT))

from sparkles.backends.google.blobs import GoogleBlobs
from tests.support import emulators, google

COUNTS = (100, 1_000, 10_000, 100_000)
REPEATS = 3
FILES, FILE_BYTES = 2_000, 2_000
LARGE_FILES, LARGE_BYTES = 4, 24 << 20
WAY_S = 0.01


def measure() -> list[Row]:
    """Needs what `make emulators` needs."""
    running = emulators.start(("datastore", "storage"))
    try:
        os.environ.update(emulator.variable for emulator in running.values())
        return [*tasks(), *files()]
    finally:
        for emulator in running.values():
            emulator.stop()


class Submitted(NamedTuple):
    """One submission: seconds of the whole process, those of the processor in it, and the greatest resident memory."""

    seconds: float
    processor_s: float
    bytes: int


def submitted(count: int) -> Submitted:
    """One submission, to an installation of its own."""
    prefix = f"bench-{secrets.token_hex(4)}/"
    with scratch() as folder:
        (folder / "sparkles.toml").write_text(
            f'backend = "cloud"\nfleet = "none"\n[google]\nproject = "{emulators.PROJECT}"\nbucket = "{emulators.BUCKET}"\n'
            f'prefix = "{prefix}"\n'
        )
        (folder / "submit.lua").write_text(
            f"local rows = {{}}\nfor i = 1, {count} do rows[i] = {{ i = i }} end\n"
            'submit(JobBuilder("trivial"):setCommandTemplate{ "true", "{i}" }:createTasksFor(rows))\nfail("that is all")\n'
        )
        before = children_s()
        ended = run([SPARKLES, "run", "submit.lua"], folder, expect=1, watch=True)
        processor_s = children_s() - before
    store, clients = google.job_store("datastore", prefix)
    jobs = store.list_jobs()
    pending = store.count_tasks(jobs[0].id).pending if jobs else 0
    for client in clients:
        client.close()
    if pending != count or "that is all" not in ended.output:
        raise Failed(f"{pending} of {count} tasks are pending:\n{ended.output[-2000:]}")
    return Submitted(ended.seconds, processor_s, ended.driver_bytes)


def children_s() -> float:
    """Processor time of the processes that ended so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def tasks() -> list[Row]:
    print(f"submitting, {REPEATS} times each")
    submitted(COUNTS[-2])  # the emulators' first requests take seconds
    found: dict[int, list[Submitted]] = {count: [] for count in COUNTS}
    for _ in range(REPEATS):
        for count in COUNTS:
            found[count].append(submitted(count))
    seconds = [statistics.median(each.seconds for each in found[count]) for count in COUNTS]
    for count, took in zip(COUNTS, seconds, strict=True):
        print(f"  {count:7} tasks {took:8.2f} s {1000 * took / count:7.3f} ms a task", flush=True)
    slope, _ = statistics.linear_regression([math.log(count) for count in COUNTS], [math.log(each) for each in seconds])
    detail = ", ".join(f"{count:,}: {each:.2f} s" for count, each in zip(COUNTS, seconds, strict=True))
    processor = [statistics.median(each.processor_s for each in found[count]) for count in COUNTS]
    detail += f"; the driver's processor time: {', '.join(f'{each:.2f} s' for each in processor)}"
    # Of processor time: what else the machine does is not in it, and the start of the program is that of the smallest job.
    last = math.log((processor[-1] - processor[0]) / (processor[-2] - processor[0])) / math.log(COUNTS[-1] / COUNTS[-2])
    memory = max(each.bytes for each in found[COUNTS[-1]])
    return [
        Row(f"submit {COUNTS[-1]:,} tasks to the cloud", seconds[-1], "s", 10.0, detail),
        Row(f"growth of that from {COUNTS[0]} to {COUNTS[-1]:,} tasks (1: linear)", slope, "exponent", 1.05),
        Row(f"growth of the processor time beyond the start, {COUNTS[-2]:,} to {COUNTS[-1]:,} tasks", last, "exponent", 1.05),
        Row(f"memory of the driver, submitting {COUNTS[-1]:,} tasks to the cloud", memory / 1e6, "MB", 200.0),
    ]


class Way(requests.adapters.HTTPAdapter):
    """Requests that take 10 ms longer, counted by method."""

    def __init__(self) -> None:
        super().__init__(pool_maxsize=64)
        self.sent: list[str] = []

    def send(self, request: Any, *args: Any, **options: Any) -> Any:
        self.sent.append(request.method)
        time.sleep(WAY_S)
        return super().send(request, *args, **options)


def stored(paths: list[Path], cache: Path, prefix: str, *, together: bool) -> tuple[float, Way]:
    """Seconds to hash and upload files by a driver that has just started."""
    bucket = google.bucket(prefix)
    way = Way()
    bucket._client._http.mount("http://", way)
    blobs = GoogleBlobs(bucket, cache)
    began = time.perf_counter()
    for path in paths:
        blobs.put_file(path)
        if not together:
            blobs.settle()
    blobs.settle()
    took = time.perf_counter() - began
    blobs.close()
    bucket.close()
    return took, way


def files() -> list[Row]:
    print(f"{FILES} files of {FILE_BYTES} bytes and {LARGE_FILES} of {LARGE_BYTES >> 20} MiB")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = [folder / f"small-{number}" for number in range(FILES)] + [folder / f"large-{n}" for n in range(LARGE_FILES)]
        for path in paths:
            path.write_bytes(os.urandom(FILE_BYTES if path.name.startswith("small") else LARGE_BYTES))
        time.sleep(2.5)  # a file that was written a moment ago is not trusted to be unchanged: its digest is not kept
        one, _ = stored(paths, folder / "one", f"bench-{secrets.token_hex(4)}/", together=False)
        prefix = f"bench-{secrets.token_hex(4)}/"
        many, _ = stored(paths, folder / "many", prefix, together=True)
        again, way = stored(paths, folder / "many", prefix, together=True)
    sent = len([method for method in way.sent if method != "GET"])
    if sent:
        raise Failed(f"the second submission sent {sent} requests other than GET")
    what = f"{FILES:,} small files and {LARGE_FILES} large ones"
    return [
        Row(f"{what}, one at a time against in parallel", one / many, "times", None, f"{one:.1f} s and {many:.1f} s"),
        Row(f"{what} again: nothing is sent, against the first time", again / many, "times", 1.0, f"{again:.1f} s"),
    ]


if __name__ == "__main__":
    show(measure())
