local params = { command = "resample {seed}", statistic = "mean", resamples = 5 }

local function means(values)
  return function()
    return function(task) return { results = { mean = values[task.params.seed] } } end
  end
end

test("the summary is that of the resamples", function()
  onSubmit("resample", means { 1, 2, 3, 4, 5 })
  local run = runWorkflow("bootstrap", { command = "resample {seed}", statistic = "mean", resamples = 5, level = 0.5 })
  expect(run:job("resample").tasks[5].command):equals("resample 5")
  local summary = run:writtenJson("bootstrap.json")
  expect(summary.standardError):isNear(1.5811388, 1e-7)
  summary.standardError = nil
  expect(summary):equals { statistic = "mean", resamples = 5, mean = 3.0, level = 0.5, low = 2.0, high = 4.0 }
end)

test("the interval lies between values where no value is at its end", function()
  onSubmit("resample", means { 0, 0, 10, 10, 10 })
  local summary = runWorkflow("bootstrap", params):writtenJson("bootstrap.json")
  expect(summary.low):isNear(0)
  expect(summary.high):isNear(10)
end)

test("a task without the statistic is named", function()
  onSubmit("resample", means { 1, 2, "x", 4, 5 })
  expect(runWorkflow("bootstrap", params).failed):contains("task 3 has no number 'mean' in its results.json")
end)

test("mistakes are told before anything is submitted", function()
  local run = runWorkflow("bootstrap", { command = "r", statistic = "mean", resamples = 1 })
  expect(run.failed):contains("-p resamples=1: expected 2 to 100000, found '1'")
  run = runWorkflow("bootstrap", { command = "r", statistic = "mean", level = 95 })
  expect(run.failed):contains("-p level=95: expected a number between 0 and 1, found 95")
end)
