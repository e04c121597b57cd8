"""Runs the tests of a test file: a script host whose script may run workflows, each in a host of its own. May import engine and below.

The test's strand stands at its `runWorkflow` while the workflow runs; what the workflow asks of a stub resumes the test's strand with the
question, until it yields the answer. Surprise: a stub that raises an error ends the test, or leads it elsewhere; then the workflow
is left where it is (`_Left`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from sparkles import rows
from sparkles.engine import commands as ask
from sparkles.engine.commands import Answer, Asked, Done, Ended, Raised, StepError
from sparkles.engine.strands import run_strands
from sparkles.engine.stub_files import StubFiles
from sparkles.engine.stubs import StubSession, StubTime
from sparkles.errors import InternalError, RowsError, UsageError, WorkflowError
from sparkles.lua import test_api
from sparkles.lua.host import ScriptHost
from sparkles.lua.marshal import from_lua, to_lua
from sparkles.lua.runtime import TEST_FILES, Runtime
from sparkles.model import Json


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How a test went. `error` is empty where it passed; `name` is empty where the file itself could not be used."""

    file: str
    name: str
    position: str
    seconds: float
    error: str = ""
    at: str = ""
    traceback: str = ""
    talk: tuple[str, ...] = ()


class _Test(msgspec.Struct, frozen=True):
    """A test that the file declared."""

    name: str
    strand: int
    position: str


class _Declare(ask.Command, frozen=True, kw_only=True):
    """`test(name, fn)` -> None."""

    name: str
    strand: int


class _Run(ask.Command, frozen=True, kw_only=True):
    """`runWorkflow` -> {"ask", "about"}: a question to a stub, or what the workflow did."""

    workflow: str
    args: dict[str, str]
    now: float
    seed: int
    files: dict[str, bytes]


class _Stub(ask.Command, frozen=True, kw_only=True):
    """The answer of a stub -> as _Run."""

    answer: dict[str, Json]


class _Left(Exception):
    """The test's strand did not answer a question; `stopped` is where it stands instead."""

    def __init__(self, stopped: Asked | Ended) -> None:
        super().__init__()
        self.stopped = stopped


def _declare(position: str, sent: bytes, _rest: None) -> ask.Command:
    value = from_lua(sent)
    return _Declare(position=position, name=_text(value["name"]), strand=value["strand"])


def _run(position: str, sent: bytes, _rest: None) -> ask.Command:
    value = from_lua(sent)
    return _Run(
        position=position,
        workflow=_text(value["workflow"]),
        args={name: _text(text) for name, text in value["args"].items()},
        now=float(value["now"]),
        seed=value["seed"],
        files={path: text.encode() if isinstance(text, str) else text for path, text in value["files"].items()},
    )


def _stub(position: str, sent: bytes, _rest: None) -> ask.Command:
    return _Stub(position=position, answer=from_lua(sent))


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("utf-8", "surrogateescape")


_MAKERS: dict[Any, Callable[[str, Any, Any], ask.Command]] = {b"test": _declare, b"runWorkflow": _run, b"stub": _stub}


class SuiteHost(ScriptHost):
    """A script host for a test file."""

    def _build(self, calls: dict[str, Callable[..., Any]], max_memory: int) -> Runtime:
        return Runtime({**calls, "parse": _parse}, max_memory, TEST_FILES, test_api.checks())

    def _maker(self, name: Any) -> Callable[[str, Any, Any], ask.Command] | None:
        return _MAKERS.get(name) or super()._maker(name)


def _parse(reader: bytes, path: bytes, content: bytes) -> tuple[bytes | None, bytes | None]:
    """What a workflow wrote, for writtenCsv and writtenJson: the value or the problem."""
    shown = path.decode("utf-8", "replace")
    try:
        return to_lua(rows.parse_csv(content, shown) if reader == b"csv" else rows.parse_json(content, shown)), None
    except (RowsError, UsageError) as error:
        return None, str(error).encode("utf-8", "replace")


class Suite:
    """The tests of one file."""

    def __init__(
        self,
        file: Path,
        shown_as: str,
        *,
        root: Path,
        find: Callable[[str, Path], tuple[Path, str]],
        roots: Callable[[Path], Sequence[Path]],
    ) -> None:
        """
        Args:
            root: The project's folder: where a workflow's relative paths start.
            find: (what `runWorkflow` names, the test file's folder) -> its file and how it is shown; raises UsageError.
            roots: Where `require` looks from a script.
        """
        self._file = file
        self._shown_as = shown_as
        self._root = root
        self._find = find
        self._roots = roots
        self._tests: list[_Test] = []
        self._talk: list[str] = []
        self._reads = StubSession(_no_stub, StubFiles({}, [file.parent]), StubTime(0), 0)
        self._host = SuiteHost(
            file,
            shown_as=shown_as,
            args={},
            seed=1,
            roots=roots(file),
            interrupted=lambda: False,
            outcomes=lambda *_: [],
        )

    def run(self, wanted: Callable[[str], bool]) -> Iterator[Outcome]:
        """Runs the tests whose name is wanted, in order; one outcome without a name where the file cannot be used."""
        began = time.perf_counter()
        try:
            ended = self._drive(self._host.start())
        except (UsageError, WorkflowError) as error:
            position = getattr(error, "position", "")
            ended = Ended(0, StepError(getattr(error, "message", str(error)), usage=True), position)
        if ended.error is None and not self._tests:
            ended = Ended(
                0, StepError('declares no tests; test("what holds", function() ... end) declares one'), self._shown_as
            )
        if ended.error is not None:
            yield self._outcome("", self._shown_as, ended, began)
            return
        for test in self._tests:
            if wanted(test.name):
                began = time.perf_counter()
                self._talk = []
                # Chance by the name: a test draws the same, whichever others run.
                self._host.name(test.strand, f"test/{test.name}")
                yield self._outcome(test.name, test.position, self._drive(test.strand), began)

    def _outcome(self, name: str, position: str, ended: Ended, began: float) -> Outcome:
        return Outcome(
            file=self._shown_as,
            name=name,
            position=position,
            seconds=time.perf_counter() - began,
            error=ended.error.message if ended.error is not None else "",
            at=ended.position,
            traceback=ended.traceback,
            talk=tuple(self._talk),
        )

    # The test's strand

    def _drive(self, strand: int) -> Ended:
        stopped = self._resume(strand, None)
        while isinstance(stopped, Asked):
            stopped = self._perform(stopped)
        return stopped

    def _resume(self, strand: int, answer: Answer | None) -> Asked | Ended:
        """Runs the strand to its next command that is not a log line."""
        stopped = self._host.resume(strand, answer)
        while isinstance(stopped, Asked) and isinstance(stopped.command, ask.Log):
            self._talk.append(stopped.command.text)
            stopped = self._host.resume(strand, Done())
        return stopped

    def _perform(self, asked: Asked) -> Asked | Ended:
        command = asked.command
        if isinstance(command, _Declare):
            self._tests.append(_Test(command.name, command.strand, command.position))
            return self._resume(asked.strand, Done())
        if isinstance(command, ask.Read):
            answer = self._reads.begin("test", command)
            if not isinstance(answer, Done | Raised):
                raise InternalError("a read in a test file was not answered at once")
            return self._resume(asked.strand, answer)
        if isinstance(command, _Run):
            try:
                answer = Done(self._run_workflow(asked.strand, command))
            except _Left as left:
                return left.stopped
            except UsageError as error:
                answer = Raised(StepError(f"runWorkflow: {error}", kind="Usage", usage=True))
            return self._resume(asked.strand, answer)
        raise InternalError(f"a test file cannot ask for {type(command).__name__}")

    def _ask(self, strand: int, question: str, about: dict[str, Json]) -> dict[str, Json]:
        stopped = self._resume(strand, Done({"ask": question, "about": about}))
        if isinstance(stopped, Asked) and isinstance(stopped.command, _Stub):
            return stopped.command.answer
        raise _Left(stopped)

    # The workflow

    def _run_workflow(self, strand: int, command: _Run) -> dict[str, Json]:
        script, shown = self._find(command.workflow, self._file.parent)
        clock = StubTime(command.now)
        files = StubFiles(command.files, [self._root, script.parent])
        session = StubSession(lambda question, about: self._ask(strand, question, about), files, clock, command.seed)
        program = ScriptHost(
            script,
            shown_as=shown,
            args=command.args,
            seed=command.seed,
            roots=self._roots(script),
            interrupted=lambda: False,
            outcomes=session.outcomes,
        )
        try:
            ended = run_strands(program, session, clock, clock, lambda: None)
        except WorkflowError as error:
            ended = Ended(0, StepError(error.message, kind="Usage", usage=True), error.position)
        did: dict[str, Json] = {
            "ok": ended.error is None,
            "logs": session.logs,
            "written": files.written,
            "shells": session.shells,
            "slept": clock.monotonic(),
        }
        if ended.error is not None:
            position = str(ended.error.fields.get("position") or ended.position)
            did["failed"] = f"{position}: {ended.error.message}" if position else ended.error.message
            did["kind"] = ended.error.kind
        return did


def _no_stub(question: str, about: dict[str, Json]) -> dict[str, Json]:
    raise InternalError(f"a test file asked for a {question}")


def is_test(path: Path) -> bool:
    """Whether a file holds tests, by its name."""
    return path.name.endswith("_test.lua")


def find_tests(words: Sequence[Path]) -> list[Path]:
    """The test files that are named or lie below the named folders, sorted; folders of tools and state are left out.

    Raises UsageError where a path is not there or is not a test file.
    """
    found: dict[Path, None] = {}
    for word in words:
        if word.is_dir():
            below = [path for path in word.rglob("*_test.lua") if path.is_file() and not _is_hidden(path.relative_to(word))]
            found.update(dict.fromkeys(sorted(below)))
        elif not word.is_file():
            raise UsageError(f"{word}: no such file or folder")
        elif not is_test(word):
            raise UsageError(f"{word}: not a test file: its name does not end in _test.lua")
        else:
            found[word] = None
    return list(found)


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") or part in ("node_modules", "__pycache__") for part in path.parts)
