-- Tries settings drawn at random and reports the best one.
--
--     sparkles run random_search --space 'alpha=0.001..10 log; depth=2..8' --trials 40 \
--       --command 'python3 fit.py {alpha} {depth}' --files fit.py --metric loss
--
-- `space` names each parameter with its range; between whole numbers whole numbers are drawn. `log` draws evenly by magnitude, and
-- `a,b,c` draws one of these. A resumed run keeps what it drew. Each task writes its metric into its results.json.

local lists = require("lists")
local function axes(text) return lists.named(text, lists.drawer, "name=low..high") end
local function problem(text) return (select(2, axes(text))) end

local p = params {
  space = { check = problem, doc = "names and where they are drawn from: name=low..high, name=low..high log, name=a,b,c; ..." },
  command = { pattern = "%S", doc = "what each task runs, with {name} for a value" },
  metric = { pattern = "%S", doc = "the field of results.json that is compared" },
  goal = { default = "least", choices = { "least", "greatest" }, doc = "which value of the metric is best" },
  trials = { type = "integer", min = 1, max = lists.MOST, default = 20, doc = "how many settings are tried" },
  files = { default = "", doc = "inputs that each task finds: paths or globs, separated by commas" },
  table = { pattern = "%S", default = "random_search.csv", doc = "where the table is written, the best first" },
}

local drawers = axes(p.space)
local rows = {}
for i = 1, p.trials do
  rows[i] = {}
  for name, draw in pairs(drawers) do rows[i][name] = draw() end
end

local result = run(JobBuilder("trial"):setCommandTemplate(p.command):createTasksFor(rows):addFiles(lists.words(p.files)))

local ranked = result:table()
for _, row in ipairs(ranked) do
  if type(row[p.metric]) ~= "number" then fail(("task %d has no number '%s' in its results.json"):format(row.index, p.metric)) end
end
table.sort(ranked, function(a, b)
  if p.goal == "least" then return a[p.metric] < b[p.metric] end
  return a[p.metric] > b[p.metric]
end)
writeCsv(p.table, ranked, { nested = true })
log("best of %d: task %d with %s %g; the table is in %s", #ranked, ranked[1].index, p.metric, ranked[1][p.metric], p.table)
