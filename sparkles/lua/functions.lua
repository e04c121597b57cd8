-- The functions that scripts call besides those of objects.lua: steps, files, time and chance, parameters, talk. Internal: not for `require`.

local H = ...
local type, rawget, rawset, raw_next, select, rawlen, setmetatable = type, rawget, rawset, next, select, rawlen, setmetatable
local format, find, concat = string.format, string.find, table.concat
local getinfo, dump, getmetatable, xpcall, real_error = debug.getinfo, string.dump, debug.getmetatable, xpcall, error
local table_pack, table_unpack = table.pack, table.unpack
local misuse, perform, null, text, where, call = H.misuse, H.perform, H.null, H.text, H.where, H.call
local raw_ipairs, packed, made, variables, columns_of = H.raw_ipairs, H.packed, H.made, H.variables, H.columns_of
local api = H.globals

-- Steps -------------------------------------------------------------------------------------------------------------------------

local source_of = setmetatable({}, { __mode = "k" })

-- What a function is known by: its text without comments and white space.
local function known_by(fn)
  local known = source_of[fn]
  if known then return known end
  local info = getinfo(fn, "S")
  if info.what == "C" or info.source == "=[sparkles]" then misuse("step: fn: expected a function of the script, got a built-in function") end
  known = call("function_source", info.source, info.linedefined, info.lastlinedefined) or format("%q", dump(fn, true))
  source_of[fn] = known
  return known
end

-- A value of an argument for the function itself: what it changes there is its own, since it does not run on a replay.
local function copied(value)
  if type(value) ~= "table" or H.class_of[value] or H.protected[value] or getmetatable(value) then return value end
  local copy = {}
  for key, each in raw_next, value do copy[key] = copied(each) end
  columns_of[copy], H.is_empty_list[copy] = columns_of[value], H.is_empty_list[value]
  return copy
end

-- The fields of a table that was raised, as far as they can be recorded; its metatable is not.
local function fields_of(raised)
  local fields = {}
  for key, value in raw_next, raised do
    if type(key) == "string" and xpcall(H.pack, function(e) return e end, value, "") then fields[key] = value end
  end
  return fields
end

function api.step(name, fn, ...)
  local source = known_by(fn)
  if name == "" then misuse("step: name: expected a name, got ''") end
  local args = table_pack(...)
  for i = 1, args.n do
    if args[i] == nil then args[i] = null end
  end
  args.n = nil
  local position = where()
  local value = perform("step", packed("step", { name = name, args = args, source = source }, ""))
  if value ~= H.RUN then return value end
  local given = table_pack(...)
  for i = 1, given.n do given[i] = copied(given[i]) end
  local ok, returned
  do
    local _ <close> = H.enter("the function of a step")
    ok, returned = (function(ok, ...)
      local n = select("#", ...)
      if ok and n > 1 then return false, H.step_error(format("step: fn: expected to return one value, got %d (return a table)", n), position) end
      return ok, (...)
    end)(H.names.pcall(fn, table_unpack(given, 1, given.n)))
  end
  local bytes
  if ok then
    ok, bytes = xpcall(H.pack, function(e) return e end, { value = returned }, "")
    if not ok then
      if type(bytes) ~= "table" or not bytes.pack_error then real_error(bytes, 0) end
      returned = H.step_error("step: fn: the returned " .. bytes.pack_error, position)
    end
  end
  if ok then return H.perform_at(position, "stepEnd", bytes) end
  local e = H.describe(returned, position)
  local message = e.kind == "ScriptError" and format("step '%s': %s", name, e.message) or e.message
  local kind = e.kind == "ScriptError" and "StepFailed" or e.kind
  -- A table that the function raised is recorded with its fields, so that they are there for whoever catches it.
  local own = type(returned) == "table" and e.kind == "ScriptError"
  local fields_ok, fields = xpcall(H.pack, function(x) return x end, own and fields_of(returned) or e.fields, "")
  fields = fields_ok and H.unpack(fields) or {}
  if fields[1] ~= nil then fields = {} end
  fields.position = e.position -- recorded, so that a replay raises the same error
  local sent = { error = { message = message, kind = kind, fields = fields, usage = e.usage } }
  return H.perform_at(position, "stepEnd", packed("step", sent, ""))
end

function H.step_error(message, position)
  local _, e = xpcall(H.raise, function(x) return x end, { message = message, kind = "Usage", usage = true }, position)
  return e
end

function api.shell(command, opts)
  opts = opts or {}
  if type(command) == "table" and #command == 0 or command == "" then misuse("shell: command: expected a command, got none") end
  local sent = { command = command, env = opts.env and variables(opts.env), timeout = opts.timeout, allowFailure = opts.allowFailure or false }
  return made("ShellResult", perform("shell", packed("shell", sent, "")))
end

local COLUMN_TYPES = { "boolean", "integer", "number", "string" }
function api.readCsv(path, opts)
  if opts and opts.types then
    for _, column in raw_ipairs(H.sorted_keys(opts.types)) do
      local wanted = opts.types[column]
      if not find(" boolean integer number string ", " " .. wanted .. " ", 1, true) then
        misuse(format("readCsv: opts.types.%s: expected string, number, integer or boolean, got '%s'%s", column, wanted, H.suggest(wanted, COLUMN_TYPES)))
      end
    end
  end
  if opts and opts.delimiter and #opts.delimiter ~= 1 then misuse(format("readCsv: opts.delimiter: expected one character, got '%s'", opts.delimiter)) end
  local answer = perform("readCsv", packed("readCsv", { path = path, options = opts }, ""))
  columns_of[answer.rows] = answer.columns
  return answer.rows
end

function api.readJson(path) return perform("readJson", packed("readJson", { path = path }, "")) end
function api.readText(path) return perform("readText", packed("readText", { path = path }, "")) end
function api.fileExists(path) return perform("fileExists", packed("fileExists", { path = path }, "")) end

function api.writeCsv(path, rows, opts)
  opts = opts or {}
  if opts.delimiter and #opts.delimiter ~= 1 then misuse(format("writeCsv: opts.delimiter: expected one character, got '%s'", opts.delimiter)) end
  local columns = opts.columns or columns_of[rows]
  return perform("writeCsv", packed("writeCsv", { path = path, columns = columns, delimiter = opts.delimiter, nested = opts.nested }, ""), packed("writeCsv", rows, "rows"))
end

function api.writeJson(path, value, opts)
  local indent = opts and opts.indent or 2
  if indent < 0 or indent > 16 then misuse(format("writeJson: opts.indent: expected 0 to 16, got %d", indent)) end
  return perform("writeJson", packed("writeJson", { path = path, indent = indent }, ""), packed("writeJson", value, "value"))
end

function api.writeText(path, content) return perform("writeText", packed("writeText", { path = path }, ""), content) end

function api.now() return perform("now") end
function api.uuid() return perform("uuid") end

function api.random(m, n)
  if m == nil then
    if n ~= nil then misuse("random: m: expected integer, got nil") end
    return perform("random")
  end
  local low, high = 1, m
  if n then low, high = m, n end
  if low > high then misuse(format("random: the interval %d..%d is empty", low, high)) end
  return perform("random", packed("random", { low = low, high = high }, ""))
end

function api.sleep(duration)
  local seconds, problem = call("duration", packed("sleep", duration, ""))
  if problem then misuse("sleep: duration: " .. problem) end
  return perform("sleep", packed("sleep", seconds, ""))
end

-- The rest ----------------------------------------------------------------------------------------------------------------------

local values, declared = H.args, false
local args = setmetatable({}, {
  __index = function(_, key)
    local value = rawget(values, key)
    if value == nil and declared and type(key) == "string" and not declared[key] then
      misuse(format("params declares no '%s'%s", key, H.suggest(key, H.words_of(declared))))
    end
    return value
  end,
  __newindex = function() misuse("args is read-only") end,
  __pairs = function() return H.names.pairs(values) end,
  __metatable = "args",
  __name = "args",
})
H.protected[args] = values
rawset(H.names, "args", args)
rawset(H.names, "null", null)
setmetatable(null, {
  __tostring = function() return "null" end,
  __index = function(_, key) misuse(format("attempt to read '%s' of null", text(key))) end,
  __newindex = function() misuse("null is read-only") end,
  __metatable = "null",
})
H.protected[null] = {}

-- What a declaration's `pattern` and `check` find wrong with a value, or nil.
local function refusal(name, spec, value, all)
  if spec.pattern then
    local ok, found = H.names.pcall(find, value, spec.pattern)
    if not ok then misuse(format("params: %s.pattern: not a Lua pattern: %s", name, spec.pattern)) end
    if not found and value == "" then return "expected a text, found nothing" end
    if not found then return format("expected a text that matches '%s', found '%s'", spec.pattern, value) end
  end
  if not spec.check then return nil end
  local _ <close> = H.enter("a check of params")
  local why = spec.check(value, all)
  if why == nil or why == true then return nil end
  return why == false and format("not a value for %s", name) or text(why)
end

function api.params(specs)
  local sent = {}
  for name, spec in raw_next, specs do
    sent[name] = {}
    for key, value in raw_next, spec do
      if key ~= "check" then sent[name][key] = value end
    end
  end
  local bytes, problem = call("typed_params", packed("params", sent, ""))
  if problem then misuse("params: " .. problem) end
  local typed, refused = {}, {}
  for key, value in raw_next, H.unpack(bytes) do
    if value ~= null then typed[key] = value end
  end
  for _, name in raw_ipairs(H.sorted_keys(typed)) do refused[name] = refusal(name, specs[name], typed[name], typed) end
  problem = call("checked_params", packed("params", refused, ""))
  if problem then misuse("params: " .. problem) end
  declared = {}
  for name in raw_next, specs do declared[name] = true end
  for key in raw_next, values do values[key] = nil end
  for key, value in raw_next, typed do values[key] = value end
  return args
end

function api.log(fmt, ...)
  local line = text(fmt)
  if select("#", ...) > 0 then
    line = H.format_for("log", line, ...)
  end
  perform("log", line)
end

function api.print(...)
  local parts = table_pack(...)
  for i = 1, parts.n do parts[i] = text(parts[i]) end
  perform("print", concat(parts, "\t"))
end

api.fail = H.fail
api.require = H.require

local function lists_of(name, lists)
  local keys = H.sorted_keys(lists)
  if #keys == 0 then misuse(name .. ": lists: expected at least one list, got none") end
  return keys
end

function api.product(lists)
  local keys = lists_of("product", lists)
  local rows = { {} }
  for _, key in raw_ipairs(keys) do
    local more = {}
    for i = 1, #rows do
      for j = 1, rawlen(lists[key]) do
        local row = {}
        for known, value in raw_next, rows[i] do row[known] = value end
        row[key] = lists[key][j]
        more[#more + 1] = row
      end
    end
    rows = more
  end
  columns_of[rows] = keys
  return rows
end

function api.zip(lists)
  local keys = lists_of("zip", lists)
  local first = keys[1]
  local n, rows = rawlen(lists[first]), {}
  for _, key in raw_ipairs(keys) do
    if rawlen(lists[key]) ~= n then
      misuse(format("zip: lists.%s: expected %d values as in lists.%s, got %d", key, n, first, rawlen(lists[key])))
    end
  end
  for i = 1, n do
    local row = {}
    for _, key in raw_ipairs(keys) do row[key] = lists[key][i] end
    rows[i] = row
  end
  columns_of[rows] = keys
  return rows
end

H.publish(api, H.methods)
