"""The script host: an engine.commands.Program whose strands are Lua coroutines. May import engine and below.

Every yield of a strand is (name, position, bytes ...) and becomes the Command of that name in `_COMMANDS`; an answer goes back as a plain
value or as bytes. Surprise: the meaning of a name is decided here and in the Lua files; api.py describes both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from sparkles.engine import commands as ask
from sparkles.engine.commands import Answer, Asked, Done, Ended, Raised, StepError, Unrecorded
from sparkles.errors import InternalError, RunCancelled, SpecError, UsageError
from sparkles.lua import drafts, parameters, writing
from sparkles.lua.marshal import as_list, from_lua, in_words, to_lua
from sparkles.lua.modules import Modules
from sparkles.lua.runtime import FOLDER, TEST_FILES, Runtime
from sparkles.lua.source import Sources, key_of
from sparkles.model import Json
from sparkles.suggest import nearest

MAX_MEMORY = 512 << 20
"""Bytes that a script may hold."""

_Maker = Callable[[str, Any, Any], ask.Command]
"""Makes a command of (position, packed arguments, further bytes)."""

# How an answer is handed to `resume`; prelude.lua knows the same numbers.
_NOTHING, _PLAIN, _PACKED, _RAISED, _RUN, _NO_MEMORY, _CARRIED = 0, 1, 2, 3, 4, 5, 7


class ScriptHost:
    """Runs a script for the strand loop."""

    def __init__(
        self,
        script: Path,
        *,
        shown_as: str,
        args: dict[str, str],
        seed: int,
        roots: Sequence[Path],
        interrupted: Callable[[], bool],
        outcomes: Callable[[str, int, int], list[dict[str, Json]]],
        max_memory: int = MAX_MEMORY,
    ) -> None:
        """
        Args:
            shown_as: How the script is called in positions.
            args: The `-p key=value` parameters.
            seed: Of math.random; the run's own, so that a replay draws the same.
            roots: Further folders in which `require` looks, in this order, after that of the script.
            interrupted: Asked about every millisecond while a script computes; true ends it.
            outcomes: (job, first index, limit) -> tasks as values; None fields are nil in Lua.
            max_memory: Bytes that the script may hold.
        """
        self._script = script
        self._shown_as = shown_as
        self._args = args
        self._seed = seed
        self._interrupted = interrupted
        self._outcomes = outcomes
        self._modules = Modules(script, shown_as, roots, [FOLDER / file for file in TEST_FILES])
        self._sources = Sources()
        self._asked: dict[int, bytes] = {}
        self._carried: set[int] = set()
        self._specs: dict[str, Any] = {}
        self._main = 0
        self._runtime = self._build(
            {
                "interrupted": interrupted,
                "nearest": self._nearest,
                "seed": self._seeds,
                "find_module": self._find_module,
                "function_source": self._function_source,
                "check_setter": self._check_setter,
                "check_row": self._check_row,
                "duration": self._duration,
                "typed_params": self._typed_params,
                "checked_params": self._checked_params,
                "outcomes": self._page,
                "item": in_words,
                "key": lambda content: key_of(content).encode(),
            },
            max_memory,
        )

    def _build(self, calls: dict[str, Callable[..., Any]], max_memory: int) -> Runtime:
        """The Lua state; `calls` are what its files may call."""
        return Runtime(calls, max_memory)

    def _maker(self, name: Any) -> _Maker | None:
        """What makes the command of a yield's name; None where it is no command."""
        return _COMMANDS.get(name)

    def start(self) -> int:
        """The strand of the script, compiled."""
        return self.compile()

    def compile(self) -> int:
        """Compiles the script, the first time that it is called. Raises WorkflowError where it does not compile or cannot be read."""
        if self._main:
            return self._main
        try:
            text = self._script.read_bytes()
        except OSError as error:
            raise UsageError(f"{self._shown_as}: {error.strerror}") from None
        if not self._runtime.room_for(len(text)):
            raise UsageError(f"{self._shown_as}: {len(text)} bytes are too many for a script")
        self._sources.add(self._shown_as, text)
        self._runtime.set_args(self._args)
        strand = self._runtime.spawn_script(text, self._shown_as)
        self.name(strand, "main")
        self._main = strand
        return strand

    def name(self, strand: int, label: str) -> None:
        """Tells what a strand is called, before its first `resume`: its math.random is seeded from that."""
        self._runtime.name(strand, label)

    def literals(self) -> set[str]:
        """The string literals of the script and of the modules that it has loaded so far."""
        return self._sources.literals()

    def holds(self, key: str) -> bool:
        """See Program."""
        return self._sources.holds(key.removeprefix("spawn:"))

    def cancel(self, strand: int) -> None:
        """The strand is not resumed any more."""
        self._runtime.drop(strand)

    def resume(self, strand: int, answer: Answer | None) -> Asked | Ended:
        """Runs a strand to its next command or its end."""
        how, value = self._encode(self._asked.get(strand, b""), answer)
        stopped = self._runtime.resume(strand, how, value)
        name = stopped if type(stopped) is bytes else stopped[0]
        make = self._maker(name)
        if make is not None:
            self._asked[strand] = name
            try:
                return Asked(strand, make(stopped[1].decode("utf-8", "surrogateescape"), stopped[2], stopped[3]))
            except UsageError as error:
                # What cannot be sent is the author's mistake, raised at the line that asked.
                return self.resume(strand, Raised(StepError(error.message, kind="Usage", usage=True)))
        if name == b"ended":
            return Ended(strand)
        if name == b"failed":
            if stopped[3]:
                self._carried.add(strand)
            return self._failed(strand, from_lua(stopped[2]))
        if name == b"latched" and self._runtime.failure is not None:
            failure, self._runtime.failure = self._runtime.failure, None
            raise failure
        raise RunCancelled("interrupted while the script was computing")

    def _encode(self, asked: bytes, answer: Answer | None) -> tuple[int, Any]:
        """How an answer is handed to Lua."""
        if answer is None:
            return _NOTHING, None
        if type(answer) is Done:
            value = answer.value
            kind = type(value)
            if kind is float or kind is bool:
                return _PLAIN, value
            if asked == b"readCsv":
                value = {"columns": list(value[0]) if value else [], "rows": value}
            elif value is None and asked not in _NULLABLE:
                return _PLAIN, None
            data = to_lua(value)
            how = _PACKED
        elif type(answer) is Raised:
            if answer.strand in self._carried:
                return _CARRIED, answer.strand
            data = to_lua(msgspec.structs.asdict(answer.error))
            how = _RAISED
        elif type(answer) is Unrecorded:
            return _RUN, None
        else:
            raise InternalError(f"a strand cannot be answered with a {type(answer).__name__}")
        if not self._runtime.room_for(len(data)):
            return _NO_MEMORY, None
        return how, data

    def _failed(self, strand: int, error: dict[str, Any]) -> Ended:
        return Ended(strand, _error(error), _text(error["position"]), _text(error["traceback"]))

    # What Lua calls: bytes in, bytes out.

    def _nearest(self, word: bytes, words: bytes) -> bytes | None:
        found = nearest(word.decode("utf-8", "replace"), words.decode("utf-8", "replace").split("\n"))
        return None if found is None else found.encode()

    def _seeds(self, label: bytes) -> tuple[int, ...]:
        drawn = hashlib.sha256(f"{self._seed}\n".encode() + label).digest()
        return tuple(int.from_bytes(drawn[i : i + 8], "big", signed=True) for i in range(0, 32, 8))

    def _find_module(self, name: bytes) -> tuple[bytes | None, ...]:
        found = self._modules.find(name.decode("ascii"))
        if isinstance(found, str):
            return (found.encode("utf-8", "surrogateescape"), None, None, None)
        key, shown, text = found
        self._sources.add(shown, text)
        return (None, key.encode("utf-8", "surrogateescape"), shown.encode("utf-8", "surrogateescape"), text)

    def _function_source(self, chunk: bytes, first: int, last: int) -> bytes | None:
        return self._sources.function(chunk, first, last)

    def _check_setter(self, setter: bytes, value: bytes) -> bytes | None:
        try:
            drafts.fields_of(setter.decode(), from_lua(value))
        except SpecError as error:
            return str(error).encode("utf-8", "surrogateescape")
        return None

    def _check_row(self, task: bytes) -> bytes | None:
        try:
            drafts.check_row(from_lua(task))
        except SpecError as error:
            return str(error).encode("utf-8", "surrogateescape")
        return None

    def _duration(self, value: bytes) -> tuple[float | None, bytes | None]:
        try:
            return drafts.duration(from_lua(value)), None
        except SpecError as error:
            return None, str(error).encode("utf-8", "surrogateescape")

    def _typed_params(self, specs: bytes) -> tuple[bytes | None, bytes | None]:
        self._specs = from_lua(specs)
        try:
            values, problems = parameters.typed(self._specs, self._args)
        except SpecError as error:
            return None, str(error).encode("utf-8", "surrogateescape")
        return (None, self._refused(problems)) if problems else (to_lua(values), None)

    def _checked_params(self, refused: bytes) -> bytes | None:
        """What `pattern` and `check` found wrong: name to sentence."""
        found = {name: _text(why) for name, why in (from_lua(refused) or {}).items()}
        try:
            problems = parameters.checked(self._specs, self._args, found)
        except SpecError as error:
            return str(error).encode("utf-8", "surrogateescape")
        return self._refused(problems) if problems else None

    def _refused(self, problems: list[parameters.Problem]) -> bytes:
        return parameters.sentence(problems).encode("utf-8", "surrogateescape")

    def _page(self, job: bytes, first: int, limit: int) -> bytes:
        tasks = self._outcomes(job.decode(), first, limit)
        return to_lua([{key: value for key, value in task.items() if value is not None} for task in tasks])


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("utf-8", "replace")


def _error(value: dict[str, Any]) -> StepError:
    return StepError(_text(value["message"]), value["kind"], value["fields"] or {}, value["usage"], value.get("step", 0))


_NULLABLE = {b"readJson"}  # whose null is a value; elsewhere None is nil


def _submit(position: str, sent: bytes, tasks: bytes | None) -> ask.Command:
    return ask.Submit(position=position, draft=drafts.job_draft(from_lua(sent), tasks))


def _wait(position: str, sent: bytes, _rest: None) -> ask.Command:
    value = from_lua(sent)
    timeout = value.get("timeout")
    return ask.Wait(
        position=position,
        jobs=tuple(as_list(value["jobs"])),
        allow_failures=value["allowFailures"],
        timeout_s=None if timeout is None else float(timeout),
    )


def _fetch(position: str, sent: bytes, _rest: None) -> ask.Command:
    value = from_lua(sent)
    return ask.Fetch(position=position, job=value["job"], dest=_path("fetch", value["dest"]))


def _step(position: str, sent: bytes, _rest: None) -> ask.Command:
    value = from_lua(sent)
    return ask.StepBegin(
        position=position, name=_text(value["name"]), args=as_list(value["args"]), source=_text(value["source"])
    )


def _step_end(position: str, sent: bytes, _rest: None) -> ask.Command:
    value = from_lua(sent)
    error = value.get("error")
    if error is None:
        return ask.StepEnd(position=position, value=value.get("value"))
    return ask.StepEnd(position=position, error=_error(error))


def _shell(position: str, sent: bytes, _rest: None) -> ask.Command:
    value = from_lua(sent)
    command = value["command"]
    timeout = value.get("timeout")
    return ask.Shell(
        position=position,
        command=command if isinstance(command, str) else tuple(as_list(command)),
        env=value.get("env") or {},
        timeout_s=None if timeout is None else float(timeout),
        allow_failure=value["allowFailure"],
    )


def _read(name: str, reader: str) -> _Maker:
    def make(position: str, sent: bytes, _rest: None) -> ask.Command:
        value = from_lua(sent)
        return ask.Read(position=position, reader=reader, path=_path(name, value["path"]), options=value.get("options") or {})

    return make


def _write_csv(position: str, sent: bytes, rows: bytes) -> ask.Command:
    value = from_lua(sent)
    path = _path("writeCsv", value["path"])
    content = writing.csv_bytes(as_list(from_lua(rows)), path, value)
    return ask.Write(position=position, writer="csv", path=path, content=content)


def _write_json(position: str, sent: bytes, packed: bytes) -> ask.Command:
    value = from_lua(sent)
    content = writing.json_bytes(from_lua(packed), value["indent"])
    return ask.Write(position=position, writer="json", path=_path("writeJson", value["path"]), content=content)


def _write_text(position: str, sent: bytes, text: bytes) -> ask.Command:
    return ask.Write(position=position, writer="text", path=_path("writeText", from_lua(sent)["path"]), content=text)


def _parallel(position: str, sent: bytes, _rest: None) -> ask.Command:
    value = from_lua(sent)
    found = as_list(value["children"])
    children = tuple(ask.Child(each["strand"], _text(each["key"]), _text(each.get("text", ""))) for each in found)
    return ask.Parallel(position=position, children=children, limit=value.get("limit"))


def _spawn(position: str, sent: bytes, _rest: None) -> ask.Command:
    value = from_lua(sent)
    return ask.Spawn(position=position, child=ask.Child(value["strand"], _text(value["key"])))


def _path(name: str, value: str | bytes) -> str:
    text = value if isinstance(value, str) else value.decode("utf-8", "surrogateescape")
    if not text or "\0" in text:
        raise SpecError(f"{name}: {'dest' if name == 'fetch' else 'path'}: expected a path, got {drafts.shown(value)}")
    return text


def _random(position: str, sent: bytes | None, _rest: None) -> ask.Command:
    value = {} if sent is None else from_lua(sent)
    return ask.Random(position=position, low=value.get("low"), high=value.get("high"))


def _log(position: str, text: bytes, _rest: None) -> ask.Command:
    return ask.Log(position=position, text=text.decode("utf-8", "replace"))


_COMMANDS: dict[Any, _Maker] = {
    b"submit": _submit,
    b"wait": _wait,
    b"fetch": _fetch,
    b"step": _step,
    b"stepEnd": _step_end,
    b"shell": _shell,
    b"readCsv": _read("readCsv", "csv"),
    b"readJson": _read("readJson", "json"),
    b"readText": _read("readText", "text"),
    b"fileExists": _read("fileExists", "exists"),
    b"writeCsv": _write_csv,
    b"writeJson": _write_json,
    b"writeText": _write_text,
    b"now": lambda position, _sent, _rest: ask.Now(position=position),
    b"random": _random,
    b"uuid": lambda position, _sent, _rest: ask.Uuid(position=position),
    b"sleep": lambda position, sent, _rest: ask.Sleep(position=position, seconds=float(from_lua(sent))),
    b"parallel": _parallel,
    b"spawn": _spawn,
    b"await": lambda position, sent, _rest: ask.Await(position=position, strand=int(from_lua(sent))),
    b"log": _log,
    b"print": _log,
}
