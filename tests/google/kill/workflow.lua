-- Two jobs, the second built from results and outputs of the first; between them what a script does on its own machine.
local function job(name, rows)
  return JobBuilder(name)
    :setCommandTemplate("sh task.sh {x} {seconds}")
    :addFiles("task.sh")
    :setOutputs{"out.txt", required = true}
    :createTasksFor(rows)
end

local rows = readCsv("params.csv", {types = {x = "integer", seconds = "number"}})
local first = run(job("one", rows))

local sum, again = 0, {}
for _, task in ipairs(first.tasks) do sum = sum + task.results.value end
writeJson("sum.json", {sum = sum})
for i = 1, 4 do again[i] = {x = sum % 7 + i, seconds = rows[1].seconds} end

local second = job("two", again)
for _, task in ipairs(first.tasks) do second:addFiles({src = task.outputs["out.txt"], dst = "in/" .. task.index .. ".txt"}) end
local last = run(second)
fetch(last, "fetched")

local out = {}
for _, task in ipairs(last.tasks) do out[#out + 1] = {index = task.index, value = task.results.value} end
writeCsv("final.csv", out)
