-- Computes a statistic of many resamples and reports its mean, spread and interval.
--
--     sparkles run bootstrap --command 'python3 resample.py data.csv {seed}' --files resample.py,data.csv --statistic mean
--
-- Each task draws its own resample from {seed}, which counts from 1, and writes the statistic into its results.json. Ask for more
-- resamples later and only the new ones are computed.

local lists = require("lists")

local p = params {
  command = { pattern = "%S", doc = "what each task runs, with {seed}" },
  statistic = { pattern = "%S", doc = "the field of results.json that is summarised" },
  resamples = { type = "integer", min = 2, max = lists.MOST, default = 100, doc = "how many" },
  level = {
    type = "number",
    default = 0.95,
    check = function(level) return level > 0 and level < 1 or "expected a number between 0 and 1, found " .. level end,
    doc = "how much of the distribution the interval holds, between 0 and 1",
  },
  files = { default = "", doc = "inputs that each task finds: paths or globs, separated by commas" },
  summary = { pattern = "%S", default = "bootstrap.json", doc = "where the summary is written" },
}

local rows = {}
for seed = 1, p.resamples do rows[seed] = { seed = seed } end

local result = run(JobBuilder("resample"):setCommandTemplate(p.command):createTasksFor(rows):addFiles(lists.words(p.files)))

local values, sum = {}, 0
for i, task in ipairs(result.tasks) do
  local value = type(task.results) == "table" and task.results[p.statistic]
  if type(value) ~= "number" then fail(("task %d has no number '%s' in its results.json"):format(i, p.statistic)) end
  values[i], sum = value, sum + value
end
table.sort(values)

-- The value below which a share of the values lies, between two of them by their distance.
local function quantile(share)
  local place = 1 + share * (#values - 1)
  local below = math.floor(place)
  local above = math.min(below + 1, #values)
  return values[below] + (place - below) * (values[above] - values[below])
end

local mean, squares = sum / #values, 0
for _, value in ipairs(values) do squares = squares + (value - mean) ^ 2 end
local summary = {
  statistic = p.statistic,
  resamples = #values,
  mean = mean,
  standardError = math.sqrt(squares / (#values - 1)),
  level = p.level,
  low = quantile((1 - p.level) / 2),
  high = quantile((1 + p.level) / 2),
}
writeJson(p.summary, summary)
log("%s: %g, standard error %g, %g%% interval %g to %g", p.statistic, mean, summary.standardError, p.level * 100, summary.low, summary.high)
