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

local function refuses(mistakes)
  for text, message in pairs(mistakes) do
    local run = runWorkflow("grid", { lists = text, command = "fit" })
    expect(run.kind):equals("Usage")
    expect(run.failed):contains(("-p lists=%s: %s"):format(text, message))
    expect(run.submitted):equals {}
  end
end

test("what is no list is refused, and why is said", function()
  refuses {
    alpha = "expected name=value,value, found 'alpha'",
    [" ; "] = "expected name=value,value, found nothing",
    ["a=1,,2"] = "a: expected values separated by commas, found nothing where one should be in '1,,2'",
    ["a=1;a=2"] = "expected each name once, found 'a' twice",
  }
end)

test("what is no range is refused", function()
  refuses {
    ["a=1.."] = "a: expected a range of whole numbers such as 1..5, found '1..'",
    ["a=0.5..2"] = "a: expected a range of whole numbers such as 1..5, found '0.5..2'",
    ["a=5..1"] = "a: expected a range from the lower to the higher number, found '5..1'",
  }
end)

test("what is too much is refused at once", function()
  refuses {
    ["a=1..100000000"] = "a: expected at most 100000 values, found the range '1..100000000'",
    ["a=-9223372036854775807..9223372036854775807"] = "a: expected at most 100000 values, found the range",
    ["a=1..1000; b=1..1000"] = "expected at most 100000 combinations, found 1000000",
  }
end)

test("a path is a text", function()
  onSubmit("grid")
  local run = runWorkflow("grid", { lists = "dir=../data, a..b", command = "f {dir}" })
  expect(run:job("grid").tasks[1].params):equals { dir = "../data" }
end)

test("a list or map in results.json is JSON in the table", function()
  onSubmit("grid", { { results = { loss = 1, deep = { 1, 2 } } }, { results = { loss = 2, deep = { k = { "v" } } } } })
  local run = runWorkflow("grid", { lists = "a=1,2", command = "f {a}" })
  expect(run.ok):isTrue()
  local rows = run:writtenCsv("grid.csv")
  expect(rows[1].deep):equals("[1,2]")
  expect(rows[2].deep):equals('{"k":["v"]}')
end)
