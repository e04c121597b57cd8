"""The ready workflows for real: each is run by name with tiny tasks, and leaves what its description says."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.support.cli import SPARKLES, Project, environment

ROOT = Path(__file__).resolve().parents[2]
READY = sorted(path.stem for path in (ROOT / "workflows").glob("*.lua") if not path.stem.endswith("_test"))
PAGE = (ROOT / "docs" / "workflows.md").read_text("utf-8")

pytestmark = pytest.mark.e2e


@pytest.fixture
def project(tmp_path: Path):
    project = Project(tmp_path / "p")
    yield project
    project.close()


def run(project: Project, name: str, **params: object) -> str:
    """Runs a ready workflow; returns what it logged."""
    words = [word for key, value in params.items() for word in ("-p", f"{key}={value}")]
    return project.run("run", name, *words).stdout


def rows(project: Project, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader((project.folder / name).read_text().splitlines()))


def leaves(field: str, value: str) -> str:
    """A command that writes a field of results.json."""
    return f"""printf '{{"{field}": %s}}' {value} > "$SPARKLES_RESULTS" """


def test_sweep(project: Project) -> None:
    """A row is a task; another row is another task, and only that."""
    project.write("p.csv", "n,m\n2,3\n4,5\n")
    project.write("one.sh", leaves("product", "$(($1 * $2))"))
    told = run(project, "sweep", csv="p.csv", command="sh one.sh {n} {m}", files="one.sh")
    assert told == "2 of 2 tasks succeeded; the table is in sweep.csv\n"
    assert [row["product"] for row in rows(project, "sweep.csv")] == ["6", "20"]
    project.write("p.csv", "n,m\n2,3\n4,5\n6,7\n")
    words = ["-p", "csv=p.csv", "-p", "command=sh one.sh {n} {m}", "-p", "files=one.sh"]
    ended = project.json("run", "sweep", *words)[-1]
    assert ended["tasks"] == {"run": 1, "reused": 2}
    assert rows(project, "sweep.csv")[2]["product"] == "42"


def test_grid(project: Project) -> None:
    """Every combination has its row."""
    command = leaves("x", "$(({a} * 10 + {b}))")
    assert run(project, "grid", lists="a=1..3;b=1,2", command=command).startswith("6 combinations")
    assert [row["x"] for row in rows(project, "grid.csv")] == ["11", "12", "21", "22", "31", "32"]


@pytest.mark.parametrize(
    ("left", "cells"),
    [
        ('{"v": 1, "deep": [1, {"k": null}]}', {"v": "1", "deep": '[1,{"k":null}]'}),
        ("[1,2]", {}),
        ("null", {}),
        ('{"v": {}}', {"v": "{}"}),
    ],
)
def test_tasks_may_leave_any_json(project: Project, left: str, cells: dict[str, str]) -> None:
    """The table is written all the same; what is no text, number or boolean stands in it as JSON."""
    run(project, "grid", lists="a=1,2", command=f"echo '{left}' > $SPARKLES_RESULTS")
    found = rows(project, "grid.csv")
    assert [row["a"] for row in found] == ["1", "2"]
    assert {name: found[1][name] for name in cells} == cells


def test_random_search(project: Project) -> None:
    """The table is sorted by the metric, and holds what was drawn."""
    told = run(project, "random_search", space="x=1..100", trials=6, metric="loss", command=leaves("loss", "{x}"))
    found = rows(project, "random_search.csv")
    assert [row["x"] for row in found] == [row["loss"] for row in found]
    assert [int(row["loss"]) for row in found] == sorted(int(row["loss"]) for row in found)
    assert f"best of 6: task {found[0]['index']} with loss {found[0]['loss']};" in told


def test_halving(project: Project) -> None:
    """The losers are stopped: nine settings, then three, then one; the best of them stays."""
    project.write("s.csv", "x\n" + "".join(f"{x}\n" for x in range(1, 10)))
    command = leaves("loss", "$(({x} > 4 ? {x} - 4 : 4 - {x})).$(({budget}))")
    told = run(project, "halving", csv="s.csv", metric="loss", command=command)
    assert told.splitlines()[:3] == [
        "round 1: 9 tried at budget 1, best loss 0.1",
        "round 2: 3 tried at budget 3, best loss 0.3",
        "round 3: 1 tried at budget 9, best loss 0.9",
    ]
    found = rows(project, "halving.csv")
    assert len(found) == 13
    assert (found[-1]["x"], found[-1]["round"]) == ("4", "3")


def test_map_reduce(project: Project) -> None:
    """Each file is mapped, the outputs are reduced, and the result is brought to a folder."""
    for name, text in {"a": "one two", "b": "three", "c d": "four five six"}.items():
        project.write(f"logs/{name}.txt", text)
    run(
        project,
        "map_reduce",
        files="logs/*.txt",
        map="wc -w < {^file} > count",
        keep="count",
        reduce="cat parts/*/count | paste -sd+ - | tr -d ' ' | { read sum; echo $(($sum)); } > total",
        output="total",
    )
    assert (project.folder / "reduced" / "1" / "total").read_text() == "6\n"


def test_bootstrap(project: Project) -> None:
    """The summary is that of the seeds; with more resamples only the new ones run."""
    command = leaves("mean", "{seed}")
    run(project, "bootstrap", command=command, statistic="mean", resamples=4)
    first = json.loads((project.folder / "bootstrap.json").read_text())
    assert (first["resamples"], first["mean"]) == (4, 2.5)
    words = ["-p", f"command={command}", "-p", "statistic=mean", "-p", "resamples=6"]
    ended = project.json("run", "bootstrap", *words)[-1]
    assert ended["tasks"] == {"run": 2, "reused": 4}


def test_the_page_and_the_wheel_have_them_all() -> None:
    """docs/workflows.md has a section and an example for each; pyproject.toml puts each into the wheel, and no test of them."""
    assert sorted(re.findall(r"^## (\w+)$", PAGE, re.MULTILINE)) == READY
    carried = re.findall(
        r'^"workflows/(\w+)\.lua" = "sparkles/workflows/\1\.lua"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE
    )
    assert sorted(carried) == READY


@pytest.mark.parametrize("name", READY)
def test_the_example_of_the_page_runs(project: Project, name: str) -> None:
    """The files and the command that a section shows can be copied into an empty folder and run, again and again."""
    section = PAGE.split(f"\n## {name}\n")[1].split("\n## ")[0]
    blocks = re.findall(r"```(?:sh|console)\n(.*?)```", section, re.DOTALL)
    assert blocks, f"docs/workflows.md: {name} has no example"
    for block in blocks:
        project.write("example.sh", block)
        assert re.search(rf"^sparkles run {name} ", block, re.MULTILINE)
        for _ in range(2):
            done = subprocess.run(
                ["/bin/sh", "-eu", "example.sh"],
                cwd=project.folder,
                env=environment(project.folder, PATH=f"{Path(SPARKLES).parent}{os.pathsep}{os.environ['PATH']}"),
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stderr
            assert " succeeded: " in done.stderr


def test_a_folder_does_not_hide_a_ready_workflow(project: Project) -> None:
    """Nor is a folder a script."""
    (project.folder / "grid").mkdir()
    assert run(project, "grid", lists="a=1", command=leaves("x", "{a}")).startswith("1 combinations")
    assert "grid/: a folder, not a workflow" in project.run("run", "grid/", code=2).stderr


def test_each_is_short_and_says_what_it_is(project: Project) -> None:
    """Under 80 lines; `sparkles workflows` has a sentence and a doc for every parameter."""
    listed = {each["name"]: each for each in project.json("workflows")}
    assert sorted(listed) == READY
    for name, each in listed.items():
        assert len((ROOT / "workflows" / f"{name}.lua").read_text().splitlines()) < 80
        assert each["doc"].endswith(".")
        assert f"sparkles run {name} --" in each["description"]
        assert [parameter["name"] for parameter in each["parameters"] if not parameter["doc"]] == []


def test_one_workflow_is_described_whole(project: Project) -> None:
    """With a name: the comment at its top, and its parameters; a script of one's own too."""
    told = project.run("workflows", "sweep").stdout
    assert "Add rows to the file and run again" in told
    assert re.search(r"--csv +string +required +the parameters, one task a row", told)
    project.write("own.lua", "-- Mine.\nlocal n = now()\nlocal p = params{a = {}}\n")
    assert project.json("workflows", "own.lua")[0]["parameters"] is None
    project.write(
        "own.lua", '-- Mine.\nlocal p = params{b = {}, a = {type = "integer", default = 1, choices = {1, 2}}}\nfail("no")\n'
    )
    (own,) = project.json("workflows", "own.lua")
    assert (own["doc"], [each["name"] for each in own["parameters"]]) == ("Mine.", ["b", "a"])
    assert own["parameters"][1]["choices"] == [1, 2]
    assert "did you mean 'sweep'" in project.run("workflows", "swep", code=2).stderr.lower()
    assert not (project.folder / ".sparkles").exists()
