files { ["settings.csv"] = "rate\n1\n2\n3\n4\n5\n6\n7\n8\n9\n" }
local params = { csv = "settings.csv", command = "train {rate} --epochs {budget}", metric = "loss" }

-- The setting with rate 4 is best.
local function distance(task) return { results = { loss = math.abs(tonumber(task.params.rate) - 4) } } end

test("each round keeps a third, with three times the budget", function()
  onSubmit("round-*", function() return distance end)
  local run = runWorkflow("halving", params)
  local sizes = {}
  for i, job in ipairs(run.submitted) do sizes[i] = #job.tasks end
  expect(sizes):equals { 9, 3, 1 }
  expect(run:job("round-2").tasks[1].command):equals("train 4 --epochs 3")
  expect(run:job("round-3").tasks[1].command):equals("train 4 --epochs 9")
  local rows = run:writtenCsv("halving.csv")
  expect(rows):hasLength(13)
  expect(rows[13]):equals { round = "3", place = "1", budget = "9", rate = "4", loss = "0" }
end)

test("the greatest can be best", function()
  onSubmit("round-*", function()
    return function(task) return { results = { loss = tonumber(task.params.rate) } } end
  end)
  local rows = runWorkflow("halving", { csv = "settings.csv", command = "t {rate}", metric = "loss", goal = "greatest" }):writtenCsv("halving.csv")
  expect(rows[#rows].rate):equals("9")
end)

test("a setting that fails has lost", function()
  onSubmit("round-*", function()
    return function(task) return task.params.rate == "4" and { class = "oom" } or distance(task) end
  end)
  local rows = runWorkflow("halving", params):writtenCsv("halving.csv")
  expect(rows[#rows].rate):equals("3")
end)

test("where every setting fails, so does the run", function()
  onSubmit("round-1", function() return function() return { exitCode = 1 } end end)
  expect(runWorkflow("halving", params).failed):contains("round 1: no task left a number 'loss' in its results.json")
end)

test("settings that cannot be used are refused before anything is submitted", function()
  files { ["settings.csv"] = "rate,budget\n1,2\n" }
  expect(runWorkflow("halving", params).failed):contains("csv: a column of settings.csv is named 'budget', as one that is added")
  files { ["settings.csv"] = "rate\n" }
  expect(runWorkflow("halving", params).failed):contains("csv: expected settings, one a row, found only a header in settings.csv")
  local run = runWorkflow("halving", { csv = "settings.csv", command = "t", metric = "", factor = 1, budget = 0 })
  expect(run.kind):equals("Usage")
  expect(run.failed):contains("-p budget=0: expected 1 or more, found '0'")
  expect(run.failed):contains("-p factor=1: expected 2 or more, found '1'")
end)
