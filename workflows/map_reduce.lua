-- Runs a command for each of many files, then one command over everything that came out.
--
--     sparkles run map_reduce --files 'logs/*.txt' --map 'wc -w < {^file} > count' --keep count \
--       --reduce 'cat parts/*/count > total' --output total
--
-- The map command finds its file as {^file}. The reduce command finds what the n-th one left as parts/n/NAME, and what it leaves
-- is brought to a folder. A changed file runs one map task and the reduce task again.

local p = params {
  files = { pattern = "%S", doc = "the files, as a pattern of the shell" },
  map = { pattern = "%S", doc = "what runs for each file, with {^file} for its path" },
  keep = { pattern = "%S", doc = "what to keep of each map task: a name or a pattern" },
  reduce = { pattern = "%S", doc = "what runs once, over parts/*/NAME" },
  output = { pattern = "%S", doc = "what to keep of the reduce task: a name or a pattern" },
  dest = { pattern = "%S", default = "reduced", doc = "the folder to which the output is brought" },
}

local list = shell('for f in ' .. p.files .. '; do [ -f "$f" ] && printf "%s\\n" "$f"; done; true').stdout
local rows = {}
for name in list:gmatch("[^\n]+") do table.insert(rows, { file = name }) end
if #rows == 0 then fail(("files: no file matches '%s'"):format(p.files), { badInput = true }) end
log("%d files", #rows)

local mapped = run(JobBuilder("map")
  :setCommandTemplate(p.map)
  :createTasksFor(rows)
  :setOutputs { { p.keep, required = true } })

local parts = {}
for _, task in ipairs(mapped.tasks) do
  for name, artifact in pairs(task.outputs) do
    table.insert(parts, { src = artifact, dst = ("parts/%d/%s"):format(task.index, name) })
  end
end

local reduced = run(JobBuilder("reduce")
  :setCommandTemplate(p.reduce)
  :addFiles(parts)
  :setOutputs { { p.output, required = true } })
fetch(reduced, p.dest)
log("%d files reduced; the output is in %s/1", #rows, p.dest)
