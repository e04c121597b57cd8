"""What every Notifier keeps, and what named pipes have to stand: other processes, killed ones, full pipes, signals."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sparkles.backends.local.notifier import FifoNotifier
from sparkles.backends.local.process import this_process
from sparkles.backends.memory_blobs import MemoryNotifier
from sparkles.errors import UsageError

ROOT = Path(__file__).parents[2]


class Kind:
    """A way to get two notifiers of one installation."""

    def __init__(self, name, state):
        self.name = name
        self.state = state
        self.made = []

    def make(self, label="driver"):
        if self.name == "memory":
            notifier = self.made[0] if self.made else MemoryNotifier()
        elif self.name == "pubsub":
            from tests.support import google

            notifier = google.notifier(f"{self.state.name}-{os.getpid()}/", at=google.address("pubsub"))
            assert notifier.ready(20)
            notifier.wait(0)
        else:
            notifier = FifoNotifier(self.state, label, pipes=self.name == "fifo")
        self.made.append(notifier)
        return notifier


@pytest.fixture(params=["fifo", "polling", "memory", pytest.param("pubsub", marks=pytest.mark.google)])
def kind(request, tmp_path):
    kind = Kind(request.param, tmp_path)
    yield kind
    for notifier in kind.made:
        notifier.close()


def elapsed(act):
    started = time.monotonic()
    act()
    return time.monotonic() - started


def test_a_hint_ends_the_next_wait(kind):
    """A hint that came between two waits ends the next one at once, and that one only; several count as one."""
    notifier = kind.make()
    assert notifier.wait(0) is False
    for _ in range(3):
        notifier.notify()
    assert notifier.wait(5) is True
    assert notifier.wait(0) is False


def test_no_hint_is_waited_for_as_long_as_asked(kind):
    """The time is kept, not much more and not less; a negative one is none."""
    notifier = kind.make()
    assert 0.1 <= elapsed(lambda: notifier.wait(0.1)) < 1
    assert elapsed(lambda: notifier.wait(-1)) < 1


def test_a_hint_from_another_thread_ends_a_wait(kind):
    """The waiter is woken while it waits, well before its time."""
    waiter, teller = kind.make("one"), kind.make("two")
    timer = threading.Timer(0.05, teller.notify)
    timer.start()
    found = []
    assert elapsed(lambda: found.append(waiter.wait(10))) < 1
    assert found == [True]
    timer.join()


def test_the_descriptor_is_readable_when_a_hint_is_there(kind):
    """select and epoll see a hint; wait(0) takes it away. Polling has no descriptor to offer."""
    notifier = kind.make()
    if kind.name == "polling":
        assert notifier.fileno() == -1
        return
    readable = lambda: bool(select.select([notifier.fileno()], [], [], 0)[0])  # noqa: E731
    assert not readable()
    notifier.notify()
    assert readable()
    assert notifier.wait(0)
    assert not readable()


def test_thousands_of_hints_do_not_block(kind):
    """Nobody listens for a long time: the pipe fills up, and telling goes on."""
    sleeper, teller = kind.make("sleeper"), kind.make("teller")
    for _ in range(70_000):
        teller.notify()
    assert sleeper.wait(5)
    # Over a network they still come in for a moment, many as one.
    late = 0
    while kind.name == "pubsub" and sleeper.wait(0.5):
        late += 1
    assert late < 100
    assert not sleeper.wait(0)


@pytest.mark.parametrize("raises", [False, True], ids=["a handler that returns", "KeyboardInterrupt"])
def test_a_signal_ends_a_wait(kind, raises):
    """A signal is no hint, but it ends the wait at once, although select() itself would go on after a handler that returns."""
    notifier = kind.make()
    noted = []
    number = signal.SIGINT if raises else signal.SIGUSR1
    before = signal.signal(number, signal.default_int_handler if raises else lambda *_: noted.append(1))
    timer = threading.Timer(0.05, signal.raise_signal if raises else lambda _: os.kill(os.getpid(), number), [number])
    timer.start()
    started = time.monotonic()
    try:
        if raises:
            with pytest.raises(KeyboardInterrupt):
                notifier.wait(10)
        else:
            assert notifier.wait(10) is False
            assert noted
    finally:
        timer.join()
        signal.signal(number, before)
    assert time.monotonic() - started < 1


def test_a_signal_between_two_waits_ends_the_next(kind):
    """A signal that came just before the wait is not slept over."""
    notifier = kind.make()
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert elapsed(lambda: notifier.wait(10)) < 1
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_close(kind):
    """A closed notifier neither raises nor hears; closing twice is harmless, and signals go where they went before."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    notifier = kind.make()
    for _ in range(2):
        notifier.close()
    assert notifier.fileno() == -1
    notifier.notify()
    assert notifier.wait(0) is False
    assert signal.set_wakeup_fd(-1) == -1
    signal.set_wakeup_fd(write)
    other = kind.make("other") if kind.name != "memory" else MemoryNotifier()
    other.close()
    assert signal.set_wakeup_fd(-1) == write
    os.close(read)
    os.close(write)


# Named pipes


LISTEN = """
import sys
from pathlib import Path
from sparkles.backends.local.notifier import FifoNotifier
listener = FifoNotifier(Path(sys.argv[1]), "listener")
print("ready", flush=True)
print(listener.wait(20), flush=True)
sys.stdin.readline()
listener.close()
"""


@pytest.fixture
def listener(tmp_path):
    """Another process that waits for one hint, says what wait() returned, and ends when it is told to."""
    process = subprocess.Popen(
        [sys.executable, "-c", LISTEN, str(tmp_path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


@pytest.fixture
def notifier(tmp_path):
    notifier = FifoNotifier(tmp_path, "driver")
    yield notifier
    notifier.close()


def pipes(state):
    return sorted(os.listdir(state / "notify"))


def test_a_hint_reaches_another_process(notifier, listener, tmp_path):
    """Two processes, two pipes; the one that ends takes its own with it."""
    assert len(pipes(tmp_path)) == 2
    notifier.notify()
    assert listener.stdout.readline() == "True\n"
    listener.stdin.write("\n")
    listener.stdin.flush()
    assert listener.wait(10) == 0
    assert len(pipes(tmp_path)) == 1


def test_a_killed_listeners_pipe_is_removed(notifier, listener, tmp_path):
    """kill -9 leaves a pipe behind; the next hint removes it, and hints go on."""
    notifier.notify()
    listener.kill()
    listener.wait()
    assert len(pipes(tmp_path)) == 2
    notifier.notify()
    assert len(pipes(tmp_path)) == 1
    assert notifier.wait(0)


def test_a_pipe_that_is_not_read_yet_stays(notifier, tmp_path):
    """Between mkfifo and open a pipe of a live process has no reader; nor is one of another host, or a stranger's file, ours to remove."""
    me = this_process()
    names = [
        f"{me.pid},{me.ticks},{me.started!r},{me.boot_id},99,{me.host},soon",
        f"1,1,1.0,{me.boot_id},0,elsewhere,driver",
        "what,is,this",
    ]
    for name in names:
        os.mkfifo(tmp_path / "notify" / name)
    plain = tmp_path / "notify" / f"{me.pid},{me.ticks},{me.started!r},{me.boot_id},98,{me.host},plain"
    plain.write_bytes(b"text")
    notifier.notify()
    assert len(pipes(tmp_path)) == 5
    assert plain.read_bytes() == b"text"


def test_a_newcomer_is_heard_at_once(notifier, tmp_path):
    """The list of listeners is kept between hints, but not past a change of the folder."""
    for number in range(5):
        notifier.notify()
        time.sleep(0.01)  # more than a tick of the file system's clock
        newcomer = FifoNotifier(tmp_path, f"worker-{number}")
        notifier.notify()
        assert newcomer.wait(0)
        newcomer.close()


def test_pipes_and_polling_hear_each_other(notifier, tmp_path):
    """A process on a file system without named pipes is not left out, nor does it leave others out."""
    other = FifoNotifier(tmp_path, "other", pipes=False)
    notifier.notify()
    assert other.wait(1)
    notifier.wait(0)
    time.sleep(0.01)
    other.notify()
    assert notifier.wait(0)
    other.close()


def test_a_folder_that_cannot_be_made(tmp_path):
    """No hint comes from others and nothing fails; the notifier's own still do."""
    (tmp_path / "state").write_bytes(b"a file where the folder should be")
    notifier = FifoNotifier(tmp_path / "state", "driver")
    notifier.notify()
    assert notifier.wait(0)
    assert not notifier.wait(0)
    notifier.close()


@pytest.mark.parametrize("label", ["", "a/b", "a,b", "..\0", "x" * 81])
def test_labels_that_are_no_file_name(tmp_path, label):
    """A label becomes part of a file name, and must be able to."""
    with pytest.raises(UsageError, match="cannot be part of a file name"):
        FifoNotifier(tmp_path, label)


def test_a_hint_is_cheap(notifier, tmp_path):
    """Below 30 us with two listeners, by the best of several rounds: a worker tells with each commit."""
    other = FifoNotifier(tmp_path, "worker")
    best = min(elapsed(lambda: [notifier.notify() for _ in range(200)]) for _ in range(10)) / 200
    other.close()
    assert best < 30e-6
