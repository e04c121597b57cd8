"""What stands in for a run's session in a workflow's test: every command is answered from stubs and memory. May import ports and below.

`strands.run_strands` drives it as it drives a session, so a test runs the workflow's own control flow, strands included. Jobs are built
as they are for real (templates, inputs, rules), then the test says what became of their tasks. Time is virtual: where every strand
waits, the clock jumps to when the first one wakes up. Nothing is stored.
"""

from __future__ import annotations

import collections
import random
import uuid
from collections.abc import Callable, Iterable
from typing import Any

from sparkles import digest, rows
from sparkles.engine import commands as ask
from sparkles.engine import jobs
from sparkles.engine.commands import Answer, Done, Pending, Raised, StepError, Unrecorded, refused
from sparkles.engine.fetching import row_of
from sparkles.engine.journal import Asking, Journal
from sparkles.engine.monitor import sentence_of
from sparkles.engine.outputs import compile_glob
from sparkles.engine.reading import parsed
from sparkles.engine.stub_files import StubFiles
from sparkles.errors import InternalError, RowsError, UsageError
from sparkles.model import Counts, Digest, FailureClass, JobSpec, Json, StepKey
from sparkles.ports import FailureGroup

Ask = Callable[[str, dict[str, Json]], dict[str, Json]]
"""Asks the test: ("submit" | "shell" | "step", what) -> its stub's answer. Raises where the test has ended or failed meanwhile.

submit: the job -> {"tasks": [{state, exitCode, class, reason, results, outputs {name: text}, seconds}]}, one a task;
shell: {"command"} -> {"exitCode", "stdout", "stderr"}; step: {"name", "args"} -> {"value"}, or {} where its function is to run."""


class StubTime:
    """A clock that jumps, and the notifier that makes it jump (ports.Clock, ports.Notifier)."""

    def __init__(self, began_s: float) -> None:
        self._began_ms = round(began_s * 1000)
        self._passed_s = 0.0
        self._wakes: list[float] = []

    def now_ms(self) -> int:
        """See ports.Clock."""
        return self._began_ms + round(self._passed_s * 1000)

    def monotonic(self) -> float:
        """See ports.Clock."""
        return self._passed_s

    def sleep(self, seconds: float) -> None:
        """See ports.Clock."""
        self._passed_s += max(seconds, 0.0)

    def notify(self) -> None:
        """See ports.Notifier."""

    def wait(self, timeout_s: float) -> bool:
        """Jumps to the next time that somebody waits for, however far it is."""
        self._passed_s = max(self._passed_s, min(self._wakes, default=self._passed_s + timeout_s))
        return False

    def fileno(self) -> int:
        """See ports.Notifier."""
        return -1

    def close(self) -> None:
        """See ports.Notifier."""

    def wake_at(self, until: float) -> None:
        """Somebody waits for that time."""
        self._wakes.append(until)

    def forget(self, until: float) -> None:
        """Undoes `wake_at`."""
        self._wakes.remove(until)


class NoJournal(Journal):
    """A journal that remembers nothing: every step is asked for the first time."""

    def __init__(self) -> None:
        self.recorded_steps = 0

    def ask(self, strand: str, kind: str, arguments: Json, position: str, *, begun: bool = False) -> Asking:
        """Finds nothing."""
        return Asking(StepKey(strand, kind, Digest(""), 1), "", position, None)

    def start(self, asking: Asking, value: Json = None) -> None:
        """Does nothing."""

    def finish(self, asking: Asking, value: Json, *, error: bool = False) -> None:
        """Does nothing."""

    def failed(self, key: StepKey) -> None:
        """Does nothing."""

    def went_on(self, strand: str) -> None:
        """Does nothing."""

    def hand_over(self, strand: str, other: str) -> None:
        """Does nothing."""


class StubWait:
    """A wait for a time (commands.Pending): a sleep, or the time limit of a wait for a job that does not end."""

    def __init__(self, time: StubTime, seconds: float, answer: Answer) -> None:
        self._time = time
        self._until = time.monotonic() + max(seconds, 0.0)
        self._answer = answer
        time.wake_at(self._until)

    def poll(self) -> Done | Raised | None:
        """See commands.Pending."""
        if self._time.monotonic() < self._until:
            return None
        self._time.forget(self._until)
        return self._answer if not isinstance(self._answer, Unrecorded) else None

    def due(self) -> float:
        """See commands.Pending."""
        return self._until

    def stop(self) -> None:
        """The strand is cancelled."""
        self._time.forget(self._until)


class StubSession:
    """Answers commands (strands.Performer); what happened can be read from it afterwards."""

    def __init__(self, ask_test: Ask, files: StubFiles, time: StubTime, seed: int) -> None:
        self.journal: Journal = NoJournal()
        self.logs: list[str] = []
        self.shells: list[str] = []
        self.files = files
        self._ask = ask_test
        self._time = time
        self._seed = seed
        self._chance: dict[str, random.Random] = {}
        self._jobs: dict[str, tuple[str, list[dict[str, Json]]]] = {}
        self._contents: dict[tuple[str, int, str], bytes] = {}
        self._steps: dict[type[ask.Command], Callable[[str, Any], Answer | Pending]] = {
            ask.Submit: self._submit,
            ask.Wait: self._wait,
            ask.Fetch: self._fetch,
            ask.Shell: self._shell,
            ask.StepBegin: self._step_begin,
            ask.StepEnd: self._step_end,
            ask.Read: self._read,
            ask.Write: self._write,
            ask.Now: lambda _strand, _command: Done(self._time.now_ms() / 1000),
            ask.Random: self._random,
            ask.Uuid: lambda strand, _command: Done(str(uuid.UUID(int=self._draws(strand).getrandbits(128), version=4))),
            ask.Sleep: self._sleep,
            ask.Log: self._log,
        }

    def begin(self, strand: str, command: ask.Command) -> Answer | Pending:
        """See `Session.begin`."""
        perform = self._steps.get(type(command))
        if perform is None:
            raise InternalError(f"no stub is made for {type(command).__name__}")
        return perform(strand, command)

    def keyed(self, strand: str, command: ask.Command) -> tuple[str, Json] | None:
        """See strands.Performer: nothing is recorded, so nobody needs to know."""
        return None

    def outcomes(self, job_id: str, first: int, limit: int) -> list[dict[str, Json]]:
        """A page of a job's tasks, as `engine.results.page` gives it."""
        return self._jobs[job_id][1][first - 1 : first - 1 + limit]

    # Jobs

    def _submit(self, _strand: str, command: ask.Submit) -> Answer:
        try:
            built = jobs.build(command.draft, self.files)
        except UsageError as error:
            return refused(error, "submit")
        job_id = f"{built.spec.name}-{len(self._jobs) + 1}"
        tasks: list[Json] = [
            {
                "index": index,
                "params": task.params,
                "command": task.command if isinstance(task.command, str) else list(task.command),
                "files": [{"dst": file.dst, "src": file.src} for file in task.files],
                "env": {**built.spec.env, **task.env},
                "name": task.name,
            }
            for index, task in enumerate(built.tasks, 1)
        ]
        outputs = [each.pattern for each in built.spec.outputs]
        job: dict[str, Json] = {"id": job_id, "name": built.spec.name, "tasks": tasks, "outputs": outputs}
        answers = self._ask("submit", {**job, "position": command.position})["tasks"]
        for index, given in enumerate(answers, 1):
            _check_outputs(built.spec.name, outputs, index, given.get("outputs") or {})
        found = [
            self._outcome(job_id, index, task.params, task.name, given)
            for index, (task, given) in enumerate(zip(built.tasks, answers, strict=True), 1)
        ]
        for task in found:
            if task["state"] == "succeeded":
                _check_required(built.spec, task["index"], task["outputs"])
        self._jobs[job_id] = (built.spec.name, found)
        return Done({"id": job_id, "name": built.spec.name, "count": len(found)})

    def _outcome(self, job_id: str, index: int, params: Json, name: str, given: dict[str, Json]) -> dict[str, Json]:
        code = given.get("exitCode")
        state = given.get("state") or ("failed" if code or given.get("class") else "succeeded")
        failed = state == "failed"
        if failed and code is None and given.get("class") in (None, "exit"):
            code = 1
        elif state == "succeeded":
            code = 0
        kind = given.get("class") or ("exit" if failed else "cancelled" if state == "cancelled" else None)
        reason = given.get("reason") or (f"exit code {code}" if failed and kind == "exit" else kind)
        ran = state in ("succeeded", "failed")
        outputs = {}
        for each, text in (given.get("outputs") or {}).items():
            content = self._contents[job_id, index, each] = _bytes(text)
            artifact = {"job": job_id, "index": index, "name": each, "digest": digest.of_bytes(content), "size": len(content)}
            outputs[each] = artifact
        return {
            "index": index,
            "name": name or None,
            "params": params,
            "state": state,
            "class": kind,
            "exitCode": code,
            "signal": None,
            "reason": reason,
            "results": given.get("results"),
            "outputs": outputs,
            "attempts": 1 if ran else 0,
            "seconds": given.get("seconds", 1.0) if ran else None,
            "cpuSeconds": given.get("seconds", 1.0) if ran else None,
            "peakMemory": 1 << 20 if ran else None,
            "reusedFrom": None,
        }

    def _wait(self, _strand: str, command: ask.Wait) -> Answer | Pending:
        if any(task["state"] == "pending" for job_id in command.jobs for task in self._jobs[job_id][1]):
            open_jobs = ", ".join(command.jobs)
            if command.timeout_s is None:
                message = f"wait: {open_jobs}: a stub leaves tasks pending, and a wait without timeout would not end"
                return refused(UsageError(message))
            message = f"wait: {open_jobs} did not end within {command.timeout_s:g} s"
            expired = StepError(message, kind="WaitTimeout", fields={"job": command.jobs[0]})
            return StubWait(self._time, command.timeout_s, Raised(expired))
        bad = [job_id for job_id in command.jobs if _failed(self._jobs[job_id][1])]
        if bad and not command.allow_failures:
            failed = [task["index"] for task in self._jobs[bad[0]][1] if task["state"] == "failed"][:10]
            message = "; ".join(_sentence(job_id, self._jobs[job_id][1]) for job_id in bad)
            return Raised(StepError(message, kind="JobFailed", fields={"job": bad[0], "failed": failed}))
        return Done({"jobs": [self._ended(job_id) for job_id in command.jobs]})

    def _ended(self, job_id: str) -> dict[str, Json]:
        name, tasks = self._jobs[job_id]
        return {"id": job_id, "name": name, "count": len(tasks), "counts": _counts(tasks).by_state()}

    def _fetch(self, _strand: str, command: ask.Fetch) -> Answer:
        tasks = self._jobs[command.job][1]
        files = {f"{index}/{name}": text for (job, index, name), text in self._contents.items() if job == command.job}
        for task in tasks:
            if task["results"] is not None:
                files[f"{task['index']}/results.json"] = digest.canonical(task["results"]).encode()
        table = [row_of(task["index"], task["state"], task["exitCode"], task["params"]) for task in tasks]
        files["tasks.csv"] = rows.format_csv(table)
        for path, content in files.items():
            self.files.bring(f"{command.dest}/{path}", content)
        return Done({"path": command.dest, "files": len(files)})

    # The others

    def _shell(self, _strand: str, command: ask.Shell) -> Answer:
        text = command.command if isinstance(command.command, str) else " ".join(command.command)
        self.shells.append(text)
        given = self._ask("shell", {"command": text, "position": command.position})
        value: dict[str, Json] = {
            "exitCode": given.get("exitCode", 0),
            "stdout": given.get("stdout", ""),
            "stderr": given.get("stderr", ""),
        }
        if value["exitCode"] == 0 or command.allow_failure:
            return Done({**value, "seconds": 0.1})
        message = f"shell: `{text[:200]}`: exit code {value['exitCode']}"
        return Raised(StepError(message, kind="ShellFailed", fields=value))

    def _step_begin(self, _strand: str, command: ask.StepBegin) -> Answer:
        given = self._ask("step", {"name": command.name, "args": command.args})
        return Done(given["value"]) if "value" in given else Unrecorded()

    def _step_end(self, _strand: str, command: ask.StepEnd) -> Answer:
        return Done(command.value) if command.error is None else Raised(command.error)

    def _read(self, _strand: str, command: ask.Read) -> Answer:
        if command.reader == "exists":
            return Done(self.files.exists(command.path))
        try:
            return Done(parsed(self.files.read(command.path), command))
        except (RowsError, UsageError) as error:
            return refused(error)

    def _write(self, _strand: str, command: ask.Write) -> Answer:
        self.files.write(command.path, command.content)
        return Done(None)

    def _random(self, strand: str, command: ask.Random) -> Answer:
        draws = self._draws(strand)
        if command.low is None or command.high is None:
            return Done(draws.random())
        return Done(draws.randint(command.low, command.high))

    def _draws(self, strand: str) -> random.Random:
        """A strand's own chance, so that its draws do not depend on when the others draw."""
        if strand not in self._chance:
            self._chance[strand] = random.Random(f"{self._seed}/{strand}")  # noqa: S311 - repeats on purpose
        return self._chance[strand]

    def _sleep(self, _strand: str, command: ask.Sleep) -> StubWait:
        return StubWait(self._time, command.seconds, Done(None))

    def _log(self, _strand: str, command: ask.Log) -> Answer:
        self.logs.append(command.text)
        return Done(None)


def _check_outputs(job: str, patterns: list[str], index: int, given: Iterable[str]) -> None:
    """Raises UsageError where a stub gives an output that no real task of the job could leave."""
    for name in given:
        if name not in patterns and not any(compile_glob(pattern).fullmatch(name) for pattern in patterns):
            listed = ", ".join(f"'{pattern}'" for pattern in patterns)
            kept = f"setOutputs has {listed}" if patterns else "it has no setOutputs"
            raise UsageError(
                f"onSubmit gives task {index} of the job '{job}' the output '{name}', which the job does not keep: {kept}"
            )


def _check_required(spec: JobSpec, index: int, given: Iterable[str]) -> None:
    """Raises UsageError where a stub lets a task succeed without an output that it has to leave."""
    names = list(given)
    for output in spec.outputs:
        if output.required and not any(
            name == output.pattern or compile_glob(output.pattern).fullmatch(name) for name in names
        ):
            found = f"gives {', '.join(repr(name) for name in names)}" if names else "gives none"
            raise UsageError(
                f"onSubmit lets task {index} of the job '{spec.name}' succeed without its required output '{output.pattern}' ({found}):"
                ' add it to the outcome\'s outputs, or let the task fail with class = "output"'
            )


def _failed(tasks: list[dict[str, Json]]) -> bool:
    return any(task["state"] in ("failed", "cancelled") for task in tasks)


def _sentence(job_id: str, tasks: list[dict[str, Json]]) -> str:
    groups: dict[tuple[str, int | None], list[int]] = {}
    for task in tasks:
        if task["state"] == "failed":
            groups.setdefault((task["class"], task["exitCode"]), []).append(task["index"])
    found = [FailureGroup(FailureClass(kind), code, len(each), each[0]) for (kind, code), each in groups.items()]
    found.sort(key=lambda group: -group.count)
    return sentence_of(job_id, _counts(tasks), found, lambda index: tasks[index - 1]["reason"] or "")


def _counts(tasks: list[dict[str, Json]]) -> Counts:
    return Counts(**collections.Counter(task["state"] for task in tasks))


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")
