-- Successive halving: tries every setting cheaply, stops the losers, and gives the others more, until one is left.
--
--     sparkles run halving --csv settings.csv --command 'python3 train.py {rate} --epochs {budget}' --files train.py --metric loss
--
-- The command gets the columns of the file and {budget}, which grows from round to round. Each task writes its metric into its
-- results.json.

local lists = require("lists")

local p = params {
  csv = { pattern = "%S", doc = "the settings, one a row" },
  command = { pattern = "%S", doc = "what a task runs, with {column} for a value and {budget} for what it may spend" },
  metric = { pattern = "%S", doc = "the field of results.json that is compared" },
  goal = { default = "least", choices = { "least", "greatest" }, doc = "which value of the metric is best" },
  budget = { type = "integer", min = 1, default = 1, doc = "what a task may spend in the first round" },
  factor = { type = "integer", min = 2, default = 3, doc = "one in so many goes on, with so many times the budget" },
  files = { default = "", doc = "inputs that each task finds: paths or globs, separated by commas" },
  table = { pattern = "%S", default = "halving.csv", doc = "where all rounds are written" },
}

-- Runs one round; returns its tasks, the best first. A setting that fails has lost.
local function round(number, settings, budget)
  local job = JobBuilder("round-" .. number)
    :setCommandTemplate(p.command)
    :createTasksFor(settings, function(row)
      local with = { budget = budget }
      for name, value in pairs(row) do with[name] = value end
      return { params = with }
    end)
    :addFiles(lists.words(p.files))

  local ranked = {}
  for i, task in ipairs(run(job, { allowFailures = true }).tasks) do
    local metric = type(task.results) == "table" and task.results[p.metric]
    if type(metric) == "number" then table.insert(ranked, { setting = settings[i], metric = metric }) end
  end
  if #ranked == 0 then fail(("round %d: no task left a number '%s' in its results.json"):format(number, p.metric)) end
  table.sort(ranked, function(a, b)
    if p.goal == "least" then return a.metric < b.metric end
    return a.metric > b.metric
  end)
  return ranked
end

local settings, budget, number, rows = readCsv(p.csv), p.budget, 1, {}
if #settings == 0 then fail(("csv: expected settings, one a row, found only a header in %s"):format(p.csv), { badInput = true }) end
for _, taken in ipairs { "budget", "round", "place", p.metric } do
  if settings[1][taken] then fail(("csv: a column of %s is named '%s', as one that is added"):format(p.csv, taken), { badInput = true }) end
end
while true do
  local ranked = round(number, settings, budget)
  for place, each in ipairs(ranked) do
    local row = { round = number, place = place, budget = budget, [p.metric] = each.metric }
    for name, value in pairs(each.setting) do row[name] = value end
    table.insert(rows, row)
  end
  log("round %d: %d tried at budget %d, best %s %g", number, #settings, budget, p.metric, ranked[1].metric)
  if #settings == 1 then break end

  local kept = math.max(1, #settings // p.factor)
  settings = {}
  for place = 1, math.min(kept, #ranked) do settings[place] = ranked[place].setting end
  budget, number = budget * p.factor, number + 1
end

writeCsv(p.table, rows)
log("%d rounds; the table is in %s, the winner in its last row", number, p.table)
