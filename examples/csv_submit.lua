-- Tunes a model in two sweeps: the settings of a CSV file, then a finer grid around the best three.
--
--     sparkles run examples/csv_submit.lua
--
-- Each task predicts the body mass of 333 penguins with one setting of a kernel regression (evaluate.py) and reports the
-- error in grams. Run it again and everything is answered from the record; stop it anywhere and only what is missing is done.

local columns = { "bandwidth", "sexWeight", "rmse", "r2" } -- two parameters, and two fields of each task's results.json

-- Runs one sweep; returns what its tasks found, the smallest error first.
local function sweep(name, rows)
  local job = JobBuilder(name)
    :setCommandTemplate("python3 evaluate.py penguins.csv {bandwidth} {sexWeight}")
    :createTasksFor(rows)
    :addFiles("examples/evaluate.py", "examples/data/penguins.csv")

  local found = wait(submit(job)):table(columns)
  table.sort(found, function(a, b) return a.rmse < b.rmse end)
  local best = found[1]
  log("%s: %d settings, best %.1f g at bandwidth %g, sex weight %g", name, #found, best.rmse, best.bandwidth, best.sexWeight)
  return found
end

-- The settings around those of a list, in steps of 0.05 and 0.1, each one once.
local function around(best)
  local rows, seen = {}, {}
  for _, center in ipairs(best) do
    for _, offset in ipairs(product { bandwidth = { -2, -1, 0, 1, 2 }, sexWeight = { -2, -1, 0, 1, 2 } }) do
      local row = {
        bandwidth = math.floor(center.bandwidth * 20 + offset.bandwidth + 0.5) / 20,
        sexWeight = math.floor(center.sexWeight * 10 + offset.sexWeight + 0.5) / 10,
      }
      local key = row.bandwidth .. " " .. row.sexWeight
      if not seen[key] then
        seen[key] = true
        table.insert(rows, row)
      end
    end
  end
  return rows
end

local coarse = sweep("coarse", readCsv("examples/data/params.csv", {
  types = { bandwidth = "number", sexWeight = "number" },
}))
local fine = sweep("fine", around { coarse[1], coarse[2], coarse[3] })

writeCsv("examples/best.csv", table.move(fine, 1, 10, 1, {}), { columns = columns })
writeText("examples/summary.txt", ("%d settings tried; error %.1f g after the first sweep, %.1f g after the second\n")
  :format(#coarse + #fine, coarse[1].rmse, fine[1].rmse))
log("wrote examples/best.csv and examples/summary.txt")
