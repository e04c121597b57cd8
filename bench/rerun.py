"""The same workflow again when its 10,000 tasks are all done: as a new run whose tasks are reused, and as a resumed run."""

from __future__ import annotations

import sys

from common import SPARKLES, Row, alternate, run, scratch, show, sweep_script

COUNT = 10_000


def measure() -> list[Row]:
    with scratch() as folder:
        (folder / "sweep.lua").write_text(sweep_script(COUNT))
        (folder / "stops.lua").write_text(sweep_script(COUNT) + 'fail("stopped here, so that the run can be resumed")\n')
        run([SPARKLES, "run", "sweep.lua"], folder)
        run([SPARKLES, "run", "stops.lua"], folder, expect=1)
        print(f"{COUNT} tasks that are done")
        times = alternate(
            5,
            {
                "python3 -c pass": lambda: run([sys.executable, "-c", "pass"], folder).seconds,
                "new run, tasks reused": lambda: run([SPARKLES, "run", "sweep.lua"], folder).seconds,
                "resumed run": lambda: run([SPARKLES, "run", "stops.lua"], folder, expect=1).seconds,
            },
        )
    start = f"Python's start {times['python3 -c pass']:.3f} s"
    return [
        Row(f"re-run of {COUNT:,} done tasks", times["new run, tasks reused"], "s", 0.5, f"a new run; {start}"),
        Row(f"resume of a run with {COUNT:,} done tasks", times["resumed run"], "s", 0.5, start),
    ]


if __name__ == "__main__":
    show(measure())
