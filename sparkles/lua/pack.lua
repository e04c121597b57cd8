-- Lua values <-> MessagePack bytes, the form in which values cross between the script and the host. Internal: not for `require`.
--
-- Text that is valid UTF-8 is written as a string, other text as binary, so that every Lua string survives. Integers stay integers and
-- floats floats. A table is a list (keys 1..n and no other) or a map (text keys only, written in sorted order); an empty one is a map,
-- unless it came from the host as an empty list. Anything else is refused with the path of the key.

local H = ...
local null, is_empty_list = H.null, H.is_empty_list
local type, error, raw_next, rawlen, math_type = type, error, next, rawlen, math.type
local pack, unpack, byte, char, sub = string.pack, string.unpack, string.byte, string.char, string.sub
local utf8_len, concat, sort, rawget = utf8.len, table.concat, table.sort, rawget
local format, find, tostring = string.format, string.find, tostring

local DEPTH = 64 -- deeper values are refused: JSON readers elsewhere have limits of this order
local CHUNK = 4096 -- parts are joined this many at a time, so that the buffer of a large value stays small

local FIXED = {} -- the header of a number or a string shorter than 32 bytes
for n = 0, 127 do FIXED[n] = char(n) end
local TEXT = {}
for n = 0, 31 do TEXT[n] = char(0xa0 + n) end

local function text_header(n)
  if n < 256 then return pack(">BB", 0xd9, n) end
  if n < 65536 then return pack(">BI2", 0xda, n) end
  return pack(">BI4", 0xdb, n)
end

local function binary_header(n)
  if n < 256 then return pack(">BB", 0xc4, n) end
  if n < 65536 then return pack(">BI2", 0xc5, n) end
  return pack(">BI4", 0xc6, n)
end

local function list_header(n)
  if n < 16 then return char(0x90 + n) end
  if n < 65536 then return pack(">BI2", 0xdc, n) end
  return pack(">BI4", 0xdd, n)
end

local function map_header(n)
  if n < 16 then return char(0x80 + n) end
  if n < 65536 then return pack(">BI2", 0xde, n) end
  return pack(">BI4", 0xdf, n)
end

-- Of the value being written; kept from one to the next, and not re-entered, since writing calls nothing of the script.
local parts, count, held, held_count, path, stack, root = {}, 0, {}, 0, {}, {}, ""
local keys, key_count = {}, 0 -- headers and bytes of recent map keys
local shape, shape_size = {}, 0 -- the sorted keys of the last map: rows of one table share them

local function put(text)
  count = count + 1
  parts[count] = text
  if count >= CHUNK then
    held_count = held_count + 1
    held[held_count] = concat(parts, "", 1, count)
    count = 0
  end
end

local function refuse(depth, why)
  local where = {}
  for i = 1, depth do
    local key = path[i]
    if type(key) == "number" then
      where[#where + 1] = "[" .. format("%d", key) .. "]"
    elseif find(key, "^[%a_][%w_]*$") then
      where[#where + 1] = (i > 1 or root ~= "") and "." .. key or key
    else
      where[#where + 1] = format("[%q]", key)
    end
  end
  local at = root .. concat(where)
  error({ pack_error = (at ~= "" and at .. ": " or "") .. why }, 0)
end

local function describe(key)
  local kind = type(key)
  if kind == "string" then return format("%q", key) end
  if kind == "number" then return format(math_type(key) == "integer" and "%d" or "%.14g", key) end
  if kind == "boolean" then return tostring(key) end
  return "a " .. kind
end

local write

local function write_key(key, depth)
  local known = keys[key]
  if not known then
    if not utf8_len(key) then refuse(depth, "a key is text that is not UTF-8") end
    local n = #key
    known = (TEXT[n] or text_header(n)) .. key
    if key_count >= 4096 then keys, key_count = {}, 0 end
    keys[key] = known
    key_count = key_count + 1
  end
  put(known)
end

local function same_shape(value)
  for i = 1, shape_size do
    if rawget(value, shape[i]) == nil then return false end
  end
  local n = 0
  for _ in raw_next, value do
    n = n + 1
    if n > shape_size then return false end
  end
  return n == shape_size
end

local function write_map(value, depth)
  local own, size = shape, shape_size
  if size == 0 or not same_shape(value) then
    own, size = {}, 0
    for key in raw_next, value do
      if type(key) ~= "string" then
        refuse(depth, format("a table is either a list (keys 1..n without holes) or has text keys; found key %s", describe(key)))
      end
      size = size + 1
      own[size] = key
    end
    sort(own)
    shape, shape_size = own, size
  end
  put(map_header(size))
  for i = 1, size do
    local key = own[i]
    write_key(key, depth)
    path[depth + 1] = key
    write(rawget(value, key), depth + 1)
  end
end

local function write_list(value, size, depth)
  local n = 0
  for key in raw_next, value do
    n = n + 1
    if n > size then
      refuse(depth, format("a table is either a list (keys 1..n without holes) or has text keys; found key %s beside 1..%d", describe(key), size))
    end
  end
  put(list_header(size))
  for i = 1, size do
    path[depth + 1] = i
    local item = rawget(value, i)
    if item == nil then refuse(depth + 1, "a list must not have holes; found nil (write null for a missing value)") end
    write(item, depth + 1)
  end
end

function write(value, depth)
  local kind = type(value)
  if kind == "string" then
    local n = #value
    if utf8_len(value) then
      put(TEXT[n] or text_header(n))
    else
      put(binary_header(n))
    end
    put(value)
  elseif kind == "number" then
    if math_type(value) == "integer" then
      if value >= 0 and value < 128 then put(FIXED[value]) else put(pack(">Bi8", 0xd3, value)) end
    else
      put(pack(">Bd", 0xcb, value))
    end
  elseif kind == "boolean" then
    put(value and "\xc3" or "\xc2")
  elseif kind == "table" then
    if value == null then
      put("\xc0")
      return
    end
    local class = H.class_of[value]
    if class == "Strand" or class == "JobBuilder" then
      refuse(depth, format("expected a value that can be stored (text, number, boolean, table or null), got a %s", class))
    end
    local lazy = H.lazy_lists[value]
    if lazy then value = lazy() end
    value = H.protected[value] or value
    for i = 1, depth do
      if stack[i] == value then refuse(depth, "the table contains itself") end
    end
    if depth >= DEPTH then refuse(depth, format("tables are nested more than %d deep", DEPTH)) end
    stack[depth + 1] = value
    if rawget(value, 1) ~= nil then
      write_list(value, rawlen(value), depth)
    elseif raw_next(value) == nil then
      put(is_empty_list[value] and "\x90" or "\x80")
    else
      write_map(value, depth)
    end
  elseif value == nil then
    put("\xc0")
  else
    refuse(depth, format("expected a value that can be stored (text, number, boolean, table or null), got %s", kind))
  end
end

-- The bytes of `value`; nil is written as null. Raises {pack_error = "rows[3].alpha: ..."}: `named` begins that path.
function H.pack(value, named)
  count, held_count, root = 0, 0, named or ""
  write(value, 0)
  if held_count == 0 then return concat(parts, "", 1, count) end
  held[held_count + 1] = concat(parts, "", 1, count)
  local bytes = concat(held, "", 1, held_count + 1)
  parts, held = {}, {} -- what a large value needed is not kept
  return bytes
end

local data, at

local read

local function read_list(n)
  local list = {}
  if n == 0 then is_empty_list[list] = true end
  for i = 1, n do list[i] = read() end
  return list
end

local function read_map(n)
  local map = {}
  for _ = 1, n do
    local key = read()
    map[key] = read()
  end
  return map
end

local function read_text(n)
  local from = at
  at = from + n
  return sub(data, from, at - 1)
end

local WIDE = {
  [0xc0] = function() return null end,
  [0xc2] = function() return false end,
  [0xc3] = function() return true end,
  [0xcb] = function() local v; v, at = unpack(">d", data, at); return v end,
  [0xcc] = function() local v; v, at = unpack(">I1", data, at); return v end,
  [0xcd] = function() local v; v, at = unpack(">I2", data, at); return v end,
  [0xce] = function() local v; v, at = unpack(">I4", data, at); return v end,
  [0xcf] = function()
    local v
    v, at = unpack(">i8", data, at)
    if v >= 0 then return v end
    return (v >> 1 | v & 1) * 2.0 -- beyond 2^63: a float, as Lua reads such a literal
  end,
  [0xd0] = function() local v; v, at = unpack(">i1", data, at); return v end,
  [0xd1] = function() local v; v, at = unpack(">i2", data, at); return v end,
  [0xd2] = function() local v; v, at = unpack(">i4", data, at); return v end,
  [0xd3] = function() local v; v, at = unpack(">i8", data, at); return v end,
  [0xd9] = function() local n; n, at = unpack(">I1", data, at); return read_text(n) end,
  [0xda] = function() local n; n, at = unpack(">I2", data, at); return read_text(n) end,
  [0xdb] = function() local n; n, at = unpack(">I4", data, at); return read_text(n) end,
  [0xdc] = function() local n; n, at = unpack(">I2", data, at); return read_list(n) end,
  [0xdd] = function() local n; n, at = unpack(">I4", data, at); return read_list(n) end,
  [0xde] = function() local n; n, at = unpack(">I2", data, at); return read_map(n) end,
  [0xdf] = function() local n; n, at = unpack(">I4", data, at); return read_map(n) end,
}
WIDE[0xc4], WIDE[0xc5], WIDE[0xc6] = WIDE[0xd9], WIDE[0xda], WIDE[0xdb]

function read()
  local b = byte(data, at)
  at = at + 1
  if b < 0x80 then return b end
  if b < 0x90 then return read_map(b & 0x0f) end
  if b < 0xa0 then return read_list(b & 0x0f) end
  if b < 0xc0 then return read_text(b & 0x1f) end
  if b >= 0xe0 then return b - 256 end
  return WIDE[b]()
end

-- The value that `bytes` hold; null stays the sentinel.
function H.unpack(bytes)
  data, at = bytes, 1
  local value = read()
  data = nil
  return value
end
