-- Runs a command for every combination of values and writes a table of what came out.
--
--     sparkles run grid --lists 'alpha=0.1,1,10; seed=1..5' --command 'python3 fit.py {alpha} {seed}' --files fit.py
--
-- `lists` names each parameter with its values, separated by commas; `1..5` stands for 1,2,3,4,5.

local p = params {
  lists = { doc = "names and their values: name=a,b,c; other=1..9" },
  command = { doc = "what each task runs, with {name} for a value" },
  files = { default = "", doc = "inputs that each task finds: paths or globs, separated by commas" },
  table = { default = "grid.csv", doc = "where the table is written" },
  cpu = { type = "number", default = 1, doc = "cores that a task needs" },
}

local function trimmed(text) return (text:gsub("^%s+", ""):gsub("%s+$", "")) end

-- The parts of a text between separators.
local function split(text, separator)
  local parts = {}
  for part in text:gmatch("[^" .. separator .. "]+") do table.insert(parts, trimmed(part)) end
  return parts
end

local function values(text)
  local found = {}
  for _, part in ipairs(split(text, ",")) do
    local first, last = part:match("^(%-?%d+)%.%.(%-?%d+)$")
    if first then
      for value = math.tointeger(first), math.tointeger(last) do table.insert(found, value) end
    else
      table.insert(found, tonumber(part) or part)
    end
  end
  return found
end

local lists = {}
for _, part in ipairs(split(p.lists, ";")) do
  local name, list = part:match("^([%a_][%w_]*)%s*=%s*(.+)$")
  if not name then fail(("lists: expected name=value,value, found '%s'"):format(part)) end
  lists[name] = values(list)
end

local job = JobBuilder("grid")
  :setCommandTemplate(p.command)
  :createTasksFor(product(lists))
  :addFiles(split(p.files, ","))
  :setResources { cpu = p.cpu }

local result = run(job)
writeCsv(p.table, result:table())
log("%d combinations; the table is in %s", result.total, p.table)
