"""One act for many items, in a pool's threads, with few of the items in memory. Pure; may import nothing of sparkles."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def each_of(pool: ThreadPoolExecutor, act: Callable[[T], R], items: Iterable[T], most: int = 8) -> list[R]:
    """`act` of each item in a pool's threads, the answers in order. Items are taken as they are needed, so that few are in memory."""
    answers: list[R] = []
    under_way: deque[Future[R]] = deque()
    for item in items:
        if len(under_way) == most:
            answers.append(under_way.popleft().result())
        under_way.append(pool.submit(act, item))
    answers.extend(future.result() for future in under_way)
    return answers
