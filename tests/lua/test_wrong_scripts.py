"""Wrong scripts and the exact messages that their authors get, each beginning with the author's own line."""

from __future__ import annotations

import re

import pytest

from sparkles.errors import WorkflowError
from tests.lua.fake import run_script

BUILDER = 'local b = JobBuilder("fit"):setCommandTemplate("true")\n'

CASES = [
    ("syntax", "local x = = 1", "Syntax", "w.lua:1: unexpected symbol near '='"),
    ("syntax_unfinished", "if true then\nprint(1)", "Syntax", "w.lua:2: 'end' expected (to close 'if' at line 1) near <eof>"),
    ("misspelt_global", "\nsumbit(1)", "Usage", "w.lua:2: unknown name 'sumbit'. Did you mean 'submit'?"),
    ("unknown_global", "\nlocal x = quux", "Usage", "w.lua:2: unknown name 'quux'"),
    ("assign_global", "x = 1", "Usage", "w.lua:1: 'x' is not declared. Did you forget 'local'?"),
    ("define_global", "\nfunction helper() end", "Usage", "w.lua:2: 'helper' is not declared. Did you forget 'local'?"),
    (
        "assign_api",
        "submit = nil",
        "Usage",
        "w.lua:1: 'submit' is a name of sparkles and cannot be assigned. Did you forget 'local'?",
    ),
    (
        "io",
        "io.open('x')",
        "Usage",
        "w.lua:1: 'io' is not available in workflows: readText, readCsv, readJson, writeText, writeCsv and writeJson read and write files",
    ),
    (
        "os",
        "local t = os.time()",
        "Usage",
        "w.lua:1: 'os' is not available in workflows: now() tells the time, shell() runs a command, args holds the parameters",
    ),
    (
        "collectgarbage",
        "collectgarbage()",
        "Usage",
        "w.lua:1: 'collectgarbage' is not available in workflows: memory is collected by itself",
    ),
    (
        "misspelt_method",
        BUILDER + 'b:setComandTemplate("x")',
        "Usage",
        "w.lua:2: JobBuilder has no method 'setComandTemplate'. Did you mean 'setCommandTemplate'?",
    ),
    (
        "dot",
        BUILDER + 'b.setImage("x")',
        "Usage",
        "w.lua:2: JobBuilder.setImage: called with '.', expected ':' as in builder:setImage(...)",
    ),
    (
        "dot_result",
        BUILDER + "local r = run(b)\nr.ok()",
        "Usage",
        "w.lua:3: Result.ok: called with '.', expected ':' as in result:ok()",
    ),
    ("image_nil", BUILDER + "b:setImage()", "Usage", "w.lua:2: setImage: image: expected string, got nil"),
    (
        "image_space",
        BUILDER + 'b:setImage("a b")',
        "Usage",
        "w.lua:2: setImage: image: expected the name of an image, got 'a b'",
    ),
    (
        "template_number",
        BUILDER + "b:setCommandTemplate(3)",
        "Usage",
        "w.lua:2: setCommandTemplate: template: expected string or list of string, got number",
    ),
    (
        "template_item",
        BUILDER + 'b:setCommandTemplate{"a", 3}',
        "Usage",
        "w.lua:2: setCommandTemplate: template[2]: expected string, got number",
    ),
    (
        "template_empty",
        BUILDER + 'b:setCommandTemplate("")',
        "Usage",
        "w.lua:2: setCommandTemplate: template: expected a command, got ''",
    ),
    (
        "rows_empty",
        BUILDER + "b:createTasksFor{}",
        "Usage",
        "w.lua:2: createTasksFor: rows: expected at least one row, got none",
    ),
    (
        "rows_string",
        BUILDER + 'b:createTasksFor("rows.csv")',
        "Usage",
        "w.lua:2: createTasksFor: rows: expected list, got string",
    ),
    (
        "rows_map",
        BUILDER + "b:createTasksFor{alpha = 1}",
        "Usage",
        "w.lua:2: createTasksFor: rows: expected list, got table with key 'alpha'",
    ),
    (
        "row_function",
        BUILDER + "b:createTasksFor{{a = 1}, print}",
        "Usage",
        "w.lua:2: createTasksFor: rows[2]: expected table, string or number, got function",
    ),
    (
        "row_value",
        BUILDER + "b:createTasksFor{{a = 1}, {a = {b = print}}}",
        "Usage",
        "w.lua:2: createTasksFor: rows[2].a.b: expected a value that can be stored (text, number, boolean, table or null), got function",
    ),
    (
        "row_list",
        BUILDER + "b:createTasksFor{{1, 2}}",
        "Usage",
        "w.lua:2: createTasksFor: rows[1]: expected parameters by name, got a list",
    ),
    (
        "row_hole",
        BUILDER + "b:createTasksFor{{a = {1, nil, 3}}}",
        "Usage",
        "w.lua:2: createTasksFor: rows[1].a[2]: a list must not have holes; found nil (write null for a missing value)",
    ),
    (
        "row_fn_field",
        BUILDER + 'b:createTasksFor({{a = 1}}, function() return {comand = "x"} end)',
        "Usage",
        "w.lua:2: createTasksFor: fn(rows[1]).comand: unknown option. Did you mean 'command'?",
    ),
    (
        "row_fn_type",
        BUILDER + "b:createTasksFor({{a = 1}}, function() return 1 end)",
        "Usage",
        "w.lua:2: createTasksFor: fn(rows[1]): expected table or nil, got number",
    ),
    (
        "row_fn_env",
        BUILDER + "b:createTasksFor({{a = 1}}, function() return {env = {A = {}}} end)",
        "Usage",
        "w.lua:2: createTasksFor: fn(rows[1]).env.A: expected string or number, got table",
    ),
    (
        "row_fn_step",
        BUILDER + "b:createTasksFor({{a = 1}}, function()\n submit(b)\nend)",
        "Usage",
        "w.lua:3: submit: not allowed inside a row function (allowed: top level of the script)",
    ),
    (
        "row_fn_memory",
        BUILDER + 'b:createTasksFor({{a = 1}}, function() return {resources = {memory = "lots"}} end)\nsubmit(b)',
        "Usage",
        "w.lua:2: createTasksFor: fn(rows[1]).resources.memory: expected a size such as 4Gi or 800M, found 'lots'",
    ),
    (
        "files_number",
        BUILDER + 'b:addFiles("a", 3)',
        "Usage",
        "w.lua:2: addFiles: files[2]: expected string, table or artifact, got number",
    ),
    (
        "files_option",
        BUILDER + 'b:addFiles{src = "a", dest = "b"}',
        "Usage",
        "w.lua:2: addFiles: files[1].dest: unknown option. Did you mean 'dst'?",
    ),
    (
        "files_src",
        BUILDER + 'b:addFiles{dst = "b"}',
        "Usage",
        "w.lua:2: addFiles: files[1].src: expected string or artifact, got nil",
    ),
    (
        "outputs_type",
        BUILDER + "b:setOutputs{3}",
        "Usage",
        "w.lua:2: setOutputs: patterns[1]: expected string or table, got number",
    ),
    (
        "outputs_option",
        BUILDER + 'b:setOutputs{"a", requierd = true}',
        "Usage",
        "w.lua:2: setOutputs: patterns.requierd: unknown option. Did you mean 'required'?",
    ),
    (
        "outputs_absolute",
        BUILDER + 'b:setOutputs{"/etc/passwd"}',
        "Usage",
        "w.lua:2: setOutputs: patterns: expected a path inside the task's directory, got '/etc/passwd'",
    ),
    (
        "outputs_up",
        BUILDER + 'b:setOutputs{"../x"}',
        "Usage",
        "w.lua:2: setOutputs: patterns: expected a path inside the task's directory, got '../x'",
    ),
    (
        "resources_memory",
        BUILDER + 'b:setResources{memory = "5 gigs"}',
        "Usage",
        "w.lua:2: setResources: resources.memory: expected a size such as 4Gi or 800M, found '5 gigs'",
    ),
    (
        "resources_option",
        BUILDER + 'b:setResources{mem = "5Gi"}',
        "Usage",
        "w.lua:2: setResources: resources.mem: unknown option. Did you mean 'memory'?",
    ),
    (
        "resources_cpu",
        BUILDER + "b:setResources{cpu = 0}",
        "Usage",
        "w.lua:2: setResources: resources.cpu: expected a number of cores above 0, found 0",
    ),
    ("env_value", BUILDER + "b:setEnv{PATH = {}}", "Usage", "w.lua:2: setEnv: vars.PATH: expected string or number, got table"),
    (
        "env_name",
        BUILDER + 'b:setEnv{["A B"] = 1}',
        "Usage",
        "w.lua:2: setEnv: vars: expected names of letters, digits and '_', got 'A B'",
    ),
    (
        "env_reserved",
        BUILDER + "b:setEnv{SPARKLES_JOB = 1}",
        "Usage",
        "w.lua:2: setEnv: vars.SPARKLES_JOB: names that begin with SPARKLES_ are set by sparkles itself",
    ),
    (
        "secret",
        BUILDER + 'b:setSecretEnv{TOKEN = "hunter2"}',
        "Usage",
        'w.lua:2: setSecretEnv: refs.TOKEN: expected a reference, "env:NAME", "k8s:SECRET/KEY" or "gcp:SECRET"',
    ),
    (
        "timeout",
        BUILDER + 'b:setTimeout("2 fortnights")',
        "Usage",
        "w.lua:2: setTimeout: timeout: expected a duration such as 90s, 1.5m or 24h, found '2 fortnights'",
    ),
    (
        "retry_attempts",
        BUILDER + "b:setRetry{attempts = 0}",
        "Usage",
        "w.lua:2: setRetry: retry.attempts: expected 1 or more, got 0",
    ),
    (
        "retry_option",
        BUILDER + "b:setRetry{attemps = 3}",
        "Usage",
        "w.lua:2: setRetry: retry.attemps: unknown option. Did you mean 'attempts'?",
    ),
    (
        "retry_oom",
        BUILDER + 'b:setRetry{oom = {memory = "2x"}}',
        "Usage",
        "w.lua:2: setRetry: retry.oom.memory: expected a factor above 1 such as \"x2\", got '2x'",
    ),
    (
        "retry_float",
        BUILDER + "b:setRetry{attempts = 1.5}",
        "Usage",
        "w.lua:2: setRetry: retry.attempts: expected integer, got 1.5",
    ),
    ("parallelism", BUILDER + "b:setParallelism(0)", "Usage", "w.lua:2: setParallelism: tasks: expected 1 or more, got 0"),
    (
        "provisioning",
        BUILDER + 'b:setProvisioning("spto")',
        "Usage",
        'w.lua:2: setProvisioning: provisioning: expected "spot", "standard", "flex" or "reservation/NAME", got \'spto\'. '
        "Did you mean 'spot'?",
    ),
    (
        "max_failures",
        BUILDER + 'b:setMaxFailures("ten")',
        "Usage",
        "w.lua:2: setMaxFailures: limit: expected a count or a share such as \"10%\", got 'ten'",
    ),
    ("cache", BUILDER + 'b:setCache("no")', "Usage", "w.lua:2: setCache: enabled: expected boolean, got string"),
    (
        "zones",
        BUILDER + 'b:setZones("europe-west1-b")',
        "Usage",
        "w.lua:2: setZones: zones: expected list of string, got string",
    ),
    ("too_many", BUILDER + 'b:setImage("a", "b")', "Usage", "w.lua:2: setImage: takes 1 argument, got 2"),
    (
        "job_name",
        'JobBuilder("my job")',
        "Usage",
        "w.lua:1: JobBuilder: name: expected up to 63 letters, digits, '.', '_' and '-', beginning with a letter or digit, got 'my job'",
    ),
    ("job_name_nil", "JobBuilder()", "Usage", "w.lua:1: JobBuilder: name: expected string, got nil"),
    ("submit_nil", "submit(nil)", "Usage", "w.lua:1: submit: builder: expected JobBuilder, got nil"),
    (
        "submit_handle",
        BUILDER + "submit(submit(b))",
        "Usage",
        "w.lua:2: submit: builder: expected JobBuilder, got JobHandle. The job has been submitted already",
    ),
    (
        "wait_builder",
        BUILDER + "wait(b)",
        "Usage",
        "w.lua:2: wait: job: expected JobHandle, got JobBuilder. Did you forget submit(...)?",
    ),
    (
        "wait_timeout",
        BUILDER + 'wait(submit(b), {timeout = "soon"})',
        "Usage",
        "w.lua:2: wait: opts.timeout: expected number, got string",
    ),
    (
        "wait_option",
        BUILDER + "wait(submit(b), {timout = 3})",
        "Usage",
        "w.lua:2: wait: opts.timout: unknown option. Did you mean 'timeout'?",
    ),
    ("wait_all", "waitAll{}", "Usage", "w.lua:1: waitAll: jobs: expected at least one job, got none"),
    ("wait_all_item", BUILDER + "waitAll{submit(b), 3}", "Usage", "w.lua:2: waitAll: jobs[2]: expected JobHandle, got number"),
    (
        "wait_failed",
        BUILDER + "b:createTasksFor{{fail = 1}}\nwait(submit(b))",
        "JobFailed",
        "w.lua:3: wait: 1 tasks of fit-1 failed",
    ),
    (
        "handle_field",
        BUILDER + "local h = submit(b)\nprint(h.idd)",
        "Usage",
        "w.lua:3: JobHandle has no field 'idd'. Did you mean 'id'?",
    ),
    (
        "handle_wait",
        BUILDER + "local h = submit(b)\nh:wait()",
        "Usage",
        "w.lua:3: JobHandle has no field 'wait'. Did you mean wait(...)?",
    ),
    (
        "handle_assign",
        BUILDER + "local h = submit(b)\nh.id = 3",
        "Usage",
        "w.lua:3: JobHandle is read-only: 'id' cannot be assigned",
    ),
    (
        "result_field",
        BUILDER + "local r = run(b)\nprint(r.task)",
        "Usage",
        "w.lua:3: Result has no field or method 'task'. Did you mean 'tasks'?",
    ),
    (
        "task_field",
        BUILDER + "b:createTasksFor{{x = 1}}\nlocal r = run(b)\nprint(r.tasks[1].exitcode)",
        "Usage",
        "w.lua:4: Task has no field 'exitcode'. Did you mean 'exitCode'?",
    ),
    (
        "tasks_field",
        BUILDER + "local r = run(b)\nprint(r.tasks.first)",
        "Usage",
        "w.lua:3: result.tasks is a list of 0 tasks: it has no field 'first'",
    ),
    (
        "table_column",
        BUILDER + 'b:createTasksFor{{x = 1}}\nrun(b):table{"x", "scroe"}',
        "Usage",
        "w.lua:3: table: unknown column 'scroe' (columns: x, score). Did you mean 'score'?",
    ),
    (
        "step_nested",
        'step("s", function()\n now()\nend)',
        "Usage",
        "w.lua:2: now: not allowed inside the function of a step (allowed: top level of the script)",
    ),
    (
        "step_builtin",
        'step("s", print)',
        "Usage",
        "w.lua:1: step: fn: expected a function of the script, got a built-in function",
    ),
    (
        "step_value",
        'step("s", function() return print end)',
        "Usage",
        "w.lua:1: step: fn: the returned value: expected a value that can be stored (text, number, boolean, table or null), got function",
    ),
    (
        "step_two",
        'step("s", function() return 1, 2 end)',
        "Usage",
        "w.lua:1: step: fn: expected to return one value, got 2 (return a table)",
    ),
    ("step_error", 'step("s", function()\n error("boom")\nend)', "StepFailed", "w.lua:2: step 's': boom"),
    (
        "step_misspelt",
        'step("s", function()\n sumbit()\nend)',
        "Usage",
        "w.lua:2: unknown name 'sumbit'. Did you mean 'submit'?",
    ),
    (
        "sort_step",
        "table.sort({3, 2, 1}, function(a, b)\n  now()\n  return a < b\nend)",
        "Usage",
        "w.lua:2: now: not allowed inside a comparator of table.sort (allowed: top level of the script)",
    ),
    (
        "gsub_step",
        '("abc"):gsub(".", function()\n  local id = uuid()\n  return id\nend)',
        "Usage",
        "w.lua:2: uuid: not allowed inside a callback of gsub (allowed: top level of the script)",
    ),
    ("read_missing", 'readCsv("none.csv")', "Usage", "w.lua:1: none.csv: no such file"),
    (
        "read_type",
        'readCsv("a.csv", {types = {a = "nubmer"}})',
        "Usage",
        "w.lua:1: readCsv: opts.types.a: expected string, number, integer or boolean, got 'nubmer'. Did you mean 'number'?",
    ),
    ("read_ragged", 'readCsv("ragged.csv")', "Usage", "w.lua:1: ragged.csv:2: expected 2 fields (a, b), found 1"),
    (
        "write_value",
        'writeJson("x.json", {rows = {{alpha = print}}})',
        "Usage",
        "w.lua:1: writeJson: value.rows[1].alpha: expected a value that can be stored (text, number, boolean, table or null), got function",
    ),
    (
        "write_nan",
        'writeJson("x.json", {a = 0 / 0})',
        "Usage",
        "w.lua:1: writeJson: value.a: JSON cannot hold nan (write null for a missing value)",
    ),
    (
        "write_mixed",
        'writeJson("x.json", {1, 2, a = 3})',
        "Usage",
        'w.lua:1: writeJson: value: a table is either a list (keys 1..n without holes) or has text keys; found key "a" beside 1..2',
    ),
    (
        "write_cycle",
        'local t = {}\nt.t = t\nwriteJson("x.json", t)',
        "Usage",
        "w.lua:3: writeJson: value.t: the table contains itself",
    ),
    (
        "write_row",
        'writeCsv("x.csv", {{a = {1}}})',
        "Usage",
        "w.lua:1: writeCsv: rows[1].a: expected string, number, boolean or null, got list; opts.nested writes it as JSON",
    ),
    ("shell_fails", 'shell("exit 3")', "ShellFailed", "w.lua:1: shell: exit code 3"),
    (
        "shell_option",
        'shell("true", {allowFailures = true})',
        "Usage",
        "w.lua:1: shell: opts.allowFailures: unknown option. Did you mean 'allowFailure'?",
    ),
    ("random_empty", "random(3, 1)", "Usage", "w.lua:1: random: the interval 3..1 is empty"),
    ("random_float", "random(1.5)", "Usage", "w.lua:1: random: m: expected integer, got 1.5"),
    ("now_argument", "now(1)", "Usage", "w.lua:1: now: takes no arguments, got 1"),
    (
        "sleep",
        'sleep("soon")',
        "Usage",
        "w.lua:1: sleep: duration: expected a duration such as 90s, 1.5m or 24h, found 'soon'",
    ),
    (
        "randomseed",
        "math.randomseed(1)",
        "Usage",
        "w.lua:1: math.randomseed: not available: math.random is seeded from the run, so that a replay draws the same",
    ),
    ("math_misspelt", "math.flor(1)", "Usage", "w.lua:1: unknown name 'math.flor'. Did you mean 'math.floor'?"),
    ("fail", '\nfail("no good rows")', "Failed", "w.lua:2: no good rows"),
    ("error", '\nerror("boom")', "ScriptError", "w.lua:2: boom"),
    ("error_table", 'error({code = 3, why = "x"})', "ScriptError", 'w.lua:1: error value: {code = 3, why = "x"}'),
    ("error_function", 'local function f()\n  error("deep")\nend\nf()', "ScriptError", "w.lua:2: deep"),
    ("assert", "\nassert(false)", "ScriptError", "w.lua:2: assertion failed!"),
    ("assert_message", '\nassert(nil, "no rows")', "ScriptError", "w.lua:2: no rows"),
    (
        "arithmetic",
        "local t = {}\nlocal x = t.a + 1",
        "Mistake",
        "w.lua:2: attempt to perform arithmetic on a nil value (field 'a')",
    ),
    ("call_nil", "local t = {}\nt.go()", "Mistake", "w.lua:2: attempt to call a nil value (field 'go')"),
    ("recursion", "local function f(n)\n  return 1 + f(n)\nend\nf(1)", "Mistake", "w.lua:2: stack overflow"),
    ("call_wrong", '\nprint(("x"):rep({}))', "Mistake", "w.lua:2: bad argument #1 to 'rep' (number expected, got table)"),
    ("mistake_caught", "local ok, e = pcall(function() return 1 + nil end)\nerror(e, 0)", "Mistake", None),
    ("mistake_wrapped", "local f = coroutine.wrap(function() local x; x.y = 1 end)\nf()", "Mistake", None),
    ("error_wrapped", 'local f = coroutine.wrap(function() error("no") end)\nf()', "ScriptError", "w.lua:1: no"),
    ("log_format", '\nlog("%d", "abc")', "Usage", "w.lua:2: log: value 1 of the format: expected number, got string"),
    ("log_conversion", 'log("100% yours", 3)', "Usage", "w.lua:1: log: invalid conversion '% y'"),
    (
        "string_format",
        'local s = ("%s %d"):format("x", 1.5)',
        "Usage",
        "w.lua:1: string.format: value 2 of the format: number has no integer representation",
    ),
    (
        "python_none",
        "print(None)",
        "Usage",
        "w.lua:1: unknown name 'None': it is nil in Lua (null for a missing value that is stored)",
    ),
    ("python_true", "local x = True", "Usage", "w.lua:1: unknown name 'True': it is true in Lua"),
    ("python_len", "print(len({}))", "Usage", "w.lua:1: unknown name 'len': the length of a list or a text is #value in Lua"),
    ("python_elif", "if a then\nelif b then\nend", "Syntax", "w.lua:2: syntax error near 'b'. It is elseif in Lua"),
    ("python_unequal", "if 1 != 2 then end", "Syntax", "w.lua:1: 'then' expected near '!'. Not equal is ~= in Lua"),
    (
        "python_increment",
        "local x = 1\nx += 1",
        "Syntax",
        "w.lua:2: syntax error near '+'. Lua has no assignment like x += 1: write x = x + 1",
    ),
    ("python_list", "local x = [1]", "Syntax", "w.lua:1: unexpected symbol near '['. A list is {1, 2} in Lua"),
    ("python_comment", "# no\n# yes", "Syntax", "w.lua:2: unexpected symbol near '#'. A comment begins with -- in Lua"),
    (
        "python_def",
        "def f():",
        "Syntax",
        "w.lua:1: syntax error near 'f'. A function is 'local function name(...) ... end' in Lua",
    ),
    (
        "memory",
        'local t = {}\nfor i = 1, 1e9 do\n  t[i] = ("x"):rep(1e5) .. i\nend',
        "Mistake",
        "w.lua:3: the script uses more than its 48 MiB of memory",
    ),
    ("product_type", "product{a = 3}", "Usage", "w.lua:1: product: lists.a: expected list, got number"),
    ("zip_length", "zip{a = {1, 2}, b = {1}}", "Usage", "w.lua:1: zip: lists.b: expected 2 values as in lists.a, got 1"),
    (
        "require_missing",
        'require("nothing")',
        "Usage",
        "w.lua:1: require: no module 'nothing' beside the script, among the workflows or in the library",
    ),
    (
        "require_escape",
        'require("../x")',
        "Usage",
        "w.lua:1: require: name: expected letters, digits, '_' and '-', with dots for folders, got '../x'",
    ),
    (
        "params_type",
        'params{n = {type = "numer"}}',
        "Usage",
        "w.lua:1: params: n.type: expected string, number, integer or boolean, got 'numer'. Did you mean 'number'?",
    ),
    (
        "params_missing",
        'params{n = {type = "number", doc = "how many"}}',
        "Usage",
        "w.lua:1: params: 'n' (how many) has no value; give it with -p n=...",
    ),
    (
        "params_option",
        'params{n = {typ = "number"}}',
        "Usage",
        "w.lua:1: params: specs.n.typ: unknown option. Did you mean 'type'?",
    ),
    ("args_write", "args.x = 1", "Usage", "w.lua:1: args is read-only"),
    (
        "pairs_key",
        "for k in pairs{[{}] = 1} do end",
        "Usage",
        "w.lua:1: pairs: the table has a key that is a table, and such keys have no order (use numbers, texts or booleans as keys)",
    ),
    ("yield", "coroutine.yield(1)", "Usage", "w.lua:1: coroutine.yield: not inside a coroutine"),
    ("null_index", "local x = null.a", "Usage", "w.lua:1: attempt to read 'a' of null"),
]


@pytest.mark.parametrize(("source", "kind", "message"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_message(tmp_path, source, kind, message):
    """The message is this one, at this line, and mistakes in the script are told from failures of the work."""
    files = {"ragged.csv": "a,b\n1\n"}
    if kind == "Syntax":
        with pytest.raises(WorkflowError) as raised:
            run_script(tmp_path, source)
        assert str(raised.value) == message
        return
    ended, _ = run_script(tmp_path, source, files=files, max_memory=48 << 20)
    assert ended.error is not None, "the script ended without an error"
    if message is not None:
        assert f"{ended.position}: {ended.error.message}" == message
    # A mistake that Lua itself finds has the kind of every error without one; the run is refused all the same.
    assert ended.error.kind == ("ScriptError" if kind == "Mistake" else kind)
    assert ended.error.usage == (kind in ("Usage", "Mistake"))
    assert ended.position.startswith("w.lua:")


def test_a_deep_recursion_shows_its_two_ends(tmp_path):
    """Of a traceback of thousands of frames the innermost and the outermost are shown, and how many are not."""
    ended, _ = run_script(tmp_path, "local function f(n)\n  return 1 + f(n)\nend\nf(1)", max_memory=48 << 20)
    lines = ended.traceback.splitlines()
    assert len(lines) == 21
    assert lines[0] == lines[9] == "w.lua:2: in function 'f'"
    assert re.fullmatch(r"\.\.\. \d{4,} more frames", lines[10])
    assert lines[-1] == "w.lua:4: in the script"


def test_a_short_traceback_is_whole(tmp_path):
    ended, _ = run_script(tmp_path, "local function f(n)\n  if n == 0 then error('x') end\n  return 1 + f(n - 1)\nend\nf(20)")
    assert ended.traceback.count("w.lua:3: in function 'f'") == 20


def test_module_errors_are_at_the_module(tmp_path):
    """A mistake in a required module is reported at the module's line, and the traceback leads there from the script."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "stats.lua").write_text(
        "local M = {}\nfunction M.mean(list)\n  return sumbit(list)\n    + 1\nend\nreturn M\n"
    )
    ended, _ = run_script(tmp_path, 'local stats = require("lib.stats")\nlocal m = stats.mean({1})\nprint(m)')
    assert (ended.position, ended.error.message) == ("lib/stats.lua:3", "unknown name 'sumbit'. Did you mean 'submit'?")
    assert ended.traceback == "lib/stats.lua:3: in function 'mean'\nw.lua:2: in the script"


def test_module_syntax_errors_are_at_the_module(tmp_path):
    """A module that does not compile is named with its own line."""
    (tmp_path / "bad.lua").write_text("local x =\n")
    ended, _ = run_script(tmp_path, 'require("bad")')
    assert (ended.position, ended.error.message) == ("bad.lua:2", "unexpected symbol near <eof>")
    assert ended.error.usage


def test_long_paths_are_not_cut(tmp_path):
    """Lua cuts chunk names at 60 characters; messages show the whole path."""
    folder = tmp_path / ("a" * 80)
    folder.mkdir()
    (folder / "m.lua").write_text("return {go = function()\n  local t = nil\n  return t.x\nend}\n")
    ended, _ = run_script(tmp_path, f'require("{"a" * 80}.m").go()')
    assert ended.position == f"{'a' * 80}/m.lua:3"
    assert ended.error.message == "attempt to index a nil value (local 't')"
