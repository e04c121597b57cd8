---@meta
-- Generated from api.py by `python -m sparkles.lua.stubs`: for editors, never to be run.
error("sparkles.d.lua describes the API to editors; it cannot be loaded")

--- Describes a job; nothing happens before `submit`. Every setter returns the builder.
---@class JobBuilder
local JobBuilderMethods = {}

--- What each task runs: text for /bin/sh, or a list that is run without a shell. `{name}` is replaced by the shell-quoted parameter, `{name:raw}` by the parameter as it is, `{^name}` by the path in the task of the file that the parameter names.
---@param template string|string[] With placeholders.
---@return JobBuilder
function JobBuilderMethods:setCommandTemplate(template) end

--- One task for each row: a list of parameter tables, what `readCsv`, `product` or `zip` return, or a list of texts or numbers, each of which becomes the parameter `value`. Called again, it replaces the rows.
---@param rows any[] The rows.
---@param fn? function `fn(row, index)` may return a RowOverrides table for that task. No steps inside.
---@return JobBuilder
function JobBuilderMethods:createTasksFor(rows, fn) end

--- Inputs that each task finds in its directory: paths, globs, {src=, dst=} tables, artifacts of earlier tasks, or lists of these.
---@param ... string|FileSpec|Artifact|table The inputs.
---@return JobBuilder
function JobBuilderMethods:addFiles(...) end

--- Which files of a task are kept, by pattern. With `required = true` a task without one fails: {"model.bin", required = true}.
---@param patterns table Patterns, and lists of patterns with options.
---@return JobBuilder
function JobBuilderMethods:setOutputs(patterns) end

--- The container image; used on the cluster only.
---@param image string As a registry knows it.
---@return JobBuilder
function JobBuilderMethods:setImage(image) end

--- What each task asks for.
---@param resources Resources Fields that are left out keep their default.
---@return JobBuilder
function JobBuilderMethods:setResources(resources) end

--- Environment variables of each task; they count in the fingerprint.
---@param vars table<string, string|number> Name to value.
---@return JobBuilder
function JobBuilderMethods:setEnv(vars) end

--- Environment variables whose values are never stored: "env:NAME" of the worker. "k8s:SECRET/KEY" and "gcp:SECRET" are checked and carried; workers that are processes cannot resolve them, and their tasks fail as config.
---@param refs table<string, string> Name to reference.
---@return JobBuilder
function JobBuilderMethods:setSecretEnv(refs) end

--- Where in its directory a task's command starts.
---@param path string Relative.
---@return JobBuilder
function JobBuilderMethods:setWorkDir(path) end

--- The longest that an attempt may take.
---@param timeout number|string Seconds, or text such as "90s", "30m", "2h" or "1d".
---@return JobBuilder
function JobBuilderMethods:setTimeout(timeout) end

--- How often a failed task is tried again.
---@param retry RetryOpts The policy.
---@return JobBuilder
function JobBuilderMethods:setRetry(retry) end

--- The most tasks of this job that run at once.
---@param tasks integer 1 or more.
---@return JobBuilder
function JobBuilderMethods:setParallelism(tasks) end

--- Jobs with a higher number are served first.
---@param priority integer 0 by default; may be negative.
---@return JobBuilder
function JobBuilderMethods:setPriority(priority) end

--- Labels that status and list show.
---@param properties table<string, string|number|boolean> Name to value.
---@return JobBuilder
function JobBuilderMethods:setProperties(properties) end

--- Where on the cluster tasks may run; ignored locally.
---@param zones string[] Names of zones.
---@return JobBuilder
function JobBuilderMethods:setZones(zones) end

--- What machines on the cluster are used; ignored locally.
---@param provisioning string "spot", "standard", "flex" or "reservation/NAME".
---@return JobBuilder
function JobBuilderMethods:setProvisioning(provisioning) end

--- Merged into the worker's pod, as the Kubernetes API spells it; ignored locally.
---@param template table<string, any> A pod template.
---@return JobBuilder
function JobBuilderMethods:setPodTemplate(template) end

--- Whether tasks that are known to have succeeded are reused.
---@param enabled boolean true by default.
---@return JobBuilder
function JobBuilderMethods:setCache(enabled) end

--- More failed tasks than this cancel what is still pending.
---@param limit integer|string A count, or a share such as "10%".
---@return JobBuilder
function JobBuilderMethods:setMaxFailures(limit) end

--- A submitted job.
---@class JobHandle
---@field id string Names the job on the command line, too.
---@field name string As given to JobBuilder.
---@field count integer How many tasks it has.

--- A function that `spawn` started.
---@class Strand
local StrandMethods = {}

--- Waits for the function to end and returns its value, or raises its error.
--- A step: its outcome is recorded, and a replay returns the recorded one at once.
---@return any
function StrandMethods:await() end

--- What kind of failure `fail` tells.
---@class FailOpts
---@field badInput? boolean What was given is wrong, not the work: exit code 2 instead of 1. (default: false)

--- How `map` runs.
---@class MapOpts
---@field limit? integer How many run at a time; all, where it is not set.

--- What became of a job that was waited for.
---@class Result
---@field id string The job's id.
---@field name string The job's name.
---@field total integer How many tasks it has.
---@field failedCount integer How many tasks failed or were cancelled.
---@field counts Counts Tasks by state.
---@field tasks Task[] The tasks by index, loaded a hundred at a time when they are read; read-only.
local ResultMethods = {}

--- Whether every task succeeded.
---@return boolean
function ResultMethods:ok() end

--- The tasks that failed or were cancelled.
---@return Task[]
function ResultMethods:failed() end

--- One row for each task, by task index; a value that a task does not have is left out.
---@param columns? string[] Names of parameters, of fields in results.json, or of task fields. (default: index and all parameters and results)
---@return table[]
function ResultMethods:table(columns) end

--- How many tasks of a job are in each state.
---@class Counts
---@field succeeded integer Exit code 0 and every required output present.
---@field failed integer Tried as often as allowed, and failed.
---@field cancelled integer Ended from outside, or never started.
---@field pending integer Waiting to be claimed.
---@field claimed integer Being worked on.
---@field reused integer Those of `succeeded` whose outcome was known before.

--- One task of a job that was waited for.
---@class Task
---@field index integer Its place in the job, from 1.
---@field params table Its parameters.
---@field state string pending, claimed, succeeded, failed or cancelled ("succeeded" or "failed" after a wait).
---@field exitCode? integer Of its program, where one ended by itself.
---@field signal? integer The signal that ended its program, where one did.
---@field reason? string Why it failed, as a sentence.
---@field class? string exit, output, oom, disk, timeout, preempted, evicted, lost, staging, image, config or cancelled.
---@field results? any What it wrote to its results.json, decoded.
---@field outputs table<string, Artifact> Its collected outputs by name.
---@field attempts integer How often it was tried.
---@field seconds? number How long its last attempt took.
---@field cpuSeconds? number Processor time of its last attempt.
---@field peakMemory? integer Bytes, of its last attempt; nil where it ended too soon to be measured.
---@field reusedFrom? string `JOB/INDEX` of the task whose outcome was reused.
---@field name? string As given by the row function.

--- An output of a task, or an input that names one; goes into `addFiles` as it is.
---@class Artifact
---@field job string The job's id.
---@field index integer The task's index.
---@field name string Its path in the task's directory.
---@field digest string sha256 of its content, in hex.
---@field size? integer Bytes.
---@field executable? boolean Whether it may be executed.
---@field private? boolean Whether copies of it are for their user alone.

--- An input of a task.
---@class FileSpec
---@field src string|Artifact A path or glob on this machine, or an artifact of an earlier task.
---@field dst? string Its path in the task's directory; a folder where it ends with `/`. (default: the base name)
---@field link? boolean The task gets a read-only link instead of a copy of its own: for large inputs. (default: false)

--- What a row function may return.
---@class RowOverrides
---@field params? table<string, any> Replaces the row's parameters.
---@field command? string|string[] Replaces the command template.
---@field files? (string|FileSpec|Artifact)[] Inputs of this task alone, besides the job's.
---@field env? table<string, string|number> Environment variables, over the job's.
---@field resources? Resources Over the job's, field by field.
---@field name? string Shown in place of the index where tasks are listed.

--- What a task asks for.
---@class Resources
---@field cpu? number|string Cores: 2, 0.5 or "500m". (default: 1)
---@field memory? integer|string Bytes, or text such as "1.5Gi" or "800M". (default: no limit)
---@field disk? integer|string As memory. (default: no limit)
---@field gpu? integer Devices. (default: 0)

--- How often a task's program is tried. Lost machines do not count.
---@class RetryOpts
---@field attempts? integer Tries in all; 1 means no retry. (default: 1)
---@field exitCodes? integer[] Only these exit codes are tried again. (default: any)
---@field backoff? number|string Seconds before the second try, or text such as "30s". (default: 1)
---@field backoffFactor? number Each further pause is this many times as long. (default: 2)
---@field maxBackoff? number|string The longest pause. (default: 300)
---@field oom? OomOpts After running out of memory, try again with more.

--- How an attempt that ran out of memory is tried again.
---@class OomOpts
---@field memory? string|number How many times as much memory: "x2" or 2. (default: "x2")
---@field max? integer|string At most this much: bytes or text such as "64Gi". (default: no limit)

--- Output patterns with options.
---@class OutputSpec: { [integer]: string }
---@field required? boolean The task fails without it. (default: false)

--- How to wait.
---@class WaitOpts
---@field allowFailures? boolean Return the result although tasks failed, instead of raising an error. (default: false)
---@field timeout? number Seconds after which an error of kind WaitTimeout is raised; the job goes on while the script does. (default: without end)

--- How to run a command.
---@class ShellOpts
---@field env? table<string, string|number> Environment variables besides the driver's own.
---@field timeout? number Seconds after which the command is ended and an error raised. (default: none)
---@field allowFailure? boolean Return the outcome of a non-zero exit instead of raising an error. (default: false)

--- What a command on the driver's machine left.
---@class ShellResult
---@field exitCode integer Its exit code.
---@field stdout string Up to 1 MiB of it.
---@field stderr string Up to 1 MiB of it.
---@field seconds number How long it took.

--- What was fetched.
---@class FetchResult
---@field path string Where.
---@field files integer How many.

--- How to read a CSV file.
---@class ReadCsvOpts
---@field types? table<string, string> Column name to "string", "number", "integer" or "boolean". (default: all strings)
---@field delimiter? string One character. (default: by the file's ending: `,`, or a tab for .tsv)

--- How to write a CSV file.
---@class WriteCsvOpts
---@field columns? string[] Which columns, in which order. (default: those of the rows' source, else sorted)
---@field delimiter? string One character. (default: by the file's ending)
---@field nested? boolean Writes lists and tables in cells as JSON; without it they are refused. (default: false)

--- How to write a JSON file.
---@class WriteJsonOpts
---@field indent? integer Spaces per level; 0: one line. (default: 2)

--- One `-p` parameter of a workflow.
---@class ParamSpec
---@field type? string "string", "number", "integer" or "boolean". (default: "string")
---@field default? any Its value where it is not given; without one it must be given.
---@field choices? any[] The values it may have.
---@field min? number The least that a number may be.
---@field max? number The greatest that a number may be.
---@field pattern? string A Lua pattern that a text must match; `^` and `$` tie it to its ends.
---@field check? function Gets the value, and a table of all of them; returns what is wrong with it as a sentence, or nil. No steps inside.
---@field doc? string One line.

--- What the workflow finds.
---@class RunOptions
---@field now? number The time at which it begins, in seconds since 1970. (default: 1700000000)
---@field seed? integer What `random`, `uuid` and `math.random` draw from. (default: 1)

--- What became of a task. An empty one succeeded.
---@class StubbedTask
---@field results? any What it wrote to its results.json.
---@field outputs? table<string, string> Its collected outputs: name to content.
---@field state? string succeeded, failed, cancelled or pending (it does not end).
---@field exitCode? integer Other than 0: it failed. (default: 0, or 1 where it failed)
---@field class? string Why it failed: exit, oom, timeout ... (default: exit)
---@field reason? string Why it failed, as a sentence.
---@field seconds? number How long it took. (default: 1)

--- How a command ended.
---@class StubbedShell
---@field exitCode? integer Its exit code. (default: 0)
---@field stdout? string What it wrote.
---@field stderr? string What it wrote to standard error.

--- A job that the workflow submitted.
---@class SubmittedJob
---@field id string Its id.
---@field name string Its name.
---@field tasks SubmittedTask[] Its tasks by index.
---@field outputs string[] The patterns of setOutputs.

--- A task of a submitted job, as it would run.
---@class SubmittedTask
---@field index integer Its place in the job, from 1.
---@field params table Its parameters.
---@field command string|string[] Its command, parameters put in.
---@field files table[] Its inputs: {dst = path in the task, src = where it comes from}.
---@field env table<string, string> Its variables.
---@field name string As given by the row function, or empty.

--- What the workflow did.
---@class WorkflowRun
---@field ok boolean Whether it ended well.
---@field failed? string The error that ended it, with its position.
---@field kind? string The error's kind: Failed (`fail`), JobFailed, ShellFailed, ScriptError, Usage ...
---@field logs string[] What it logged and printed.
---@field submitted SubmittedJob[] Its jobs, in the order in which they were submitted.
---@field written table<string, string> Path to content of the files that it wrote.
---@field shells string[] The commands that it gave to `shell`.
---@field slept number Seconds that it took by the test's clock: it slept, strands side by side at once, or a wait timed out.
local WorkflowRunMethods = {}

--- The first job of that name.
---@param name string A job's name.
---@return SubmittedJob
function WorkflowRunMethods:job(name) end

--- A written file's JSON.
---@param path string A file.
---@return any
function WorkflowRunMethods:writtenJson(path) end

--- A written file's rows.
---@param path string A file.
---@return table[]
function WorkflowRunMethods:writtenCsv(path) end

--- A value that something is expected of. Every method returns the expectation.
---@class Expectation
local ExpectationMethods = {}

--- The same value; tables are compared through and through.
---@param expected? any The value.
---@return Expectation
function ExpectationMethods:equals(expected) end

--- Not the same value.
---@param other? any The value.
---@return Expectation
function ExpectationMethods:differsFrom(other) end

--- A text has this part, a list this item, a table these fields.
---@param part any What it has.
---@return Expectation
function ExpectationMethods:contains(part) end

--- A text matches a Lua pattern.
---@param pattern string The pattern.
---@return Expectation
function ExpectationMethods:matches(pattern) end

--- A function raises an error whose text has this part or matches this Lua pattern.
---@param pattern? string The part. (default: any error)
---@return Expectation
function ExpectationMethods:raises(pattern) end

--- It is true.
---@return Expectation
function ExpectationMethods:isTrue() end

--- It is false.
---@return Expectation
function ExpectationMethods:isFalse() end

--- It is nil.
---@return Expectation
function ExpectationMethods:isNil() end

--- A number is this one, or nearly.
---@param number number The number.
---@param tolerance? number The greatest difference. (default: 1e-9)
---@return Expectation
function ExpectationMethods:isNear(number, tolerance) end

--- A text or a list has this length.
---@param length integer The length.
---@return Expectation
function ExpectationMethods:hasLength(length) end

--- The `-p key=value` parameters: texts, or typed values once `params` declared them; read-only.
---@type table
args = nil

--- Stands for a missing value in lists and JSON, where nil cannot be.
---@type any
null = nil

--- Begins the description of a job. Nothing happens before `submit`.
---@param name string Letters, digits, `.`, `_` and `-`.
---@return JobBuilder
function JobBuilder(name) end

--- Submits a job and returns at once. Submitting the same thing twice makes two jobs.
--- A step: its outcome is recorded, and a replay returns the recorded one at once.
---@param builder JobBuilder What to run.
---@return JobHandle
function submit(builder) end

--- Waits until every task of the job has ended. Raises an error of kind JobFailed if tasks failed: `.job` is the id, `.failed` a list of the indexes of the first ten.
--- A step: its outcome is recorded, and a replay returns the recorded one at once.
---@param job JobHandle From `submit`.
---@param opts? WaitOpts How to wait.
---@return Result
function wait(job, opts) end

--- Waits for several jobs and returns their results under the same keys.
--- A step: its outcome is recorded, and a replay returns the recorded one at once.
---@param jobs JobHandle[]|table<string, JobHandle> Several jobs.
---@param opts? WaitOpts How to wait.
---@return table
function waitAll(jobs, opts) end

--- `wait(submit(builder), opts)`.
--- A step: its outcome is recorded, and a replay returns the recorded one at once.
---@param builder JobBuilder What to run.
---@param opts? WaitOpts How to wait.
---@return Result
function run(builder, opts) end

--- Brings a job's results tree to a folder. Wait for it first: of tasks that have not ended nothing comes, as a notice says.
--- A step: its outcome is recorded, and a replay returns the recorded one at once.
---@param job JobHandle|Result Whose files.
---@param dest string A folder on this machine.
---@return FetchResult
function fetch(job, dest) end

--- Runs `fn(...)` once and records what it returns; keyed by name, arguments and the function's source (not by what it captures).
--- A step: its outcome is recorded, and a replay returns the recorded one at once.
---@param name string Says what it is for.
---@param fn function No steps inside.
---@param ... any Passed to the function.
---@return any
function step(name, fn, ...) end

--- Runs one command on the driver's machine, at least once. A non-zero exit raises an error of kind ShellFailed. When it has ended, what it started in the background ends too.
--- A step: its outcome is recorded, and a replay returns the recorded one at once.
---@param command string|string[] Text for /bin/sh, or a list without a shell.
---@param opts? ShellOpts How to run it.
---@return ShellResult
function shell(command, opts) end

--- A list of rows by column name. Values stay texts ("007" survives) unless typed.
--- A step: its outcome is recorded, and a replay returns the recorded one at once.
---@param path string With a header line.
---@param opts? ReadCsvOpts How to read it.
---@return table[]
function readCsv(path, opts) end

--- Its value; null is `null`.
--- A step: its outcome is recorded, and a replay returns the recorded one at once.
---@param path string A JSON file.
---@return any
function readJson(path) end

--- Its text.
--- A step: its outcome is recorded, and a replay returns the recorded one at once.
---@param path string A file.
---@return string
function readText(path) end

--- Whether there is a file or a folder.
--- A step: its outcome is recorded, and a replay returns the recorded one at once.
---@param path string A path.
---@return boolean
function fileExists(path) end

--- Publishes rows as a CSV file, by rename.
--- A step: its outcome is recorded, and a replay returns the recorded one at once.
---@param path string Where.
---@param rows table[] Tables by column name.
---@param opts? WriteCsvOpts How to write it.
function writeCsv(path, rows, opts) end

--- Publishes a value as a JSON file with sorted keys, by rename.
--- A step: its outcome is recorded, and a replay returns the recorded one at once.
---@param path string Where.
---@param value any Any value of JSON types.
---@param opts? WriteJsonOpts How to write it.
function writeJson(path, value, opts) end

--- Publishes text as a file, by rename.
--- A step: its outcome is recorded, and a replay returns the recorded one at once.
---@param path string Where.
---@param text string What.
function writeText(path, text) end

--- Seconds since 1970 UTC, with milliseconds; recorded.
--- A step: its outcome is recorded, and a replay returns the recorded one at once.
---@return number
function now() end

--- `random()`: a float in [0, 1); `random(m)`: an integer in 1..m; `random(m, n)`: an integer in m..n. Drawn once and recorded.
--- A step: its outcome is recorded, and a replay returns the recorded one at once.
---@param m? integer The largest value; the smallest where `n` is given.
---@param n? integer The largest value.
---@return number
function random(m, n) end

--- A random UUID, drawn once and recorded.
--- A step: its outcome is recorded, and a replay returns the recorded one at once.
---@return string
function uuid() end

--- Waits. The time to wake up is recorded, so that a resumed run does not wait again.
--- A step: its outcome is recorded, and a replay returns the recorded one at once.
---@param duration number|string Seconds, or text such as "10m".
function sleep(duration) end

--- Runs functions side by side, each a line of control of its own, and returns their values under the same names. The first error ends the others' waiting (their jobs go on) and is raised here, with the line that raised it.
--- A step: its outcome is recorded, and a replay returns the recorded one at once.
---@param functions table Name to function; `limit = n` runs at most n at a time.
---@return table
function parallel(functions) end

--- `parallel` over a list: the results in the list's order.
--- A step: its outcome is recorded, and a replay returns the recorded one at once.
---@param list any[] The items; they tell the lines of control apart, by their content.
---@param fn function Gets (item, index); its first value is the result.
---@param opts? MapOpts How to run.
---@return any[]
function map(list, fn, opts) end

--- Starts a function beside the script and returns at once. The script waits for it at its end.
--- A step: its outcome is recorded, and a replay returns the recorded one at once.
---@param fn function Runs beside the script.
---@return Strand
function spawn(fn) end

--- Declares the workflow's `-p` parameters and returns their typed values, which `args` then holds too.
---@param specs table<string, ParamSpec> Name to declaration.
---@return table
function params(specs) end

--- Shows a line and stores it, once; silent while replaying.
---@param fmt any A text; with further arguments a format as for string.format.
---@param ... any Formatted.
function log(fmt, ...) end

--- As `log`, with the values separated by tabs.
---@param ... any Shown.
function print(...) end

--- Ends the run as failed. It cannot be caught.
---@param message string Why.
---@param opts? FailOpts What kind of failure it is.
function fail(message, opts) end

--- Every combination, as rows: the names in sorted order, the last one varying fastest.
---@param lists table<string, any[]> Name to values.
---@return table[]
function product(lists) end

--- The first values, the second values ... as rows.
---@param lists table<string, any[]> Name to values, all of one length.
---@return table[]
function zip(lists) end

--- Loads a module once: beside the script, else of the workflows and the library that come with sparkles.
---@param name string A module, with dots for folders.
---@return any
function require(name) end

-- In test files (*_test.lua) only.

--- Declares a test. Stubs and files that are declared outside of tests hold in every test of the file; those in a test in that one.
---@param name string Says what holds.
---@param fn function The test.
function test(name, fn) end

--- Runs a workflow to its end. Its jobs, commands and steps are answered by stubs, its files are in memory, sleeping takes no time.
---@param workflow string A path from the test file's folder, or the name of a ready workflow.
---@param params? table<string, string|number|boolean> Its parameters, as `-p` gives them.
---@param opts? RunOptions Time and chance.
---@return WorkflowRun
function runWorkflow(workflow, params, opts) end

--- Says what becomes of a job's tasks. The function gets a SubmittedJob and returns a list of outcomes, one a task; or a function that is called with each task and returns its outcome; or nil: every task succeeds. Of several stubs that fit, the last answers.
---@param job string The job's name; `*` stands for any letters.
---@param answer? function|StubbedTask[] The tasks' outcomes, or a function that is called with the job. (default: all succeed)
function onSubmit(job, answer) end

--- Says how a command that the workflow gives to `shell` ends.
---@param pattern string A part of the command, or a Lua pattern.
---@param answer? function|string|StubbedShell What it writes, how it ended, or a function of the command that says so.
function onShell(pattern, answer) end

--- Gives the value of a `step`. Without a stub the step's own function runs.
---@param name string The step's name; `*` stands for any letters.
---@param answer? any Its value, or a function of the step's arguments that returns it.
function onStep(name, answer) end

--- Gives files to the workflow. Files that are not given are read where they are: in the project's folder, else beside the workflow.
---@param contents table<string, string> Path to content.
function files(contents) end

--- Begins an expectation; an unmet one ends the test as failed, with its line.
---@param value? any What was found.
---@return Expectation
function expect(value) end
