-- What the tests in Lua say about values: `equal`, `raises`.
local M = {}

local function same(a, b)
  if type(a) ~= "table" or type(b) ~= "table" then return math.type(a) == math.type(b) and a == b end
  if a == b then return true end
  for key, value in pairs(a) do
    if not same(value, b[key]) then return false end
  end
  for key in pairs(b) do
    if a[key] == nil then return false end
  end
  return true
end

local function shown(value)
  if type(value) ~= "table" or value == null then return tostring(value) end
  local parts = {}
  for key, item in pairs(value) do parts[#parts + 1] = tostring(key) .. "=" .. shown(item) end
  return "{" .. table.concat(parts, ", ") .. "}"
end

function M.equal(found, expected)
  if not same(found, expected) then error("expected " .. shown(expected) .. ", found " .. shown(found), 2) end
end

-- Calls fn, which must raise an error whose text contains `text`; returns the error.
function M.raises(text, fn, ...)
  local ok, e = pcall(fn, ...)
  if ok then error("nothing was raised", 2) end
  if not tostring(e):find(text, 1, true) then error("raised " .. tostring(e), 2) end
  return e
end

return M
