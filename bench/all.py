"""Runs the benchmarks and writes the table of docs/performance.md.

    python bench/all.py [NAME...]

With names, only those are run and nothing is written. Those that need more than this repository run by name only.
"""

from __future__ import annotations

import datetime
import importlib
import os
import platform
import sys

from common import ROOT, Failed, Row, show

NAMES = ("startup", "sweep", "rerun", "steps", "journal", "memory", "linear")
BY_NAME = ("cloud", "cloud_submit")
PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"


def main() -> int:
    names = sys.argv[1:] or list(NAMES)
    unknown = [name for name in names if name not in (*NAMES, *BY_NAME)]
    if unknown:
        print(f"no benchmark {', '.join(unknown)} (there are: {', '.join((*NAMES, *BY_NAME))})", file=sys.stderr)
        return 2
    rows: list[Row] = []
    for name in names:
        print(f"== {name}", flush=True)
        try:
            found = importlib.import_module(name).measure()
        except Failed as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 1
        show(found)
        rows += found
    if not sys.argv[1:]:
        write(rows)
    missed = sum(row.verdict.startswith("missed") for row in rows)
    print(f"{sum(row.goal is not None for row in rows) - missed} goals reached, {missed} missed")
    return 0


def write(rows: list[Row]) -> None:
    """Puts the table between the page's markers."""
    lines = [machine(), "", "| what | measured | goal | | |", "| --- | --- | --- | --- | --- |"]
    lines += ["| " + " | ".join(row.cells()) + " |" for row in rows]
    before, rest = PAGE.read_text("utf-8").split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{after}", encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")


def machine() -> str:
    """What the figures were measured on."""
    model = platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), model)
    except OSError:
        pass  # not Linux: the architecture has to do
    day = datetime.datetime.now(datetime.UTC).date()
    python, load = platform.python_version(), os.getloadavg()[0]
    return f"Measured on {day}: {os.cpu_count()} cores ({model}), {platform.system()}, Python {python}; load at the end {load:.1f}."


if __name__ == "__main__":
    sys.exit(main())
