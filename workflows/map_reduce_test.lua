local params = { files = "logs/*.txt", map = "wc -w < {^file} > count", keep = "count", reduce = "cat parts/*/count > total", output = "total" }

test("what the map tasks leave is what the reduce task finds", function()
  files { ["logs/a.txt"] = "x y", ["logs/b.txt"] = "z" }
  onShell("logs/*.txt", "logs/a.txt\nlogs/b.txt\n")
  onSubmit("map", { { outputs = { count = "2\n" } }, { outputs = { count = "1\n" } } })
  onSubmit("reduce", { { outputs = { total = "3\n" } } })
  local run = runWorkflow("map_reduce", params)
  expect(run:job("map").tasks[1].command):equals("wc -w < inputs/a.txt > count")
  local parts = {}
  for i, file in ipairs(run:job("reduce").tasks[1].files) do parts[i] = file.dst end
  expect(parts):equals { "parts/1/count", "parts/2/count" }
  expect(run.logs[2]):equals("2 files reduced; the output is in reduced/1")
end)

test("no file is a mistake", function()
  onShell("logs/*.txt", "")
  local run = runWorkflow("map_reduce", params)
  expect(run.failed):contains("files: no file matches 'logs/*.txt'")
  expect(run.submitted):equals {}
end)

test("nothing is reduced where a map task failed", function()
  files { ["logs/a.txt"] = "x y" }
  onShell("logs/*.txt", "logs/a.txt\n")
  onSubmit("map", { { class = "output", reason = "required output count is missing" } })
  local run = runWorkflow("map_reduce", params)
  expect(run.failed):contains("required output count is missing")
  expect(run.submitted):hasLength(1)
end)
