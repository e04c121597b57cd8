"""Whether the cost of a sweep grows as its number of tasks: the exponent of a power law fitted to 1,000, 10,000 and 100,000 tasks."""

from __future__ import annotations

import math
import statistics

from common import Row, large_sweep, show

COUNTS = (1_000, 10_000, 100_000)


def measure() -> list[Row]:
    print("linear in the number of tasks")
    seconds = []
    for count in COUNTS:
        seconds.append(large_sweep(count).seconds)
        print(f"  {count:7} tasks {seconds[-1]:8.2f} s {1000 * seconds[-1] / count:7.3f} ms a task", flush=True)
    slope, _ = statistics.linear_regression([math.log(count) for count in COUNTS], [math.log(each) for each in seconds])
    detail = ", ".join(f"{count:,}: {1000 * each / count:.2f} ms a task" for count, each in zip(COUNTS, seconds, strict=True))
    last = math.log(seconds[-1] / seconds[-2]) / math.log(COUNTS[-1] / COUNTS[-2])
    return [
        Row("growth of the cost from 1,000 to 100,000 tasks (1: linear)", slope, "exponent", 1.05, detail),
        Row("growth of the cost from 10,000 to 100,000 tasks (1: linear)", last, "exponent", 1.05),
    ]


if __name__ == "__main__":
    show(measure())
