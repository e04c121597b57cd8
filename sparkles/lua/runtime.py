"""Builds the sandboxed Lua runtime: its memory limit, the Lua files of the host, and the few calls that they may make into Python.

May import engine and below. A call into Python that fails must not be caught by a script's `pcall`: the failure is kept here
(`Runtime.failure`), Lua gets an error that passes through everything, and the host raises what was kept. Surprise: bytes are never
handed to Lua beyond the limit, because the binding's own allocations are not protected: running out of memory there ends the process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lupa import lua54

from sparkles.errors import WorkflowError
from sparkles.lua import api
from sparkles.lua.marshal import to_lua

FOLDER = Path(__file__).resolve().parent
FILES = ("pack.lua", "hints.lua", "prelude.lua", "sandbox.lua", "check.lua", "objects.lua", "strands.lua", "functions.lua")
"""The host's own Lua files, in the order in which they build on each other; `require` does not find them."""

TEST_FILES = (*FILES[:-1], "testing.lua", FILES[-1])
"""The same for a test file, which has functions of its own (test_api.py)."""

RESERVE = 64 << 20
"""Bytes above the script's limit in which the host itself works, so that its own allocations do not fail."""

_BOOTSTRAP = b"""
local null = setmetatable({}, {})
local H = { py = {}, null = null, args = {}, class_of = setmetatable({}, { __mode = "k" }), lazy_lists = setmetatable({}, { __mode = "k" }),
  is_empty_list = setmetatable({}, { __mode = "k" }), protected = setmetatable({}, { __mode = "k" }) }
local compile = load
return H, H.py, function(text, ...) return assert(compile(text, "=[sparkles]", "t"))(...) end,
  function() collectgarbage() collectgarbage() end
"""


def _refuse(_owner: object, name: object, _setting: bool) -> str:
    raise AttributeError(f"Python objects have no attributes in Lua (asked for {name!r})")


class Runtime:
    """One Lua state with the host's files loaded."""

    def __init__(
        self,
        calls: dict[str, Callable[..., Any]],
        max_memory: int,
        files: Sequence[str] = FILES,
        checks: dict[str, Any] | None = None,
    ) -> None:
        """
        Args:
            calls: The functions that Lua may call by name; they get and return bytes, numbers, booleans or None.
            files: The host's Lua files.
            checks: What they declare; by default that of api.py.
        """
        self.max_memory = max_memory
        self.failure: BaseException | None = None
        self._lua = lua54.LuaRuntime(
            encoding=None,
            register_eval=False,
            register_builtins=False,
            unpack_returned_tuples=True,
            attribute_filter=_refuse,
            max_memory=max_memory + RESERVE,
        )
        host, helpers, load, self._collect = self._lua.execute(_BOOTSTRAP)
        for name, function in calls.items():
            helpers[name.encode()] = self._guarded(function)
        host[b"memory_mib"] = max_memory >> 20
        host[b"soft_kib"] = max_memory >> 10
        load((FOLDER / files[0]).read_bytes(), host)
        host[b"api"] = host[b"unpack"](to_lua(api.checks() if checks is None else checks))
        for file in files[1:]:
            load((FOLDER / file).read_bytes(), host)
        self._host = host
        self.resume: Callable[..., Any] = host[b"resume"]

    def _guarded(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Returns (true, results ...) to Lua, or false after keeping the failure."""

        def call(*args: Any) -> Any:
            try:
                result = function(*args)
                if not self._fits(result):
                    raise WorkflowError(f"the script uses more than its {self.max_memory >> 20} MiB of memory")
            except BaseException as error:  # a KeyboardInterrupt, too, must not end up in a script's pcall
                if self.failure is None:
                    self.failure = error
                return False
            if type(result) is tuple:
                return (True, *result)
            return True, result

        return call

    def _fits(self, result: object) -> bool:
        """Whether what a call returns can be handed over without reaching the hard limit; collects nothing, since Lua is running."""
        items = result if type(result) is tuple else (result,)
        size = sum(len(item) for item in items if type(item) is bytes)
        return bool(self._lua.get_memory_used() + size * 2 < self.max_memory + RESERVE)

    def room_for(self, size: int) -> bool:
        """Whether `size` bytes, and some made from them, fit under the script's limit; collects garbage to find room.

        Not to be called while Lua is running. The values that Lua makes from the bytes are its own affair: it may refuse them.
        """
        need = size * 2
        if self._lua.get_memory_used() + need <= self.max_memory:
            return True
        self._collect()
        return bool(self._lua.get_memory_used() + need <= self.max_memory)

    def set_args(self, args: dict[str, str]) -> None:
        """Fills the script's `args`."""
        values = self._host[b"args"]
        for key, value in args.items():
            values[key.encode("utf-8", "surrogateescape")] = value.encode("utf-8", "surrogateescape")

    def spawn_script(self, text: bytes, shown_as: str) -> int:
        """Compiles a script as a strand. Raises WorkflowError with the position of a syntax error."""
        compiled = self._host[b"compile"](text, shown_as.encode("utf-8", "surrogateescape"))
        if isinstance(compiled, tuple):
            _, position, message = compiled
            raise WorkflowError(message.decode("utf-8", "replace"), position.decode("utf-8", "surrogateescape"))
        strand: int = self._host[b"spawn"](compiled)
        return strand

    def name(self, strand: int, label: str) -> None:
        """Seeds a strand's math.random by its label."""
        self._host[b"name_strand"](strand, label.encode("utf-8", "surrogateescape"))

    def drop(self, strand: int) -> None:
        """Lets go of a strand that will not be resumed."""
        self._host[b"drop"](strand)
