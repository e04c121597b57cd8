"""The state folder: what is in it, how it is made, and the room that is kept free in it. May import errors.

The folder is its user's alone (0700): inputs that nobody else may read are in it. Surprise: one that was there already keeps its
mode, since whoever made it chose it; so what is made in it is private by itself.
"""

from __future__ import annotations

import os
from pathlib import Path

from sparkles.backends.local.sqlite_errors import os_error
from sparkles.errors import NotFound

DATABASE = "sparkles.db"

FOLDERS = ("cas", "jobs", "runs", "workers", "notify")
"""Content, attempts by job, output of `shell` commands by run, logs of workers, pipes for hints."""

PRIVATE = 0o700


def exists(state: Path) -> bool:
    """Whether something was run in this state folder: its database is there."""
    return (state / DATABASE).is_file()


def make(state: Path) -> None:
    """Makes the state folder unless it is there. Safe with several processes at once: the database comes last.

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
        # SQLite gives its log, and the index of the log, the mode of the database.
        create_private(database)
    except OSError as error:
        raise os_error(error, "make the state folder", state) from error


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
