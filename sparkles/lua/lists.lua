-- Reads lists and ranges that stand in one text, such as the parameter "alpha=0.1,1,10; seed=1..5". For `require("lists")`.
--
-- Each function returns what it read; or nil and what is wrong, as a sentence that a `check` of params{...} can return.

local lists = {}

lists.MOST = 100000 -- values of a list, and tasks of a job made from them: what a job is known to bear

-- What a text like a range must look like, so that "../data" and "a..b" remain texts.
local RANGE = "^([%d.eE+-]-)%.%.([%d.eE+-]*)%s*(%a*)$"

local function trimmed(text) return (text:gsub("^%s+", ""):gsub("%s+$", "")) end
local function finite(number) return number and number - number == 0 end

-- The words between commas: "a, b" -> {"a", "b"}. Empty ones are passed over.
function lists.words(text)
  local found = {}
  for part in text:gmatch("[^,]+") do
    if part:find("%S") then table.insert(found, trimmed(part)) end
  end
  return found
end

-- Values between commas, numbers where they look like numbers: "a,2,4..6" -> {"a", 2, 4, 5, 6}.
function lists.values(text)
  local found = {}
  for part in (text .. ","):gmatch("([^,]*),") do
    local part = trimmed(part)
    local first, last, rest = part:match(RANGE)
    if part == "" then return nil, ("expected values separated by commas, found nothing where one should be in '%s'"):format(text) end
    if first then
      local low, high = tonumber(first), tonumber(last)
      if rest ~= "" or math.type(low) ~= "integer" or math.type(high) ~= "integer" then
        return nil, ("expected a range of whole numbers such as 1..5, found '%s'"):format(part)
      end
      if low > high then return nil, ("expected a range from the lower to the higher number, found '%s'"):format(part) end
      if high - low >= lists.MOST or high - low < 0 then return nil, ("expected at most %d values, found the range '%s'"):format(lists.MOST, part) end
      for value = low, high do table.insert(found, value) end
    else
      table.insert(found, tonumber(part) or part)
    end
    if #found > lists.MOST then return nil, ("expected at most %d values, found more in '%s'"):format(lists.MOST, text) end
  end
  return found
end

-- A function that draws a value: "2..8" a whole number, "0.5..2" a number, "0.1..10 log" one evenly by magnitude, "a,b,c" one of these.
function lists.drawer(text)
  local first, last, scale = trimmed(text):match(RANGE)
  if not first then
    local choices, problem = lists.values(text)
    return choices and function() return choices[math.random(#choices)] end, problem
  end
  local low, high = tonumber(first), tonumber(last)
  if not finite(low) or not finite(high) then return nil, ("expected a range such as 0.1..10, found '%s'"):format(text) end
  if scale ~= "" and scale ~= "log" then return nil, ("expected log or nothing after a range, found '%s'"):format(scale) end
  if low > high or scale == "log" and low <= 0 then return nil, ("the range '%s' is empty or not above 0"):format(text) end
  if scale == "log" then return function() return math.exp(math.log(low) + math.random() * (math.log(high) - math.log(low))) end end
  if math.type(low) == "integer" and math.type(high) == "integer" then return function() return math.random(low, high) end end
  return function() return low + math.random() * (high - low) end
end

-- Names with what `read` makes of the text behind each: "a=1,2; b=3", lists.values -> {a = {1, 2}, b = {3}}.
function lists.named(text, read, form)
  local found = {}
  for part in text:gmatch("[^;]+") do
    local name, rest = trimmed(part):match("^([%a_][%w_]*)%s*=%s*(.*)$")
    if not name and part:find("%S") then return nil, ("expected %s, found '%s'"):format(form, trimmed(part)) end
    if name then
      if found[name] then return nil, ("expected each name once, found '%s' twice"):format(name) end
      local value, problem = read(rest)
      if not value then return nil, name .. ": " .. problem end
      found[name] = value
    end
  end
  if next(found) == nil then return nil, ("expected %s, found nothing"):format(form) end
  return found
end

return lists
