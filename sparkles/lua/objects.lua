-- What scripts work with: builders, handles and results, with the functions that make them. Internal: not for `require`.
--
-- A builder keeps checked copies of what it was given, tasks as bytes already; `submit` sends all of it in one command. A result's tasks are
-- read from the host a page at a time when a script looks at them.

local H = ...
local type, rawget, raw_next, select, rawlen, setmetatable = type, rawget, next, select, rawlen, setmetatable
local format, find, concat, pack_number, char = string.format, string.find, table.concat, string.pack, string.char
local math_type, xpcall, table_pack, table_unpack, remove = math.type, xpcall, table.pack, table.unpack, table.remove
local real_error = error
local misuse, perform, class_of, null, text, kind_of = H.misuse, H.perform, H.class_of, H.null, H.text, H.kind_of
local records, problem_with, is_artifact = H.api.records, H.problem_with, H.is_artifact
local raw_ipairs, where, call = H.raw_ipairs, H.where, H.call
local columns_of = setmetatable({}, { __mode = "k" }) -- lists of rows -> the order of their columns, for writeCsv
H.columns_of = columns_of
local PAGE, PAGES = 100, 8 -- tasks are read this many at a time, and this many pages are kept

local api, methods = {}, { JobBuilder = {}, Result = {}, Strand = {} }

local function same(e) return e end

-- The bytes of a value; what cannot be stored is an error of the function `name`.
local function packed(name, value, root)
  local ok, bytes = xpcall(H.pack, same, value, root)
  if ok then return bytes end
  if type(bytes) == "table" and bytes.pack_error then misuse(name .. ": " .. bytes.pack_error) end
  real_error(bytes, 0)
end

H.packed = packed

-- Classes -----------------------------------------------------------------------------------------------------------------------

-- What the host makes is an empty table over its fields, so that unknown fields are refused by name, and every assignment.
local shown = H.protected

local function class(name, own_methods, describe)
  local known, fields = {}, records[name].fields
  for _, field in raw_ipairs(fields) do known[field.name] = true end
  local what = not own_methods and "field" or #fields == 0 and "method" or "field or method"
  own_methods = own_methods or {}
  return {
    __index = function(self, key)
      local value = shown[self][key]
      if value ~= nil then return value end
      local method = own_methods[key]
      if method then return method end
      if known[key] then return nil end
      if type(key) ~= "string" then misuse(format("%s has no items (key %s)", name, text(key))) end
      local instead = H.suggest(key, H.words_of(known, own_methods))
      if instead == "" and rawget(api, key) then instead = format(". Did you mean %s(...)?", key) end
      misuse(format("%s has no %s '%s'%s", name, what, key, instead))
    end,
    __newindex = function(_, key) misuse(format("%s is read-only: '%s' cannot be assigned", name, text(key))) end,
    __tostring = function(self) return describe(shown[self]) end,
    __metatable = name,
    __name = name,
  }
end

local metas = {}
H.class, H.metas = class, metas
local function made(name, fields)
  local object = {}
  class_of[object], shown[object] = name, fields
  return setmetatable(object, metas[name])
end

H.made = made

metas.JobBuilder = class("JobBuilder", methods.JobBuilder, function(b) return format("JobBuilder(%q)", b.name) end)
metas.JobHandle = class("JobHandle", nil, function(h) return "job " .. h.id end)
metas.Result = class("Result", methods.Result, function(r) return "result of job " .. r.id end)
metas.Strand = class("Strand", methods.Strand, function() return "strand" end)
metas.Counts = class("Counts", nil, function() return "counts" end)
metas.Task = class("Task", nil, function(t) return format("task %d", t.index) end)
metas.ShellResult = class("ShellResult", nil, function(s) return format("exit code %s", text(s.exitCode)) end)
metas.FetchResult = class("FetchResult", nil, function(f) return f.path end)

local states = setmetatable({}, { __mode = "k" }) -- builder -> what was set

-- Builders ----------------------------------------------------------------------------------------------------------------------

function api.JobBuilder(name)
  if not find(name, "^[%w][%w._-]*$") or #name > 63 then
    misuse(format("JobBuilder: name: expected up to 63 letters, digits, '.', '_' and '-', beginning with a letter or digit, got '%s'", name))
  end
  local builder = made("JobBuilder", { name = name })
  states[builder] = { name = name, set = {}, files = {}, positions = { JobBuilder = where() } }
  return builder
end

local function set(builder, setter, value, root)
  local bytes = packed(setter, value, root)
  local problem = call("check_setter", setter, bytes)
  if problem then misuse(setter .. ": " .. problem) end
  local state = states[builder]
  state.set[setter] = H.unpack(bytes)
  state.positions[setter] = where()
  return builder
end

for _, spec in raw_ipairs(H.api.functions) do
  if spec.owner == "JobBuilder" and spec.params[1] then
    local setter, root = spec.name, spec.params[1].name
    methods.JobBuilder[setter] = function(builder, value) return set(builder, setter, value, root) end
  end
end

-- Environment variables as texts.
local function variables(vars)
  local texts = {}
  for key, value in raw_next, vars do texts[key] = text(value) end
  return texts
end
H.variables = variables

function methods.JobBuilder.setEnv(builder, vars) return set(builder, "setEnv", variables(vars), "vars") end

-- One input as {src=, dst=, link=, artifact=}.
local function input(value)
  if type(value) == "string" then return { src = value } end
  if is_artifact(value) then return { artifact = value } end
  local src = value.src
  if is_artifact(src) then return { artifact = src, dst = value.dst, link = value.link } end
  return { src = src, dst = value.dst, link = value.link }
end

local INPUT = { { kind = "string" }, { kind = "record", name = "FileSpec" }, { kind = "record", name = "Artifact" } }
function methods.JobBuilder.addFiles(builder, ...)
  local added = {}
  for i = 1, select("#", ...) do
    local value = select(i, ...)
    local path = format("files[%d]", i)
    if type(value) == "table" and (rawget(value, 1) ~= nil or raw_next(value) == nil) then
      local problem = problem_with({ { kind = "list", of = INPUT } }, "list", value, path)
      if problem then misuse("addFiles: " .. problem) end
      for _, item in raw_ipairs(value) do added[#added + 1] = input(item) end
    else
      local problem = problem_with(INPUT, "string, table or artifact", value, path)
      if problem then misuse("addFiles: " .. problem) end
      added[#added + 1] = input(value)
    end
  end
  local state = states[builder]
  local position = where()
  for _, each in raw_ipairs(H.unpack(packed("addFiles", added, "files"))) do state.files[#state.files + 1] = each end
  state.positions.addFiles = position
  return builder
end

local function outputs_in(value, path, found)
  local required = value.required
  for _, key in raw_ipairs(H.sorted_keys(value, true)) do
    if type(key) == "string" and key ~= "required" then
      misuse(format("setOutputs: %s.%s: unknown option%s", path, key, H.suggest(key, { "required" })))
    end
  end
  if required ~= nil and type(required) ~= "boolean" then misuse(format("setOutputs: %s.required: expected boolean, got %s", path, kind_of(required))) end
  for i = 1, rawlen(value) do
    local item = value[i]
    if type(item) == "string" then
      found[#found + 1] = { pattern = item, required = required or false }
    elseif type(item) == "table" and not class_of[item] and item ~= null and path == "patterns" then
      outputs_in(item, format("%s[%d]", path, i), found)
    else
      misuse(format("setOutputs: %s[%d]: expected string or table, got %s", path, i, kind_of(item)))
    end
  end
  if rawlen(value) == 0 and (path ~= "patterns" or required ~= nil) then misuse(format("setOutputs: %s: expected at least one pattern, got none", path)) end
  return found
end
function methods.JobBuilder.setOutputs(builder, patterns) return set(builder, "setOutputs", outputs_in(patterns, "patterns", {}), "patterns") end

local function list_head(n)
  if n < 16 then return char(0x90 + n) end
  if n < 65536 then return pack_number(">BI2", 0xdc, n) end
  return pack_number(">BI4", 0xdd, n)
end

local OVERRIDES = records.RowOverrides
-- What a row function returned, as the fields of a task.
local function overridden(value, row, i)
  local path = format("fn(rows[%d])", i)
  if type(value) ~= "table" or class_of[value] or value == null then misuse(format("createTasksFor: %s: expected table or nil, got %s", path, kind_of(value))) end
  local problem = H.problem_in_record(OVERRIDES, value, path)
  if problem then misuse("createTasksFor: " .. problem) end
  local task = { params = value.params or row, command = value.command, resources = value.resources, name = value.name }
  if value.files then
    task.files = {}
    for j, item in raw_ipairs(value.files) do task.files[j] = input(item) end
    if #task.files == 0 then task.files = nil end
  end
  if value.env then task.env = variables(value.env) end
  local bytes = packed("createTasksFor", task, path)
  if value.env or value.resources then
    problem = call("check_row", bytes)
    if problem then misuse(format("createTasksFor: %s.%s", path, problem)) end
  end
  return bytes
end

function methods.JobBuilder.createTasksFor(builder, rows, fn)
  local lazy = H.lazy_lists[rows]
  if lazy then rows = lazy() end
  local n = rawlen(rows)
  if n == 0 then misuse("createTasksFor: rows: expected at least one row, got none") end
  local chunks, parts, count = {}, { list_head(n) }, 1
  for i = 1, n do
    local row = rawget(rows, i)
    local kind = type(row)
    if kind == "string" or kind == "number" then
      row = { value = row }
    elseif kind ~= "table" or row == null or class_of[row] then
      misuse(format("createTasksFor: rows[%d]: expected table, string or number, got %s", i, kind_of(row)))
    elseif rawget(row, 1) ~= nil then
      misuse(format("createTasksFor: rows[%d]: expected parameters by name, got a list", i))
    end
    local own
    if fn then
      local returned
      do
        local _ <close> = H.enter("a row function")
        returned = fn(row, i)
      end
      if returned ~= nil then own = overridden(returned, row, i) end
    end
    count = count + 1
    parts[count] = own or "\x81\xa6params" .. packed("createTasksFor", row, "rows[" .. i .. "]")
    if count >= 1024 then
      chunks[#chunks + 1] = concat(parts, "", 1, count)
      count = 0
    end
  end
  chunks[#chunks + 1] = concat(parts, "", 1, count)
  local state = states[builder]
  state.tasks = concat(chunks)
  state.positions.createTasksFor = where()
  return builder
end

-- Jobs --------------------------------------------------------------------------------------------------------------------------

local function outcomes(id, first, limit)
  local page = H.unpack(call("outcomes", id, first, limit))
  for i = 1, #page do page[i] = made("Task", page[i]) end
  return page
end

-- The tasks of a job as a read-only list that is loaded where it is read.
local function task_list(id, total)
  local pages, order = {}, {}
  local function page(number)
    local tasks = pages[number]
    if tasks then return tasks end
    tasks = outcomes(id, number * PAGE + 1, PAGE)
    pages[number] = tasks
    order[#order + 1] = number
    if #order > PAGES then pages[remove(order, 1)] = nil end
    return tasks
  end
  local function item(i)
    if i < 1 or i > total then return nil end
    return page((i - 1) // PAGE)[(i - 1) % PAGE + 1]
  end
  local list = setmetatable({}, {
    __index = function(_, key)
      if math_type(key) == "integer" then return item(key) end
      misuse(format("result.tasks is a list of %d tasks: it has no field '%s'", total, text(key)))
    end,
    __len = function() return total end,
    __pairs = function(self)
      return function(_, i)
        i = (i or 0) + 1
        local task = item(i)
        if task then return i, task end
      end, self, nil
    end,
    __newindex = function() misuse("result.tasks is read-only; copy it first: table.move(list, 1, #list, 1, {})") end,
    __metatable = "Task[]",
    __name = "Task[]",
  })
  class_of[list] = "Task[]"
  H.lazy_lists[list] = function()
    local all = {}
    for first = 1, total, PAGE do
      local tasks = outcomes(id, first, PAGE)
      for i = 1, #tasks do all[first + i - 1] = tasks[i] end
    end
    return all
  end
  return list, item
end

local item_of = setmetatable({}, { __mode = "k" }) -- result -> its reader of tasks

local STATES = { "succeeded", "failed", "cancelled", "pending", "claimed", "reused" }
local function make_result(job)
  local counts = {}
  for _, state in raw_ipairs(STATES) do counts[state] = job.counts[state] or 0 end
  local tasks, item = task_list(job.id, job.count)
  local result = made("Result", {
    id = job.id,
    name = job.name,
    total = job.count,
    failedCount = counts.failed + counts.cancelled,
    counts = made("Counts", counts),
    tasks = tasks,
  })
  item_of[result] = item
  return result
end

function api.submit(builder)
  local state = states[builder]
  local sent = { name = state.name, set = state.set, files = state.files, positions = state.positions }
  return made("JobHandle", perform("submit", packed("submit", sent, ""), state.tasks))
end

local function wait_for(ids, opts)
  opts = opts or {}
  local sent = { jobs = ids, allowFailures = opts.allowFailures or false, timeout = opts.timeout }
  return perform("wait", packed("wait", sent, "")).jobs
end

function api.wait(handle, opts) return make_result(wait_for({ handle.id }, opts)[1]) end

function api.waitAll(jobs, opts)
  local keys, ids = H.sorted_keys(jobs), {}
  if #keys == 0 then misuse("waitAll: jobs: expected at least one job, got none") end
  for i, key in raw_ipairs(keys) do ids[i] = jobs[key].id end
  local results = {}
  for i, job in raw_ipairs(wait_for(ids, opts)) do results[keys[i]] = make_result(job) end
  return results
end

function api.run(builder, opts) return api.wait(api.submit(builder), opts) end

function methods.Result.ok(result) return result.failedCount == 0 and result.counts.succeeded == result.total end

function methods.Result.failed(result)
  local found = {}
  if result.failedCount == 0 then return found end
  for i = 1, result.total do
    local task = item_of[result](i)
    if task and (task.state == "failed" or task.state == "cancelled") then found[#found + 1] = task end
  end
  return found
end

local TASK_FIELDS = { "index", "state", "exitCode", "class", "reason", "attempts", "seconds", "cpuSeconds", "peakMemory", "signal", "reusedFrom", "name" }
local is_task_field = {}
for _, field in raw_ipairs(TASK_FIELDS) do is_task_field[field] = true end

local function cell(task, column)
  local value = rawget(task.params, column)
  if value ~= nil then return value end
  local results = task.results
  if type(results) == "table" then
    value = rawget(results, column)
    if value ~= nil then return value end
  end
  if is_task_field[column] then return task[column] end
end

-- The columns that the tasks have: parameters, then results, each sorted.
local function known_columns(result)
  local params, results, any = {}, {}, false
  for i = 1, result.total do
    local task = item_of[result](i)
    for key in raw_next, task.params do params[key] = true end
    if type(task.results) == "table" then
      any = true
      for key in raw_next, task.results do
        if type(key) == "string" then results[key] = true end
      end
    end
  end
  local columns = H.words_of(params)
  for _, key in raw_ipairs(H.words_of(results)) do
    if not params[key] then columns[#columns + 1] = key end
  end
  return columns, any
end

methods.Result["table"] = function(result, columns)
  if not columns then
    columns = { "index", table_unpack((known_columns(result))) }
  elseif rawlen(columns) == 0 then
    misuse("table: columns: expected at least one column, got none")
  end
  local rows, seen = {}, {}
  for i = 1, result.total do
    local task, row = item_of[result](i), {}
    for _, column in raw_ipairs(columns) do
      local value = cell(task, column)
      if value ~= nil then
        row[column] = value
        seen[column] = true
      end
    end
    rows[i] = row
  end
  for _, column in raw_ipairs(columns) do
    if not seen[column] and not is_task_field[column] then
      local known, any = known_columns(result)
      if any then
        misuse(format("table: unknown column '%s' (columns: %s)%s", column, concat(known, ", "), H.suggest(column, known)))
      end
    end
  end
  columns_of[rows] = table_pack(table_unpack(columns))
  columns_of[rows].n = nil
  return rows
end

function api.fetch(job, dest) return made("FetchResult", perform("fetch", packed("fetch", { job = job.id, dest = dest }, ""))) end

H.globals, H.methods = api, methods
