files { ["p.csv"] = "alpha,model\n0.1,a\n10,b\n", ["fit.py"] = "" }
local params = { csv = "p.csv", command = "python3 fit.py {alpha} --model {model}", files = "fit.py", outputs = "*.bin, *.txt" }

test("each row is a task with its command, inputs and outputs", function()
  onSubmit("sweep")
  local job = runWorkflow("sweep", params):job("sweep")
  expect(job.outputs):equals { "*.bin", "*.txt" }
  expect(job.tasks):hasLength(2)
  expect(job.tasks[2].command):equals("python3 fit.py 10 --model b")
  expect(job.tasks[2].params):equals { alpha = "10", model = "b" }
  expect(job.tasks[1].files):equals { { dst = "fit.py", src = "fit.py" } }
end)

test("the table has parameters and results", function()
  onSubmit("sweep", function()
    return function(task) return { results = { score = tonumber(task.params.alpha) * 2 } } end
  end)
  local run = runWorkflow("sweep", params)
  expect(run.written["sweep.csv"]):equals("index,alpha,model,score\n1,0.1,a,0.2\n2,10,b,20\n")
  expect(run.logs):equals { "2 of 2 tasks succeeded; the table is in sweep.csv" }
end)

test("a failed task ends it, and no table is written", function()
  onSubmit("sweep", { {}, { exitCode = 3 } })
  local run = runWorkflow("sweep", params)
  expect(run.kind):equals("JobFailed")
  expect(run.failed):contains("1 of 2 tasks failed")
  expect(run.written):equals {}
end)

test("with allowFailures the table is written all the same", function()
  onSubmit("sweep", { { results = { score = 1 } }, { exitCode = 3 } })
  local run = runWorkflow("sweep", { csv = "p.csv", command = "fit {alpha}", allowFailures = true })
  expect(run.ok):isTrue()
  expect(run:writtenCsv("sweep.csv")[2].score):equals("")
  expect(run.logs):equals { "1 of 2 tasks succeeded; the table is in sweep.csv" }
end)

test("a file without rows is refused", function()
  files { ["p.csv"] = "alpha\n" }
  expect(runWorkflow("sweep", { csv = "p.csv", command = "f {alpha}" }).failed):contains("csv: expected a row for each task")
end)

test("a list or map in results.json is JSON in the table", function()
  onSubmit("sweep", { { results = { loss = 1, deep = { 1, 2 } } }, { results = { loss = 2, deep = { k = { "v" } } } } })
  local run = runWorkflow("sweep", { csv = "p.csv", command = "f {alpha}" })
  expect(run.ok):isTrue()
  local rows = run:writtenCsv("sweep.csv")
  expect(rows[1].deep):equals("[1,2]")
  expect(rows[2].deep):equals('{"k":["v"]}')
end)
