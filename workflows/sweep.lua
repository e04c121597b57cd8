-- Runs a command for each row of a CSV file and writes a table of what came out.
--
--     sparkles run sweep --csv p.csv --command 'python3 fit.py {alpha}' --files fit.py
--
-- Columns of the file are placeholders of the command. The table has a row for each task: its parameters, and the fields of
-- its results.json. Add rows to the file and run again: only the new ones are computed.

local lists = require("lists")

local p = params {
  csv = { pattern = "%S", doc = "the parameters, one task a row" },
  command = { pattern = "%S", doc = "what each task runs, with {column} for a value and {^column} for the file that it names" },
  files = { default = "", doc = "inputs that each task finds: paths or globs, separated by commas" },
  outputs = { default = "", doc = "files to keep of each task: patterns, separated by commas" },
  table = { pattern = "%S", default = "sweep.csv", doc = "where the table is written" },
  cpu = { type = "number", min = 0.01, default = 1, doc = "cores that a task needs" },
  allowFailures = { type = "boolean", default = false, doc = "write the table although tasks failed" },
}

local rows = readCsv(p.csv)
if #rows == 0 then fail(("csv: expected a row for each task, found only a header in %s"):format(p.csv), { badInput = true }) end

local job = JobBuilder("sweep")
  :setCommandTemplate(p.command)
  :createTasksFor(rows)
  :addFiles(lists.words(p.files))
  :setOutputs(lists.words(p.outputs))
  :setResources { cpu = p.cpu }

local result = run(job, { allowFailures = p.allowFailures })
writeCsv(p.table, result:table(), { nested = true })
log("%d of %d tasks succeeded; the table is in %s", result.counts.succeeded, result.total, p.table)
