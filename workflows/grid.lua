-- Runs a command for every combination of values and writes a table of what came out.
--
--     sparkles run grid --lists 'alpha=0.1,1,10; seed=1..5' --command 'python3 fit.py {alpha} {seed}' --files fit.py
--
-- `lists` names each parameter with its values, separated by commas; `1..5` stands for 1,2,3,4,5.

local lists = require("lists")
local function axes(text) return lists.named(text, lists.values, "name=value,value") end

-- What is wrong with the lists, or nil.
local function problem(text)
  local found, why = axes(text)
  local count = 1
  for _, values in pairs(found or {}) do count = count * #values end
  return why or count > lists.MOST and ("expected at most %d combinations, found %d"):format(lists.MOST, count) or nil
end

local p = params {
  lists = { check = problem, doc = "names and their values: name=a,b,c; other=1..9" },
  command = { pattern = "%S", doc = "what each task runs, with {name} for a value" },
  files = { default = "", doc = "inputs that each task finds: paths or globs, separated by commas" },
  table = { pattern = "%S", default = "grid.csv", doc = "where the table is written" },
  cpu = { type = "number", min = 0.01, default = 1, doc = "cores that a task needs" },
}

local job = JobBuilder("grid")
  :setCommandTemplate(p.command)
  :createTasksFor(product(axes(p.lists)))
  :addFiles(lists.words(p.files))
  :setResources { cpu = p.cpu }

local result = run(job)
writeCsv(p.table, result:table(), { nested = true })
log("%d combinations; the table is in %s", result.total, p.table)
