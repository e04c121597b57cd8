"""What it costs to record a step and to replay it: whole processes with many steps and with few, the difference per step.

The script ends as failed, so that running it again resumes the run and answers every step from the record.
"""

from __future__ import annotations

from pathlib import Path

from common import SPARKLES, Row, alternate, run, scratch, show

COUNT = 20_000
FEW = 100

KINDS = {
    "random()": "random()",
    "step(name, fn)": 'step("square", function(x) return x * x end, i)',
}


def measure() -> list[Row]:
    rows = []
    for name, call in KINDS.items():
        print(f"{COUNT} calls of {name}")
        with scratch() as folder:
            recorded = alternate(
                3,
                {
                    f"record {FEW}": lambda call=call, folder=folder: first(folder, call, FEW),
                    f"record {COUNT}": lambda call=call, folder=folder: first(folder, call, COUNT),
                },
            )
            replayed = alternate(
                5,
                {
                    f"replay {FEW}": lambda folder=folder: again(folder, FEW),
                    f"replay {COUNT}": lambda folder=folder: again(folder, COUNT),
                },
            )
        for what, times, goal in (("record", recorded, 0.25), ("replay", replayed, 0.02)):
            few, many = times[f"{what} {FEW}"], times[f"{what} {COUNT}"]
            each_ms = 1000 * (many - few) / (COUNT - FEW)
            rows.append(
                Row(f"{what} a step, {name}", each_ms, "ms", goal, f"{COUNT:,} steps in {many:.2f} s, {FEW} in {few:.2f} s")
            )
    return rows


def first(folder: Path, call: str, count: int) -> float:
    (folder / f"steps{count}.lua").write_text(f'for i = 1, {count} do local _ = {call} end\nfail("the end")\n')
    return run([SPARKLES, "run", "--new", f"steps{count}.lua"], folder, expect=1).seconds


def again(folder: Path, count: int) -> float:
    return run([SPARKLES, "run", f"steps{count}.lua"], folder, expect=1).seconds


if __name__ == "__main__":
    show(measure())
