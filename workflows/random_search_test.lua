local params = {
  space = "rate=0.001..10 log; depth=2..8; width=0.5..1.5; kind=a,b c",
  command = "train {rate} {depth} {width} {kind}",
  metric = "loss",
  trials = 40,
}

local function with(more)
  local all = {}
  for name, value in pairs(params) do all[name] = value end
  for name, value in pairs(more) do all[name] = value end
  return all
end

test("settings are drawn from their ranges", function()
  local kinds, small = {}, 0
  onSubmit("trial", function()
    return function(task)
      local drawn = task.params
      expect(drawn.rate >= 0.001 and drawn.rate <= 10):isTrue()
      expect(math.type(drawn.depth)):equals("integer")
      expect(drawn.depth >= 2 and drawn.depth <= 8):isTrue()
      expect(drawn.width >= 0.5 and drawn.width <= 1.5):isTrue()
      kinds[drawn.kind] = true
      if drawn.rate < 0.1 then small = small + 1 end
      return { results = { loss = drawn.rate } }
    end
  end)
  local run = runWorkflow("random_search", params)
  expect(run:job("trial").tasks):hasLength(40)
  expect(kinds):equals { a = true, ["b c"] = true }
  expect(small > 10):isTrue() -- half of the magnitudes lie below 0.1; of evenly drawn numbers, one in a hundred
end)

test("the best is first, and named", function()
  onSubmit("trial", { { results = { loss = 3 } }, { results = { loss = 1 } }, { results = { loss = 2 } } })
  local run = runWorkflow("random_search", with { trials = 3 })
  local rows = run:writtenCsv("random_search.csv")
  expect({ rows[1].index, rows[2].index, rows[3].index }):equals { "2", "3", "1" }
  expect(run.logs[1]):contains("best of 3: task 2 with loss 1;")
  run = runWorkflow("random_search", with { trials = 3, goal = "greatest" })
  expect(run.logs[1]):contains("best of 3: task 1 with loss 3;")
end)

test("another seed draws others, the same seed the same", function()
  onSubmit("trial", function() return function() return { results = { loss = 1 } } end end)
  local function first(seed)
    return runWorkflow("random_search", with { trials = 2 }, { seed = seed }):job("trial").tasks[1].params
  end
  local drawn = first(7)
  expect(first(7)):equals(drawn)
  expect(first(8)):differsFrom(drawn)
end)

local function refuses(more, message) expect(runWorkflow("random_search", with(more)).failed):contains(message) end

test("a task without the metric is named", function()
  onSubmit("trial")
  refuses({ trials = 2 }, "task 1 has no number 'loss' in its results.json")
end)

test("what is no space is refused", function()
  refuses({ space = "rate" }, "expected name=low..high, found 'rate'")
  refuses({ space = "" }, "expected name=low..high, found nothing")
  refuses({ space = "a=1..2; a=3..4" }, "expected each name once, found 'a' twice")
end)

test("what is no range is refused", function()
  refuses({ space = "rate=0..1 log" }, "the range '0..1 log' is empty or not above 0")
  refuses({ space = "rate=1..9 lgo" }, "expected log or nothing after a range, found 'lgo'")
  refuses({ space = "rate=1.." }, "rate: expected a range such as 0.1..10, found '1..'")
end)

test("the other parameters are checked as well", function()
  refuses({ trials = 0 }, "-p trials=0: expected 1 to 100000, found '0'")
  refuses({ metric = "" }, "-p metric=: expected a text, found nothing")
  refuses({ goal = "smallest" }, "expected one of least, greatest")
end)

test("a list or map in results.json is JSON in the table", function()
  onSubmit("trial", { { results = { loss = 1, deep = { 1, 2 } } }, { results = { loss = 2, deep = { k = { "v" } } } } })
  local run = runWorkflow("random_search", { space = "rate=1..2", command = "f {rate}", metric = "loss", trials = 2 })
  expect(run.ok):isTrue()
  local rows = run:writtenCsv("random_search.csv")
  expect(rows[1].deep):equals("[1,2]")
  expect(rows[2].deep):equals('{"k":["v"]}')
end)
