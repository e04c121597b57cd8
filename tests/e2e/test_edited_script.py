"""A script that is edited between two executions, through the real command: what its strands had done stays done."""

import pytest

pytestmark = pytest.mark.e2e

MAPS = """
local samples = {"s1", "s2"}
map(samples, function(s) shell("echo align " .. s .. " >> eff") end)
map(samples, function(s) run(JobBuilder("call"):setCommandTemplate("echo call {value} >> ROOT/eff"):createTasksFor{s}) end)
shell("test -e go")
"""

SPAWN = """
local handle = spawn(function() local total = shell("echo one >> eff; echo 5").stdout shell("echo two >> eff") return total end)
local other = spawn(function() shell("echo other >> eff") end)
print("total " .. handle:await())
other:await()
shell("test -e go")
"""

BOTH = """
parallel{function() shell("echo f >> eff") end, function() shell("echo g >> eff") end}
shell("test -e go")
"""

LOOP = """
local handles = {}
for i, name in ipairs{"a", "b", "c"} do handles[i] = spawn(function() shell("echo " .. name .. " >> eff") end) end
for _, handle in ipairs(handles) do handle:await() end
shell("test -e go")
"""


@pytest.mark.parametrize(
    ("script", "old", "new", "added"),
    [
        (MAPS, "samples = {", "samples = {", []),
        (MAPS, "map(samples, function(s) shell", "map(samples, function(s) return #s end)\nmap(samples, function(s) shell", []),
        (
            MAPS,
            "map(samples, function(s) run",
            'map(samples, function(s) shell("echo new >> eff") end)\nmap(samples, function(s) run',
            ["new", "new"],
        ),
        (SPAWN, "total", "sum", []),
        (SPAWN, "echo one", "echo first", ["first"]),
        (
            SPAWN,
            "local handle",
            'local new = spawn(function() shell("echo new >> eff") end)\nnew:await()\nlocal handle',
            ["new"],
        ),
        (BOTH, "parallel{", 'parallel{function() return 1 end, function() shell("echo new >> eff") end}\nparallel{', ["new"]),
        (LOOP, '{"a"', '{"new", "a"', ["new"]),
        (LOOP, '{"a", "b"', '{"b", "a"', []),
    ],
)
def test_an_edit_loses_no_step_of_a_strand(project, script, old, new, added):
    script = script.replace("ROOT", str(project.folder))
    project.write("w.lua", script)
    project.run("run", "w.lua", code=1)
    effects = (project.folder / "eff").read_text().split("\n")
    assert script.count(old) >= 1
    project.write("w.lua", script.replace(old, new))
    plan = project.json("plan", "w.lua")
    project.run("run", "w.lua", code=1)
    (project.folder / "go").touch()
    done = project.run("run", "w.lua")
    assert sorted((project.folder / "eff").read_text().split("\n")) == sorted([*effects, *added]), done.stderr
    assert not [step for step in plan if step.get("verdict") == "would run" and "test -e go" not in step["what"]] or added
