test("every combination is a task", function()
  onSubmit("grid")
  local run = runWorkflow("grid", { lists = "alpha=0.1, 1; seed=1..3; kind=a b,c", command = "fit {alpha} {seed} {kind}" })
  local job = run:job("grid")
  expect(job.tasks):hasLength(12)
  expect(job.tasks[1].params):equals { alpha = 0.1, kind = "a b", seed = 1 }
  expect(job.tasks[1].command):equals("fit 0.1 1 'a b'")
  expect(job.tasks[12].params):equals { alpha = 1, kind = "c", seed = 3 }
  expect(run:writtenCsv("grid.csv")):hasLength(12)
end)

test("values may be negative", function()
  onSubmit("grid")
  local job = runWorkflow("grid", { lists = "x=-1..1,5", command = "f {x}" }):job("grid")
  local commands = {}
  for i, task in ipairs(job.tasks) do commands[i] = task.command end
  expect(commands):equals { "f -1", "f 0", "f 1", "f 5" }
end)

test("what is no list is refused", function()
  local run = runWorkflow("grid", { lists = "alpha", command = "fit" })
  expect(run.failed):contains("lists: expected name=value,value, found 'alpha'")
  expect(run.submitted):equals {}
end)
