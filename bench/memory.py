"""The greatest resident memory of the driver, and of its worker, in a sweep of 100,000 tasks whose results the script reads."""

from __future__ import annotations

from common import Row, large_sweep, show

COUNT = 100_000


def measure() -> list[Row]:
    print(f"{COUNT} tasks, memory watched")
    ended = large_sweep(COUNT)
    return [
        Row(f"memory of the driver at {COUNT:,} tasks", ended.driver_bytes / 1e6, "MB", 200.0),
        Row(f"memory of the worker at {COUNT:,} tasks", ended.worker_bytes / 1e6, "MB", None),
    ]


if __name__ == "__main__":
    show(measure())
