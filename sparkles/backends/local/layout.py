"""The state folder: what is in it, how it is made, and the room that is kept free in it. May import errors.

The folder is its user's alone (0700): inputs that nobody else may read are in it. Surprise: one that was there already keeps its
mode, since whoever made it chose it; so what is made in it is private by itself.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sparkles.backends.local.sqlite_errors import os_error
from sparkles.errors import NotFound

DATABASE = "sparkles.db"

FOLDERS = ("cas", "jobs", "runs", "workers", "notify")
"""Content, attempts by job, output of `shell` commands by run, logs of workers, pipes for hints."""

PRIVATE = 0o700

CACHE = "digests.db"

RESERVE = "reserve"
"""A file that `sparkles clean` gives up where the disk is full: SQLite cannot so much as open its log without room."""

RESERVE_BYTES = 1 << 20
"""SQLite's index of the log takes 32 KiB, and the removal of a job of 1,000 tasks about 300 KiB of log."""


def exists(state: Path) -> bool:
    """Whether something was run in this state folder: its database is there."""
    return (state / DATABASE).is_file()


def make(state: Path) -> None:
    """Makes the state folder unless it is there. Safe with several processes at once: the database comes last, as an empty file.

    Raises:
        BackendError, StorageFull: It cannot be made; the sentence says which folder and why.
    """
    database = state / DATABASE
    if database.exists():
        return
    try:
        state.parent.mkdir(parents=True, exist_ok=True)
        make_private(state)
        for name in FOLDERS:
            make_private(state / name)
        ignore = state / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n", "ascii")
        keep_reserve(state)
        # SQLite gives its log, and the index of the log, the mode of the database.
        create_private(database)
    except OSError as error:
        raise os_error(error, "make the state folder", state) from error


def is_emptied(state: Path) -> bool:
    """Whether the database is an empty file though it was none before: there is a backup of it, or what jobs left."""
    database = state / DATABASE
    try:
        if database.stat().st_size:
            return False
        used = any(state.glob(f"{DATABASE}.backup*")) or any(os.scandir(state / "jobs"))
        # Again: whoever makes the folder at this moment fills the database before anything else comes into it.
        return used and not database.stat().st_size
    except OSError:
        return False  # no state folder, or one that cannot be looked into: whoever opens the database says so


def create_private(file: Path) -> None:
    """Makes an empty file for its user alone, unless it is there. Raises OSError.

    One that is there is not opened: closing it would take away the locks that SQLite holds on it in another thread (fcntl(2)).
    """
    try:
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        return


def make_private(folder: Path) -> None:
    """Makes a folder for its user alone, unless it is there. Raises OSError."""
    try:
        os.mkdir(folder, PRIVATE)
    except FileExistsError:
        if not folder.is_dir():
            raise


def no_state(state: Path, chosen_by: str = "") -> NotFound:
    """The error of a command that only looks where nothing was run; `chosen_by` is the option or variable that named the folder."""
    if not chosen_by:
        return NotFound(f"no state folder here: nothing was run yet (looked for {state / DATABASE})", "open", str(state))
    found = (
        "it holds no sparkles.db" if state.is_dir() else "there is a file of that name" if state.exists() else "it is not there"
    )
    return NotFound(f"{chosen_by} {state}: expected a state folder of sparkles; {found}", "open", str(state))


def keep_reserve(state: Path, least_free: int = 8 * RESERVE_BYTES) -> None:
    """Sets room aside for `room`, unless it is there or less than `least_free` bytes of the disk are free. Never raises."""
    path = state / RESERVE
    try:
        if not path.exists() and shutil.disk_usage(state).free >= least_free:
            # Not zeros: some file systems store none of them.
            path.write_bytes(os.urandom(RESERVE_BYTES))
            path.chmod(0o600)
    except OSError:
        path.unlink(missing_ok=True)


@contextmanager
def room(state: Path) -> Iterator[None]:
    """While it is open, there is room for a small transaction even where the disk was full: what is kept for that is given up, and the
    cache of digests. The room is set aside again at the end."""
    given = False
    for name in (RESERVE, CACHE, f"{CACHE}-wal", f"{CACHE}-shm"):
        try:
            if shutil.disk_usage(state).free >= RESERVE_BYTES:
                break
            os.unlink(state / name)
            given = True
        except OSError:
            continue
    try:
        yield
    finally:
        keep_reserve(state, *([RESERVE_BYTES] if given else []))


def tree_bytes(folder: Path, *, linked: bool = False) -> int:
    """What is below a folder, in bytes; files with a further name elsewhere only with `linked`."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                found = os.lstat(os.path.join(path, name))
            except OSError:
                continue
            total += found.st_size if linked or found.st_nlink == 1 else 0
    return total
