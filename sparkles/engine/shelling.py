"""`shell`: one command on the driver's machine, recorded. May import ports and below.

When a command has ended, what it started ends too, children that called setsid included: each command has a marker of its own in its
environment. At least once: a driver that dies while the command runs leaves it to the next execution, which first ends what is left of it
(found by SPARKLES_SHELL in its environment) and runs it again. Output goes to files in the run's folder, so a chatty command fills no
memory.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from sparkles import digest
from sparkles.engine.commands import Done, Raised, Shell, StepError, refused
from sparkles.engine.journal import Asking, Journal
from sparkles.engine.runner import signal_name
from sparkles.model import Json
from sparkles.ports import Clock

KEPT_BYTES = 1 << 20
"""What a script gets of each stream; the rest stays in the run's folder."""

MARKER = "SPARKLES_SHELL"
"""Holds the run's id."""

COMMAND_MARKER = "SPARKLES_SHELL_COMMAND"
"""Tells one command from the others that run at the time."""

GRACE_S = 5.0


EndMarked = Callable[[str, str], object]
"""Ends at once every process whose environment holds that variable with that value."""


class ShellSteps:
    """Starts commands and lets the loop poll them, so that several strands can run one each."""

    def __init__(
        self,
        journal: Journal,
        clock: Clock,
        run: str,
        folder: Path,
        root: Path,
        environ: Mapping[str, str],
        end_marked: EndMarked,
        prepare: Callable[[Asking], None],
    ) -> None:
        """`folder` is the run's own; commands start in `root` with `environ`; `end_marked` ends what they leave behind; `prepare` is
        called before one starts, which may look at any file."""
        self._journal = journal
        self._clock = clock
        self._run = run
        self._folder = folder
        self._root = root
        self._environ = environ
        self.end_marked = end_marked
        self._prepare = prepare
        self._running: set[ShellWait] = set()

    def shell(self, strand: str, command: Shell) -> Done | Raised | ShellWait:
        """-> {"exitCode", "stdout", "stderr", "seconds"}."""
        asking = self._journal.ask_for(strand, command)
        replayed = self._journal.replayed(asking)
        if replayed is not None:
            if isinstance(replayed, Done) and replayed.value["exitCode"]:
                self._journal.failed(asking.key)
            return replayed
        self._prepare(asking)
        self._journal.start(asking)
        self._folder.mkdir(parents=True, exist_ok=True)
        # Two strands may run the same command at a time: each has files of its own.
        key = asking.key
        stem = self._folder / f"shell-{digest.of_value([key.strand, key.digest, key.occurrence])[:16]}"
        environment = {**self._environ, **command.env, MARKER: self._run, COMMAND_MARKER: f"{self._run}/{stem.name}"}
        words = ["/bin/sh", "-c", command.command] if isinstance(command.command, str) else list(command.command)
        try:
            with stem.with_suffix(".out").open("wb") as out, stem.with_suffix(".err").open("wb") as err:
                process = subprocess.Popen(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    cwd=self._root,
                    env=environment,
                    process_group=0,
                )
        except ValueError as error:
            # A NUL byte in a word, or a variable's name that cannot be one.
            return refused(error, "shell: the command cannot be run")
        except OSError as error:
            fields: dict[str, Json] = {"exitCode": 127, "stdout": "", "stderr": ""}
            return self._fail(asking, f"shell: {words[0]}: {error.strerror}", fields)
        wait = ShellWait(self, asking, command, process, stem, self._clock.monotonic())
        self._running.add(wait)
        return wait

    def end_all(self) -> None:
        """Ends commands that still run; their steps stay started and run again on resume."""
        for wait in list(self._running):
            wait.stop()

    def settle(self, wait: ShellWait, code: int, seconds: float, timed_out: bool) -> Done | Raised:
        """Records how a command ended."""
        self._running.discard(wait)
        value: dict[str, Json] = {
            "exitCode": code,
            "stdout": _head(wait.stem.with_suffix(".out")),
            "stderr": _head(wait.stem.with_suffix(".err")),
            "seconds": round(seconds, 3),
        }
        if not timed_out and (code == 0 or wait.command.allow_failure):
            self._journal.finish(wait.asking, value)
            if code:
                self._journal.failed(wait.asking.key)
            return Done(value)
        shown = wait.command.command if isinstance(wait.command.command, str) else " ".join(wait.command.command)
        if timed_out:
            how = f"took longer than {wait.command.timeout_s:g} s and was ended"
        else:
            how = f"exit code {code}" if code >= 0 else f"ended by {signal_name(-code) or f'signal {-code}'}"
        lines = _text(value["stderr"]).strip().splitlines()[-5:]
        message = f"shell: `{shown[:200]}`: {how}" + "".join(f"\n  {line}" for line in lines)
        return self._fail(wait.asking, message, {key: value[key] for key in ("exitCode", "stdout", "stderr")})

    def _fail(self, asking: Asking, message: str, fields: dict[str, Json]) -> Raised:
        return self._journal.fail(asking, StepError(message, kind="ShellFailed", fields=fields))


class ShellWait:
    """A command that runs (commands.Pending)."""

    def __init__(
        self, steps: ShellSteps, asking: Asking, command: Shell, process: subprocess.Popen[bytes], stem: Path, began: float
    ) -> None:
        self._steps = steps
        self.asking = asking
        self.command = command
        self.stem = stem
        self._process = process
        self._began = began
        self._pace = 0.005
        self._ending_at: float | None = None

    def poll(self) -> Done | Raised | None:
        """Its end, or the end that its time limit brings."""
        now = self._steps._clock.monotonic()
        code = self._process.poll()
        if code is not None:
            self._end_rest()
            return self._steps.settle(self, code, now - self._began, self._ending_at is not None)
        limit = self.command.timeout_s
        if self._ending_at is None and limit is not None and now - self._began > limit:
            self._ending_at = now
            _signal_group(self._process.pid, signal.SIGTERM)
        elif self._ending_at is not None and now - self._ending_at > GRACE_S:
            _signal_group(self._process.pid, signal.SIGKILL)
        self._pace = min(self._pace * 1.5, 0.1)
        return None

    def due(self) -> float:
        """Soon: a process that ends sends no hint."""
        return self._steps._clock.monotonic() + self._pace

    def stop(self) -> None:
        """Ends the command's process group: first politely, then for certain."""
        self._steps._running.discard(self)
        _signal_group(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            pass
        self._end_rest()
        self._process.wait()

    def _end_rest(self) -> None:
        _signal_group(self._process.pid, signal.SIGKILL)
        self._steps.end_marked(COMMAND_MARKER, f"{self._steps._run}/{self.stem.name}")


def _signal_group(pid: int, number: int) -> None:
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        pass


def _head(path: Path) -> Json:
    with path.open("rb") as stream:
        data = stream.read(KEPT_BYTES)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data


def _text(value: Json) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
