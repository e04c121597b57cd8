-- What a test file has besides plain Lua: tests, runs of workflows, stubs, expectations. Internal: not for `require`.
--
-- runWorkflow yields to the host, which drives the workflow in a Lua state of its own; where the workflow needs a stub, the host answers
-- the yield with the question, and the stub's answer is the next yield. So no Lua is on the host's stack while either of them runs.

local H = ...
local type, rawget, rawlen, raw_next, setmetatable = type, rawget, rawlen, next, setmetatable
local format, find, gsub, concat, abs = string.format, string.find, string.gsub, table.concat, math.abs
local misuse, perform, packed, made, text, kind_of, null = H.misuse, H.perform, H.packed, H.made, H.text, H.kind_of, H.null
local raw_ipairs, protected, class_of, records = H.raw_ipairs, H.protected, H.class_of, H.api.records
local api = H.globals
H.methods.Expectation, H.methods.WorkflowRun = {}, {}

H.metas.Expectation = H.class("Expectation", H.methods.Expectation, function() return "expectation" end)
H.metas.SubmittedJob = H.class("SubmittedJob", nil, function(j) return "job " .. j.id end)
H.metas.SubmittedTask = H.class("SubmittedTask", nil, function(t) return format("task %d", t.index) end)
H.metas.WorkflowRun = H.class("WorkflowRun", H.methods.WorkflowRun, function(r) return "run of " .. r.workflow end)

-- Stubs -------------------------------------------------------------------------------------------------------------------------

local base = { submit = {}, shell = {}, step = {}, files = {} } -- declared outside of tests
local current, inside = base, false
local runs = {} -- of the present test
local looked_at = setmetatable({}, { __mode = "k" }) -- runs whose failure the test has looked at

do
  local plain = H.metas.WorkflowRun.__index
  H.metas.WorkflowRun.__index = function(run, key)
    if key == "ok" or key == "failed" or key == "kind" then looked_at[run] = true end
    return plain(run, key)
  end
end

local function copied(stubs)
  local copy = {}
  for kind, list in raw_next, stubs do
    copy[kind] = {}
    for key, each in raw_next, list do copy[kind][key] = each end
  end
  return copy
end

local function declare(kind, name, answer)
  local list = current[kind]
  list[#list + 1] = { name = name, answer = answer, position = H.where() }
end

function api.onSubmit(name, answer) declare("submit", name, answer) end
function api.onShell(pattern, answer) declare("shell", pattern, answer) end
function api.onStep(name, answer) declare("step", name, answer) end
function api.files(contents)
  for path, content in raw_next, contents do current.files[path] = content end
end

local function named(stub, name) return find(name, "^" .. gsub(gsub(stub.name, "%W", "%%%0"), "%%%*", ".*") .. "$") ~= nil end

local function in_command(stub, command)
  if find(command, stub.name, 1, true) then return true end
  local ok, found = H.names.pcall(find, command, stub.name)
  return ok and found ~= nil
end

-- The last stub that fits, or nil.
local function fitting(kind, fits, word)
  local list = current[kind]
  for i = #list, 1, -1 do
    if fits(list[i], word) then return list[i] end
  end
end

local function known(kind, declared_by)
  local names = {}
  for i, stub in raw_ipairs(current[kind]) do names[i] = "'" .. stub.name .. "'" end
  return #names == 0 and format("there is no %s in this test", declared_by) or format("%s has %s", declared_by, concat(names, ", "))
end

local function called(answer, ...)
  if type(answer) ~= "function" then return answer end
  local _ <close> = H.enter("a stub")
  local value = answer(...)
  return value
end

local STATES = { "succeeded", "failed", "cancelled", "pending" }
local function checked_outcome(outcome, where)
  if outcome == nil then return {} end
  if type(outcome) ~= "table" or class_of[outcome] or outcome == null then misuse(format("%s: expected table, got %s", where, kind_of(outcome))) end
  local problem = H.problem_in_record(records.StubbedTask, outcome, where)
  if problem then misuse(problem) end
  local state = outcome.state
  if state and not find(" succeeded failed cancelled pending ", " " .. state .. " ", 1, true) then
    misuse(format("%s.state: expected succeeded, failed, cancelled or pending, got '%s'%s", where, state, H.suggest(state, STATES)))
  end
  return outcome
end

local answers = {}

function answers.submit(sent, run)
  local tasks = sent.tasks
  for i = 1, #tasks do tasks[i] = made("SubmittedTask", tasks[i]) end
  local position = sent.position
  sent.position = nil
  local job = made("SubmittedJob", sent)
  run.submitted[#run.submitted + 1] = job
  local stub = fitting("submit", named, job.name)
  if not stub then
    misuse(format("runWorkflow: %s submits the job '%s', for which there is no stub (%s)", position, job.name, known("submit", "onSubmit")))
  end
  local where = format("onSubmit '%s'", stub.name)
  local given = called(stub.answer, job)
  local outcomes = {}
  if type(given) == "table" and not class_of[given] and given ~= null then
    if rawlen(given) ~= #tasks then
      misuse(format("%s (%s): expected an outcome for each of %d tasks, got %d", where, stub.position, #tasks, rawlen(given)))
    end
    for i = 1, #tasks do outcomes[i] = checked_outcome(given[i], format("%s: outcomes[%d]", where, i)) end
  elseif type(given) == "function" then
    for i = 1, #tasks do outcomes[i] = checked_outcome(called(given, tasks[i]), format("%s: outcome of task %d", where, i)) end
  elseif given == nil then
    for i = 1, #tasks do outcomes[i] = {} end
  else
    misuse(format("%s (%s): expected list of outcomes, function or nil, got %s", where, stub.position, kind_of(given)))
  end
  return { tasks = outcomes }
end

function answers.shell(sent)
  local stub = fitting("shell", in_command, sent.command)
  if not stub then
    misuse(format("runWorkflow: %s runs `%s` with shell, for which there is no stub (%s)", sent.position, sent.command, known("shell", "onShell")))
  end
  local given = called(stub.answer, sent.command)
  if given == nil then return {} end
  if type(given) == "string" then return { stdout = given } end
  local where = format("onShell '%s'", stub.name)
  if type(given) ~= "table" or class_of[given] then misuse(format("%s: expected string or table, got %s", where, kind_of(given))) end
  local problem = H.problem_in_record(records.StubbedShell, given, where)
  if problem then misuse(problem) end
  return given
end

function answers.step(sent)
  local stub = fitting("step", named, sent.name)
  if not stub then return {} end
  local args, n = sent.args, #sent.args
  for i = 1, n do
    if args[i] == null then args[i] = nil end
  end
  local value = called(stub.answer, table.unpack(args, 1, n))
  return { value = value == nil and null or value }
end

-- Runs --------------------------------------------------------------------------------------------------------------------------

function api.runWorkflow(workflow, params, opts)
  if not inside then misuse("runWorkflow: not allowed outside of a test") end
  local args = {}
  for name, value in raw_next, params or {} do args[name] = text(value) end
  opts = opts or {}
  local sent = { workflow = workflow, args = args, now = opts.now or 1700000000, seed = opts.seed or 1, files = current.files }
  local run = { workflow = workflow, submitted = {} }
  local position = H.where()
  local answer = perform("runWorkflow", packed("runWorkflow", sent, ""))
  while answer.ask do
    local reply = answers[answer.ask](answer.about, run)
    answer = H.perform_at(position, "stub", packed("runWorkflow", reply, "stub"))
  end
  for key, value in raw_next, answer do run[key] = value end
  run = made("WorkflowRun", run)
  runs[#runs + 1] = { run = run, position = position }
  return run
end

function H.methods.WorkflowRun.job(run, name)
  local names = {}
  for i, job in raw_ipairs(run.submitted) do
    if job.name == name then return job end
    names[i] = job.name
  end
  misuse(format("job: the workflow submitted no job '%s' (jobs: %s)%s", name, #names > 0 and concat(names, ", ") or "none", H.suggest(name, names)))
end

local function written(run, name, path)
  local content = rawget(run.written, path)
  if content then return content end
  local paths = H.words_of(run.written)
  misuse(format("%s: the workflow did not write '%s' (written: %s)%s", name, path, #paths > 0 and concat(paths, ", ") or "nothing", H.suggest(path, paths)))
end

local function parsed(run, name, reader, path)
  local value, problem = H.call("parse", reader, path, written(run, name, path))
  if problem then misuse(name .. ": " .. problem) end
  return H.unpack(value)
end
function H.methods.WorkflowRun.writtenJson(run, path) return parsed(run, "writtenJson", "json", path) end
function H.methods.WorkflowRun.writtenCsv(run, path) return parsed(run, "writtenCsv", "csv", path) end

-- A run that failed without the test having looked at that.
local function unseen()
  for _, each in raw_ipairs(runs) do
    local fields = protected[each.run]
    if fields.failed and not looked_at[each.run] then return fields.failed, each.position end
  end
end

function api.test(name, fn)
  if inside then misuse("test: not allowed inside a test") end
  local strand = H.spawn(function()
    current, inside, runs = copied(base), true, {}
    fn()
    local failed, position = unseen()
    if failed then
      H.raise({ message = "the workflow failed, and the test does not look at run.failed or run.ok: " .. failed, kind = "Expectation" }, position)
    end
  end)
  perform("test", packed("test", { name = name, strand = strand }, ""))
end

-- Expectations ------------------------------------------------------------------------------------------------------------------

local function unmet(message)
  local last = runs[#runs] and protected[runs[#runs].run]
  local failed = unseen() or last and last.failed
  -- What was expected of the failure itself shows it already.
  if failed and not find(message, failed:match('^[^"\\\n]*'):sub(1, 40), 1, true) then message = message .. "\nthe workflow failed: " .. failed end
  H.raise { message = message, kind = "Expectation" }
end

local function shown(value)
  local content = gsub(H.render(protected[value] or value, 0), "\\\n", "\\n")
  return #content > 300 and content:sub(1, 297) .. "..." or content
end

local function plain(value)
  local lazy = type(value) == "table" and H.lazy_lists[value]
  return lazy and lazy() or protected[value] or value
end

local function inside_of(path, key)
  if type(key) == "string" and find(key, "^[%a_][%w_]*$") then return path .. "." .. key end
  return path .. "[" .. (type(key) == "string" and format("%q", key) or text(key)) .. "]"
end

local function text_difference(path, got, expected)
  if not find(expected, "\n", 1, true) and not find(got, "\n", 1, true) then return nil end
  local line = 0
  local next_got, next_expected = got:gmatch("([^\n]*)\n?"), expected:gmatch("([^\n]*)\n?")
  while true do
    local a, b = next_got(), next_expected()
    line = line + 1
    if a ~= b then
      return format("%s: line %d: expected %s, got %s", path, line, b and format("%q", b) or "no more lines", a and format("%q", a) or "no more lines")
    end
    if a == nil then return format("%s: expected %s, got %s", path, shown(expected), shown(got)) end
  end
end

-- The first difference between two values, with its path, or nil.
local function difference(path, got, expected)
  if got == expected or (got ~= got and expected ~= expected) then return nil end
  if type(got) == "string" and type(expected) == "string" then
    local found = text_difference(path, got, expected)
    if found then return found end
  end
  got, expected = plain(got), plain(expected)
  if type(got) ~= "table" or type(expected) ~= "table" or got == null or expected == null then
    return format("%s: expected %s, got %s", path, shown(expected), shown(got))
  end
  local keys, seen = H.sorted_keys(expected, true), {}
  for _, key in raw_ipairs(keys) do
    seen[key] = true
    if rawget(got, key) == nil and type(key) ~= "number" then
      return format("%s: expected %s, got nothing%s", inside_of(path, key), shown(expected[key]), H.suggest(key, H.words_of(got)))
    end
    local found = difference(inside_of(path, key), rawget(got, key), expected[key])
    if found then return found end
  end
  for _, key in raw_ipairs(H.sorted_keys(got, true)) do
    if not seen[key] then return format("%s: expected nothing, got %s", inside_of(path, key), shown(got[key])) end
  end
end

local E = H.methods.Expectation
local function value_of(e) return protected[e].value end

function api.expect(value) return made("Expectation", { value = value }) end

function E.equals(e, expected)
  local found = difference("value", value_of(e), expected)
  if found then unmet((gsub(found, "^value: ", ""))) end
  return e
end

function E.differsFrom(e, other)
  if not difference("value", value_of(e), other) then unmet("expected anything but " .. shown(other)) end
  return e
end

function E.contains(e, part)
  local value = plain(value_of(e))
  if type(value) == "string" then
    if not find(value, text(part), 1, true) then unmet(format("expected a text with %s, got %s", shown(part), shown(value))) end
    return e
  end
  if type(value) ~= "table" or value == null then unmet(format("expected a text, a list or a table, got %s", kind_of(value))) end
  for i = 1, rawlen(value) do
    if not difference("", value[i], part) then return e end
  end
  if rawlen(value) > 0 or type(part) ~= "table" then unmet(format("expected a list with %s, got %s", shown(part), shown(value))) end
  for _, key in raw_ipairs(H.sorted_keys(part, true)) do
    local found = difference(inside_of("value", key), rawget(value, key), part[key])
    if found then unmet(found) end
  end
  return e
end

function E.matches(e, pattern)
  local value = value_of(e)
  if type(value) ~= "string" then unmet(format("expected a text that matches %q, got %s", pattern, kind_of(value))) end
  if not find(value, pattern) then unmet(format("expected a text that matches %q, got %s", pattern, shown(value))) end
  return e
end

function E.raises(e, pattern)
  local fn = value_of(e)
  if type(fn) ~= "function" then misuse(format("raises: expected expect(function), got expect(%s)", kind_of(fn))) end
  local ok, problem = H.names.pcall(fn)
  local message = not ok and text(problem)
  if ok then unmet(pattern and format("expected an error with %q, got none", pattern) or "expected an error, got none") end
  if pattern and not find(message, pattern, 1, true) then
    local fits, found = H.names.pcall(find, message, pattern)
    if not fits or not found then unmet(format("expected an error with %q, got %q", pattern, message)) end
  end
  return e
end

local function is(e, wanted)
  if value_of(e) ~= wanted then unmet(format("expected %s, got %s", text(wanted), shown(value_of(e)))) end
  return e
end
function E.isTrue(e) return is(e, true) end
function E.isFalse(e) return is(e, false) end
function E.isNil(e) return is(e, nil) end

function E.isNear(e, number, tolerance)
  local value = value_of(e)
  if type(value) ~= "number" then unmet(format("expected a number near %s, got %s", text(number), kind_of(value))) end
  if not (abs(value - number) <= (tolerance or 1e-9)) then
    unmet(format("expected a number within %s of %s, got %s", text(tolerance or 1e-9), text(number), text(value)))
  end
  return e
end

function E.hasLength(e, length)
  local value = plain(value_of(e))
  if type(value) ~= "string" and type(value) ~= "table" then unmet(format("expected a text or a list of length %d, got %s", length, kind_of(value))) end
  if rawlen(value) ~= length then unmet(format("expected length %d, got %d: %s", length, rawlen(value), shown(value))) end
  return e
end

-- Names -------------------------------------------------------------------------------------------------------------------------

local publish = H.publish
-- Of the functions of scripts, those that act are refused by name.
function H.publish(globals, methods)
  publish(globals, methods)
  local kept = {}
  for _, list in raw_ipairs { H.api.kept, H.api.testing } do
    for _, name in raw_ipairs(list) do kept[name] = true end
  end
  for _, spec in raw_ipairs(H.api.functions) do
    local name = spec.name
    if spec.owner == "" and not kept[name] then
      H.names[name] = function() misuse(format("%s: not in a test file: runWorkflow(...) runs the workflow, and stubs answer it", name)) end
    end
  end
end
