-- What differs from plain Lua: order, chance, errors, modules; and product, zip, params.
local expect = require("expect")
local tests = {}

local function keys_of(t)
  local keys = {}
  for key in pairs(t) do keys[#keys + 1] = key end
  return keys
end

function tests.pairs_goes_in_order()
  expect.equal(keys_of { z = 1, a = 1, [10] = 1, [2.5] = 1, [-1] = 1, [true] = 1, [false] = 1, B = 1 }, { -1, 2.5, 10, "B", "a", "z", false, true })
  expect.equal(keys_of { 5, 6, 7 }, { 1, 2, 3 })
  expect.equal(keys_of {}, {})
end

function tests.pairs_allows_removal_on_the_way()
  local t, seen = { a = 1, b = 2, c = 3 }, {}
  for key in pairs(t) do
    seen[#seen + 1] = key
    t[key], t.b = nil, nil
  end
  expect.equal(seen, { "a", "c" })
  local list = { 1, 2, 3 }
  for i in pairs(list) do list[i] = nil end
  expect.equal(#list, 0)
end

function tests.next_goes_in_the_same_order()
  local t, seen = { z = 1, a = 2, [3] = 3 }, {}
  local key, value = next(t)
  while key do
    seen[#seen + 1] = tostring(key) .. value
    key, value = next(t, key)
  end
  expect.equal(seen, { "33", "a2", "z1" })
  expect.equal(next {}, nil)
end

function tests.pairs_heeds_metamethods()
  local t = setmetatable({}, { __pairs = function() return function(_, i) i = (i or 0) + 1 return i < 3 and i or nil end end })
  expect.equal(keys_of(t), { 1, 2 })
end

function tests.sort_is_stable()
  local list = {}
  for i = 1, 500 do list[i] = { key = i % 7, at = i } end
  table.sort(list, function(a, b) return a.key < b.key end)
  for i = 2, #list do
    local a, b = list[i - 1], list[i]
    if not (a.key < b.key or (a.key == b.key and a.at < b.at)) then error("not stable at " .. i) end
  end
  local words = { "b", "c", "a" }
  table.sort(words)
  expect.equal(words, { "a", "b", "c" })
end

function tests.chance_is_in_its_bounds()
  local seen = {}
  for _ = 1, 1000 do
    local f, n, m = math.random(), math.random(6), math.random(-2, 2)
    if f < 0 or f >= 1 or n < 1 or n > 6 or m < -2 or m > 2 then error("out of bounds") end
    seen[n] = true
  end
  expect.equal(#seen, 6)
  expect.equal(math.type(math.random(0)), "integer")
  expect.equal(math.random(7, 7), 7)
  math.random(math.mininteger, math.maxinteger)
  expect.raises("is empty", math.random, 2, 1)
end

function tests.pcall_catches_and_continues()
  local ok, e = pcall(error, { code = 3 })
  expect.equal({ ok, e.code }, { false, 3 })
  expect.equal({ pcall(function(...) return ... end, 1, 2) }, { true, 1, 2 })
  local ok2, text = xpcall(function() error("x", 0) end, function(m) return m .. "!" end)
  expect.equal({ ok2, text }, { false, "x!" })
end

function tests.errors_of_the_api_are_values()
  local e = expect.raises("now: takes no arguments, got 1", now, 1)
  expect.equal(e.kind, "Usage")
  expect.equal(e.message, "now: takes no arguments, got 1")
  expect.equal(tostring(e), e.position .. ": " .. e.message)
end

function tests.coroutines_work()
  local gen = coroutine.wrap(function() for i = 1, 3 do coroutine.yield(i) end end)
  expect.equal({ gen(), gen(), gen() }, { 1, 2, 3 })
  local co = coroutine.create(function() error("inside") end)
  local ok, e = coroutine.resume(co)
  expect.equal(ok, false)
  expect.equal(e:find("language_test.lua:%d+: inside") ~= nil, true)
  expect.equal(coroutine.status(co), "dead")
  expect.equal(coroutine.close(coroutine.create(print)), true)
  expect.equal(coroutine.isyieldable(), true)
end

function tests.format_shows_no_addresses()
  expect.equal(("%s %s %5.1f %d"):format({}, print, 1.25, 3), "table function   1.2 3")
  expect.equal(string.format("%s", setmetatable({}, { __tostring = function() return "mine" end })), "mine")
  expect.equal(("100%%p"):format(), "100%p")
end

function tests.modules_are_loaded_once()
  expect.equal(require("expect") == expect, true)
  expect.raises("no module 'expct'", require, "expct")
  expect.raises("Did you mean 'expect'?", require, "expct")
end

function tests.load_compiles_text()
  expect.equal(load("return ...", "name")(3), 3)
  local f, message = load("return +")
  expect.equal(f, nil)
  expect.equal(type(message), "string")
  local pieces, i = { "return ", "4" }, 0
  expect.equal(load(function() i = i + 1 return pieces[i] end)(), 4)
end

function tests.product_varies_the_last_name_fastest()
  expect.equal(product { b = { 1, 2 }, a = { "x", "y" } }, { { a = "x", b = 1 }, { a = "x", b = 2 }, { a = "y", b = 1 }, { a = "y", b = 2 } })
  expect.equal(product { a = {}, b = { 1 } }, {})
end

function tests.zip_goes_side_by_side() expect.equal(zip { a = { 1, 2 }, b = { "x", "y" } }, { { a = 1, b = "x" }, { a = 2, b = "y" } }) end

function tests.null_is_a_value()
  expect.equal(tostring(null), "null")
  expect.equal(#{ null, null }, 2)
  expect.equal(null == null, true)
end

function tests.params_type_the_arguments()
  expect.equal(args.alpha, "0.5")
  expect.equal(args.other, nil)
  local p = params {
    alpha = { type = "number", default = 1, doc = "step" },
    n = { type = "integer", default = 3 },
    verbose = { type = "boolean", default = false },
    name = {},
    note = { default = null },
  }
  expect.equal({ p.alpha, p.n, p.verbose, p.name, p.note }, { 0.5, 3, true, "007", nil })
  expect.equal({ args.alpha, args.name }, { 0.5, "007" })
  expect.raises("params declares no 'alhpa'. Did you mean 'alpha'?", function() return args.alhpa end)
  local keys = {}
  for key in pairs(args) do keys[#keys + 1] = key end
  expect.equal(keys, { "alpha", "n", "name", "verbose" })
end

return tests
