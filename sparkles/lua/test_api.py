"""What a test file (`*_test.lua`) can call besides plain Lua, each function declared once. Pure data; may import lua.api.

A test file runs in the sandbox of scripts, without steps: what has an effect is done by the workflow under test, and answered by stubs.
"""

from __future__ import annotations

from typing import Any

from sparkles.lua import api
from sparkles.lua.api import Field, Function, Record

KEPT = ("null", "product", "zip", "require", "log", "print", "fail", "readCsv", "readJson", "readText", "fileExists")
"""What a test file has of the API of scripts. Its reads start at the test file's own folder."""


def _opt(name: str, kind: str, doc: str, default: str = "") -> Field:
    return Field(name, kind, doc, optional=True, default=default)


TEST_RECORDS: tuple[Record, ...] = (
    Record(
        "RunOptions",
        "What the workflow finds.",
        (
            _opt("now", "number", "The time at which it begins, in seconds since 1970.", "1700000000"),
            _opt("seed", "integer", "What `random`, `uuid` and `math.random` draw from.", "1"),
        ),
    ),
    Record(
        "StubbedTask",
        "What became of a task. An empty one succeeded.",
        (
            _opt("results", "any", "What it wrote to its results.json."),
            _opt("outputs", "map<string>", "Its collected outputs: name to content."),
            _opt("state", "string", "succeeded, failed, cancelled or pending (it does not end)."),
            _opt("exitCode", "integer", "Other than 0: it failed.", "0, or 1 where it failed"),
            _opt("class", "string", "Why it failed: exit, oom, timeout ...", "exit"),
            _opt("reason", "string", "Why it failed, as a sentence."),
            _opt("seconds", "number", "How long it took.", "1"),
        ),
    ),
    Record(
        "StubbedShell",
        "How a command ended.",
        (
            _opt("exitCode", "integer", "Its exit code.", "0"),
            _opt("stdout", "string", "What it wrote."),
            _opt("stderr", "string", "What it wrote to standard error."),
        ),
    ),
    Record(
        "SubmittedJob",
        "A job that the workflow submitted.",
        (
            Field("id", "string", "Its id."),
            Field("name", "string", "Its name."),
            Field("tasks", "SubmittedTask[]", "Its tasks by index."),
            Field("outputs", "string[]", "The patterns of setOutputs."),
        ),
        opaque=True,
    ),
    Record(
        "SubmittedTask",
        "A task of a submitted job, as it would run.",
        (
            Field("index", "integer", "Its place in the job, from 1."),
            Field("params", "table", "Its parameters."),
            Field("command", "string|string[]", "Its command, parameters put in."),
            Field("files", "table[]", "Its inputs: {dst = path in the task, src = where it comes from}."),
            Field("env", "map<string>", "Its variables."),
            Field("name", "string", "As given by the row function, or empty."),
        ),
        opaque=True,
    ),
    Record(
        "WorkflowRun",
        "What the workflow did.",
        (
            Field("ok", "boolean", "Whether it ended well."),
            _opt("failed", "string", "The error that ended it, with its position."),
            _opt("kind", "string", "The error's kind: Failed (`fail`), JobFailed, ShellFailed, ScriptError, Usage ..."),
            Field("logs", "string[]", "What it logged and printed."),
            Field("submitted", "SubmittedJob[]", "Its jobs, in the order in which they were submitted."),
            Field("written", "map<string>", "Path to content of the files that it wrote."),
            Field("shells", "string[]", "The commands that it gave to `shell`."),
            Field(
                "slept",
                "number",
                "Seconds that it took by the test's clock: it slept, strands side by side at once, or a wait timed out.",
            ),
        ),
        opaque=True,
    ),
    Record("Expectation", "A value that something is expected of. Every method returns the expectation.", opaque=True),
)


def _expects(name: str, doc: str, *params: Field, example: str = "") -> Function:
    return Function(name, params, "Expectation", doc, owner="Expectation", example=example)


TEST_FUNCTIONS: tuple[Function, ...] = (
    Function(
        "test",
        (Field("name", "string", "Says what holds."), Field("fn", "function", "The test.")),
        "nil",
        "Declares a test. Stubs and files that are declared outside of tests hold in every test of the file; those in a test in that one.",
    ),
    Function(
        "runWorkflow",
        (
            Field("workflow", "string", "A path from the test file's folder, or the name of a ready workflow."),
            _opt("params", "map<string|number|boolean>", "Its parameters, as `-p` gives them."),
            _opt("opts", "RunOptions", "Time and chance."),
        ),
        "WorkflowRun",
        "Runs a workflow to its end. Its jobs, commands and steps are answered by stubs, its files are in memory, sleeping takes no time.",
        example='local run = runWorkflow("sweep.lua", {csv = "p.csv"})',
    ),
    Function(
        "onSubmit",
        (
            Field("job", "string", "The job's name; `*` stands for any letters."),
            _opt(
                "answer",
                "function|StubbedTask[]",
                "The tasks' outcomes, or a function that is called with the job.",
                "all succeed",
            ),
        ),
        "nil",
        "Says what becomes of a job's tasks. The function gets a SubmittedJob and returns a list of outcomes, one a task; or a function"
        " that is called with each task and returns its outcome; or nil: every task succeeds. Of several stubs that fit, the last answers.",
        example='onSubmit("align", function(job)\n'
        "  return function(task) return {results = {score = task.params.x * 2}} end\nend)",
    ),
    Function(
        "onShell",
        (
            Field("pattern", "string", "A part of the command, or a Lua pattern."),
            _opt(
                "answer",
                "function|string|StubbedShell",
                "What it writes, how it ended, or a function of the command that says so.",
            ),
        ),
        "nil",
        "Says how a command that the workflow gives to `shell` ends.",
        example='onShell("git rev-parse", "0a1b2c\\n")',
    ),
    Function(
        "onStep",
        (
            Field("name", "string", "The step's name; `*` stands for any letters."),
            _opt("answer", "any", "Its value, or a function of the step's arguments that returns it."),
        ),
        "nil",
        "Gives the value of a `step`. Without a stub the step's own function runs.",
    ),
    Function(
        "files",
        (Field("contents", "map<string>", "Path to content."),),
        "nil",
        "Gives files to the workflow. Files that are not given are read where they are: in the project's folder, else beside the workflow.",
        example='files{["p.csv"] = "a,b\\n1,2\\n"}',
    ),
    Function(
        "expect",
        (_opt("value", "any", "What was found."),),
        "Expectation",
        "Begins an expectation; an unmet one ends the test as failed, with its line.",
        example='expect(run.written["best.csv"]):equals("a\\n1\\n")',
    ),
    Function(
        "job", (Field("name", "string", "A job's name."),), "SubmittedJob", "The first job of that name.", owner="WorkflowRun"
    ),
    Function("writtenJson", (Field("path", "string", "A file."),), "any", "A written file's JSON.", owner="WorkflowRun"),
    Function("writtenCsv", (Field("path", "string", "A file."),), "table[]", "A written file's rows.", owner="WorkflowRun"),
    _expects("equals", "The same value; tables are compared through and through.", _opt("expected", "any", "The value.")),
    _expects("differsFrom", "Not the same value.", _opt("other", "any", "The value.")),
    _expects("contains", "A text has this part, a list this item, a table these fields.", Field("part", "any", "What it has.")),
    _expects("matches", "A text matches a Lua pattern.", Field("pattern", "string", "The pattern.")),
    _expects(
        "raises",
        "A function raises an error whose text has this part or matches this Lua pattern.",
        _opt("pattern", "string", "The part.", "any error"),
        example='expect(function() error("no") end):raises("no")',
    ),
    _expects("isTrue", "It is true."),
    _expects("isFalse", "It is false."),
    _expects("isNil", "It is nil."),
    _expects(
        "isNear",
        "A number is this one, or nearly.",
        Field("number", "number", "The number."),
        _opt("tolerance", "number", "The greatest difference.", "1e-9"),
    ),
    _expects("hasLength", "A text or a list has this length.", Field("length", "integer", "The length.")),
)


def checks() -> dict[str, Any]:
    """The records as the Lua side of a test file reads them: those of scripts and these."""
    merged = api.checks((*api.FUNCTIONS, *TEST_FUNCTIONS), (*api.RECORDS, *TEST_RECORDS))
    merged["kept"] = list(KEPT)
    merged["testing"] = [each.name for each in TEST_FUNCTIONS if not each.owner]
    return merged
