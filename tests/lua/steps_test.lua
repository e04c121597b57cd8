-- step, shell, files, now, random, uuid, sleep, log.
local expect = require("expect")
local tests = {}

function tests.step_returns_what_the_function_returned()
  expect.equal(step("add", function(a, b) return a + b end, 2, 3), 5)
  expect.equal(step("table", function(t) return { n = #t, list = {} } end, { 1, 2 }), { n = 2, list = {} })
  expect.equal(step("nothing", function() end), nil)
  expect.equal(step("with nil", function(a, b) return { a == nil, b } end, nil, 2), { true, 2 })
end

function tests.step_raises_what_the_function_raised()
  local e = expect.raises("step 'bad': no luck", step, "bad", function() error("no luck") end)
  expect.equal(e.kind, "StepFailed")
end

function tests.a_step_has_copies_of_its_arguments()
  local given, list = { y = 1, deep = { { z = 1 } } }, { 1 }
  local seen = step("change", function(a, b, c)
    a.x, a.deep[1].z, b[2] = 1, 2, 2
    return { x = a.x, z = a.deep[1].z, n = #b, none = c == nil }
  end, given, list, nil)
  expect.equal(seen, { x = 1, z = 2, n = 2, none = true })
  expect.equal(given, { y = 1, deep = { { z = 1 } } })
  expect.equal(list, { 1 })
end

function tests.an_error_with_a_metatable_keeps_its_fields()
  local class = { __tostring = function(self) return "class " .. self.a end }
  local ok, e = pcall(step, "typed", function() error(setmetatable({ a = 3, b = { 1 }, f = print }, class)) end)
  expect.equal({ ok, e.a, e.b, e.f == nil, e.kind }, { false, 3, { 1 }, true, "StepFailed" })
  expect.equal(e.message, "step 'typed': class 3")
end

function tests.a_step_in_a_message_handler_is_refused_by_name()
  local e = expect.raises("now: not allowed inside the message handler of xpcall", xpcall, error, function() return now() end, "first")
  expect.equal(e.kind, "Usage")
  local ok, value = xpcall(error, function(m) error({ why = m }) end, "first", 0)
  expect.equal({ ok, value.why }, { false, "first" })
  expect.equal(now(), 1700000000.25)
end

function tests.step_ends_its_guard_when_it_fails()
  pcall(step, "bad", function() now() end)
  expect.equal(now(), 1700000000.25)
end

function tests.shell_returns_its_outcome()
  local r = shell("echo out")
  expect.equal(r.stdout, "out\n")
  expect.equal(r.exitCode, 0)
  expect.equal(shell({ "ls", "-l" }, { env = { A = 1 }, timeout = 3 }).exitCode, 0)
end

function tests.shell_raises_what_can_be_tested()
  local e = expect.raises("exit code 3", shell, "exit 3")
  expect.equal({ e.kind, e.exitCode, e.stderr }, { "ShellFailed", 3, "no" })
  expect.equal(shell("exit 3", { allowFailure = true }).exitCode, 3)
end

function tests.files_are_written_and_read()
  writeText("a.txt", "héllo\xff")
  expect.equal(readText("a.txt"), "héllo\xff")
  writeJson("a.json", { b = { 1, 2.5, null }, a = "x", e = {} })
  expect.equal(readJson("a.json"), { a = "x", b = { 1, 2.5, null }, e = {} })
  expect.equal(readText("a.json"):sub(1, 10), '{\n  "a": "')
  writeJson("b.json", { 1 }, { indent = 0 })
  expect.equal(readText("b.json"), "[1]\n")
  expect.equal({ fileExists("a.txt"), fileExists("none") }, { true, false })
end

function tests.null_survives_reading()
  writeText("n.json", "null")
  expect.equal(readJson("n.json") == null, true)
  writeText("e.json", "[]")
  writeJson("f.json", readJson("e.json"), { indent = 0 })
  expect.equal(readText("f.json"), "[]\n")
end

function tests.csv_rows_stay_text_unless_typed()
  writeText("p.csv", "id,alpha\n007,0.5\n008,1\n")
  expect.equal(readCsv("p.csv")[1], { id = "007", alpha = "0.5" })
  expect.equal(readCsv("p.csv", { types = { alpha = "number" } })[1].alpha, 0.5)
end

function tests.csv_columns_keep_the_order_of_their_source()
  writeText("p.csv", "z,a\n1,2\n")
  writeCsv("q.csv", readCsv("p.csv"))
  expect.equal(readText("q.csv"), "z,a\n1,2\n")
  writeCsv("r.csv", { { b = 1, a = "x,y" }, { c = true, a = null } })
  expect.equal(readText("r.csv"), 'a,b,c\n"x,y",1,\n,,true\n')
  writeCsv("s.tsv", { { b = 1, a = 0.1 } }, { columns = { "b", "a" } })
  expect.equal(readText("s.tsv"), "b\ta\n1\t0.1\n")
end

function tests.csv_cells_hold_lists_and_tables_as_json_where_asked()
  local row = { a = { 1, 2.5, "x,\"y\"" }, b = { z = null, k = { true } }, c = "plain", d = {} }
  writeCsv("n.csv", { row }, { nested = true })
  expect.equal(readCsv("n.csv")[1], { a = '[1,2.5,"x,\\"y\\""]', b = '{"k":[true],"z":null}', c = "plain", d = "{}" })
end

function tests.time_and_chance_come_from_the_host()
  expect.equal(now(), 1700000000.25)
  expect.equal(random(), 0.5)
  expect.equal(random(6), 1)
  expect.equal(random(3, 6), 3)
  expect.equal(#uuid(), 36)
  sleep(0)
  sleep("1m 30s")
end

function tests.steps_pass_through_coroutines()
  local co = coroutine.wrap(function(a)
    local b = coroutine.yield(now() + a)
    return { now(), b }
  end)
  expect.equal(co(1), 1700000001.25)
  expect.equal(co("b"), { 1700000000.25, "b" })
end

function tests.steps_pass_through_metamethods_and_iterators()
  local t = setmetatable({}, { __index = function(_, k) return k .. uuid():sub(1, 1) end, __call = function() return now() end })
  expect.equal(t.a, "a6")
  expect.equal(t(), 1700000000.25)
  for at in function(_, last) return not last and now() or nil end do expect.equal(at, 1700000000.25) end
end

function tests.builders_are_not_stored()
  local ok, e = pcall(writeJson, "x.json", { a = { JobBuilder("b") } })
  expect.equal(ok, false)
  expect.equal(
    e.message,
    "writeJson: value.a[1]: expected a value that can be stored (text, number, boolean, table or null), got a JobBuilder"
  )
  local _, of_step = pcall(step, "s", function() return { x = JobBuilder("b") } end)
  expect.equal(of_step.message:find("the returned value.x: ", 1, true) ~= nil, true)
end

function tests.a_table_raised_in_a_step_keeps_its_fields()
  local _, e = pcall(step, "s", function() error({ code = 3, why = { "a" } }) end)
  expect.equal({ e.code, e.why[1], e.kind }, { 3, "a", "StepFailed" })
  local _, listed = pcall(step, "s", function() error({ "a" }) end)
  expect.equal(listed.kind, "StepFailed")
end

return tests
