"""The source of a Lua function without comments and white space, by which `step` is keyed. Pure; imports nothing of sparkles.

Lua tells on which lines a function begins and ends. Where several functions begin and end on the same lines, their text counts together:
editing one of them runs the others' steps again, and never the reverse.
"""

from __future__ import annotations

import hashlib
import re

_TOKEN = re.compile(
    rb"""
    (?P<space>[ \t\r\n\f\v]+)
  | (?P<comment>--\[(?P<c>=*)\[.*?\](?P=c)\] | --[^\n]*)
  | (?P<long>\[(?P<l>=*)\[.*?\](?P=l)\])
  | (?P<text>"(?:\\.|[^"\\])*" | '(?:\\.|[^'\\])*')
  | (?P<word>[A-Za-z_][A-Za-z0-9_]*)
  | (?P<number>0[xX][0-9a-fA-F.]+(?:[pP][+-]?[0-9]+)? | [0-9]*\.?[0-9]+\.?[0-9]*(?:[eE][+-]?[0-9]+)?)
  | (?P<other>\.\.\.|\.\.|==|~=|<=|>=|//|::|<<|>>|.)
    """,
    re.VERBOSE | re.DOTALL,
)
_OPENS = {b"function", b"do", b"then", b"repeat"}
_CLOSES = {b"end", b"until"}


def tokens(source: bytes) -> list[tuple[bytes, int]]:
    """The tokens of a text that Lua has accepted, each with its line, comments and white space left out."""
    found: list[tuple[bytes, int]] = []
    line = 1
    for match in _TOKEN.finditer(source):
        if match.lastgroup not in ("space", "comment", "c"):
            found.append((match[0], line))
        line += match[0].count(b"\n")
    return found


def function_source(source: bytes, first: int, last: int) -> str:
    """The tokens of the functions that begin at line `first` and end at line `last`, joined by single spaces."""
    return _text(tokens(source), first, last)


def function_sources(source: bytes) -> set[str]:
    """The text by which each function of a script is known."""
    everything = tokens(source)
    begins = [i for i, (token, _) in enumerate(everything) if token == b"function"]
    lines = {(everything[i][1], everything[_end_of(everything, i) - 1][1]) for i in begins}
    return {_text(everything, first, last) for first, last in lines}


def _text(everything: list[tuple[bytes, int]], first: int, last: int) -> str:
    texts: list[str] = []
    until = 0
    for i, (token, line) in enumerate(everything):
        if token != b"function" or line != first or i < until:
            continue
        end = _end_of(everything, i)
        if everything[end - 1][1] == last:
            texts.append(b" ".join(each for each, _ in everything[i:end]).decode("utf-8", "backslashreplace"))
            until = end
    return " | ".join(texts)


def _end_of(everything: list[tuple[bytes, int]], start: int) -> int:
    depth = 0
    for i in range(start, len(everything)):
        token = everything[i][0]
        # `elseif c then` continues a block that the first `then` opened.
        if token in _OPENS:
            depth += 1
        elif token == b"elseif":
            depth -= 1
        elif token in _CLOSES:
            depth -= 1
            if depth == 0:
                return i + 1
    return len(everything)


def literals(source: bytes) -> set[str]:
    """The string literals of a text that Lua has accepted, without their quotes; escapes stand as they are written."""
    found: set[str] = set()
    for token, _ in tokens(source):
        if token[:1] in (b'"', b"'"):
            found.add(token[1:-1].decode("utf-8", "replace"))
        elif token.startswith((b"[[", b"[=")) and token.endswith(b"]"):
            depth = token.index(b"[", 1) + 1
            found.add(token[depth:-depth].removeprefix(b"\n").decode("utf-8", "replace"))
    return found


def key_of(content: bytes) -> str:
    """The digest by which a child strand is known: of an item, or of a function's source."""
    return hashlib.sha256(content).hexdigest()[:12]


class Sources:
    """The texts of a script and of the modules that it has loaded so far, by the name that Lua has for each."""

    def __init__(self) -> None:
        self._texts: dict[bytes, bytes] = {}
        self._functions: dict[tuple[bytes, int, int], bytes] = {}
        self._keys: frozenset[str] | None = None

    def add(self, shown_as: str, text: bytes) -> None:
        """`shown_as` is the path of the text in positions."""
        self._texts[b"@" + shown_as.encode("utf-8", "surrogateescape")] = text
        self._keys = None

    def function(self, chunk: bytes, first: int, last: int) -> bytes | None:
        """See function_source; None where the text is not known."""
        known = self._functions.get((chunk, first, last))
        if known is None and chunk in self._texts:
            known = function_source(self._texts[chunk], first, last).encode()
            self._functions[(chunk, first, last)] = known
        return known

    def holds(self, key: str) -> bool:
        """Whether one of the functions has this `key_of`."""
        if self._keys is None:
            texts = (each for text in self._texts.values() for each in function_sources(text))
            self._keys = frozenset(key_of(each.encode()) for each in texts)
        return key in self._keys

    def literals(self) -> set[str]:
        """The string literals."""
        return {text for source in self._texts.values() for text in literals(source)}
