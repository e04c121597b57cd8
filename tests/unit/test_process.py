"""Facts about real processes: who lives, who carries a marker, what a group uses, and that what is ended is ended."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import msgspec
import psutil
import pytest

from sparkles.backends.local import process
from sparkles.backends.local.runner import _belongs
from sparkles.model import ProcessId
from tests.support.needs import requires

ROOT = Path(__file__).parents[2]
VARIABLE = "SPARKLES_TEST_MARKER"


@pytest.fixture(params=["proc", "psutil"], autouse=True)
def source(request, monkeypatch):
    """Where facts come from: /proc, or psutil as on systems without it. Linux has both, so both are tested there."""
    requires(request.param == "psutil" or sys.platform == "linux", "only Linux has /proc")
    monkeypatch.setattr(process, "_LINUX", request.param == "proc")
    process.boot_id.cache_clear()
    process._this_process.cache_clear()
    yield request.param
    process.boot_id.cache_clear()
    process._this_process.cache_clear()


@pytest.fixture
def value():
    """A marker of this test's own; whatever still carries it at the end is killed."""
    value = secrets.token_hex(8)
    yield value
    for pid in process.marked(VARIABLE, value):
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def start(value):
    """Starts a shell in a group of its own, with the marker; waits until it has written as many lines as `lines`."""
    started = []

    def run(script, lines=0):
        popen = subprocess.Popen(
            ["/bin/sh", "-c", script],
            env={**os.environ, VARIABLE: value},
            stdout=subprocess.PIPE,
            process_group=0,
        )
        started.append(popen)
        for _ in range(lines):
            assert popen.stdout.readline()
        return popen

    yield run
    for popen in started:
        popen.kill()
        popen.wait()
        popen.stdout.close()


def eventually(condition, timeout_s=5.0):
    """Whether the condition comes true; asked every 2 ms."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


def stat_fields(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def id_of(pid, earlier=0):
    """What the process itself would say it is, or would have said had it started `earlier`, in hundredths of a second."""
    me = process.this_process()
    start = process._start(pid)
    if process._LINUX:
        return msgspec.structs.replace(me, pid=pid, ticks=start - earlier)
    return msgspec.structs.replace(me, pid=pid, started=start - earlier / 100)


class TestLiveness:
    def test_this_process(self):
        """This process is alive, and is so after its id went through JSON."""
        me = process.this_process()
        assert me.pid == os.getpid()
        assert process.this_process() == me
        stored = msgspec.json.decode(msgspec.json.encode(me), type=ProcessId)
        assert process.liveness(stored) == "alive"
        assert process.is_alive(stored)

    def test_another_process_says_the_same_of_itself(self, source):
        """What a process says of itself is what others find."""
        code = (
            "import msgspec; from sparkles.backends.local import process\n"
            f"process._LINUX = {source == 'proc'}\n"
            "print(msgspec.json.encode(process.this_process()).decode(), flush=True); input()"
        )
        with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
            said = msgspec.json.decode(child.stdout.readline(), type=ProcessId)
            living = process.liveness(said)
            child.communicate(b"\n")
        assert living == "alive"
        assert process.liveness(said) == "dead"

    def test_after_a_fork(self):
        """A forked child is itself, not its parent."""
        process.this_process()
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.write(writer, str(process.this_process().pid).encode())
            os._exit(0)
        os.waitpid(pid, 0)
        assert int(os.read(reader, 100)) == pid
        os.close(reader)
        os.close(writer)

    def test_a_recycled_pid_is_not_the_old_process(self, start):
        """The same pid with another start time is another process."""
        child = start("sleep 60")
        assert process.liveness(id_of(child.pid)) == "alive"
        assert process.liveness(id_of(child.pid, earlier=1)) == "dead"

    def test_started_is_the_wall_clocks(self):
        """For people, the start is in seconds since the epoch, whatever it is recognised by."""
        assert abs(process.this_process().started - psutil.Process().create_time()) < 2

    def test_setting_the_clock_kills_nobody(self, source):
        """On Linux the start by the wall clock takes no part in the comparison: it moves when the clock is set."""
        me = process.this_process()
        moved = msgspec.structs.replace(me, started=me.started - 3600)
        assert process.liveness(moved) == ("alive" if source == "proc" else "dead")

    def test_a_zombie_is_dead(self, start):
        """A process that ended and was not waited for still has its pid and start time, but does nothing any more."""
        child = start("exec sleep 60")
        known = id_of(child.pid)
        os.kill(child.pid, signal.SIGKILL)
        assert eventually(lambda: stat_fields(child.pid)[0] == "Z")
        assert process.liveness(known) == "dead"

    def test_after_a_reboot(self):
        """Same host, pid and start time, but another boot: dead."""
        me = process.this_process()
        assert process.liveness(msgspec.structs.replace(me, boot_id="another")) == "dead"

    def test_another_host(self):
        """A process of another host can be neither alive nor dead from here, whatever its boot says."""
        me = process.this_process()
        for boot in (me.boot_id, "another"):
            away = msgspec.structs.replace(me, host="elsewhere", boot_id=boot)
            assert process.liveness(away) == "elsewhere"
            assert not process.is_alive(away)

    def test_a_program_with_brackets_in_its_name(self, tmp_path):
        """The name in /proc/PID/stat may hold brackets and spaces; the fields after it are found all the same."""
        program = tmp_path / "a) R 1 (b"
        program.symlink_to("/bin/sleep")
        child = subprocess.Popen([str(program), "60"])
        try:
            assert eventually(lambda: b") R" in Path(f"/proc/{child.pid}/stat").read_bytes())
            assert process.liveness(id_of(child.pid)) == "alive"
            assert process.group_members(os.getpgid(child.pid)).count(child.pid) == 1
        finally:
            child.kill()
            child.wait()


class TestMarked:
    def test_a_child_that_called_setsid_is_found(self, start, value):
        """A new session, and a parent that is gone, do not hide a process."""
        child = start("setsid sh -c 'sleep 60 & echo $!; exec sleep 60' & echo started; wait", lines=2)
        found = process.marked(VARIABLE, value)
        assert child.pid in found
        assert len(found) >= 3
        child.kill()
        child.wait()
        assert eventually(lambda: len(process.marked(VARIABLE, value)) == len(found) - 1)

    def test_the_whole_value_counts(self, start, value):
        """Neither part of a value nor part of a variable's name is a match."""
        start("echo; exec sleep 60", lines=1)
        assert len(process.marked(VARIABLE, value)) == 1
        assert process.marked(VARIABLE, value[:-1]) == []
        assert process.marked(VARIABLE[1:], value) == []
        assert process.marked(VARIABLE, "") == []

    def test_a_large_environment(self, value, source):
        """The marker is found behind a megabyte of others; on Linux even while the program is only just being started."""
        filler = {f"FILLER_{number}": "x" * 100_000 for number in range(10)}
        child = subprocess.Popen(["/bin/sleep", "60"], env={**filler, VARIABLE: value})
        try:
            if source == "psutil":
                assert eventually(lambda: process.marked(VARIABLE, value))
            assert process.marked(VARIABLE, value) == [child.pid]
        finally:
            child.kill()
            child.wait()

    def test_an_exec_that_ends_between_two_looks(self, value, source, monkeypatch):
        """The first look finds no environment yet, the second one arguments already: then the environment is there too."""
        child = subprocess.Popen(["/bin/sleep", "60"], env={VARIABLE: value})
        if source == "psutil":
            assert eventually(lambda: process.marked(VARIABLE, value))
        read, looks = process._read, []

        def late(path, *size):
            looks.append(path)
            return b"" if path == f"/proc/{child.pid}/environ" and looks.count(path) == 1 else read(path, *size)

        monkeypatch.setattr(process, "_read", late)
        try:
            assert process.marked(VARIABLE, value) == [child.pid]
        finally:
            child.kill()
            child.wait()

    def test_a_process_that_starts_one_program_after_the_other(self, value, tmp_path):
        """Whenever it is looked at, it says whose it is: what is missed once is left behind."""
        requires(sys.platform == "linux", "subreapers are Linux's")
        (tmp_path / "again").write_text("exec /bin/sh again\n")
        child = subprocess.Popen(["/bin/sh", "again"], cwd=tmp_path, env={"SPARKLES_TOKEN": value})
        try:
            assert all(_belongs(child.pid, {value}) for _ in range(5000))
        finally:
            child.kill()
            child.wait()

    def test_a_program_without_any_environment(self):
        """It is nobody's, and it is said at once."""
        requires(sys.platform == "linux", "subreapers are Linux's")
        child = subprocess.Popen(["/bin/sleep", "60"], env={})
        try:
            assert eventually(lambda: process._stat(child.pid)[0] == b"S")
            began = time.monotonic()
            assert not any(_belongs(child.pid, {"mine"}) for _ in range(100))
            assert time.monotonic() - began < 2  # a hundred times EXEC_WAIT_S is 50
        finally:
            child.kill()
            child.wait()

    def test_a_left_over_in_the_middle_of_an_exec_is_waited_for(self, monkeypatch):
        """The worker's sweep goes by the token in the environment, which is not to be seen for that moment."""
        requires(sys.platform == "linux", "subreapers are Linux's")
        child = subprocess.Popen(["/bin/sleep", "60"], env={"SPARKLES_TOKEN": "mine"})
        read, looks = process._read, []

        def late(path, *size):
            looks.append(path)
            if len(looks) >= 20:
                return read(path, *size)
            if not path.endswith("/stat"):
                return b""
            begin, fields, end = read(path).rpartition(b")")
            fields, end = begin + fields, end.split()
            end[0], end[47], end[48] = b"R", b"0", b"0"
            return fields + b" " + b" ".join(end)

        monkeypatch.setattr(process, "_read", late)
        try:
            assert _belongs(child.pid, {"mine"})
            assert not _belongs(child.pid, {"min", "another"})
        finally:
            child.kill()
            child.wait()

    def test_this_process_is_left_out(self):
        """Who looks for what was left behind does not mean itself, even where it carries the marker."""
        code = textwrap.dedent(
            f"""
            from sparkles.backends.local.process import marked
            print(marked({VARIABLE!r}, "own"))
            """
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**os.environ, VARIABLE: "own"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == "[]\n"


class TestUsage:
    def test_memory_and_cpu_of_groups(self, start):
        """One scan gives what each group holds and has used, children that ended included; others are not in it."""
        hungry = start(
            f"exec {sys.executable} -c 'x = b\"x\" * (64 << 20); print(1, flush=True); import time; time.sleep(60)'; :", lines=1
        )
        busy = start("i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; echo; exec sleep 60", lines=1)
        parent = start(f"{sys.executable} -c 'sum(range(5_000_000))'; echo; sleep 60; :", lines=1)
        usage = process.group_usage([hungry.pid, busy.pid, parent.pid, 2**22 + 1])
        assert set(usage) == {hungry.pid, busy.pid, parent.pid}
        assert usage[hungry.pid][0] > 64 << 20
        assert usage[busy.pid][0] < 32 << 20
        assert usage[busy.pid][1] >= 0.05
        assert usage[parent.pid][1] >= 0.03

    def test_a_zombie_uses_nothing(self, start):
        """A group of which only a zombie is left has no usage and no members."""
        child = start("exit 0")
        assert eventually(lambda: stat_fields(child.pid)[0] == "Z")
        assert process.group_usage([child.pid]) == {}
        assert process.group_members(child.pid) == []


class TestOrphans:
    def test_children_and_the_inherited(self, source):
        """A subreaper finds what its children left behind, zombies too, and can wait for it."""
        requires(sys.platform == "linux", "subreapers are Linux's")
        code = textwrap.dedent(
            f"""
            import subprocess, sys, time
            from sparkles.backends.local import process
            assert process.become_subreaper()
            process._LINUX = {source == "proc"}
            assert process.orphans() == []
            script = "setsid sleep 60 >/dev/null 2>&1 & echo $!; setsid sleep 0.1 >/dev/null 2>&1 & echo $!"
            left = [int(pid) for pid in subprocess.run(["/bin/sh", "-c", script], capture_output=True, check=True).stdout.split()]
            deadline = time.monotonic() + 5
            reaped = []
            while len(process.orphans()) + len(reaped) < 2 or not reaped:
                assert time.monotonic() < deadline, (left, process.orphans(), reaped)
                reaped += process.reap(process.orphans())
            assert len(process.orphans()) == 1, process.orphans()
            assert process.end_processes(process.orphans, 5) == []
            assert len(process.reap(process.orphans())) == 1
            assert process.orphans() == []
            assert process.reap([1]) == []
            print("done")
            """
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
        assert done.stdout == "done\n", done.stderr


class TestEnding:
    def test_nothing_to_end(self, value):
        """Nothing found is nothing done, at once."""
        started = time.monotonic()
        assert process.end_marked(VARIABLE, value, 30) == []
        assert time.monotonic() - started < 1

    def test_a_polite_process_ends_by_itself(self, start, value, tmp_path):
        """SIGTERM first: a program can say goodbye; it is told once."""
        start(f"trap 'echo bye >> {tmp_path}/said; exit 0' TERM; echo; while :; do sleep 0.01; done", lines=1)
        started = time.monotonic()
        assert process.end_marked(VARIABLE, value, 30) == []
        assert time.monotonic() - started < 5
        assert (tmp_path / "said").read_text() == "bye\n"

    def test_a_stubborn_one_is_killed_after_the_grace(self, start, value):
        """Who ignores SIGTERM has the grace, not more."""
        child = start("trap '' TERM; echo; while :; do sleep 60; done", lines=1)
        started = time.monotonic()
        assert process.end_marked(VARIABLE, value, 0.2) == []
        assert 0.2 <= time.monotonic() - started < 3
        assert child.wait() == -signal.SIGKILL

    def test_a_stopped_one_ends_too(self, start, value):
        """A stopped process gets SIGTERM only once it goes on."""
        child = start("echo; exec sleep 60", lines=1)
        os.kill(child.pid, signal.SIGSTOP)
        assert eventually(lambda: stat_fields(child.pid)[0] == "T")
        assert process.end_marked(VARIABLE, value, 30) == []
        assert child.wait() == -signal.SIGTERM

    def test_one_that_forks_without_end(self, start, value):
        """A process that starts another whenever it is told to end, in a session of its own, is outrun."""
        script = "trap 'setsid sh -c \"trap : TERM; echo; while :; do sleep 60; done\" & exit' TERM; echo; while :; do sleep 0.01; done"
        start(script, lines=1)
        assert process.end_marked(VARIABLE, value, 0.3) == []
        assert process.marked(VARIABLE, value) == []
