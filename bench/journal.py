"""Resuming a run of 100,000 recorded steps: time and memory of the whole process. Half of the steps draw a number, half run a function."""

from __future__ import annotations

import statistics

from common import SPARKLES, Row, run, scratch, show

COUNT = 100_000


def measure() -> list[Row]:
    print(f"a run of {COUNT} steps")
    with scratch() as folder:
        (folder / "steps.lua").write_text(
            f"local function square(x) return x * x end\nfor i = 1, {COUNT // 2} do\n  random()\n"
            '  step("square", square, i)\nend\nfail("the end")\n'
        )
        run([SPARKLES, "run", "steps.lua"], folder, expect=1)
        times = [run([SPARKLES, "run", "steps.lua"], folder, expect=1).seconds for _ in range(3)]
        peak = run([SPARKLES, "run", "steps.lua"], folder, expect=1, watch=True).driver_bytes
    return [
        Row(f"resume of a run of {COUNT:,} steps", statistics.median(times), "s", 3.0),
        Row(f"memory of that resume at {COUNT:,} steps", peak / 1e6, "MB", 150.0),
    ]


if __name__ == "__main__":
    show(measure())
