"""Speed, tested on a machine that is busy with other things: processor time, over that of a known piece of work done alongside.

Waiting for a turn does not count; what neighbours cost in caches and clock rate is taken out by the known work, which pays it too.
"""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable

_QUIET_S = 0.0105
"""What the known work takes on the machine that the limits were chosen on, with nothing else to do."""


def quiet_s(work: Callable[[], object], tries: int = 5) -> float:
    """Seconds of processor time that `work` takes by itself, as on a quiet machine; the best of several tries."""
    return min(_paced(work, time.process_time) for _ in range(tries))


def quiet_children_s(work: Callable[[], object], tries: int = 7) -> float:
    """The same of the processes that `work` starts and waits for."""
    return min(_paced(work, _children_s) for _ in range(tries))


def _paced(work: Callable[[], object], clock: Callable[[], float]) -> float:
    before = _known_work_s()
    began = clock()
    work()
    took = clock() - began
    return took * _QUIET_S / max(_QUIET_S, min(before, _known_work_s()))


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _known_work_s() -> float:
    best = math.inf
    for _ in range(3):
        began = time.process_time()
        found: dict[str, int] = {}
        for number in range(30_000):
            found[f"key {number % 1000}"] = found.get(f"key {number % 997}", 0) + number
        best = min(best, time.process_time() - began)
    return best
