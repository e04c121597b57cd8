"""A small engine in memory for scripts: it answers each command at once and keeps what was asked."""

from __future__ import annotations

import itertools
from pathlib import Path

from sparkles import rows
from sparkles.engine import commands as ask
from sparkles.engine.commands import Asked, Done, Ended, Raised, StepError, Unrecorded
from sparkles.errors import RowsError
from sparkles.lua.host import ScriptHost


class FakeEngine:
    """Performs a script's commands: jobs are tables of tasks that succeed unless their parameter `fail` says otherwise.

    A task's results are {score = twice its parameter x} and its one output is out.txt. Files are a dict of path to bytes.
    """

    def __init__(self, files=None):
        self.files = {path: data.encode() if isinstance(data, str) else data for path, data in (files or {}).items()}
        self.asked = []
        self.logged = []
        self.jobs = {}
        self.pages = []
        self._numbers = itertools.count(1)

    def outcomes(self, job, first, limit):
        """A page of a job's tasks as the engine gives it: what does not apply is None."""
        self.pages.append((job, first, limit))
        page = []
        for index, task in enumerate(self.jobs[job].tasks[first - 1 : first - 1 + limit], first):
            failed = bool(task.params.get("fail"))
            x = task.params.get("x")
            page.append(
                {
                    "index": index,
                    "name": task.name or None,
                    "params": task.params,
                    "state": "failed" if failed else "succeeded",
                    "class": "exit" if failed else None,
                    "exitCode": 3 if failed else 0,
                    "signal": None,
                    "reason": "exit code 3" if failed else None,
                    "results": None if failed else {"score": x * 2 if isinstance(x, int | float) else None},
                    "outputs": {}
                    if failed
                    else {"out.txt": {"job": job, "index": index, "name": "out.txt", "digest": "d" * 64, "size": 5}},
                    "attempts": 1,
                    "seconds": 0.5,
                    "cpuSeconds": 0.25,
                    "peakMemory": 1024,
                    "reusedFrom": None,
                }
            )
        return page

    def perform(self, command):
        """The answer to one command."""
        self.asked.append(command)
        match command:
            case ask.Submit(draft=draft):
                job = f"{draft.name}-{next(self._numbers)}"
                self.jobs[job] = draft
                return Done({"id": job, "name": draft.name, "count": len(draft.tasks or [None])})
            case ask.Wait():
                return self._wait(command)
            case ask.Fetch(job=job, dest=dest):
                return Done({"path": f"{dest}/{job}", "files": 4})
            case ask.Shell(command="exit 3"):
                failed = {"exitCode": 3, "stdout": "", "stderr": "no", "seconds": 0.1}
                if command.allow_failure:
                    return Done(failed)
                return Raised(StepError("shell: exit code 3", kind="ShellFailed", fields=failed))
            case ask.Shell():
                return Done({"exitCode": 0, "stdout": "out\n", "stderr": "", "seconds": 0.1})
            case ask.StepBegin():
                return Unrecorded()
            case ask.StepEnd(error=error, value=value):
                return Raised(error) if error is not None else Done(value)
            case ask.Read(path=path, reader=reader, options=options):
                return self._read(path, reader, options)
            case ask.Write(path=path, content=content):
                self.files[path] = content
                return Done(None)
            case ask.Now():
                return Done(1700000000.25)
            case ask.Random(low=low):
                return Done(0.5 if low is None else low)
            case ask.Uuid():
                return Done("6f1c0a9e-0000-4000-8000-000000000000")
            case ask.Log(text=text):
                self.logged.append(text)
                return Done(None)
            case ask.Sleep():
                return Done(None)
        raise AssertionError(f"no answer to {command}")

    def _wait(self, command):
        jobs = []
        failed = []
        for job in command.jobs:
            tasks = self.jobs[job].tasks or []
            bad = [i for i, task in enumerate(tasks, 1) if task.params.get("fail")]
            failed += bad
            counts = {"succeeded": len(tasks) - len(bad), "failed": len(bad)}
            jobs.append({"id": job, "name": self.jobs[job].name, "count": len(tasks), "counts": counts})
        if failed and not command.allow_failures:
            message = f"wait: {len(failed)} tasks of {command.jobs[0]} failed"
            return Raised(StepError(message, kind="JobFailed", fields={"job": command.jobs[0], "failed": failed}))
        return Done({"jobs": jobs})

    def _read(self, path, reader, options):
        if reader == "exists":
            return Done(path in self.files)
        if path not in self.files:
            return Raised(StepError(f"{path}: no such file", kind="Usage", usage=True))
        data = self.files[path]
        try:
            if reader == "csv":
                return Done(rows.parse_csv(data, path, **options))
            if reader == "json":
                return Done(rows.parse_json(data, path))
        except RowsError as error:
            return Raised(StepError(str(error), kind="Usage", usage=True))
        try:
            return Done(data.decode())
        except UnicodeDecodeError:
            return Done(data)


def host_for(folder: Path, source, engine: FakeEngine, *, args=None, seed=7, **options):
    """A host for a script of the given text, called w.lua."""
    script = folder / "w.lua"
    script.write_bytes(source.encode() if isinstance(source, str) else source)
    options.setdefault("roots", [])
    options.setdefault("interrupted", lambda: False)
    return ScriptHost(script, shown_as="w.lua", args=args or {}, seed=seed, outcomes=engine.outcomes, **options)


def run(host: ScriptHost, engine: FakeEngine) -> Ended:
    """Drives a script to its end."""
    strand = host.start()
    answer = None
    while True:
        asked = host.resume(strand, answer)
        if isinstance(asked, Ended):
            return asked
        assert isinstance(asked, Asked)
        answer = engine.perform(asked.command)


def run_script(folder: Path, source, *, files=None, **options) -> tuple[Ended, FakeEngine]:
    """Runs a text to its end in a new engine."""
    engine = FakeEngine(files)
    return run(host_for(folder, source, engine, **options), engine), engine
