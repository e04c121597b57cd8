"""Commands that messages name, with the options that this process was given: followed to the letter, they find the same state folder and
profile. Imports nothing of sparkles.

Surprise: the options are the process's own, kept here, because the sentences are made on every level and a store knows no command line.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable

_options: tuple[str, ...] = ()


def carry(options: Iterable[str]) -> None:
    """From now on `command` repeats these words; the command line says so once it has read them."""
    global _options
    _options = tuple(options)


def command(*words: str) -> str:
    """The command line of `sparkles` with these words, quoted for a shell."""
    return shlex.join(["sparkles", *_options, *words])
