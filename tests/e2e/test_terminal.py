"""What a person sees: the real command on a real terminal (a pty)."""

from __future__ import annotations

import os
import pty
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pytest

from tests.support.cli import SPARKLES, Project, environment

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SLOW = """
local job = JobBuilder("slow"):setCommandTemplate("sleep 0.4; echo {n}"):createTasksFor(product { n = { 1, 2, 3, 4, 5, 6, 7, 8 } })
log("before the bar")
local result = run(job:setParallelism(2))
log("after the bar: %d", #result.tasks)
"""

Start = Callable[..., "Terminal"]


class Terminal:
    """A command on a pty of 24 lines; `screen` is every byte that it wrote."""

    def __init__(self, folder: Path, *arguments: str, columns: int = 100, **env: str) -> None:
        self.child = pexpect.spawn(
            SPARKLES,
            list(arguments),
            cwd=str(folder),
            env=environment(folder, **env),
            encoding="utf-8",
            codec_errors="replace",
            timeout=20,
            dimensions=(24, columns),
        )
        self.screen = ""

    def until(self, pattern: str) -> None:
        """Reads on until the pattern appears."""
        self.child.expect(pattern)
        self.screen += self.child.before + self.child.after

    def end(self) -> int:
        """Reads to the end; the exit code."""
        self.child.expect(pexpect.EOF)
        self.screen += self.child.before
        self.child.close()
        assert "Traceback" not in self.screen
        return self.child.exitstatus if self.child.exitstatus is not None else 128 + self.child.signalstatus

    @property
    def left(self) -> list[str]:
        """The lines that stay on the screen: what erases a line or goes up is carried out."""
        lines, row = [""], 0
        for token in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r\n|\n|\r|[^\x1b\r\n]+", self.screen):
            if token in ("\r\n", "\n"):
                row += 1
                if row == len(lines):
                    lines.append("")
            elif token == "\r":
                # What follows a carriage return here always erases the line first.
                continue
            elif up := re.fullmatch(r"\x1b\[(\d*)A", token):
                row -= int(up[1] or 1)
            elif token in ("\x1b[2K", "\x1b[0K", "\x1b[K"):
                lines[row] = ""
            elif not token.startswith("\x1b"):
                lines[row] += token
        return [line for line in lines if line.strip()]


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    project = Project(tmp_path / "project")
    project.write("w.lua", SLOW)
    yield project
    project.close()


def test_a_bar_that_leaves_one_line(project: Project) -> None:
    """Bars are redrawn in place; at the end one line a job stays, with the log lines, and nothing else of them."""
    terminal = Terminal(project.folder, "run", "w.lua")
    terminal.until(r"slow-[0-9a-f]{8}\S*  \S*█")
    assert terminal.end() == 0
    assert re.search(r"[1-7]/8", terminal.screen)
    assert "2 running" in terminal.screen
    assert " to go" in terminal.screen
    lines = terminal.left
    assert lines[0].startswith("run r-")
    assert lines[1] == "before the bar"
    assert re.fullmatch(r"slow-[0-9a-f]{8}: 8 tasks succeeded; \d+\.\d s", lines[2])
    assert lines[3] == "after the bar: 8"
    assert " succeeded: 4 steps run; 8 tasks run; " in lines[4]
    assert len(lines) == 5
    assert terminal.screen.count("\x1b[?25l") == terminal.screen.count("\x1b[?25h") == 1, "the cursor comes back"


def test_log_lines_scroll_above_the_bar(project: Project) -> None:
    """A line that is logged while bars are drawn stays, whole, above them."""
    project.write(
        "w.lua",
        """
        local job = JobBuilder("slow"):setCommandTemplate("sleep 0.4"):createTasksFor(product { n = { 1, 2, 3, 4, 5, 6 } })
        parallel {
          jobs = function() run(job:setParallelism(2)) end,
          words = function() for i = 1, 4 do sleep(0.25) log("word %d %s", i, ("x"):rep(150)) end end,
        }
        """,
    )
    terminal = Terminal(project.folder, "run", "w.lua", columns=80)
    assert terminal.end() == 0
    shown = "".join(terminal.left)
    for number in range(1, 5):
        assert f"word {number} {'x' * 150}" in shown
    assert "█" not in shown
    assert "░" not in shown


def test_the_width_is_followed(project: Project) -> None:
    """After a resize no line is wider than the terminal; a very narrow one keeps name and counts."""
    terminal = Terminal(project.folder, "run", "w.lua", columns=100)
    terminal.until(r"[0-4]/8")
    terminal.child.setwinsize(24, 34)
    # One frame may have been drawn before the change was seen.
    terminal.until(r"\r")
    terminal.until(r"\r")
    before = len(terminal.screen)
    assert terminal.end() == 0
    frames = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", each).strip() for each in re.split(r"[\r\n]+", terminal.screen[before:])]
    narrow = [each for each in frames if re.search(r"\d/8", each)]
    assert narrow
    assert max(map(len, narrow)) <= 34, narrow
    assert all(each.startswith("slow-") for each in narrow), narrow


def test_many_jobs_fit_on_the_screen(project: Project) -> None:
    """More jobs than lines: some bars and a count of the others, never more than the screen holds."""
    project.write(
        "w.lua",
        """
        map({1,2,3,4,5,6,7,8,9,10,11,12}, function(k)
          run(JobBuilder("j" .. k):setCommandTemplate("sleep 0.1; true " .. k))
        end)
        """,
    )
    terminal = Terminal(project.folder, "run", "w.lua")
    terminal.child.setwinsize(8, 100)
    assert terminal.end() == 0
    assert max((int(each) for each in re.findall(r"\x1b\[(\d+)A", terminal.screen)), default=1) <= 8
    ups = terminal.screen.split("\x1b[?25l")[-1]
    assert max(frame.count("/1") for frame in re.split(r"\r", ups)) <= 7
    assert sum(": 1 task succeeded; " in line for line in terminal.left) == 12


@pytest.mark.parametrize(("variables", "moves"), [({"NO_COLOR": "1"}, True), ({"TERM": "dumb"}, False)])
def test_no_colours(project: Project, variables: dict[str, str], moves: bool) -> None:
    """NO_COLOR: bars without any colour. TERM=dumb: plain lines, not one escape."""
    terminal = Terminal(project.folder, "run", "w.lua", **variables)
    assert terminal.end() == 0
    colours = [
        each for each in re.findall(r"\x1b\[([0-9;]*)m", terminal.screen) if re.search(r"(^|;)(3[0-7]|9[0-7])($|;)", each)
    ]
    assert colours == []
    assert ("\x1b[2K" in terminal.screen) == moves
    if not moves:
        assert "\x1b" not in terminal.screen
        assert "8 tasks succeeded" in terminal.screen


def test_errors_are_red_only_in_colour(project: Project) -> None:
    """`error:` is red on a terminal, and plain under NO_COLOR."""
    terminal = Terminal(project.folder, "run", "none.lua")
    assert terminal.end() == 2
    assert terminal.screen.startswith("\x1b[31merror:\x1b[0m none.lua: no such file")
    terminal = Terminal(project.folder, "run", "none.lua", NO_COLOR="1")
    assert terminal.end() == 2
    assert terminal.screen.startswith("error: none.lua: no such file")


def test_ctrl_c_once(project: Project) -> None:
    """What runs is finished and recorded; the way back is said; nothing finished runs again."""
    terminal = Terminal(project.folder, "run", "w.lua")
    terminal.until(r"[2-4]/8")
    terminal.child.sendintr()
    assert terminal.end() == 130
    lines = terminal.left
    assert any("Ctrl-C: no new tasks are started; resume with: sparkles run w.lua" in line for line in lines)
    assert lines[-1] == "resume with: sparkles run w.lua"
    assert "█" not in "".join(lines)
    counts = project.json("list")[0]["counts"]
    assert counts["claimed"] == 0
    assert counts["succeeded"] >= 2
    assert counts["pending"] >= 1
    (value,) = project.json("run", "w.lua")
    assert value["state"] == "succeeded"
    assert value["tasks"]["run"] == counts["pending"]
    assert {each["attempts"] for each in project.json("list", "LAST")} == {1}


def test_ctrl_c_twice(project: Project) -> None:
    """The second one ends what runs, at once; these tasks go back to pending, without an attempt of their budget."""
    project.write("w.lua", "run(JobBuilder('long'):setCommandTemplate('sleep 30; echo {n}'):createTasksFor(product{n={1,2}}))")
    terminal = Terminal(project.folder, "run", "w.lua")
    terminal.until(r"running")
    terminal.child.sendintr()
    terminal.until(r"Ctrl-C again ends them")
    began = time.monotonic()
    terminal.child.sendintr()
    assert terminal.end() == 130
    assert time.monotonic() - began < 8
    assert "running tasks are ended; they run again on resume" in terminal.screen
    assert project.json("list")[0]["counts"]["pending"] == 2
    assert project.json("doctor")[0]["state"]["workers"] == []


def test_a_terminal_that_hangs_up(project: Project) -> None:
    """The window is closed: the worker finishes what runs and records it; the run can be resumed, and nothing finished runs again."""
    # Not by pexpect, which sends more signals than a closed window does.
    pid, window = pty.fork()
    if pid == 0:
        os.chdir(project.folder)
        os.execve(SPARKLES, [SPARKLES, "run", "w.lua"], environment(project.folder))
    seen = b""
    while not re.search(rb"[2-4]/8", seen):
        seen += os.read(window, 4096)
    os.close(window)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 129
    deadline = time.monotonic() + 15
    while project.json("doctor")[0]["state"]["workers"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not list((project.folder / ".sparkles").glob("bug-*"))
    assert project.json("runs")[0]["state"] == "interrupted"
    assert project.json("list")[0]["counts"]["claimed"] == 0
    assert project.json("run", "w.lua")[0]["state"] == "succeeded"
    assert {each["attempts"] for each in project.json("list", "LAST")} == {1}


def test_watching_ends_without_the_job(project: Project) -> None:
    """Ctrl-C in `watch` leaves the job alone."""
    job = project.run("sub", "--detach", "--", "sleep 1.5").stdout.strip()
    terminal = Terminal(project.folder, "watch", job)
    terminal.until(r"0/1")
    terminal.child.sendintr()
    assert terminal.end() == 130
    project.run("wait", job)
    assert project.json("list", job)[0]["attempts"] == 1


def test_clean_asks(project: Project) -> None:
    """No is the answer of who just presses return; yes removes."""
    project.run("sub", "--", "true")
    for answer, left in (("", 1), ("y", 0)):
        terminal = Terminal(project.folder, "clean")
        terminal.until(r"Remove them\? \[y/N\]: ")
        terminal.child.sendline(answer)
        assert terminal.end() == 0
        assert ("nothing was removed" in terminal.screen) == bool(left)
        assert len(project.json("list")) == left
