-- Three jobs, each built from the results of the one before; every kind of step stands between them.
local function job(name, rows)
  return JobBuilder(name)
    :setCommandTemplate("sh task.sh " .. name .. " {x}")
    :addFiles("task.sh")
    :setOutputs{"out.txt", required = true}
    :createTasksFor(rows)
end

log("begin")
local rows = readCsv("params.csv", {types = {x = "integer"}})
local first = run(job("one", rows))

local sum = 0
for _, task in ipairs(first.tasks) do sum = sum + task.results.value end
writeJson("sum.json", {sum = sum})

local again = {}
for i = 1, 5 do again[i] = {x = sum % 7 + i} end
local second = submit(job("two", again))
local doubled = step("double", function(n) return n * 2 end, sum)
local said = shell("cat sum.json")
local result = wait(second)

local last = job("three", {{x = doubled}, {x = #said.stdout}, {x = 3}, {x = 4}})
for _, task in ipairs(result.tasks) do last:addFiles({src = task.outputs["out.txt"], dst = "in/" .. task.index .. ".txt"}) end
local third = run(last)
fetch(third, "fetched")

local out = {}
for _, task in ipairs(third.tasks) do out[#out + 1] = {index = task.index, value = task.results.value} end
writeCsv("final.csv", out)
log("end")
