"""Calls of one service: tried again while that can help, and a word to the user when it does not answer. May import errors.

Surprise: the user is told by a thread that watches the calls under way, since a server that disappeared keeps a call waiting for much
longer than the 5 s after which a person wants to know. The thread lives only while there is something to watch.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from sparkles.errors import BackendError

PATIENCE_S = 300.0
"""How long a call is tried again before it fails."""

CHECK_S = 10.0
"""The same for a check before any work: who has just typed a command sits there and waits."""

TOLD_AFTER_S = 5.0

R = TypeVar("R")


class Patience:
    """One service as one client sees it; for any number of threads."""

    def __init__(
        self,
        service: str,
        say: Callable[[str], None],
        *,
        errors: tuple[type[Exception], ...],
        can_help: Callable[[Exception], bool],
        patience_s: float = PATIENCE_S,
        told_after_s: float = TOLD_AFTER_S,
    ) -> None:
        """
        Args:
            say: Is told once when no call was answered for `told_after_s`, and once when one is again.
            errors: What a call raises where it fails.
            can_help: Whether the same call can succeed later.
        """
        self._service, self._say = service, say
        self._errors, self._can_help = errors, can_help
        self._patience_s, self._told_after_s = patience_s, told_after_s
        self._lock = threading.Lock()
        self._under_way: dict[int, tuple[float, float]] = {}
        self._answered = 0.0
        self._back_since = -math.inf
        self._troubled = False
        self._why = ""
        self._watcher: threading.Thread | None = None

    def trying(
        self,
        call: Callable[[], R],
        translate: Callable[[Exception], BackendError],
        *,
        watched: bool = True,
        patience_s: float | None = None,
    ) -> R:
        """The call's answer. Raises what `translate` makes of its last error.

        Args:
            watched: Whether it has to answer soon, or calls `progress` meanwhile; not so where it sends a large file.
            patience_s: Instead of what all calls have.
        """
        patience_s = self._patience_s if patience_s is None else patience_s
        began = time.monotonic()
        pause = 0.1
        if watched:
            self._enter(began, patience_s)
        try:
            while True:
                try:
                    answer = call()
                except self._errors as error:
                    helps = self._can_help(error)
                    if not helps or time.monotonic() - began + pause > patience_s:
                        raise translate(error) from error
                    self._why = _first_line(error)
                    time.sleep(random.uniform(pause / 2, pause))  # noqa: S311  a pause, no secret
                    pause = min(2 * pause, 5.0)
                    continue
                self._answer(began)
                return answer
        finally:
            if watched:
                with self._lock:
                    self._under_way.pop(threading.get_ident(), None)

    def progress(self) -> None:
        """Something of an answer came: to be called by what takes its time."""
        self._answer(time.monotonic())

    def answers_for_s(self) -> float:
        """How long ago a call was last answered after more than `told_after_s`; inf where none was. Who judges by what others write here
        must give them that long."""
        return time.monotonic() - self._back_since

    def _enter(self, began: float, patience_s: float) -> None:
        with self._lock:
            self._under_way[threading.get_ident()] = began, patience_s
            if self._watcher is None:
                self._watcher = threading.Thread(target=self._watch, name=f"{self._service} watcher", daemon=True)
                self._watcher.start()

    def _answer(self, began: float) -> None:
        with self._lock:
            self._answered = time.monotonic()
            if self._answered - began > self._told_after_s:
                self._back_since = self._answered
            again, self._troubled, self._why = self._troubled, False, ""
        if again:
            self._say(f"{self._service} answers again")

    def _watch(self) -> None:
        while True:
            with self._lock:
                if not self._under_way:
                    self._watcher = None
                    return
                began, patience_s = min(self._under_way.values())
                left = max(self._answered, began) + self._told_after_s - time.monotonic()
                tell = left <= 0 and not self._troubled
                self._troubled = self._troubled or tell
                why = self._why or f"nothing came for {self._told_after_s:g} s"
            if tell:
                self._say(
                    f"{self._service} does not answer ({why}); trying for up to {patience_s:g} s. Nothing is lost meanwhile."
                )
            time.sleep(left if left > 0 else self._told_after_s)


def _first_line(error: Exception) -> str:
    """What the error says, for people: a gRPC error's details, else its text."""
    details = getattr(error, "details", None)
    said = details() if callable(details) else str(error)
    return (str(said or error).splitlines() or [type(error).__name__])[0][:200]
