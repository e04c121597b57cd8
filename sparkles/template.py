"""Command templates: parsed once, expanded for each task. Pure; may import errors, model and suggest.

A placeholder is `{name}` (the value, quoted for /bin/sh), `{name:raw}` (as it is) or `{^name}` (the path, in the task, of the file that
the parameter names). A name is an identifier, and no `$` stands before the brace: `${HOME}`, `awk '{print $1}'` and JSON stay as
they are. `{{name}}` writes `{name}`. In a list of arguments nothing is quoted, because no shell reads it: each element stays one argument.

Surprise: a placeholder that stands between quotes of the template itself takes only values that need no quoting. `"{x}"` with the value
`$(reboot)` would otherwise run it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from sparkles.errors import TemplateError
from sparkles.model import Command, Json
from sparkles.suggest import did_you_mean, nearest

FORMATS = ("raw",)

_NAME = r"[^\W\d]\w*"
_TOKEN = re.compile(
    rf"(?P<dollar>\$\{{+)|\{{(?P<literal>\{{\^?{_NAME}(?::{_NAME})?\}})\}}|\{{(?P<file>\^?)(?P<name>{_NAME})(?::(?P<format>{_NAME}))?\}}"
)
_SPEC = re.compile(rf"\{{(?P<name>{_NAME}):(?P<format>[<>=^]?[-+ ]?#?\d*,?(?:\.\d+)?[a-zA-Z%]|[<>=^]\d+)\}}")
"""What other languages take for a format (`{x:03d}`); `{x:.y}` and `{x:1}` are of jq and the like."""

_is_safe = re.compile(r"[A-Za-z0-9_@%+=:,./-]+").fullmatch
_IDENTIFIER = re.compile(_NAME)
_MAYBE_COMMENT = re.compile(r"(?:^|[ \t;&|(])#[^\n]*\Z", re.MULTILINE)
_SHELL_TOKEN = re.compile(r"\\.|\$\(|['\"()`#\n]", re.DOTALL)


class _Hole(NamedTuple):
    """A placeholder; `quote` is the quote of the template that it stands in, "#" in a comment, or ""."""

    name: str
    raw: bool
    file: bool
    quote: str


class _Text:
    """One parsed text: `literals[i]` stands before `holes[i]`, and one more literal stands at the end."""

    __slots__ = ("_pairs", "holes", "literals")

    def __init__(self, source: str, for_shell: bool) -> None:
        self.literals: list[str] = []
        self.holes: list[_Hole] = []
        context = _Quotes(source) if for_shell else None
        literal: list[str] = []
        at = 0
        for token in _TOKEN.finditer(source):
            literal.append(source[at : token.start()])
            at = token.end()
            if token["literal"]:
                literal.append(token["literal"])
                continue
            if token["dollar"]:
                literal.append(token["dollar"])
                continue
            self._check_format(token)
            self.literals.append("".join(literal))
            literal.clear()
            quote = context.at(token.start()) if context else ""
            self.holes.append(_Hole(token["name"], not for_shell or token["format"] == "raw", bool(token["file"]), quote))
        literal.append(source[at:])
        self.literals.append("".join(literal))
        self._pairs = list(zip(self.literals, self.holes, strict=False))

    @staticmethod
    def _check_format(token: re.Match[str]) -> None:
        written, name, form = token[0], token["name"], token["format"]
        if form is not None and form not in FORMATS:
            raise TemplateError(
                f"{written}: {form!r} is not a format of a placeholder (formats: {', '.join(FORMATS)})."
                f"{did_you_mean(form, FORMATS)} Write {{{written}}} for the text {written}."
            )
        if form is not None and token["file"]:
            raise TemplateError(f"{written}: the path of a file takes no format; write {{^{name}}}")

    def expand(self, params: Mapping[str, Json], files: Mapping[str, str]) -> str:
        parts: list[str] = []
        for literal, hole in self._pairs:
            parts.append(literal)
            name, raw, file, quote = hole
            try:
                value = files[name] if file else params[name]
            except KeyError:
                raise _unknown(name, params, file) from None
            if type(value) is not str:
                parts.append(_written(name, value))
                continue
            if not _is_safe(value):
                _check_text(name, value)
                if not raw:
                    if quote == "#":
                        if "\n" in value:
                            raise _inside_comment(hole, value)
                    elif quote:
                        raise _inside_quotes(hole, value)
                    value = shell_quote(value)
            parts.append(value)
        parts.append(self.literals[-1])
        return "".join(parts)


class Template:
    """A parsed template. `names` are all its parameters in order of appearance, `file_names` those of `{^name}`."""

    __slots__ = ("_texts", "file_names", "names", "source")

    def __init__(self, source: Command) -> None:
        self.source = source
        self._texts = (
            [_Text(source, for_shell=True)] if isinstance(source, str) else [_Text(each, for_shell=False) for each in source]
        )
        holes = [hole for text in self._texts for hole in text.holes]
        self.names: tuple[str, ...] = tuple(dict.fromkeys(hole.name for hole in holes))
        self.file_names: tuple[str, ...] = tuple(dict.fromkeys(hole.name for hole in holes if hole.file))

    def check(self, names: Iterable[str]) -> None:
        """Raises TemplateError where the template names a parameter that is not among `names`.

        Also where it has `{name}` of a parameter that no placeholder can name (`learning-rate`): that would stay as it is, unnoticed.
        """
        given = dict.fromkeys(names)
        for name in self.names:
            if name not in given:
                raise _unknown(name, given, name in self.file_names)
        for text in self._texts:
            for literal in text.literals:
                for found in _SPEC.finditer(literal):
                    if found["name"] in given and literal[: found.start()][-1:] not in ("$", "{"):
                        raise _unknown_format(found)
        for name in given:
            if not _IDENTIFIER.fullmatch(name) and any(
                f"{{{name}}}" in literal for text in self._texts for literal in text.literals
            ):
                raise TemplateError(
                    f"{{{name}}} is not a placeholder: expected letters, digits and _ between the braces. Rename the parameter {name!r}"
                )

    def expand(self, params: Mapping[str, Json], files: Mapping[str, str] | None = None) -> Command:
        """The command for one task: a text for a text, arguments for arguments.

        Args:
            files: The path in the task for each of `file_names`.

        Raises:
            TemplateError: A parameter is missing, or its value cannot stand in a command; the parameter is named.
        """
        paths = files or {}
        if isinstance(self.source, str):
            return self._texts[0].expand(params, paths)
        return tuple(text.expand(params, paths) for text in self._texts)


def parse(source: Command) -> Template:
    """Raises TemplateError where a placeholder has a format that does not exist."""
    return Template(source)


def escape(text: str) -> str:
    """A template that is expanded to `text` itself, whatever the parameters."""
    return _TOKEN.sub(lambda token: token[0] if token["dollar"] else f"{{{token[0]}}}", text)


def shell_quote(text: str) -> str:
    """One word of /bin/sh that is `text`, byte for byte, in single quotes or, where it is shorter, in double quotes."""
    if _is_safe(text):
        return text
    if (single := text.count("'")) and single * 3 > sum(map(text.count, '"\\$`')):
        return '"' + re.sub(r'(["\\$`])', r"\\\1", text) + '"'
    return "'" + text.replace("'", "'\\''") + "'"


def _written(name: str, value: Any) -> str:
    """A number or a boolean as its author wrote it."""
    kind = type(value)
    if kind is bool:
        return "true" if value else "false"
    if kind is int or kind is float:
        return repr(value)
    if value is None:
        raise TemplateError(f"parameter {name}: expected text, a number or a boolean, found nil")
    if kind is bytes:
        raise TemplateError(f"parameter {name}: expected text in UTF-8, found other bytes: {value[:40]!r}")
    found = "a list" if kind in (list, tuple) else "a table" if kind is dict else f"a {kind.__name__}"
    raise TemplateError(f"parameter {name}: expected text, a number or a boolean, found {found}")


def _check_text(name: str, text: str) -> None:
    if "\0" in text:
        raise TemplateError(f"parameter {name}: a command cannot hold a NUL (character {text.index(chr(0)) + 1} of the value)")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TemplateError(
            f"parameter {name}: expected text, found half a character: a lone surrogate (character {error.start + 1} of the value)"
        ) from None


def _unknown(name: str, params: Iterable[str], file: bool) -> TemplateError:
    names = list(params)
    near = nearest(name, names)
    mark = "^" if file else ""
    shown = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "") if names else "none"
    then = f"Did you mean {{{mark}{near}}}?" if near else f"Write {{{{{mark}{name}}}}} for the text {{{mark}{name}}}."
    return TemplateError(f"{{{mark}{name}}} is not a task parameter (parameters: {shown}). {then}")


def _unknown_format(found: re.Match[str]) -> TemplateError:
    name, form = found["name"], found["format"]
    return TemplateError(
        f"{found[0]}: {form!r} is not a format of a placeholder (formats: {', '.join(FORMATS)}). Make the parameter the text that is "
        f"wanted, with string.format; or, where {found[0]} is meant as it is, rename the parameter {name!r}"
    )


def _inside_comment(hole: _Hole, value: str) -> TemplateError:
    written = f"{{{'^' if hole.file else ''}{hole.name}}}"
    return TemplateError(
        f"{written} stands in a comment of the command, and its value {value[:60]!r} has a line break, which would end the comment. "
        f"Take {written} out of the comment"
    )


def _inside_quotes(hole: _Hole, value: str) -> TemplateError:
    shown = value if len(value) <= 60 else value[:60] + "..."
    written = f"{{{'^' if hole.file else ''}{hole.name}}}"
    return TemplateError(
        f"{written} stands between {hole.quote} quotes, and its value {shown!r} needs quotes of its own. "
        f"sparkles quotes each value: write {written} without quotes around it"
    )


class _Quotes:
    """Which quotes each place of a shell text stands in, as far as it can be told: `$(...)` starts anew, a comment is "#".

    Here-documents and backquotes have rules of their own; a text with one of them counts as unquoted throughout, and what looks like
    a comment as one.
    """

    def __init__(self, source: str) -> None:
        self._spans: list[tuple[int, int, str]] = []
        self._untold = source if "<<" in source or "`" in source else ""
        if self._untold:
            return
        stack: list[tuple[str, int]] = []
        at = 0
        while token := _SHELL_TOKEN.search(source, at):
            at = token.end()
            mark = token[0]
            inside = stack[-1][0] if stack else ""
            if inside == "'":
                if "'" not in mark:
                    continue
                # A backslash means nothing here: the quote after it closes.
                self._close(stack, at)
            elif mark[0] == "\\" or (mark == "'" and inside == '"'):
                continue
            elif mark == '"' and inside == '"':
                self._close(stack, at)
            elif mark in ("'", '"', "$(") or (mark == "(" and inside != '"'):
                stack.append(("(" if mark[-1] == "(" else mark, at))
            elif mark == ")" and inside == "(":
                self._close(stack, at)
            elif mark == "#" and inside != '"' and (token.start() == 0 or source[token.start() - 1] in " \t\n;&|("):
                end = source.find("\n", at)
                end = len(source) if end < 0 else end
                self._spans.append((at, end, "#"))
                at = end
        while stack:
            self._close(stack, len(source))

    def _close(self, stack: list[tuple[str, int]], end: int) -> None:
        mark, start = stack.pop()
        self._spans.append((start, end, mark if mark != "(" else ""))

    def at(self, place: int) -> str:
        """The innermost quote around `place`: ' or " or # or "". Inner spans close first and so stand first."""
        if self._untold:
            return "#" if _MAYBE_COMMENT.search(self._untold, 0, place) else ""
        return next((mark for start, end, mark in self._spans if start <= place < end), "")
