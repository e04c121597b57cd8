"""What tasks may do in the cloud, with the real command, the real worker and the services' emulators."""

from __future__ import annotations

import gzip
import threading
import time
from pathlib import Path

import pytest

from sparkles.backends.google import names
from tests.support import google
from tests.support.processes import marked

pytestmark = [pytest.mark.google, pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(300)]

SECRET, PLAIN = "s3cret-value-of-24-bytes", "plain-value-of-23-bytes"
WITH_SECRET = f"""
local job = JobBuilder("secret")
  :setSecretEnv{{TOKEN = "env:MY_TOKEN"}}
  :setEnv{{PLAIN = "{PLAIN}"}}
  :setOutputs{{"*.txt"}}
  :setCommandTemplate("{{what:raw}}")
  :createTasksFor{{
    {{what = 'test "$TOKEN" = s3cret-value-"of"-24-bytes && echo fine > a.txt'}},
    {{what = 'echo "$TOKEN"; "./$TOKEN"; exit 3'}},
  }}
run(job, {{allowFailures = true}})
"""


def unpacked(data):
    return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data


def test_a_secret_is_in_the_log_of_the_task_that_prints_it_and_nowhere_else(cloud):
    """Not in the queue, not in another object, not in the state folder, not in what the worker says; a plain value is."""
    cloud.write("workflow.lua", WITH_SECRET)
    done = cloud.run("run", "workflow.lua", env={"MY_TOKEN": SECRET})
    assert "1 failed" in done.stdout + done.stderr
    held = {"the command": (done.stdout + done.stderr).encode()}
    for path in Path(cloud.folder).rglob("*"):
        if path.is_file():
            held[str(path.relative_to(cloud.folder))] = path.read_bytes()
    bucket = google.bucket(cloud.prefix)
    held.update({f"object {name}": unpacked(bucket.get(name)) for name, _, _ in bucket.listing("")})
    bucket.close()
    datastore = google.datastore("datastore", cloud.prefix)
    for kind in (names.JOB, names.SHARD, names.WORKER, names.COUNTER, names.HOST):
        for entity in datastore.query(kind):
            held[f"{kind} {entity.name}"] = unpacked(entity.document) + repr(entity.properties).encode()
    datastore.close()

    def holding(value):
        return sorted(name for name, data in held.items() if value.encode() in data)

    (job,) = {name.split("/")[1] for name in held if name.startswith("object jobs/")}
    assert holding(SECRET) == [f"object jobs/{job}/2/a1/output.log"]
    assert f"{names.JOB} {job}" in holding(PLAIN)
    assert any(name.startswith("object jobs/") and b"***" in data for name, data in held.items())
    logs = [data for name, data in held.items() if name.endswith(".log") and not name.startswith("object ")]
    assert any(b'"msg":"ended"' in data and f'"job":"{job}"'.encode() in data for data in logs)


def test_a_huge_log_is_kept_whole_and_never_held_in_memory(cloud):
    """100 MB: the greatest memory of the worker stays that of a worker with small chunks in flight."""
    cloud.write(
        "workflow.lua",
        """
        run(JobBuilder("huge")
          :setCommandTemplate("head -c 100000000 /dev/zero | tr '\\\\0' x; sleep 1; echo; echo the end; exit {code}")
          :createTasksFor{{code = 0}, {code = 1}}, {allowFailures = true})
        """,
    )
    peaks: dict[int, int] = {}
    over = threading.Event()

    def watch():
        while not over.is_set():
            for pid in cloud.workers():
                try:
                    status = Path(f"/proc/{pid}/status").read_text()
                except OSError:
                    continue
                # What has ended is still there for a moment, without memory.
                found = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")]
                peaks[pid] = max([0, *found])
            time.sleep(0.05)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        began = time.monotonic()
        cloud.run("run", "workflow.lua")
        took = time.monotonic() - began
    finally:
        over.set()
        watcher.join()
    bucket = google.bucket(cloud.prefix)
    sizes = {name: size for name, size, _ in bucket.listing("jobs/") if "/log" in name or name.endswith(".log")}
    bucket.close()
    job = next(iter(sizes)).split("/")[1]
    assert sizes == {f"jobs/{job}/{index}/a1/output.log": 100_000_009 for index in (1, 2)}
    assert cloud.run("logs", f"{job}/2", "--lines", "1").stdout == "the end\n"
    assert took < 120
    assert max(peaks.values()) < 150_000  # kilobytes
    assert marked(cloud.mark) == []
