"""What commands print: data on standard output, talk on standard error. With progress.py the only place that prints.

Imports nothing heavy. Colours: only on a terminal, never under NO_COLOR or TERM=dumb. Surprise: texts of others (parameters, log
lines in a summary) lose their control characters, because a terminal would obey them.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, Any

from sparkles.units import plural as plural

_STYLES = {"red": "31", "green": "32", "yellow": "33", "cyan": "36", "bold": "1", "dim": "2"}
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_STATES = {
    "succeeded": "green",
    "failed": "red",
    "cancelled": "yellow",
    "interrupted": "yellow",
    "running": "cyan",
    "claimed": "cyan",
}


def prepare_streams() -> None:
    """Text that the stream's encoding does not have is written all the same: bytes as they were, letters as escapes."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            utf_8 = (stream.encoding or "").lower().replace("-", "") == "utf8"
            reconfigure(errors="surrogateescape" if utf_8 else "backslashreplace")


def flush() -> bool:
    """Writes what is left of standard output; False where its reader is gone."""
    try:
        sys.stdout.flush()
    except OSError:
        close_stdout()
        return False
    return True


def close_stdout() -> None:
    """After a broken pipe: nothing more is written to standard output, not at exit either."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


def is_terminal(stream: IO[str]) -> bool:
    """Whether cursor movements and colours mean anything there."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def has_colours(stream: IO[str]) -> bool:
    """Whether to colour: a terminal, and nobody asked for no colour (https://no-color.org)."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR")


def styled(text: str, style: str, stream: IO[str]) -> str:
    """The text in a style ("red", "bold", "" for none), where the stream has colours."""
    return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if style and has_colours(stream) else text


def line(text: str = "", style: str = "") -> None:
    """One line of data."""
    sys.stdout.write(styled(text, style, sys.stdout) + "\n")


def data(chunk: bytes) -> None:
    """Bytes of data, as they are, at once."""
    sys.stdout.flush()
    sys.stdout.buffer.write(chunk)
    sys.stdout.buffer.flush()


def say(text: str, style: str = "") -> None:
    """One line of talk."""
    sys.stdout.flush()
    sys.stderr.write(styled(text, style, sys.stderr) + "\n")
    sys.stderr.flush()


class Plain:
    """Talk from another thread, for commands that draw nothing."""

    def interrupted(self, text: str) -> None:
        """Says a line at once."""
        try:
            os.write(2, f"{text}\n".encode(errors="backslashreplace"))
        except OSError:
            pass  # nobody reads it

    last_words = interrupted


def error(text: str, notes: Iterable[str] = ()) -> None:
    """A mistake or a failure, and what else is known about it."""
    try:
        say(f"{styled('error:', 'red', sys.stderr)} {text}")
        for note in notes:
            say(note)
    except OSError:
        pass  # nobody is there to read it: a broken pipe, a terminal that hung up


def json_line(value: Any) -> None:
    """One JSON object on a line of its own; bytes and other things that JSON has not are written as digest.canonical writes them."""
    from sparkles import digest

    line(digest.canonical(value))


def clean(text: str, width: int = 0) -> str:
    """The text on one line without control characters, cut to `width` (0: not cut)."""
    text = _CONTROL.sub(_escaped, text.replace("\n", "\\n").replace("\t", " "))
    return text if not width or len(text) <= width else text[: width - 3] + "..."


def clean_lines(text: str, last: int) -> list[str]:
    """The last lines of a log, without control characters; what a carriage return overwrote is left out."""
    lines = [each.rstrip("\r").rsplit("\r", 1)[-1] for each in text.rstrip("\n").split("\n")]
    return [_CONTROL.sub(_escaped, each.replace("\t", "    ")) for each in lines[-last:]] if text.strip() else []


def _escaped(match: re.Match[str]) -> str:
    return "" if match[0] == "\r" else f"\\x{ord(match[0]):02x}"


def table(header: Sequence[str], rows: Iterable[Sequence[Any]], right: Sequence[str] = ()) -> None:
    """Aligned columns; those named in `right` are aligned to the right. On a terminal the last column is cut to fit."""
    cells = [[clean(str(cell)) for cell in row] for row in rows]
    widths = [max([len(name), *(len(row[number]) for row in cells)]) for number, name in enumerate(header)]
    room = _width() if sys.stdout.isatty() else 0
    for number, row in enumerate([list(header), *cells]):
        shown = []
        for name, cell, width in zip(header, row, widths, strict=True):
            padded = cell.rjust(width) if name in right else cell.ljust(width)
            if number and name == "STATE":
                padded = styled(cell, _STATES.get(cell, ""), sys.stdout) + " " * (width - len(cell))
            shown.append(padded)
        before = sum(widths[:-1]) + 2 * (len(widths) - 1)
        if room and before + len(row[-1]) > room > before + 3 and header[-1] not in right:
            shown[-1] = row[-1][: room - before - 3] + "..."
        text = "  ".join(shown).rstrip()
        line(text if number else styled(text, "bold", sys.stdout))


def fields(pairs: Iterable[tuple[str, Any]], indent: str = "") -> None:
    """Aligned `name  value` lines; empty values are left out."""
    shown = [(name, str(value)) for name, value in pairs if value not in (None, "", (), {}, [])]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        line(f"{indent}{styled(name.ljust(width), 'dim', sys.stdout)}  {clean(value)}")


def _width() -> int:
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns
    except (OSError, ValueError):
        return 80


# Values as people read them


def state(name: str) -> str:
    """A state's name in its colour."""
    return styled(name, _STATES.get(name, ""), sys.stdout)


def duration(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3 min 20 s`, `2 h 05 min`, `3 d 4 h`."""
    if seconds < 10:
        return f"{max(seconds, 0.0):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def size(count: float) -> str:
    """Bytes as `812 B`, `1.5 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def when(at_ms: int | None) -> str:
    """Local time: `2026-03-01 14:05:09`; "" for none."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_ms / 1000)) if at_ms else ""


def iso(at_ms: int | None) -> str | None:
    """UTC time for `--json`: `2026-03-01T13:05:09.123Z`."""
    if not at_ms:
        return None
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at_ms // 1000)) + f".{at_ms % 1000:03d}Z"


def params(values: Mapping[str, Any], width: int = 0) -> str:
    """Parameters as `a=1 b=x`; texts with spaces in quotes."""
    from sparkles import digest

    parts = []
    for name, value in values.items():
        text = value if isinstance(value, str) and value and not re.search(r"[\s\"']", value) else digest.canonical(value)
        parts.append(f"{name}={text}")
    return clean(" ".join(parts), width)


def command(value: str | tuple[str, ...], width: int = 0) -> str:
    """A task's command on one line, as a shell would take it."""
    import shlex

    return clean(value if isinstance(value, str) else shlex.join(value), width)
