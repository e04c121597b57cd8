"""Everything that a script can call or read, each declared once. Pure data; imports nothing of sparkles.

From these records come the argument checks that the Lua side performs (`checks`), the reference page docs/lua-api.md and the editor
stub sparkles.d.lua (`stubs.py`). Types are written in a small grammar: `string number integer boolean function table any`, the name of
a record below, `T[]` for a list, `map<T>` for a table with text keys, `A|B` for alternatives.

Surprise: durations that take "2h" are typed `number|string`, and what the text must look like is checked in `drafts.py`, as is every
other rule about values rather than types.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Field:
    """A parameter, an option or a field of a result. `default` is shown in the reference, as Lua source."""

    name: str
    type: str
    doc: str
    optional: bool = False
    default: str = ""


@dataclass(frozen=True)
class Function:
    """One function of the API. `owner` is "" for a global, else the record whose method it is.

    `step`: its outcome is recorded and replayed. `rest` is what further arguments must be. `anywhere`: may also be called inside a row
    function or inside step's function although it reaches the host.
    """

    name: str
    params: tuple[Field, ...]
    result: str
    doc: str
    owner: str = ""
    step: bool = False
    rest: Field | None = None
    anywhere: bool = False
    since: str = "0.1"
    example: str = ""


@dataclass(frozen=True)
class Record:
    """A table of known fields: options that a script writes (`opaque` False) or a value that the host makes (`opaque` True)."""

    name: str
    doc: str
    fields: tuple[Field, ...] = ()
    opaque: bool = False
    items: str = ""


def _opt(name: str, kind: str, doc: str, default: str = "") -> Field:
    return Field(name, kind, doc, optional=True, default=default)


RECORDS: tuple[Record, ...] = (
    Record("JobBuilder", "Describes a job; nothing happens before `submit`. Every setter returns the builder.", opaque=True),
    Record(
        "JobHandle",
        "A submitted job.",
        (
            Field("id", "string", "Names the job on the command line, too."),
            Field("name", "string", "As given to JobBuilder."),
            Field("count", "integer", "How many tasks it has."),
        ),
        opaque=True,
    ),
    Record("Strand", "A function that `spawn` started.", opaque=True),
    Record(
        "FailOpts",
        "What kind of failure `fail` tells.",
        (_opt("badInput", "boolean", "What was given is wrong, not the work: exit code 2 instead of 1.", "false"),),
    ),
    Record(
        "MapOpts",
        "How `map` runs.",
        (_opt("limit", "integer", "How many run at a time; all, where it is not set."),),
    ),
    Record(
        "Result",
        "What became of a job that was waited for.",
        (
            Field("id", "string", "The job's id."),
            Field("name", "string", "The job's name."),
            Field("total", "integer", "How many tasks it has."),
            Field("failedCount", "integer", "How many tasks failed or were cancelled."),
            Field("counts", "Counts", "Tasks by state."),
            Field("tasks", "Task[]", "The tasks by index, loaded a hundred at a time when they are read; read-only."),
        ),
        opaque=True,
    ),
    Record(
        "Counts",
        "How many tasks of a job are in each state.",
        (
            Field("succeeded", "integer", "Exit code 0 and every required output present."),
            Field("failed", "integer", "Tried as often as allowed, and failed."),
            Field("cancelled", "integer", "Ended from outside, or never started."),
            Field("pending", "integer", "Waiting to be claimed."),
            Field("claimed", "integer", "Being worked on."),
            Field("reused", "integer", "Those of `succeeded` whose outcome was known before."),
        ),
        opaque=True,
    ),
    Record(
        "Task",
        "One task of a job that was waited for.",
        (
            Field("index", "integer", "Its place in the job, from 1."),
            Field("params", "table", "Its parameters."),
            Field(
                "state", "string", 'pending, claimed, succeeded, failed or cancelled ("succeeded" or "failed" after a wait).'
            ),
            _opt("exitCode", "integer", "Of its program, where one ended by itself."),
            _opt("signal", "integer", "The signal that ended its program, where one did."),
            _opt("reason", "string", "Why it failed, as a sentence."),
            _opt(
                "class",
                "string",
                "exit, output, oom, disk, timeout, preempted, evicted, lost, staging, image, config or cancelled.",
            ),
            _opt("results", "any", "What it wrote to its results.json, decoded."),
            Field("outputs", "map<Artifact>", "Its collected outputs by name."),
            Field("attempts", "integer", "How often it was tried."),
            _opt("seconds", "number", "How long its last attempt took."),
            _opt("cpuSeconds", "number", "Processor time of its last attempt."),
            _opt("peakMemory", "integer", "Bytes, of its last attempt; nil where it ended too soon to be measured."),
            _opt("reusedFrom", "string", "`JOB/INDEX` of the task whose outcome was reused."),
            _opt("name", "string", "As given by the row function."),
        ),
        opaque=True,
    ),
    Record(
        "Artifact",
        "An output of a task, or an input that names one; goes into `addFiles` as it is.",
        (
            Field("job", "string", "The job's id."),
            Field("index", "integer", "The task's index."),
            Field("name", "string", "Its path in the task's directory."),
            Field("digest", "string", "sha256 of its content, in hex."),
            _opt("size", "integer", "Bytes."),
            _opt("executable", "boolean", "Whether it may be executed."),
            _opt("private", "boolean", "Whether copies of it are for their user alone."),
        ),
    ),
    Record(
        "FileSpec",
        "An input of a task.",
        (
            Field("src", "string|Artifact", "A path or glob on this machine, or an artifact of an earlier task."),
            _opt("dst", "string", "Its path in the task's directory; a folder where it ends with `/`.", "the base name"),
            _opt("link", "boolean", "The task gets a read-only link instead of a copy of its own: for large inputs.", "false"),
        ),
    ),
    Record(
        "RowOverrides",
        "What a row function may return.",
        (
            _opt("params", "map<any>", "Replaces the row's parameters."),
            _opt("command", "string|string[]", "Replaces the command template."),
            _opt("files", "(string|FileSpec|Artifact)[]", "Inputs of this task alone, besides the job's."),
            _opt("env", "map<string|number>", "Environment variables, over the job's."),
            _opt("resources", "Resources", "Over the job's, field by field."),
            _opt("name", "string", "Shown in place of the index where tasks are listed."),
        ),
    ),
    Record(
        "Resources",
        "What a task asks for.",
        (
            _opt("cpu", "number|string", 'Cores: 2, 0.5 or "500m".', "1"),
            _opt("memory", "integer|string", 'Bytes, or text such as "1.5Gi" or "800M".', "no limit"),
            _opt("disk", "integer|string", "As memory.", "no limit"),
            _opt("gpu", "integer", "Devices.", "0"),
        ),
    ),
    Record(
        "RetryOpts",
        "How often a task's program is tried. Lost machines do not count.",
        (
            _opt("attempts", "integer", "Tries in all; 1 means no retry.", "1"),
            _opt("exitCodes", "integer[]", "Only these exit codes are tried again.", "any"),
            _opt("backoff", "number|string", 'Seconds before the second try, or text such as "30s".', "1"),
            _opt("backoffFactor", "number", "Each further pause is this many times as long.", "2"),
            _opt("maxBackoff", "number|string", "The longest pause.", "300"),
            _opt("oom", "OomOpts", "After running out of memory, try again with more."),
        ),
    ),
    Record(
        "OomOpts",
        "How an attempt that ran out of memory is tried again.",
        (
            _opt("memory", "string|number", 'How many times as much memory: "x2" or 2.', '"x2"'),
            _opt("max", "integer|string", 'At most this much: bytes or text such as "64Gi".', "no limit"),
        ),
    ),
    Record(
        "OutputSpec",
        "Output patterns with options.",
        (_opt("required", "boolean", "The task fails without it.", "false"),),
        items="string",
    ),
    Record(
        "WaitOpts",
        "How to wait.",
        (
            _opt("allowFailures", "boolean", "Return the result although tasks failed, instead of raising an error.", "false"),
            _opt(
                "timeout",
                "number",
                "Seconds after which an error of kind WaitTimeout is raised; the job goes on while the script does.",
                "without end",
            ),
        ),
    ),
    Record(
        "ShellOpts",
        "How to run a command.",
        (
            _opt("env", "map<string|number>", "Environment variables besides the driver's own."),
            _opt("timeout", "number", "Seconds after which the command is ended and an error raised.", "none"),
            _opt("allowFailure", "boolean", "Return the outcome of a non-zero exit instead of raising an error.", "false"),
        ),
    ),
    Record(
        "ShellResult",
        "What a command on the driver's machine left.",
        (
            Field("exitCode", "integer", "Its exit code."),
            Field("stdout", "string", "Up to 1 MiB of it."),
            Field("stderr", "string", "Up to 1 MiB of it."),
            Field("seconds", "number", "How long it took."),
        ),
        opaque=True,
    ),
    Record(
        "FetchResult",
        "What was fetched.",
        (Field("path", "string", "Where."), Field("files", "integer", "How many.")),
        opaque=True,
    ),
    Record(
        "ReadCsvOpts",
        "How to read a CSV file.",
        (
            _opt("types", "map<string>", 'Column name to "string", "number", "integer" or "boolean".', "all strings"),
            _opt("delimiter", "string", "One character.", "by the file's ending: `,`, or a tab for .tsv"),
        ),
    ),
    Record(
        "WriteCsvOpts",
        "How to write a CSV file.",
        (
            _opt("columns", "string[]", "Which columns, in which order.", "those of the rows' source, else sorted"),
            _opt("delimiter", "string", "One character.", "by the file's ending"),
            _opt("nested", "boolean", "Writes lists and tables in cells as JSON; without it they are refused.", "false"),
        ),
    ),
    Record("WriteJsonOpts", "How to write a JSON file.", (_opt("indent", "integer", "Spaces per level; 0: one line.", "2"),)),
    Record(
        "ParamSpec",
        "One `-p` parameter of a workflow.",
        (
            _opt("type", "string", '"string", "number", "integer" or "boolean".', '"string"'),
            _opt("default", "any", "Its value where it is not given; without one it must be given."),
            _opt("choices", "any[]", "The values it may have."),
            _opt("min", "number", "The least that a number may be."),
            _opt("max", "number", "The greatest that a number may be."),
            _opt("pattern", "string", "A Lua pattern that a text must match; `^` and `$` tie it to its ends."),
            _opt(
                "check",
                "function",
                "Gets the value, and a table of all of them; returns what is wrong with it as a sentence, or nil. No steps inside.",
            ),
            _opt("doc", "string", "One line."),
        ),
    ),
)

_TEXT_OR_LIST = "string|string[]"


def _setter(name: str, doc: str, *params: Field, rest: Field | None = None, example: str = "") -> Function:
    return Function(name, params, "JobBuilder", doc, owner="JobBuilder", rest=rest, example=example)


FUNCTIONS: tuple[Function, ...] = (
    Function(
        "JobBuilder",
        (Field("name", "string", "Letters, digits, `.`, `_` and `-`."),),
        "JobBuilder",
        "Begins the description of a job. Nothing happens before `submit`.",
        example='local job = JobBuilder("align")\n  :setCommandTemplate("align {sample}")\n  :createTasksFor(readCsv("samples.csv"))',
    ),
    _setter(
        "setCommandTemplate",
        "What each task runs: text for /bin/sh, or a list that is run without a shell. `{name}` is replaced by the shell-quoted parameter, "
        "`{name:raw}` by the parameter as it is, `{^name}` by the path in the task of the file that the parameter names.",
        Field("template", _TEXT_OR_LIST, "With placeholders."),
        example='job:setCommandTemplate("python fit.py --alpha {alpha}")',
    ),
    _setter(
        "createTasksFor",
        "One task for each row: a list of parameter tables, what `readCsv`, `product` or `zip` return, or a list of texts or numbers, "
        "each of which becomes the parameter `value`. Called again, it replaces the rows.",
        Field("rows", "any[]", "The rows."),
        _opt("fn", "function", "`fn(row, index)` may return a RowOverrides table for that task. No steps inside."),
        example="job:createTasksFor(product{alpha = {0.1, 1}, seed = {1, 2, 3}})",
    ),
    _setter(
        "addFiles",
        "Inputs that each task finds in its directory: paths, globs, {src=, dst=} tables, artifacts of earlier tasks, or lists "
        "of these.",
        rest=Field("files", "string|FileSpec|Artifact|table", "The inputs."),
        example='job:addFiles("fit.py", {src = "data/train.csv", dst = "train.csv"}, earlier.tasks[1].outputs["model.bin"])',
    ),
    _setter(
        "setOutputs",
        'Which files of a task are kept, by pattern. With `required = true` a task without one fails: {"model.bin", required = true}.',
        Field("patterns", "table", "Patterns, and lists of patterns with options."),
        example='job:setOutputs{"*.log", {"model.bin", required = true}}',
    ),
    _setter("setImage", "The container image; used on the cluster only.", Field("image", "string", "As a registry knows it.")),
    _setter(
        "setResources",
        "What each task asks for.",
        Field("resources", "Resources", "Fields that are left out keep their default."),
    ),
    _setter(
        "setEnv",
        "Environment variables of each task; they count in the fingerprint.",
        Field("vars", "map<string|number>", "Name to value."),
    ),
    _setter(
        "setSecretEnv",
        'Environment variables whose values are never stored: "env:NAME" of the worker. "k8s:SECRET/KEY" and "gcp:SECRET" are checked and '
        "carried; workers that are processes cannot resolve them, and their tasks fail as config.",
        Field("refs", "map<string>", "Name to reference."),
    ),
    _setter("setWorkDir", "Where in its directory a task's command starts.", Field("path", "string", "Relative.")),
    _setter(
        "setTimeout",
        "The longest that an attempt may take.",
        Field("timeout", "number|string", 'Seconds, or text such as "90s", "30m", "2h" or "1d".'),
    ),
    _setter(
        "setRetry",
        "How often a failed task is tried again.",
        Field("retry", "RetryOpts", "The policy."),
        example='job:setRetry{attempts = 3, oom = {memory = "x2", max = "64Gi"}}',
    ),
    _setter("setParallelism", "The most tasks of this job that run at once.", Field("tasks", "integer", "1 or more.")),
    _setter(
        "setPriority",
        "Jobs with a higher number are served first.",
        Field("priority", "integer", "0 by default; may be negative."),
    ),
    _setter(
        "setProperties",
        "Labels that status and list show.",
        Field("properties", "map<string|number|boolean>", "Name to value."),
    ),
    _setter("setZones", "Where on the cluster tasks may run; ignored locally.", Field("zones", "string[]", "Names of zones.")),
    _setter(
        "setProvisioning",
        "What machines on the cluster are used; ignored locally.",
        Field("provisioning", "string", '"spot", "standard", "flex" or "reservation/NAME".'),
    ),
    _setter(
        "setPodTemplate",
        "Merged into the worker's pod, as the Kubernetes API spells it; ignored locally.",
        Field("template", "map<any>", "A pod template."),
    ),
    _setter(
        "setCache",
        "Whether tasks that are known to have succeeded are reused.",
        Field("enabled", "boolean", "true by default."),
    ),
    _setter(
        "setMaxFailures",
        "More failed tasks than this cancel what is still pending.",
        Field("limit", "integer|string", 'A count, or a share such as "10%".'),
    ),
    Function(
        "submit",
        (Field("builder", "JobBuilder", "What to run."),),
        "JobHandle",
        "Submits a job and returns at once. Submitting the same thing twice makes two jobs.",
        step=True,
        example="local handle = submit(job)",
    ),
    Function(
        "wait",
        (Field("job", "JobHandle", "From `submit`."), _opt("opts", "WaitOpts", "How to wait.")),
        "Result",
        "Waits until every task of the job has ended. Raises an error of kind JobFailed if tasks failed:"
        " `.job` is the id, `.failed` a list of the indexes of the first ten.",
        step=True,
        example="local result = wait(handle, {allowFailures = true})",
    ),
    Function(
        "waitAll",
        (Field("jobs", "JobHandle[]|map<JobHandle>", "Several jobs."), _opt("opts", "WaitOpts", "How to wait.")),
        "table",
        "Waits for several jobs and returns their results under the same keys.",
        step=True,
        example="local results = waitAll{a = submit(a), b = submit(b)}",
    ),
    Function(
        "run",
        (Field("builder", "JobBuilder", "What to run."), _opt("opts", "WaitOpts", "How to wait.")),
        "Result",
        "`wait(submit(builder), opts)`.",
        step=True,
    ),
    Function("ok", (), "boolean", "Whether every task succeeded.", owner="Result"),
    Function("failed", (), "Task[]", "The tasks that failed or were cancelled.", owner="Result"),
    Function(
        "table",
        (
            _opt(
                "columns",
                "string[]",
                "Names of parameters, of fields in results.json, or of task fields.",
                "index and all parameters and results",
            ),
        ),
        "table[]",
        "One row for each task, by task index; a value that a task does not have is left out.",
        owner="Result",
        example='writeCsv("table.csv", result:table{"alpha", "score"})',
    ),
    Function(
        "fetch",
        (Field("job", "JobHandle|Result", "Whose files."), Field("dest", "string", "A folder on this machine.")),
        "FetchResult",
        "Brings a job's results tree to a folder. Wait for it first: of tasks that have not ended nothing comes, as a notice says.",
        step=True,
    ),
    Function(
        "step",
        (Field("name", "string", "Says what it is for."), Field("fn", "function", "No steps inside.")),
        "any",
        "Runs `fn(...)` once and records what it returns; keyed by name, arguments and the function's source (not by what it captures).",
        step=True,
        rest=Field("args", "any", "Passed to the function."),
        example='local best = step("pick", function(rows) return rows[1] end, rows)',
    ),
    Function(
        "shell",
        (
            Field("command", _TEXT_OR_LIST, "Text for /bin/sh, or a list without a shell."),
            _opt("opts", "ShellOpts", "How to run it."),
        ),
        "ShellResult",
        "Runs one command on the driver's machine, at least once. A non-zero exit raises an error of kind ShellFailed. When it has ended,"
        " what it started in the background ends too.",
        step=True,
    ),
    Function(
        "readCsv",
        (Field("path", "string", "With a header line."), _opt("opts", "ReadCsvOpts", "How to read it.")),
        "table[]",
        'A list of rows by column name. Values stay texts ("007" survives) unless typed.',
        step=True,
        example='local rows = readCsv("params.csv", {types = {alpha = "number"}})',
    ),
    Function("readJson", (Field("path", "string", "A JSON file."),), "any", "Its value; null is `null`.", step=True),
    Function("readText", (Field("path", "string", "A file."),), "string", "Its text.", step=True),
    Function("fileExists", (Field("path", "string", "A path."),), "boolean", "Whether there is a file or a folder.", step=True),
    Function(
        "writeCsv",
        (
            Field("path", "string", "Where."),
            Field("rows", "table[]", "Tables by column name."),
            _opt("opts", "WriteCsvOpts", "How to write it."),
        ),
        "nil",
        "Publishes rows as a CSV file, by rename.",
        step=True,
    ),
    Function(
        "writeJson",
        (
            Field("path", "string", "Where."),
            Field("value", "any", "Any value of JSON types."),
            _opt("opts", "WriteJsonOpts", "How to write it."),
        ),
        "nil",
        "Publishes a value as a JSON file with sorted keys, by rename.",
        step=True,
    ),
    Function(
        "writeText",
        (Field("path", "string", "Where."), Field("text", "string", "What.")),
        "nil",
        "Publishes text as a file, by rename.",
        step=True,
    ),
    Function("now", (), "number", "Seconds since 1970 UTC, with milliseconds; recorded.", step=True),
    Function(
        "random",
        (
            _opt("m", "integer", "The largest value; the smallest where `n` is given."),
            _opt("n", "integer", "The largest value."),
        ),
        "number",
        "`random()`: a float in [0, 1); `random(m)`: an integer in 1..m; `random(m, n)`: an integer in m..n. Drawn once and recorded.",
        step=True,
    ),
    Function("uuid", (), "string", "A random UUID, drawn once and recorded.", step=True),
    Function(
        "sleep",
        (Field("duration", "number|string", 'Seconds, or text such as "10m".'),),
        "nil",
        "Waits. The time to wake up is recorded, so that a resumed run does not wait again.",
        step=True,
    ),
    Function(
        "parallel",
        (Field("functions", "table", "Name to function; `limit = n` runs at most n at a time."),),
        "table",
        "Runs functions side by side, each a line of control of its own, and returns their values under the same names. The first error"
        " ends the others' waiting (their jobs go on) and is raised here, with the line that raised it.",
        step=True,
        example="local r = parallel{a = function() return run(x) end, b = function() return run(y) end}",
    ),
    Function(
        "map",
        (
            Field("list", "any[]", "The items; they tell the lines of control apart, by their content."),
            Field("fn", "function", "Gets (item, index); its first value is the result."),
            _opt("opts", "MapOpts", "How to run."),
        ),
        "any[]",
        "`parallel` over a list: the results in the list's order.",
        step=True,
        example="local results = map(samples, function(s) return run(jobFor(s)) end, {limit = 4})",
    ),
    Function(
        "spawn",
        (Field("fn", "function", "Runs beside the script."),),
        "Strand",
        "Starts a function beside the script and returns at once. The script waits for it at its end.",
        step=True,
        example="local s = spawn(function() return run(job) end)\nlocal result = s:await()",
    ),
    Function(
        "await",
        (),
        "any",
        "Waits for the function to end and returns its value, or raises its error.",
        owner="Strand",
        step=True,
    ),
    Function(
        "params",
        (Field("specs", "map<ParamSpec>", "Name to declaration."),),
        "table",
        "Declares the workflow's `-p` parameters and returns their typed values, which `args` then holds too.",
        example='local p = params{alpha = {type = "number", default = 1, doc = "step size"}}',
    ),
    Function(
        "log",
        (Field("fmt", "any", "A text; with further arguments a format as for string.format."),),
        "nil",
        "Shows a line and stores it, once; silent while replaying.",
        rest=Field("values", "any", "Formatted."),
        anywhere=True,
    ),
    Function(
        "print", (), "nil", "As `log`, with the values separated by tabs.", rest=Field("values", "any", "Shown."), anywhere=True
    ),
    Function(
        "fail",
        (Field("message", "string", "Why."), _opt("opts", "FailOpts", "What kind of failure it is.")),
        "nil",
        "Ends the run as failed. It cannot be caught.",
        example='if #rows == 0 then fail("rows.csv: expected at least one row", {badInput = true}) end',
    ),
    Function(
        "product",
        (Field("lists", "map<any[]>", "Name to values."),),
        "table[]",
        "Every combination, as rows: the names in sorted order, the last one varying fastest.",
    ),
    Function(
        "zip",
        (Field("lists", "map<any[]>", "Name to values, all of one length."),),
        "table[]",
        "The first values, the second values ... as rows.",
    ),
    Function(
        "require",
        (Field("name", "string", "A module, with dots for folders."),),
        "any",
        "Loads a module once: beside the script, else of the workflows and the library that come with sparkles.",
    ),
)

VALUES: tuple[Field, ...] = (
    Field("args", "table", "The `-p key=value` parameters: texts, or typed values once `params` declared them; read-only."),
    Field("null", "any", "Stands for a missing value in lists and JSON, where nil cannot be."),
)

BASE: tuple[str, ...] = (
    *("assert", "error", "getmetatable", "setmetatable", "ipairs", "pairs", "next", "pcall", "xpcall", "rawequal", "rawget"),
    *("rawlen", "rawset", "select", "tonumber", "tostring", "type", "load", "coroutine", "math", "string", "table", "utf8"),
    *("_G", "_VERSION"),
)
"""What Lua itself brings."""


def by_owner(owner: str) -> list[Function]:
    """The methods of a record, or the globals for ""."""
    return [each for each in FUNCTIONS if each.owner == owner]


def record(name: str) -> Record:
    """The record of that name; KeyError where there is none."""
    return _BY_NAME[name]


_BY_NAME = {each.name: each for each in RECORDS}


def _split(text: str, separator: str) -> list[str]:
    """Splits at separators outside of brackets."""
    found, depth, start = [], 0, 0
    for i, char in enumerate(text):
        if char in "(<":
            depth += 1
        elif char in ")>":
            depth -= 1
        elif char == separator and depth == 0:
            found.append(text[start:i])
            start = i + 1
    found.append(text[start:])
    return found


def parse_type(text: str, known: Mapping[str, Record] = _BY_NAME) -> list[dict[str, Any]]:
    """The alternatives of a type: {"kind": a basic type | "list" | "map" | "record", "of": alternatives, "name": of the record}."""
    alternatives: list[dict[str, Any]] = []
    for part in _split(text, "|"):
        if part.endswith("[]"):
            alternatives.append({"kind": "list", "of": parse_type(part[:-2], known)})
        elif part.startswith("(") and part.endswith(")"):
            alternatives.extend(parse_type(part[1:-1], known))
        elif part.startswith("map<"):
            alternatives.append({"kind": "map", "of": parse_type(part[4:-1], known)})
        elif part in known:
            alternatives.append({"kind": "record", "name": part})
        else:
            alternatives.append({"kind": part})
    return alternatives


def describe_type(text: str, known: Mapping[str, Record] = _BY_NAME) -> str:
    """A type as messages spell it: "string or list of string"."""
    names = []
    for part in _split(text, "|"):
        if part.endswith("[]"):
            inner = describe_type(part[:-2], known)
            names.append("list" if inner == "any" else f"list of {inner}")
        elif part.startswith("(") and part.endswith(")"):
            names.append(describe_type(part[1:-1], known))
        elif part.startswith("map<"):
            names.append("table")
        elif part in known and not known[part].opaque:
            names.append("table" if part != "Artifact" else "artifact")
        else:
            names.append(part)
    unique = list(dict.fromkeys(names))
    return unique[0] if len(unique) == 1 else ", ".join(unique[:-1]) + " or " + unique[-1]


def _field(field: Field, known: Mapping[str, Record]) -> dict[str, Any]:
    return {
        "name": field.name,
        "types": parse_type(field.type, known),
        "expected": describe_type(field.type, known),
        "optional": field.optional,
    }


def checks(functions: Sequence[Function] = FUNCTIONS, records: Sequence[Record] = RECORDS) -> dict[str, Any]:
    """The records as the Lua side reads them."""
    known = {each.name: each for each in records}
    return {
        "functions": [
            {
                "name": each.name,
                "owner": each.owner,
                "params": [_field(param, known) for param in each.params],
                "rest": _field(each.rest, known) if each.rest else False,
                "step": each.step,
                "anywhere": each.anywhere,
            }
            for each in functions
        ],
        "records": {
            each.name: {
                "fields": [_field(field, known) for field in each.fields],
                "opaque": each.opaque,
                "items": bool(each.items),
            }
            for each in records
        },
        "values": [each.name for each in VALUES],
        "base": list(BASE),
    }
