-- Checks the arguments of API functions against the records of api.py, and wraps the functions in those checks. Internal: not for `require`.

local H = ...
local type, rawget, raw_next, select, rawlen, math_type = type, rawget, next, select, rawlen, math.type
local format, rep = string.format, string.rep
local api, misuse, kind_of, class_of, null = H.api, H.misuse, H.kind_of, H.class_of, H.null
local records = api.records

for _, each in raw_next, records do
  each.known, each.words = {}, {}
  for i, field in H.raw_ipairs(each.fields) do
    each.known[field.name] = field
    each.words[i] = field.name
  end
end

local problem_with

local function is_artifact(value)
  return type(value) == "table" and rawget(value, "digest") ~= nil and rawget(value, "job") ~= nil
end
H.is_artifact = is_artifact

-- What is wrong with a value of a table type, or nil.
local function problem_in_list(of, expected, value, path)
  for i = 1, rawlen(value) do
    local problem = problem_with(of, expected, rawget(value, i), path .. "[" .. i .. "]")
    if problem then return problem end
  end
  for key in raw_next, value do
    if math_type(key) ~= "integer" or key < 1 or key > rawlen(value) then
      return format("%s: expected list, got table with key %s", path, type(key) == "string" and "'" .. key .. "'" or H.text(key))
    end
  end
end

local function problem_in_map(of, expected, value, path)
  for _, key in H.raw_ipairs(H.sorted_keys(value, true)) do
    if type(key) ~= "string" then return format("%s: expected names as keys, got %s", path, H.text(key)) end
    local problem = problem_with(of, expected, rawget(value, key), path .. "." .. key)
    if problem then return problem end
  end
end

local function problem_in_record(record, value, path)
  for _, key in H.raw_ipairs(H.sorted_keys(value, true)) do
    if type(key) ~= "string" then return format("%s: expected options by name, got key %s", path, H.text(key)) end
    if not record.known[key] then return format("%s.%s: unknown option%s", path, key, H.suggest(key, record.words)) end
  end
  for _, field in H.raw_ipairs(record.fields) do
    local item = rawget(value, field.name)
    if not (item == nil and field.optional) then
      local problem = problem_with(field.types, field.expected, item, path .. "." .. field.name)
      if problem then return problem end
    end
  end
end
H.problem_in_record = problem_in_record

local function expected_of(types)
  local words = {}
  for i, each in H.raw_ipairs(types) do
    local kind = each.kind
    if kind == "record" then
      local record = records[each.name]
      words[i] = record.opaque and each.name or each.name == "Artifact" and "artifact" or "table"
    elseif kind == "list" then
      local inner = expected_of(each.of)
      words[i] = inner == "any" and "list" or "list of " .. inner
    else
      words[i] = kind == "map" and "table" or kind
    end
  end
  local text, seen, unique = "", {}, {}
  for _, word in H.raw_ipairs(words) do
    if not seen[word] then
      seen[word] = true
      unique[#unique + 1] = word
    end
  end
  for i, word in H.raw_ipairs(unique) do text = text .. (i == 1 and "" or i == #unique and " or " or ", ") .. word end
  return text
end

local function suits(each, value, kind)
  local wanted = each.kind
  if wanted == "any" then return value ~= nil end
  if wanted == kind then return wanted ~= "table" or (not class_of[value] and value ~= null) end
  if wanted == "integer" then return math_type(value) == "integer" end
  if wanted == "record" and records[each.name].opaque then return class_of[value] == each.name end
  return false
end

local function table_problem(each, expected, value, path)
  if each.kind == "list" then return problem_in_list(each.of, expected_of(each.of), value, path) end
  if each.kind == "map" then return problem_in_map(each.of, expected_of(each.of), value, path) end
  if each.name == "Artifact" and not is_artifact(value) then return format("%s: expected %s, got table", path, expected) end
  return problem_in_record(records[each.name], value, path)
end

local HINTS = {
  JobHandle = { JobBuilder = ". Did you forget submit(...)?", Result = ". The job has been waited for already" },
  JobBuilder = { JobHandle = ". The job has been submitted already" },
}

-- nil, or "path: expected string, got nil". `types` are alternatives as api.parse_type gives them.
function problem_with(types, expected, value, path)
  local kind = type(value)
  local structural, artifact = nil, false
  for i = 1, #types do
    local each = types[i]
    if suits(each, value, kind) then return nil end
    if kind == "table" and not class_of[value] and value ~= null then
      local wanted = each.kind
      if wanted == "record" and each.name == "Artifact" and is_artifact(value) then
        structural, artifact = each, true
      elseif not artifact then
        if wanted == "list" and (structural == nil or rawget(value, 1) ~= nil or raw_next(value) == nil) then structural = each end
        if wanted == "map" and (structural == nil or rawget(value, 1) == nil) then structural = each end
        if wanted == "record" and not records[each.name].opaque and each.name ~= "Artifact" and (structural == nil or rawget(value, 1) == nil) then
          structural = each
        end
      end
    elseif kind == "table" and each.kind == "list" and H.lazy_lists[value] then
      return nil
    end
  end
  if structural then return table_problem(structural, expected, value, path) end
  local got = kind_of(value)
  if #types == 1 and types[1].kind == "integer" and kind == "number" then got = H.text(value) end
  local first = types[1]
  local hint = first.kind == "record" and HINTS[first.name] and HINTS[first.name][got] or ""
  return format("%s: expected %s, got %s%s", path, expected, got, hint)
end
H.problem_with = problem_with

local function check(name, field, value)
  if value == nil and field.optional then return end
  local problem = problem_with(field.types, field.expected, value, field.name)
  if problem then misuse(name .. ": " .. problem) end
end

local function too_many(name, n, ...)
  misuse(format("%s: takes %s, got %d", name, n == 0 and "no arguments" or n == 1 and "1 argument" or n .. " arguments", n + select("#", ...)))
end

local function check_rest(name, n, rest, ...)
  for i = 1, select("#", ...) do
    local value = select(i, ...)
    if rest.types[1].kind ~= "any" then
      local problem = problem_with(rest.types, rest.expected, value, rest.name .. "[" .. i .. "]")
      if problem then misuse(name .. ": " .. problem) end
    end
  end
end

-- `fn` with its arguments checked as the record `spec` says.
local function checked(spec, fn)
  local name, params, rest = spec.name, spec.params, spec.rest
  local n = #params
  if rest then
    return function(...)
      for i = 1, n do check(name, params[i], (select(i, ...))) end
      if select("#", ...) > n then check_rest(name, n, rest, select(n + 1, ...)) end
      return fn(...)
    end
  end
  local p1, p2, p3 = params[1], params[2], params[3]
  if n == 0 then
    return function(...)
      if select("#", ...) > 0 then too_many(name, 0, ...) end
      return fn()
    end
  end
  if n == 1 then
    return function(a, ...)
      check(name, p1, a)
      if select("#", ...) > 0 then too_many(name, 1, ...) end
      return fn(a)
    end
  end
  if n == 2 then
    return function(a, b, ...)
      check(name, p1, a)
      check(name, p2, b)
      if select("#", ...) > 0 then too_many(name, 2, ...) end
      return fn(a, b)
    end
  end
  return function(a, b, c, ...)
    check(name, p1, a)
    check(name, p2, b)
    check(name, p3, c)
    if select("#", ...) > 0 then too_many(name, 3, ...) end
    return fn(a, b, c)
  end
end

local VARIABLE = { JobBuilder = "builder", Result = "result", Strand = "strand" }

-- The same for a method: `fn` gets the object first.
local function checked_method(spec, fn)
  local name, owner, params, rest = spec.name, spec.owner, spec.params, spec.rest
  local n = #params
  return function(self, ...)
    if class_of[self] ~= owner then
      misuse(format("%s.%s: called with '.', expected ':' as in %s:%s(%s)", owner, name, VARIABLE[owner] or "value", name, (n > 0 or rest) and "..." or ""))
    end
    for i = 1, n do check(name, params[i], (select(i, ...))) end
    if rest then
      if select("#", ...) > n then check_rest(name, n, rest, select(n + 1, ...)) end
    elseif select("#", ...) > n then
      too_many(name, n, select(n + 1, ...))
    end
    return fn(self, ...)
  end
end

H.anywhere = {}
-- Wraps the implementations, globals by name and methods by owner and name, and makes the globals known to scripts.
function H.publish(globals, methods)
  for _, spec in H.raw_ipairs(api.functions) do
    if spec.anywhere then H.anywhere[spec.name] = true end
    H.own_names[spec.name] = true
    if spec.owner == "" then
      H.names[spec.name] = checked(spec, globals[spec.name])
    else
      methods[spec.owner][spec.name] = checked_method(spec, methods[spec.owner][spec.name])
    end
  end
end
