local job = JobBuilder("squares")
  :setCommandTemplate("echo $(({n} * {n}))")
  :createTasksFor(product { n = { 1, 2, 3, 4, 5 } })

local result = run(job)
log("%d tasks succeeded", result.counts.succeeded)
for _, task in ipairs(result.tasks) do
  log("%d: exit code %d after %d attempt", task.params.n, task.exitCode, task.attempts)
end
