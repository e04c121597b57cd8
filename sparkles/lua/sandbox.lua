-- What a script sees besides the API: Lua's own functions and libraries, made safe and the same in every run. Internal: not for `require`.
--
-- The script's environment is an empty table over a table of names, so that reading an unknown name and assigning any are both noticed;
-- libraries are shown in the same way.

local H = ...
local real_load, real_error, real_pcall = load, error, pcall
local metatable_of = debug.getmetatable
local type, select, raw_next, rawget, rawset, rawlen, setmetatable = type, select, next, rawget, rawset, rawlen, setmetatable
local find, gsub, match, real_format, concat = string.find, string.gsub, string.match, string.format, table.concat
local real_sort, table_pack, table_unpack, math_type = table.sort, table.pack, table.unpack, math.type
local format, tointeger, ult = string.format, math.tointeger, math.ult
local null, misuse, text, kind_of, expect, draw = H.null, H.misuse, H.text, H.kind_of, H.expect, H.draw
local protected = H.protected -- tables a script may read only -> what they show

local names = {} -- every global name of a script
local env = {}
H.names, H.env = names, env

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
  real_sort(numbers)
  real_sort(texts)
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

local orders = setmetatable({}, { __mode = "k" }) -- table -> {keys, places}: what `next` walks
names.next = function(t, key)
  expect("next", "table", t)
  local lazy = H.lazy_lists[t]
  local shown = lazy and lazy() or protected[t] or t
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

names.pcall, names.xpcall = H.pcall, H.xpcall

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

-- Libraries ---------------------------------------------------------------------------------------------------------------------

local function words_of(...)
  local words = {}
  for i = 1, select("#", ...) do
    for key in raw_next, (select(i, ...)) do
      if type(key) == "string" then words[#words + 1] = key end
    end
  end
  real_sort(words)
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
local function formatted(name, ok, ...)
  if ok then return ... end
  local e = ...
  if type(e) ~= "string" or e == "not enough memory" then real_error(e, 0) end
  local number, why = match(e, "^bad argument #(%d+) to '[^']*' %((.*)%)$")
  if not number then misuse(name .. ": " .. gsub(e, " to 'format'$", "")) end
  local expected, got = match(why, "^(.*) expected, got (.*)$")
  if expected then why = format("expected %s, got %s", expected, got) end
  misuse(number == "1" and format("%s: format: %s", name, why) or format("%s: value %d of the format: %s", name, number - 1, why))
end

-- string.format for the function `name` of the API.
function H.format_for(name, fmt, ...)
  if type(fmt) == "string" and find(fmt, "p", 1, true) and find(gsub(fmt, "%%%%", ""), "%%[-+ #0]*%d*%.?%d*p") then
    misuse(name .. ": %p is not available: addresses differ from run to run")
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
      return formatted(name, real_pcall(real_format, fmt, table_unpack(values, 1, n)))
    end
  end
  return formatted(name, real_pcall(real_format, fmt, ...))
end
lib.format = function(...) return H.format_for("string.format", ...) end
local string_lib = library("string", lib)
local string_meta = metatable_of("")
string_meta.__index = string_lib
string_meta.__metatable = "protected"

lib = {}
for key, value in raw_next, math do lib[key] = value end
lib.randomseed = function() misuse("math.randomseed: not available: math.random is seeded from the run, so that a replay draws the same") end
lib.random = function(m, n)
  local ran = draw()
  if m == nil then return (ran >> 11) * 0x1p-53 end
  local low, high = m, n
  if n == nil then
    if m == 0 then return ran end
    low, high = 1, m
  end
  if type(low) ~= "number" or type(high) ~= "number" then misuse(format("math.random: expected integer, got %s", kind_of(type(low) ~= "number" and low or high))) end
  low, high = tointeger(low), tointeger(high)
  if not low or not high then misuse("math.random: expected integer, got a number with a fraction") end
  if low > high then misuse(format("math.random: the interval %d..%d is empty", low, high)) end
  local span = high - low
  local mask = span
  for _, shift in H.raw_ipairs({ 1, 2, 4, 8, 16, 32 }) do mask = mask | mask >> shift end
  ran = ran & mask
  while ult(span, ran) do ran = draw() & mask end
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

library("coroutine", H.coroutine)

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

-- Names of other languages.
local ELSEWHERE = {
  None = "it is nil in Lua (null for a missing value that is stored)",
  True = "it is true in Lua",
  False = "it is false in Lua",
  undefined = "it is nil in Lua",
  len = "the length of a list or a text is #value in Lua",
  range = "for i = 1, n do ... end counts in Lua",
  enumerate = "for i, value in ipairs(list) do ... end goes through a list in Lua",
  str = "it is tostring(value) in Lua",
  int = "it is math.tointeger(value) or math.floor(value) in Lua",
  float = "it is tonumber(text) in Lua",
  printf = "log(format, ...) prints formatted text",
}

setmetatable(names, {
  __index = function(_, key)
    if type(key) ~= "string" then return nil end
    local instead = INSTEAD[key]
    if instead then misuse(format("'%s' is not available in workflows: %s", key, instead)) end
    local here = ELSEWHERE[key]
    misuse(format("unknown name '%s'%s", key, here and ": " .. here or H.suggest(key, words_of(names))))
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
