-- The Lua side of the script host: errors with positions, strands, and what needs to know of both. Internal: not for `require`.
--
-- A strand is a coroutine. A primitive yields (HOST, name, position, bytes ...) to the host and is resumed with an answer; a script's own
-- coroutines pass such yields upwards. Surprise: strands stay in a table here and the host holds their numbers, because a Lua thread that
-- went to Python and back arrives as a function.

local H = ...
local real_yield, real_resume, real_create, real_close = coroutine.yield, coroutine.resume, coroutine.create, coroutine.close
local running, isyieldable, costatus = coroutine.running, coroutine.isyieldable, coroutine.status
local real_error, real_assert, real_xpcall, real_load, real_tostring = error, assert, xpcall, load, tostring
local sethook, getinfo, metatable_of = debug.sethook, debug.getinfo, debug.getmetatable
local type, select, raw_next, rawget, setmetatable = type, select, next, rawget, setmetatable
local sub, find, format, gsub, match, gmatch = string.sub, string.find, string.format, string.gsub, string.match, string.gmatch
local concat = table.concat
local table_pack = table.pack
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
local entries = {} -- strand -> the script's function that it runs
local carried = {} -- strand -> the table that it raised, for whoever joins or awaits it
local origins = setmetatable({}, weak_keys) -- such a table -> {position, traceback} of where it was raised
local current = 0 -- the strand that runs
local last_line = "" -- where the hook last saw the script: errors of the memory allocator have no position
local paths = {} -- the paths of loaded chunks, as shown -> their text

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

local own_names = {} -- the functions and methods of sparkles
H.own_names = own_names
local returns = setmetatable({}, weak_keys) -- function -> the line of its tail call

-- The line of a function's tail call, which has left no frame: the one `return f(...)` in it, or else that calls a function of sparkles, or
-- else where the function begins.
local function tail_call_in(fn)
  local known = returns[fn]
  if known then return known end
  local info = getinfo(fn, "SL")
  local path = sub(info.source, 2)
  local text = paths[path]
  if sub(info.source, 1, 1) ~= "@" or not text then return nil end
  local calls, own, first, line = {}, {}, nil, 0
  for content in gmatch(text .. "\n", "(.-)\r?\n") do
    line = line + 1
    if info.activelines[line] then
      first = first or line
      local name = match(content, "%f[%w_]return%s+([%a_][%w_.:]*)%s*[%({%['\"]")
      if name then
        calls[#calls + 1] = line
        if own_names[match(name, "[%w_]+$")] then own[#own + 1] = line end
      end
    end
  end
  local found = #calls == 1 and calls[1] or #own == 1 and own[1] or info.linedefined > 0 and info.linedefined or calls[1] or first or 1
  returns[fn] = path .. ":" .. format("%d", found)
  return returns[fn]
end

-- Where a strand without any frame of a script is.
local function lost(fn) return fn and tail_call_in(fn) or last_line end

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
  return lost(entries[current])
end
H.where = where

-- Errors ------------------------------------------------------------------------------------------------------------------------

local error_fields = setmetatable({}, weak_keys)
local steps_of = setmetatable({}, weak_keys) -- such an error -> the number of the recorded step that raised it
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
  local value = error_value(e.message, e.kind, e.fields, e.usage, position or where())
  steps_of[value] = e.step
  real_error(value, 0)
end

function H.fail(message, opts)
  local e = error_value(message, "Failed", nil, opts and opts.badInput, where())
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

-- Whether an error was raised by Lua or by a library, not by the author's `error` or `assert`.
local function is_mistake(e, info)
  return type(e) == "string" and (info == nil or e == "not enough memory" or info.func ~= real_error and info.func ~= real_assert)
end

local mistake -- the newest such error that was caught, as it was caught: raised again it is still one

local function handler(e)
  local wrong = is_mistake(e, getinfo(2, "f"))
  e = normal(e, where())
  if wrong then mistake = e end
  return e
end

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
H.render = render

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
    local message, fields = real_tostring(e.message), error_fields[e]
    return { message = message, kind = e.kind, fields = fields, usage = e.usage, position = e.position, step = steps_of[e] }
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

local MOST_FRAMES, SHOWN_FRAMES = 40, 10

-- How many frames a coroutine has; by halving, because each question walks the frames.
local function depth_of(co)
  local low, high = 0, 1
  while getinfo(co, high, "l") do low, high = high, high * 2 end
  while high - low > 1 do
    local middle = (low + high) // 2
    if getinfo(co, middle, "l") then low = middle else high = middle end
  end
  return high
end

-- The author's frames, the innermost first; of a deep recursion the two ends.
local function traceback(co)
  local lines = {}
  local depth = depth_of(co)
  local level = 0
  while level < depth do
    if level == SHOWN_FRAMES and depth > MOST_FRAMES then
      level = depth - SHOWN_FRAMES
      lines[#lines + 1] = format("... %d more frames", level - SHOWN_FRAMES)
    end
    local info = getinfo(co, level, "Sln")
    local at = info and position_in(info)
    if at then
      local what = info.what == "main" and "in the script" or info.name and "in function '" .. info.name .. "'" or "in a function"
      lines[#lines + 1] = at .. ": " .. what
    end
    level = level + 1
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
  if how == 7 then real_error(carried[value], 0) end
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

-- The next 64 random bits of the present strand (xoshiro256**, as Lua's own).
function H.draw()
  local s = generators[current]
  local s0, s1, s2, s3 = s[1], s[2], s[3], s[4]
  local result = rotated(s1 * 5, 7) * 9
  s2, s3 = s2 ~ s0, s3 ~ s1
  s[2], s[1] = s1 ~ s2, s0 ~ s3
  s[3], s[4] = s2 ~ s1 << 17, rotated(s3, 45)
  return result
end

-- A new strand that will run `fn`, and with it the script's function `entry`; the host names it before it is resumed.
function H.spawn(fn, entry)
  local id = #strands + 1
  entries[id] = entry or fn
  local co = armed(real_create(function() return fn() end))
  strands[id], strand_of[co] = co, id
  return id
end

-- Seeds the strand's chance by its label.
function H.name_strand(id, label) generators[id] = table_pack(H.call("seed", label)) end

-- The strand will not be resumed any more.
function H.drop(id)
  strands[id], phases[id], generators[id], entries[id] = false, nil, nil, nil
end

local function settle(id, co, ok, tag, name, position, a, b)
  if ok and tag == HOST then return name, position, a, b end
  local entry = entries[id]
  H.drop(id)
  if ok then return "ended" end
  if interrupted or tag == STOP then return "interrupted" end
  if tag == LATCHED then return "latched" end
  local origin = origins[tag]
  local at = origin and origin.position or where_in(co) or lost(entry)
  local described = H.describe(tag, at)
  if is_mistake(tag, getinfo(co, 0, "f")) or tag == mistake and type(tag) == "string" then described.usage = true end
  local fields_ok, fields = real_xpcall(H.pack, function() return "" end, described.fields)
  if not fields_ok then described.fields = {} end
  local trace = traceback(co)
  described.traceback = origin and origin.traceback or trace ~= "" and trace or described.position
  local table_raised = type(tag) == "table"
  if table_raised then
    carried[id] = tag
    origins[tag] = origin or { position = described.position, traceback = described.traceback }
  end
  if not utf8.len(described.message) then described.message = gsub(described.message, "[\x80-\xff]", "?") end
  return "failed", described.position, H.pack(described), table_raised
end

function H.resume(id, how, value)
  current = id
  local co = strands[id]
  return settle(id, co, real_resume(co, how, value))
end

-- Values as text -------------------------------------------------------------------------------------------------------------

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

function H.expect(name, kind, value)
  if type(value) ~= kind then misuse(format("%s: expected %s, got %s", name, kind, kind_of(value))) end
end
local expect = H.expect

function H.raw_ipairs(list)
  return function(items, i)
    i = i + 1
    local value = rawget(items, i)
    if value ~= nil then return i, value end
  end, list, 0
end

-- What needs the strands: catching, coroutines, loading --------------------------------------------------------------------

H.pcall = function(...)
  if select("#", ...) == 0 then misuse("pcall: takes a function") end
  local f = ...
  return through(real_xpcall(f, handler, select(2, ...)))
end

H.xpcall = function(f, on_error, ...)
  expect("xpcall: handler", "function", on_error)
  local refused
  local function passed(...)
    if refused then real_error(refused, 0) end
    return through(...)
  end
  return passed(real_xpcall(f, function(e)
    if interrupted or fatal[e] then return e end
    local _ <close> = H.enter("the message handler of xpcall")
    -- An error in a handler would be handed to that handler again, until nobody knows any more what it was.
    local ok, value = real_xpcall(on_error, handler, normal(e, where()))
    if not ok and type(value) == "table" and metatable_of(value) == ERROR and value.usage then refused = value end
    return value
  end, ...))
end

-- Coroutines: each is armed with the hook, and passes what is meant for the host upwards.

local function pump(co, ok, tag, ...)
  if ok and tag == HOST then
    if not isyieldable() then return pump(co, real_resume(co, 6, callback_of())) end
    return pump(co, real_resume(co, real_yield(tag, ...)))
  end
  if not ok then
    local wrong = is_mistake(tag, getinfo(co, 0, "f"))
    tag = normal(tag, where_in(co) or last_line)
    if wrong then mistake = tag end
  end
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

H.coroutine = {
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
}

local loaded, loading = {}, {}
local done_loading = { __close = function(self) loading[self.key] = nil end } -- `loading`: the strand that loads a module
function H.require(name)
  if not find(name, "^[%w_%-]+$") and not find(name, "^[%w_%-][%w_%-%.]*[%w_%-]$") or find(name, "..", 1, true) then
    misuse(format("require: name: expected letters, digits, '_' and '-', with dots for folders, got '%s'", name))
  end
  local problem, key, shown, source = H.call("find_module", name)
  if problem then misuse("require: " .. problem) end
  if loaded[key] ~= nil then return loaded[key] end
  local loader = loading[key]
  if loader and strands[loader] and loader ~= current then -- one that was cancelled does not load any more
    local first = "Require it before the strands start, or put its steps into a function"
    misuse(format("require: '%s' is being loaded by another strand, which waits for a step at the top of it. %s", name, first))
  end
  if loader == current then misuse(format("require: '%s' is being loaded already: modules require each other", name)) end
  local chunk = H.load(source, shown)
  loading[key] = current
  local _ <close> = setmetatable({ key = key }, done_loading)
  local value = chunk(name)
  if value == nil then value = true end
  loaded[key] = value
  return value
end

-- Compiles the text of a script or a module; a syntax error is raised at its own line.
function H.load(source, shown)
  paths[shown] = source
  if sub(source, 1, 3) == "\xef\xbb\xbf" then source = sub(source, 4) end
  if sub(source, 1, 1) == "#" then source = "--" .. source end
  local chunk, problem = real_load(source, "@" .. shown, "t", H.env)
  if not chunk then
    problem = normal(problem, shown)
    local at, message = split_position(problem)
    message = (message or problem) .. H.syntax_hint(message or problem, source, at and tonumber(match(at, "(%d+)$")))
    H.raise({ message = message, kind = "Syntax", usage = true }, at or shown)
  end
  return chunk
end

-- As `load`, for the host: returns the function, or nil, position, message.
function H.compile(source, shown)
  local ok, chunk = real_xpcall(H.load, function(e) return e end, source, shown)
  if ok then return chunk end
  return nil, chunk.position, chunk.message
end
