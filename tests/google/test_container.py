"""The worker in its own image, as a container runtime runs it: nothing beside the program, no shell, no CA files, PID 1, not root."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import shlex
import signal
import time
from pathlib import Path

import pytest

from sparkles import wire
from tests.support import cloud as clouds
from tests.support.container import Image

pytestmark = [pytest.mark.google, pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """The image, with /task in it for what a task can do without a shell."""
    made = Image(tmp_path_factory.mktemp("image"), clouds.consume())
    assert made.holds == ["consume"]
    made.add_task()
    return made


class Place:
    """A project whose workers are containers that the test starts."""

    def __init__(self, cloud, image):
        self.cloud, self.image = cloud, image
        self.started = []

    def submit(self, *command):
        """Submits one task and waits for it in the background. Returns what waits, and how sparkles says that a worker is to be started."""
        waiting = self.cloud.background("sub", "-n", "contained", "--", *command, env={"SPARKLES_FLEET": "none"})
        waiting.wait_for("start workers by hand")
        line = re.search(r": consume (run .*)", waiting.stderr)[1]
        return waiting, shlex.split(line)

    def start(self, arguments, *more):
        """A container with these arguments; its scratch directories are in /tmp."""
        environ = {name: value for name, value in clouds.addresses().items() if name != "PATH"}
        log = self.cloud.folder / f"container-{len(self.started)}.log"
        container = self.image.start([*arguments, "-text", *more], environ, log)
        self.started.append(container)
        return container

    def log(self):
        """What the last job's task printed."""
        return self.cloud.run("logs", "LAST/1").stdout

    def close(self):
        for each in self.started:
            each.close()


@pytest.fixture
def place(cloud, image):
    found = Place(cloud, image)
    yield found
    found.close()


def holding(container, timeout_s=60.0):
    """Waits until /task has come as far as waiting for a signal: its log says so, which only its descriptor leads to from here."""
    deadline = time.monotonic() + timeout_s
    while True:
        for pid, (_, _, name) in container.processes().items():
            with contextlib.suppress(OSError):
                if name == "task" and b"holding" in Path(f"/proc/{pid}/fd/1").read_bytes():
                    return
        assert time.monotonic() < deadline, container.said
        time.sleep(0.02)


def test_a_task_runs_in_an_empty_image(place):
    """A program with arguments needs no shell; a task that needs one fails with the shell's exit code for it, and the worker goes on."""
    waiting, arguments = place.submit("/consume", "version")
    container = place.start(arguments, "-until-empty")
    waiting.end()
    container.end(0)
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", place.log())

    waiting, arguments = place.submit("echo $HOME")
    container = place.start(arguments, "-until-empty")
    waiting.end(code=1)
    container.end(0)
    assert "/bin/sh" in place.log()


@pytest.mark.parametrize(
    ("signals", "code"), [([signal.SIGTERM], 143), ([signal.SIGINT, signal.SIGINT], 0)], ids=["SIGTERM", "SIGINT twice"]
)
def test_a_signal_to_pid_1_gives_the_task_back(place, signals, code):
    """What runs is told to end, its log and record are kept, and the worker leaves; the task waits for another one."""
    waiting, arguments = place.submit("/task", "hold")
    container = place.start(arguments)
    holding(container)
    for number in signals:
        container.signal(number)
        time.sleep(0.2)  # equal signals that arrive together are one
    container.end(code)
    store, clients = place.cloud.jobs()
    [job] = store.list_jobs()
    [task] = store.list_tasks(job.id)
    [attempt] = store.list_attempts(job.id, 1)
    assert (task.state.value, attempt.failure.value) == ("pending", "preempted")
    assert store.list_workers() == []
    for each in clients:
        each.close()
    assert place.log() == "holding\ntold to end\n"
    assert waiting.process.poll() is None
    place.cloud.run("kill", "LAST")
    waiting.end(code=1)


def test_a_worker_with_nothing_to_do_leaves(place):
    """When it is told to finish, and when its linger is over."""
    waiting, arguments = place.submit("/consume", "version")
    container = place.start(arguments)
    waiting.end()
    container.signal(signal.SIGHUP)
    container.end(0)
    assert "nothing to do" in place.start(arguments, "-linger", "500ms").end(0)


@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        ("-bucket", "no-such-bucket", "no bucket no-such-bucket"),
        ("-work", "/not/mine", "make the folder for scratch directories: mkdir /not: permission denied"),
        ("-work", "/consume/below", "not a directory"),
    ],
)
def test_what_cannot_work_ends_the_worker_for_good(place, flag, value, said):
    """Exit code 78 and a sentence, as for values that are wrong at first sight."""
    waiting, arguments = place.submit("/consume", "version")
    ended = place.start([*arguments, flag, value]).end(78)
    assert said in ended
    assert "goroutine" not in ended
    waiting.process.kill()


def test_orphans_are_reaped_while_the_task_runs(place):
    """What a task, or somebody who entered the container, leaves to be adopted does not stay among the processes once it has ended."""
    _, arguments = place.submit("/task", "orphans", "30")
    container = place.start(arguments)
    holding(container)
    container.enter("sh", "-c", "sleep 0.2 & true")
    expected = ["consume", "consume", "task"]
    deadline = time.monotonic() + 20
    while (left := sorted(name for _, _, name in container.processes().values())) != expected:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
    container.signal(signal.SIGTERM)
    container.end(143)


@pytest.mark.parametrize("kind", ["SparklesJob", "SparklesShard"])
def test_a_job_of_a_newer_sparkles_ends_the_worker_for_good(place, kind):
    """Exit code 78, which Kubernetes is told not to try again; the sentence names both versions."""
    waiting, arguments = place.submit("/consume", "version")
    waiting.process.kill()
    waiting.process.wait()
    _, clients = place.cloud.jobs()
    datastore = next(each for each in clients if hasattr(each, "query"))
    [found] = datastore.query(kind)
    newer = found.document.replace(b'"schema":%d' % wire.SCHEMA, b'"schema":%d' % (wire.SCHEMA + 1))
    assert newer != found.document
    datastore.update(kind, found.name, lambda current: dataclasses.replace(current, document=newer))
    for each in clients:
        each.close()
    said = place.start(arguments, "-until-empty").end(78)
    assert "was written by a newer sparkles" in said
    assert "goroutine" not in said
