-- JobBuilder, submit, wait, waitAll, run, fetch.
local expect = require("expect")
local tests = {}

local function job(name) return JobBuilder(name or "fit"):setCommandTemplate("echo {x}"):createTasksFor { { x = 1 }, { x = 2 } } end

function tests.every_setter_returns_the_builder()
  local b = JobBuilder("fit")
  for name, value in pairs {
    setCommandTemplate = { "echo", "{x}" }, setOutputs = { "a" }, setImage = "align:3", setResources = { cpu = "500m" }, setEnv = { A = 1 },
    setSecretEnv = { T = "env:T" }, setWorkDir = "sub", setTimeout = "2h", setRetry = { attempts = 2 }, setParallelism = 3, setPriority = -1,
    setProperties = { team = "x" }, setZones = { "z" }, setProvisioning = "reservation/r", setPodTemplate = { spec = { a = 1 } },
    setCache = false, setMaxFailures = "10%", createTasksFor = { 1 }, addFiles = "f",
  } do
    expect.equal(rawequal(b[name](b, value), b), true)
  end
end

function tests.building_asks_nothing_of_the_engine()
  local before = now()
  job():addFiles("a"):setOutputs { "b" }
  expect.equal(now(), before)
end

function tests.submit_gives_a_handle()
  local h = submit(job())
  expect.equal(h.name, "fit")
  expect.equal(h.count, 2)
  expect.equal(tostring(h), "job " .. h.id)
end

function tests.a_builder_can_be_submitted_again_with_other_rows()
  local b = job()
  local first = submit(b)
  local second = submit(b:createTasksFor { { x = 7 } })
  expect.equal(first.count, 2)
  expect.equal(second.count, 1)
  expect.equal(wait(second).tasks[1].params, { x = 7 })
  expect.equal(wait(first).tasks[1].params, { x = 1 })
end

function tests.wait_gives_the_result()
  local result = wait(submit(job()))
  expect.equal(result:ok(), true)
  expect.equal(result.total, 2)
  expect.equal(result.failedCount, 0)
  expect.equal(result.counts.succeeded, 2)
  expect.equal(result.counts.cancelled, 0)
  expect.equal(result:failed(), {})
end

function tests.wait_raises_what_can_be_tested()
  local h = submit(job():createTasksFor { { x = 1 }, { fail = true }, { fail = true } })
  local e = expect.raises("2 tasks of " .. h.id .. " failed", wait, h)
  expect.equal(e.kind, "JobFailed")
  expect.equal(e.job, h.id)
  expect.equal(e.failed, { 2, 3 })
  expect.equal("error: " .. e, "error: " .. tostring(e))
end

function tests.wait_can_allow_failures()
  local result = wait(submit(job():createTasksFor { { x = 1 }, { fail = true } }), { allowFailures = true })
  expect.equal(result:ok(), false)
  expect.equal(result.failedCount, 1)
  local failed = result:failed()
  expect.equal(#failed, 1)
  expect.equal(failed[1].index, 2)
  expect.equal(failed[1].exitCode, 3)
  expect.equal(failed[1].class, "exit")
  expect.equal(failed[1].results, nil)
end

function tests.waitAll_keeps_the_keys()
  local results = waitAll { a = submit(job("a")), b = submit(job("b")) }
  expect.equal(results.a.name, "a")
  expect.equal(results.b.name, "b")
  local list = waitAll({ submit(job("c")), submit(job("d")) }, { allowFailures = true })
  expect.equal(#list, 2)
  expect.equal(list[2].name, "d")
end

function tests.run_submits_and_waits() expect.equal(run(job()).total, 2) end

function tests.tasks_have_their_fields()
  local task = run(job()).tasks[2]
  expect.equal(task.index, 2)
  expect.equal(task.params, { x = 2 })
  expect.equal(task.state, "succeeded")
  expect.equal(task.exitCode, 0)
  expect.equal(task.results, { score = 4 })
  expect.equal(task.outputs["out.txt"].index, 2)
  expect.equal(task.outputs["none"], nil)
  expect.equal(task.attempts, 1)
  expect.equal(task.seconds, 0.5)
  expect.equal(task.peakMemory, 1024)
  expect.equal(task.reason, nil)
  expect.equal(task.reusedFrom, nil)
end

function tests.tasks_read_like_a_list()
  local rows = {}
  for i = 1, 250 do rows[i] = { x = i } end
  local tasks = run(job():createTasksFor(rows)).tasks
  expect.equal(#tasks, 250)
  expect.equal(tasks[250].params.x, 250)
  expect.equal(tasks[251], nil)
  expect.equal(tasks[0], nil)
  expect.equal(tasks[1] == tasks[1], true)
  local n, m = 0, 0
  for i, task in ipairs(tasks) do
    n = n + 1
    expect.equal(task.index, i)
  end
  for i, task in pairs(tasks) do
    m = m + 1
    expect.equal(task.index, i)
  end
  expect.equal({ n, m }, { 250, 250 })
  expect.equal(#table.pack(table.unpack(tasks, 1, 120)), 120)
  local copy = table.move(tasks, 1, #tasks, 1, {})
  table.sort(copy, function(a, b) return a.index > b.index end)
  expect.equal(copy[1].index, 250)
  expect.raises("read-only", function() tasks[1] = nil end)
  expect.raises("read-only", table.sort, tasks, function() end)
end

function tests.tables_of_results()
  local result = run(job())
  expect.equal(result:table { "x", "score" }, { { x = 1, score = 2 }, { x = 2, score = 4 } })
  expect.equal(result:table(), { { index = 1, x = 1, score = 2 }, { index = 2, x = 2, score = 4 } })
  expect.equal(result:table { "index", "state" }[1], { index = 1, state = "succeeded" })
end

function tests.tables_leave_out_what_a_task_does_not_have()
  local result = run(job():createTasksFor { { x = 1, fail = 1 }, { x = 2 } }, { allowFailures = true })
  expect.equal(result:table { "x", "score" }, { { x = 1 }, { x = 2, score = 4 } })
end

function tests.artifacts_are_inputs_as_they_are()
  local artifact = run(job()).tasks[1].outputs["out.txt"]
  submit(JobBuilder("next"):addFiles(artifact, { src = artifact, dst = "in.txt" }, { artifact, "*.csv" }))
end

function tests.fetch_takes_handles_and_results()
  local h = submit(job())
  expect.equal(fetch(h, "out").files, 4)
  expect.equal(fetch(wait(h), "out").path, "out/" .. h.id)
end

function tests.row_functions_see_row_and_index()
  local seen = {}
  local h = submit(job():createTasksFor({ { x = 5 }, { x = 6 } }, function(row, index)
    seen[index] = row.x
    log("row %d", index)
    return { params = { x = row.x * 10 }, name = "t" .. index, env = { N = index }, resources = { memory = "1Gi" }, files = { "a" } }
  end))
  expect.equal(seen, { 5, 6 })
  local tasks = wait(h).tasks
  expect.equal(tasks[2].params.x, 60)
  expect.equal(tasks[2].name, "t2")
end

function tests.rows_of_texts_are_parameters_called_value()
  local tasks = run(job():createTasksFor { "a", "b" }).tasks
  expect.equal(tasks[2].params, { value = "b" })
end

return tests
