-- parallel, map and spawn: children are strands that the host's loop drives; what they return stays here. Internal: not for `require`.
--
-- A child is known by its content: the key in `parallel`, the digest of the item in `map`, the source of the function in `spawn`.

local H = ...
local type, rawlen = type, rawlen
local format = string.format
local getinfo, dump = debug.getinfo, string.dump
local misuse, perform, packed, call, kind_of, made = H.misuse, H.perform, H.packed, H.call, H.kind_of, H.made
local api = H.globals

local SHOWN_ITEMS = 1000 -- of longer lists only the first items are recorded as people read them

local values = {} -- strand -> what its function returned

-- A strand that runs `fn` and keeps its first value.
local function child(fn, a, b)
  local id
  id = H.spawn(function() values[id] = fn(a, b) end, fn)
  return id
end

local function taken(id)
  local value = values[id]
  values[id] = nil
  return value
end

local function limit_of(name, limit)
  if limit ~= nil and limit < 1 then misuse(format("%s: limit: expected 1 or more, got %d", name, limit)) end
  return limit
end

function api.parallel(functions)
  local limit = functions.limit
  local keys, children, ids = {}, {}, {}
  if type(limit) ~= "number" then limit = nil end
  if limit and math.type(limit) ~= "integer" then misuse(format("parallel: limit: expected integer, got %s", limit)) end
  limit_of("parallel", limit)
  for _, key in H.raw_ipairs(H.sorted_keys(functions)) do
    local fn = functions[key]
    if not (key == "limit" and limit) then
      if type(fn) ~= "function" then misuse(format("parallel: %s: expected function, got %s", H.text(key), kind_of(fn))) end
      keys[#keys + 1] = key
    end
  end
  for i, key in H.raw_ipairs(keys) do
    ids[i] = child(functions[key])
    children[i] = { strand = ids[i], key = H.text(key) }
  end
  perform("parallel", packed("parallel", { children = children, limit = limit }, ""))
  local results = {}
  for i, key in H.raw_ipairs(keys) do results[key] = taken(ids[i]) end
  return results
end

function api.map(list, fn, opts)
  local limit = limit_of("map", opts and opts.limit)
  local children, ids = {}, {}
  for i = 1, rawlen(list) do
    local item = list[i]
    local key = call("key", packed("map", item, format("list[%d]", i)))
    ids[i] = child(fn, item, i)
    children[i] = { strand = ids[i], key = key }
    if i <= SHOWN_ITEMS then children[i].text = call("item", packed("map", item, "")) end
  end
  perform("parallel", packed("map", { children = children, limit = limit }, ""))
  local results = {}
  for i, id in H.raw_ipairs(ids) do results[i] = taken(id) end
  return results
end

function api.spawn(fn)
  local info = getinfo(fn, "S")
  local source = call("function_source", info.source, info.linedefined, info.lastlinedefined) or format("%q", dump(fn, true))
  local id = child(fn)
  perform("spawn", packed("spawn", { strand = id, key = "spawn:" .. call("key", source) }, ""))
  return made("Strand", { id = id })
end

local seen = {} -- strand -> its value, for a handle that is awaited twice
function H.methods.Strand.await(strand)
  local id = H.protected[strand].id
  perform("await", packed("await", id, ""))
  if values[id] ~= nil then seen[id] = taken(id) end
  return seen[id]
end
