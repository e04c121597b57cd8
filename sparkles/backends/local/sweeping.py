"""Removes what nobody needs from the content folder, safely beside processes that store and place. May import model and errors."""

from __future__ import annotations

import itertools
import os
import stat
import time
from collections.abc import Iterator
from collections.abc import Set as AbstractSet

from sparkles.backends.local.copying import storage_error
from sparkles.model import Digest

_TEMPORARY_AGE_S = 3600.0
"""A temporary file older than this was left by a killed process: a file that is being written is younger, one that is being
hashed may be this old."""
_COUNT = itertools.count()


def sweep_content(cas: str, keep: AbstractSet[Digest], older_than_s: float) -> tuple[list[Digest], int, int]:
    """Removes files of `cas` that are not in `keep` and whose atime, which says when they were asked for, is that old; damaged
    ones as well; and what killed processes left half-written.

    Returns:
        The content that is gone, and how many files and bytes went in all.
    """
    now = time.time()
    gone: list[Digest] = []
    files = size = 0
    try:
        for folder, name, found in _walk(cas):
            path = f"{cas}/{folder}/{name}"
            if folder == "incoming":
                removed = now - max(found.st_atime, found.st_mtime) >= _TEMPORARY_AGE_S and _remove(path)
            elif name in keep or now - found.st_atime < older_than_s:
                continue
            elif folder == "damaged":
                removed = _remove(path)
            else:
                removed = _take_out(cas, path, now - older_than_s)
                if removed:
                    gone.append(Digest(name))
            if removed:
                files += 1
                size += found.st_size
    except OSError as error:
        raise storage_error(error, "sweep", error.filename or cas) from error
    return gone, files, size


def _walk(cas: str) -> Iterator[tuple[str, str, os.stat_result]]:
    for folder in names_in(cas):
        for name in names_in(f"{cas}/{folder}"):
            try:
                found = os.lstat(f"{cas}/{folder}/{name}")
            except FileNotFoundError:
                continue
            if stat.S_ISREG(found.st_mode):
                yield folder, name, found


def _take_out(cas: str, path: str, limit: float) -> bool:
    """Removes content unless it was asked for in the meantime.

    It is renamed first: whoever stores the same content after that finds it missing and stores its own copy; what was asked for
    before that shows in the atime, and goes back.
    """
    aside = f"{cas}/incoming/swept-{os.getpid()}-{next(_COUNT)}"
    try:
        os.makedirs(os.path.dirname(aside), exist_ok=True)
        os.rename(path, aside)
    except FileNotFoundError:
        return False
    if os.stat(aside).st_atime > limit:
        os.rename(aside, path)
        return False
    os.unlink(aside)
    return True


def _remove(path: str) -> bool:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


def names_in(folder: str) -> list[str]:
    """What is in a folder; nothing where there is none."""
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
