-- Tries settings drawn at random and reports the best one.
--
--     sparkles run random_search --space 'alpha=0.001..10 log; depth=2..8' --trials 40 \
--       --command 'python3 fit.py {alpha} {depth}' --files fit.py --metric loss
--
-- `space` names each parameter with its range; between whole numbers whole numbers are drawn. `log` draws evenly by magnitude, and
-- `a,b,c` draws one of these. A resumed run keeps what it drew. Each task writes its metric into its results.json.

local p = params {
  space = { doc = "names and where they are drawn from: name=low..high, name=low..high log, name=a,b,c; ..." },
  command = { doc = "what each task runs, with {name} for a value" },
  metric = { doc = "the field of results.json that is compared" },
  goal = { default = "least", choices = { "least", "greatest" }, doc = "which value of the metric is best" },
  trials = { type = "integer", default = 20, doc = "how many settings are tried" },
  files = { default = "", doc = "inputs that each task finds: paths or globs, separated by commas" },
  table = { default = "random_search.csv", doc = "where the table is written, the best first" },
}

-- A function that draws a value, from a text such as "2..8".
local function drawer(text)
  local low, high, scale = text:match("^%s*(%-?[%d.eE+-]-)%.%.(%-?[%d.eE+-]-)%s*(%a*)%s*$")
  local a, b = tonumber(low), tonumber(high)
  if not a or not b then
    local choices = {}
    for word in text:gmatch("[^,]+") do table.insert(choices, tonumber(word) or (word:gsub("^%s+", ""):gsub("%s+$", ""))) end
    return function() return choices[math.random(#choices)] end
  end
  if scale ~= "" and scale ~= "log" then fail(("space: expected log or nothing after a range, found '%s'"):format(scale)) end
  if a > b or scale == "log" and a <= 0 then fail(("space: the range '%s' is empty or not above 0"):format(text)) end
  if scale == "log" then return function() return math.exp(math.log(a) + math.random() * (math.log(b) - math.log(a))) end end
  if math.type(a) == "integer" and math.type(b) == "integer" then return function() return math.random(a, b) end end
  return function() return a + math.random() * (b - a) end
end

local drawers = {}
for part in p.space:gmatch("[^;]+") do
  local name, range = part:match("^%s*([%a_][%w_]*)%s*=%s*(.+)$")
  if not name then fail(("space: expected name=low..high, found '%s'"):format(part)) end
  drawers[name] = drawer(range)
end

local rows = {}
for i = 1, p.trials do
  rows[i] = {}
  for name, draw in pairs(drawers) do rows[i][name] = draw() end
end

local files = {}
for word in p.files:gmatch("[^,%s]+") do table.insert(files, word) end
local result = run(JobBuilder("trial"):setCommandTemplate(p.command):createTasksFor(rows):addFiles(files))

local ranked = result:table()
for _, row in ipairs(ranked) do
  if type(row[p.metric]) ~= "number" then fail(("task %d has no number '%s' in its results.json"):format(row.index, p.metric)) end
end
table.sort(ranked, function(a, b)
  if p.goal == "least" then return a[p.metric] < b[p.metric] end
  return a[p.metric] > b[p.metric]
end)
writeCsv(p.table, ranked)
log("best of %d: task %d with %s %g; the table is in %s", #ranked, ranked[1].index, p.metric, ranked[1][p.metric], p.table)
