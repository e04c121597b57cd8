-- The Lua side of the script host: strands, errors with positions, and the sandbox that a script sees. Internal: not for `require`.
--
-- A strand is a coroutine. A primitive yields (HOST, name, position, bytes ...) to the host and is resumed with an answer; a script's own
-- coroutines pass such yields upwards. The script's environment is an empty table over a table of names, so that reading an unknown
-- name and assigning any are both noticed. Surprise: strands stay in a table here and the host holds their numbers, because a Lua thread
-- that went to Python and back arrives as a function.

local H = ...
local real_yield, real_resume, real_create, real_close = coroutine.yield, coroutine.resume, coroutine.create, coroutine.close
local running, isyieldable, costatus = coroutine.running, coroutine.isyieldable, coroutine.status
local real_error, real_xpcall, real_load, real_tostring = error, xpcall, load, tostring
local sethook, getinfo, metatable_of = debug.sethook, debug.getinfo, debug.getmetatable
local type, select, raw_next, rawget, rawset, rawlen, setmetatable = type, select, next, rawget, rawset, rawlen, setmetatable
local sub, find, format, gsub, match, concat = string.sub, string.find, string.format, string.gsub, string.match, table.concat
local sort, table_pack, table_unpack, math_type = table.sort, table.pack, table.unpack, math.type
local collectgarbage = collectgarbage
local py, null = H.py, H.null

local INTERNAL = "=[sparkles]" -- the name of these chunks
local HOST = {} -- marks a yield as meant for the host
local STOP, LATCHED = {}, {} -- the errors of an interrupt, and of a failed call into Python that the host holds
local fatal = setmetatable({ [STOP] = true, [LATCHED] = true }, { __mode = "k" }) -- errors that no pcall may catch
local interrupted = false
local weak_keys = { __mode = "k" }
local resumer = setmetatable({}, weak_keys) -- coroutine -> the one that resumed it
local strands, strand_of, phases, generators = {}, setmetatable({}, weak_keys), {}, {}
local current = 0 -- the strand that runs
local last_line = "" -- where the hook last saw the script: errors of the memory allocator have no position
local paths = {} -- the paths of loaded chunks, as shown
local protected = H.protected -- tables a script may read only -> what they show

-- Positions ---------------------------------------------------------------------------------------------------------------------

local function position_in(info)
  if info.currentline > 0 and sub(info.source, 1, 1) == "@" then return sub(info.source, 2) .. ":" .. format("%d", info.currentline) end
end

local function where_in(co)
  for level = 0, 200 do
    local info = getinfo(co, level, "Sl")
    if not info then break end
    local found = position_in(info)
    if found then return found end
  end
end

-- The author's line that is being executed, `path:line`: the innermost frame of a script, also from within a coroutine.
local function where()
  for level = 3, 200 do
    local info = getinfo(level, "Sl")
    if not info then break end
    local found = position_in(info)
    if found then return found end
  end
  local co = resumer[running()]
  while co do
    local found = where_in(co)
    if found then return found end
    co = resumer[co]
  end
  return last_line
end
H.where = where

-- Errors ------------------------------------------------------------------------------------------------------------------------

local error_fields = setmetatable({}, weak_keys)
local ERROR = { __metatable = "error", __name = "error" }
ERROR.__tostring = function(e) return (e.position ~= "" and e.position .. ": " or "") .. real_tostring(e.message) end
ERROR.__concat = function(a, b) return H.text(a) .. H.text(b) end

local function error_value(message, kind, fields, usage, position)
  local e = { message = message, kind = kind, usage = usage or false, position = position }
  if fields then
    for key, value in raw_next, fields do
      if e[key] == nil then e[key] = value end
    end
  end
  error_fields[e] = fields or {}
  H.class_of[e] = "error"
  return setmetatable(e, ERROR)
end

-- Raises an error of the author's, at the author's line: a wrong argument, an unknown name.
function H.misuse(message) real_error(error_value(message, "Usage", nil, true, where()), 0) end
local misuse = H.misuse

function H.raise(e, position)
  local fields = e.fields
  if fields and fields.position then -- a mistake found later than it was made: the host knows the line
    position, fields.position = fields.position, nil
  end
  real_error(error_value(e.message, e.kind, e.fields, e.usage, position or where()), 0)
end

function H.fail(message)
  local e = error_value(message, "Failed", nil, false, where())
  fatal[e] = true
  real_error(e, 0)
end

-- A call into Python: its failure is kept by the host and ends the script, whatever the script catches.
function H.call(name, ...)
  local ok, a, b, c, d = py[name](...)
  if not ok then real_error(LATCHED, 0) end
  return a, b, c, d
end

local function nearest(word, words)
  if type(word) ~= "string" then return nil end
  return H.call("nearest", word, concat(words, "\n"))
end

-- "Did you mean 'x'?", with the space before it, or "".
function H.suggest(word, words, prefix)
  local best = nearest(word, words)
  return best and format(". Did you mean '%s%s'?", prefix or "", best) or ""
end

-- A message of Lua's own with its position put right: long paths are cut by Lua, and lines of these chunks are not the author's.
local function normal(e, position)
  if type(e) ~= "string" then return e end
  if sub(e, 1, 11) == "[sparkles]:" then
    local message = gsub(e, "^%[sparkles%]:%d+: ", "")
    return (position ~= "" and position .. ": " or "") .. message
  end
  if sub(e, 1, 3) == "..." then
    local cut, rest = match(e, "^%.%.%.(.-)(:%d+: .*)$")
    for path in raw_next, paths do
      if cut and sub(path, -#cut) == cut then return path .. rest end
    end
  end
  return e
end

local function handler(e) return normal(e, where()) end

-- Ends here whatever must not be caught; everything else passes.
local function through(ok, e, ...)
  if interrupted then real_error(STOP, 0) end
  if not ok and fatal[e] then real_error(e, 0) end
  return ok, e, ...
end

local function render(value, depth)
  local kind = type(value)
  if kind == "string" then return format("%q", value) end
  if kind ~= "table" or value == null or metatable_of(value) then return H.text(value) end
  if depth > 2 then return "{...}" end
  local parts = {}
  for _, key in H.raw_ipairs(H.sorted_keys(value, true)) do
    if #parts == 8 then
      parts[#parts + 1] = "..."
      break
    end
    local item = render(rawget(value, key), depth + 1)
    if type(key) == "string" then
      parts[#parts + 1] = (find(key, "^[%a_][%w_]*$") and key or "[" .. format("%q", key) .. "]") .. " = " .. item
    else
      parts[#parts + 1] = item
    end
  end
  return "{" .. concat(parts, ", ") .. "}"
end

local function split_position(text)
  for path in raw_next, paths do
    local n = #path
    if sub(text, 1, n) == path then
      local line, rest = match(text, "^:(%d+): (.*)$", n + 1)
      if line then return path .. ":" .. line, rest end
    end
  end
end
H.split_position = split_position

-- An error of any kind as {message, kind, fields, usage, position}.
function H.describe(e, position)
  if type(e) == "table" and metatable_of(e) == ERROR then
    return { message = real_tostring(e.message), kind = e.kind, fields = error_fields[e], usage = e.usage, position = e.position }
  end
  local text
  if type(e) == "string" then
    text = normal(e, position)
    if text == "not enough memory" then text = format("the script uses more than its %d MiB of memory", H.memory_mib) end
  elseif type(e) == "table" and not (metatable_of(e) and metatable_of(e).__tostring) then
    text = "error value: " .. render(e, 0)
  elseif e == nil then
    text = "error value: nil"
  else
    text = H.text(e)
  end
  local own, rest = split_position(text)
  return { message = rest or text, kind = "ScriptError", fields = {}, usage = false, position = own or position }
end

local function traceback(co)
  local lines = {}
  for level = 0, 200 do
    local info = getinfo(co, level, "Sln")
    if not info then break end
    local at = position_in(info)
    if at then
      local what = info.what == "main" and "in the script" or info.name and "in function '" .. info.name .. "'" or "in a function"
      lines[#lines + 1] = at .. ": " .. what
    end
  end
  return concat(lines, "\n")
end

-- Strands -----------------------------------------------------------------------------------------------------------------------

local function hook()
  if H.call("interrupted") then
    interrupted = true
    real_error(STOP, 0)
  end
  local info = getinfo(2, "Sl")
  last_line = info and position_in(info) or last_line
  if collectgarbage("count") > H.soft_kib then
    collectgarbage()
    if collectgarbage("count") > H.soft_kib then real_error("not enough memory", 0) end
  end
end

local function armed(co)
  sethook(co, hook, "", 100000)
  return co
end

-- The C function through which the script was called back, by name.
local function callback_of()
  for level = 3, 200 do
    local info = getinfo(level, "Sn")
    if not info then break end
    if info.what == "C" then return info.name and "a callback of " .. info.name or "a metamethod" end
  end
  return "a callback"
end

local function refuse_here(name, inside) misuse(format("%s: not allowed inside %s (allowed: top level of the script)", name, inside)) end

-- Refuses by name what would reach the host from where it may not.
local function guard(name)
  local phase = phases[current]
  if phase and not H.anywhere[name] then refuse_here(name, phase) end
  if not isyieldable() then refuse_here(name, callback_of()) end
end
H.guard = guard

local leave = {
  __close = function(self)
    phases[self.strand] = self.outer
  end,
}
-- Until the returned value is closed, steps are refused as being inside `phase`.
function H.enter(phase)
  local outer = phases[current]
  phases[current] = phase
  return setmetatable({ strand = current, outer = outer }, leave)
end

local RUN = {}
H.RUN = RUN

local function answered(name, position, how, value)
  if how == 1 then return value end
  if how == 2 then return H.unpack(value) end
  if how == 3 then
    local e = H.unpack(value)
    for key, each in raw_next, e.fields do
      if each == null then e.fields[key] = nil end
    end
    return H.raise(e, position)
  end
  if how == 4 then return RUN end
  if how == 5 then real_error("not enough memory", 0) end
  return refuse_here(name, value) -- 6: a coroutine's command that could not be passed on
end

-- Asks the host for `name` and returns its value, or raises its error at the author's line.
function H.perform(name, a, b)
  guard(name)
  local position = where()
  return answered(name, position, real_yield(HOST, name, position, a, b))
end

-- As `perform`; an error is raised at `position`.
function H.perform_at(position, name, a)
  return answered(name, position, real_yield(HOST, name, position, a))
end

local function rotated(x, k) return x << k | x >> 64 - k end

local function draw(s)
  local s0, s1, s2, s3 = s[1], s[2], s[3], s[4]
  local result = rotated(s1 * 5, 7) * 9
  s2, s3 = s2 ~ s0, s3 ~ s1
  s[2], s[1] = s1 ~ s2, s0 ~ s3
  s[3], s[4] = s2 ~ s1 << 17, rotated(s3, 45)
  return result
end

function H.spawn(fn, label)
  local id = #strands + 1
  local co = armed(real_create(function() return fn() end))
  strands[id], strand_of[co] = co, id
  generators[id] = table_pack(H.call("seed", label))
  return id
end

local function settle(id, co, ok, tag, name, position, a, b)
  if ok and tag == HOST then return name, position, a, b end
  strands[id], phases[id] = false, nil
  if ok then return "ended" end
  if interrupted or tag == STOP then return "interrupted" end
  if tag == LATCHED then return "latched" end
  local at = where_in(co) or last_line
  local described = H.describe(tag, at)
  local fields_ok, fields = real_xpcall(H.pack, function() return "" end, described.fields)
  if not fields_ok then described.fields = {} end
  local trace = traceback(co)
  described.traceback = trace ~= "" and trace or described.position
  if not utf8.len(described.message) then described.message = gsub(described.message, "[\x80-\xff]", "?") end
  return "failed", described.position, H.pack(described)
end

function H.resume(id, how, value)
  current = id
  local co = strands[id]
  return settle(id, co, real_resume(co, how, value))
end

-- What a script sees ------------------------------------------------------------------------------------------------------------

local names = {} -- every global name of a script
local env = {}
H.names, H.env = names, env

-- A value as text; no addresses, which differ from run to run.
function H.text(value)
  local kind = type(value)
  if kind == "string" then return value end
  if kind == "table" then
    local meta = metatable_of(value)
    if meta then
      if rawget(meta, "__tostring") then return real_tostring(value) end
      local name = rawget(meta, "__name")
      if type(name) == "string" then return name end
    end
    return "table"
  end
  if kind == "function" or kind == "thread" or kind == "userdata" then return kind end
  return real_tostring(value)
end
local text = H.text

-- What a value is called in messages.
function H.kind_of(value)
  local class = H.class_of[value]
  if class then return class end
  if value == null then return "null" end
  return type(value)
end
local kind_of = H.kind_of

local function expect(name, kind, value)
  if type(value) ~= kind then misuse(format("%s: expected %s, got %s", name, kind, kind_of(value))) end
end

function H.raw_ipairs(list)
  return function(items, i)
    i = i + 1
    local value = rawget(items, i)
    if value ~= nil then return i, value end
  end, list, 0
end

-- The keys of a table: numbers, then texts, then false and true. `any`: other keys are left out instead of refused.
function H.sorted_keys(t, any)
  local numbers, texts, rest = {}, {}, {}
  for key in raw_next, t do
    local kind = type(key)
    if kind == "string" then
      texts[#texts + 1] = key
    elseif kind == "number" then
      numbers[#numbers + 1] = key
    elseif kind == "boolean" then
      if key then rest[#rest + 1] = true else rest = { false, rest[1] } end
    elseif not any then
      misuse(format("pairs: the table has a key that is a %s, and such keys have no order (use numbers, texts or booleans as keys)", kind_of(key)))
    end
  end
  sort(numbers)
  sort(texts)
  local n = #numbers
  for i = 1, #texts do numbers[n + i] = texts[i] end
  n = n + #texts
  for i = 1, #rest do numbers[n + i] = rest[i] end
  return numbers
end
local sorted_keys = H.sorted_keys

local function is_list(t)
  local n, size = 0, rawlen(t)
  for key in raw_next, t do
    n = n + 1
    if n > size or math_type(key) ~= "integer" or key < 1 or key > size then return false end
  end
  return n == size
end
H.is_list = is_list

local function list_next(t, i)
  i = (i or 0) + 1
  local value = rawget(t, i)
  if value ~= nil then return i, value end
end

names.pairs = function(t)
  local meta = metatable_of(t)
  if meta and rawget(meta, "__pairs") then
    local f, s, v = meta.__pairs(t)
    return f, s, v
  end
  expect("pairs", "table", t)
  local shown = protected[t] or t
  if is_list(shown) then return list_next, shown, nil end
  local keys, i = sorted_keys(shown), 0
  return function()
    local key, value
    repeat
      i = i + 1
      key = keys[i]
      if key == nil then return nil end
      value = rawget(shown, key)
    until value ~= nil -- assigned nil on the way
    return key, value
  end, t, nil
end

local orders = setmetatable({}, weak_keys) -- table -> {keys, places}: what `next` walks
names.next = function(t, key)
  expect("next", "table", t)
  local shown = protected[t] or t
  if key == nil and raw_next(shown) == nil then return nil end
  local order = orders[shown]
  if key == nil or not order or order.places[key] == nil then
    local keys, places = sorted_keys(shown), {}
    for i = 1, #keys do places[keys[i]] = i end
    order = { keys = keys, places = places }
    orders[shown] = order
  end
  local i = key == nil and 0 or order.places[key]
  if not i then misuse("next: the key is not in the table") end
  repeat
    i = i + 1
    key = order.keys[i]
  until key == nil or rawget(shown, key) ~= nil
  if key == nil then
    orders[shown] = nil
    return nil
  end
  return key, rawget(shown, key)
end

names.tostring = function(...)
  if select("#", ...) == 0 then misuse("tostring: takes 1 argument, got 0") end
  return text((...))
end

names.setmetatable = function(t, meta)
  expect("setmetatable: table", "table", t)
  if meta ~= nil then
    expect("setmetatable: metatable", "table", meta)
    if rawget(meta, "__gc") ~= nil then misuse("setmetatable: __gc is not available: when a value is collected differs from run to run") end
    if rawget(meta, "__mode") ~= nil then misuse("setmetatable: __mode is not available: when a value is collected differs from run to run") end
  end
  return setmetatable(t, meta)
end

names.rawset = function(t, key, value)
  expect("rawset", "table", t)
  if protected[t] or H.class_of[t] then misuse("rawset: this table is read-only") end
  return rawset(t, key, value)
end

names.rawget = function(t, key)
  expect("rawget", "table", t)
  return rawget(protected[t] or t, key)
end

names.pcall = function(...)
  if select("#", ...) == 0 then misuse("pcall: takes a function") end
  local f = ...
  return through(real_xpcall(f, handler, select(2, ...)))
end

names.xpcall = function(f, on_error, ...)
  expect("xpcall: handler", "function", on_error)
  return through(real_xpcall(f, function(e)
    if interrupted or fatal[e] then return e end
    return on_error(normal(e, where()))
  end, ...))
end

names.load = function(chunk, ...)
  local _, _, own = ...
  if type(chunk) == "function" then
    local parts = {}
    repeat
      local part = chunk()
      if part ~= nil then expect("load: piece", "string", part) end
      parts[#parts + 1] = part
    until part == nil or part == ""
    chunk = concat(parts)
  end
  expect("load: chunk", "string", chunk)
  if select("#", ...) >= 3 then return real_load(chunk, "=(load)", "t", own) end
  return real_load(chunk, "=(load)", "t", env)
end

names.assert, names.error, names.getmetatable, names.ipairs = assert, error, getmetatable, ipairs
names.rawequal, names.rawlen, names.select, names.tonumber, names.type = rawequal, rawlen, select, tonumber, type
names._VERSION, names._G = _VERSION, env

local loaded, loading = {}, {}
local done_loading = { __close = function(self) loading[self.key] = nil end }
function H.require(name)
  if not find(name, "^[%w_%-]+$") and not find(name, "^[%w_%-][%w_%-%.]*[%w_%-]$") or find(name, "..", 1, true) then
    misuse(format("require: name: expected letters, digits, '_' and '-', with dots for folders, got '%s'", name))
  end
  local problem, key, shown, source = H.call("find_module", name)
  if problem then misuse("require: " .. problem) end
  if loaded[key] ~= nil then return loaded[key] end
  if loading[key] then misuse(format("require: '%s' is being loaded already: modules require each other", name)) end
  local chunk = H.load(source, shown)
  loading[key] = true
  local _ <close> = setmetatable({ key = key }, done_loading)
  local value = chunk(name)
  if value == nil then value = true end
  loaded[key] = value
  return value
end

-- Compiles the text of a script or a module; a syntax error is raised at its own line.
function H.load(source, shown)
  paths[shown] = true
  if sub(source, 1, 3) == "\xef\xbb\xbf" then source = sub(source, 4) end
  if sub(source, 1, 1) == "#" then source = "--" .. source end
  local chunk, problem = real_load(source, "@" .. shown, "t", env)
  if not chunk then
    problem = normal(problem, shown)
    local at, message = split_position(problem)
    H.raise({ message = message or problem, kind = "Syntax", usage = true }, at or shown)
  end
  return chunk
end

-- As `load`, for the host: returns the function, or nil, position, message.
function H.compile(source, shown)
  local ok, chunk = real_xpcall(H.load, function(e) return e end, source, shown)
  if ok then return chunk end
  return nil, chunk.position, chunk.message
end

-- Libraries ---------------------------------------------------------------------------------------------------------------------

local function words_of(...)
  local words = {}
  for i = 1, select("#", ...) do
    for key in raw_next, (select(i, ...)) do
      if type(key) == "string" then words[#words + 1] = key end
    end
  end
  sort(words)
  return words
end
H.words_of = words_of

local function library(name, functions)
  setmetatable(functions, {
    __index = function(_, key)
      if type(key) ~= "string" then return nil end
      local why = name .. "." .. key == "string.dump" and ": bytecode is not available in workflows" or ""
      misuse(format("unknown name '%s.%s'%s%s", name, key, why, why == "" and H.suggest(key, words_of(functions), name .. ".") or ""))
    end,
  })
  local shown = setmetatable({}, {
    __index = functions,
    __newindex = function(_, key) misuse(format("'%s' is part of sparkles and cannot be changed (%s.%s)", name, name, text(key))) end,
    __metatable = "protected",
    __name = name,
  })
  protected[shown] = functions
  names[name] = shown
  return functions
end

local lib = {}
for key, value in raw_next, string do
  if key ~= "dump" then lib[key] = value end
end
local real_format = format
lib.format = function(fmt, ...)
  if type(fmt) == "string" and find(fmt, "p", 1, true) and find(gsub(fmt, "%%%%", ""), "%%[-+ #0]*%d*%.?%d*p") then
    misuse("string.format: %p is not available: addresses differ from run to run")
  end
  local n = select("#", ...)
  for i = 1, n do
    local kind = type((select(i, ...)))
    if kind == "table" or kind == "function" or kind == "thread" or kind == "userdata" then
      local values = table_pack(...)
      for j = 1, n do
        local each = type(values[j])
        if each == "table" or each == "function" or each == "thread" or each == "userdata" then values[j] = text(values[j]) end
      end
      return real_format(fmt, table_unpack(values, 1, n))
    end
  end
  return real_format(fmt, ...)
end
local string_lib = library("string", lib)
local string_meta = metatable_of("")
string_meta.__index = string_lib
string_meta.__metatable = "protected"

lib = {}
for key, value in raw_next, math do lib[key] = value end
lib.randomseed = function() misuse("math.randomseed: not available: math.random is seeded from the run, so that a replay draws the same") end
lib.random = function(m, n)
  local ran = draw(generators[current])
  if m == nil then return (ran >> 11) * 0x1p-53 end
  local low, high = m, n
  if n == nil then
    if m == 0 then return ran end
    low, high = 1, m
  end
  if type(low) ~= "number" or type(high) ~= "number" then misuse(format("math.random: expected integer, got %s", kind_of(type(low) ~= "number" and low or high))) end
  low, high = math.tointeger(low), math.tointeger(high)
  if not low or not high then misuse("math.random: expected integer, got a number with a fraction") end
  if low > high then misuse(format("math.random: the interval %d..%d is empty", low, high)) end
  local span = high - low
  local mask = span
  for _, shift in H.raw_ipairs({ 1, 2, 4, 8, 16, 32 }) do mask = mask | mask >> shift end
  ran = ran & mask
  while math.ult(span, ran) do ran = draw(generators[current]) & mask end
  return low + ran
end
library("math", lib)

lib = {}
for key, value in raw_next, utf8 do lib[key] = value end
library("utf8", lib)

local function merged(items, scratch, low, high, before)
  if high - low < 8 then
    for i = low + 1, high do
      local value, j = items[i], i - 1
      while j >= low and before(value, items[j]) do
        items[j + 1] = items[j]
        j = j - 1
      end
      items[j + 1] = value
    end
    return
  end
  local middle = (low + high) // 2
  merged(items, scratch, low, middle, before)
  merged(items, scratch, middle + 1, high, before)
  if not before(items[middle + 1], items[middle]) then return end
  for i = low, middle do scratch[i] = items[i] end
  local left, right, to = low, middle + 1, low
  while left <= middle do
    if right <= high and before(items[right], scratch[left]) then
      items[to] = items[right]
      right = right + 1
    else
      items[to] = scratch[left]
      left = left + 1
    end
    to = to + 1
  end
end

lib = {}
for key, value in raw_next, table do lib[key] = value end
local real_sort = sort
-- Stable: the order of equal items that Lua's own sort leaves depends on the clock for large lists.
lib.sort = function(items, before)
  expect("table.sort: list", "table", items)
  if before == nil then return real_sort(items) end
  expect("table.sort: comparator", "function", before)
  if protected[items] or H.lazy_lists[items] then misuse("table.sort: this list is read-only; copy it first: table.move(list, 1, #list, 1, {})") end
  local _ <close> = H.enter("a comparator of table.sort")
  merged(items, {}, 1, #items, before)
end
library("table", lib)

-- Coroutines: each is armed with the hook, and passes what is meant for the host upwards.

local function pump(co, ok, tag, ...)
  if ok and tag == HOST then
    if not isyieldable() then return pump(co, real_resume(co, 6, callback_of())) end
    return pump(co, real_resume(co, real_yield(tag, ...)))
  end
  if not ok then tag = normal(tag, where_in(co) or last_line) end
  return through(ok, tag, ...)
end

local function resume(co, ...)
  expect("coroutine.resume", "thread", co)
  if strand_of[co] then return false, "cannot resume a strand" end
  resumer[co] = running()
  return pump(co, real_resume(co, ...))
end

local function create(fn)
  expect("coroutine.create", "function", fn)
  return armed(real_create(fn))
end

local function unwrapped(ok, ...)
  if ok then return ... end
  real_error((...), 0)
end

library("coroutine", {
  create = create,
  resume = resume,
  wrap = function(fn)
    local co = create(fn)
    return function(...) return unwrapped(resume(co, ...)) end
  end,
  yield = function(...)
    if strand_of[running()] then misuse("coroutine.yield: not inside a coroutine") end
    return real_yield(...)
  end,
  status = costatus,
  isyieldable = isyieldable,
  running = running,
  close = function(co)
    expect("coroutine.close", "thread", co)
    if strand_of[co] then misuse("coroutine.close: cannot close a strand") end
    return through(real_close(co))
  end,
})

-- Names -------------------------------------------------------------------------------------------------------------------------

local INSTEAD = {
  io = "readText, readCsv, readJson, writeText, writeCsv and writeJson read and write files",
  os = "now() tells the time, shell() runs a command, args holds the parameters",
  debug = "errors carry a traceback",
  package = "require(name) loads a module",
  dofile = "require(name) loads a module",
  loadfile = "require(name) loads a module",
  collectgarbage = "memory is collected by itself",
  python = "shell() runs a command",
  loadstring = "load(text) compiles text",
  unpack = "it is table.unpack",
}

setmetatable(names, {
  __index = function(_, key)
    if type(key) ~= "string" then return nil end
    local instead = INSTEAD[key]
    if instead then misuse(format("'%s' is not available in workflows: %s", key, instead)) end
    misuse(format("unknown name '%s'%s", key, H.suggest(key, words_of(names))))
  end,
})
setmetatable(env, {
  __index = names,
  __newindex = function(_, key)
    if rawget(names, key) ~= nil then misuse(format("'%s' is a name of sparkles and cannot be assigned. Did you forget 'local'?", text(key))) end
    misuse(format("'%s' is not declared. Did you forget 'local'?", text(key)))
  end,
  __metatable = "protected",
  __name = "_G",
})
protected[env] = names
