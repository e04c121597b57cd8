"""What is wrong with a draft, and where it is reported."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sparkles.backends.memory_blobs import MemoryBlobs
from sparkles.engine.commands import FileDraft, JobDraft, ResourcesDraft, TaskDraft
from sparkles.engine.files import RunFiles
from sparkles.engine.jobs import setter_name
from sparkles.engine.spec import SETTERS
from sparkles.errors import SpecError, TemplateError, WorkflowError
from sparkles.model import OomRetry, OutputGlob, RetryPolicy
from tests.support.drafts import made, refused, rows, source


@pytest.fixture
def blobs() -> Iterator[MemoryBlobs]:
    """A store in memory."""
    store = MemoryBlobs()
    yield store
    store.close()


@pytest.fixture
def files(tmp_path: Path, blobs: MemoryBlobs) -> RunFiles:
    """A project's files."""
    return source(tmp_path, blobs)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        pytest.param(
            {"tasks": []}, "tasks: expected at least one row, found none: a job without tasks does nothing", id="no tasks"
        ),
        pytest.param(
            {"command": None},
            'command: there is no command: call setCommandTemplate, or give each task its own (in a job.json: "command")',
            id="no command",
        ),
        pytest.param(
            {"command": None, "tasks": [TaskDraft({}, command="x"), TaskDraft({})]},
            'tasks[2].command: there is no command: call setCommandTemplate, or give each task its own (in a job.json: "command")',
            id="no command for one",
        ),
        pytest.param({"command": " "}, "command: expected a command, found an empty text", id="empty command"),
        pytest.param({"command": ()}, "command: expected a program and its arguments, found an empty list", id="no arguments"),
        pytest.param({"command": "a\0"}, "command: a command cannot hold a NUL (character 2)", id="NUL"),
        pytest.param(
            {"command": "{c:raw}", "tasks": rows({"c": ""})},
            "tasks[1]: expected a command, found an empty text after its parameters were put in",
            id="command that a parameter leaves empty",
        ),
        pytest.param(
            {"command": ("{c}", "x"), "tasks": rows({"c": ""})},
            "tasks[1]: expected a program as the first argument, found an empty text",
            id="no program",
        ),
        pytest.param(
            {"command": "x {y}", "tasks": rows({"y": 1}, {"z": 1})},
            "tasks[2]: {y} is not a task parameter (parameters: z). Write {{y}} for the text {y}.",
            id="a row without the parameter",
        ),
        pytest.param(
            {"command": "x {y}", "tasks": rows({"y": 1}, {"y": None})},
            "tasks[2]: parameter y: expected text, a number or a boolean, found nil",
            id="nil in a row",
        ),
        pytest.param(
            {"command": "x {^y}", "tasks": rows({"y": "no.txt"})},
            "tasks[1]: {^y}: ",
            id="a parameter's file that is missing",
        ),
        pytest.param(
            {"command": "x {^y}", "tasks": rows({"y": 3})},
            "tasks[1]: {^y}: expected a path or an artifact of an earlier task, found 3",
            id="a parameter that is no file",
        ),
        pytest.param(
            {"tasks": [TaskDraft({"x": 1}, command="{y:raq}")]},
            "tasks[1].command: {y:raq}: 'raq' is not a format of a placeholder (formats: raw). Did you mean 'raw'? "
            "Write {{y:raq}} for the text {y:raq}.",
            id="a task's own command",
        ),
        pytest.param(
            {"tasks": rows({"x": float("nan")})},
            "tasks[1].params.x: expected a finite number, found nan, which JSON cannot hold; give it as text",
            id="nan",
        ),
        pytest.param(
            {"tasks": rows({"x": [1, b"\xff"]})},
            "tasks[1].params.x[2]: expected text in UTF-8, found other bytes: b'\\xff'",
            id="bytes in a parameter",
        ),
        pytest.param(
            {"tasks": rows({}, env={"1A": "x"})},
            "tasks[1].env: expected a variable's name of letters, digits and _, found '1A'",
            id="a task's env",
        ),
        pytest.param(
            {"tasks": rows({}, resources=ResourcesDraft(memory="1g"))},
            "tasks[1].resources.memory: expected a size such as 4Gi or 800M, found '1g' (did you mean 1G?)",
            id="a task's resources",
        ),
        pytest.param(
            {"tasks": rows({}, name="a\nb")},
            "tasks[1].name: expected at most 255 printable characters, found 'a\\nb'",
            id="task's name",
        ),
        pytest.param(
            {"name": "my job"},
            "name: expected 1 to 63 letters, digits, '.', '_' and '-', the first of them a letter or digit, found 'my job'",
            id="job's name",
        ),
        pytest.param(
            {"outputs": (OutputGlob("a"), OutputGlob("../*"))},
            "outputs[2]: expected a pattern, relative to the task's directory; found '../*': it leaves the task's directory",
            id="output",
        ),
        pytest.param(
            {"work_dir": "/tmp"},
            "workDir: expected a folder, relative to the task's directory; found '/tmp': it is absolute",
            id="work_dir",
        ),
        pytest.param(
            {"env": {"SPARKLES_JOB": "x"}},
            "env.SPARKLES_JOB: names that begin with SPARKLES_ are set by sparkles; choose another one",
            id="sparkles' own variable",
        ),
        pytest.param({"env": {"A": "\0"}}, "env.A: a variable's value cannot hold a NUL", id="NUL in env"),
        pytest.param(
            {"secret_env": {"A": "hunter2"}},
            "secretEnv.A: expected a reference, env:NAME, k8s:secret/key or gcp:secret, and never the value itself",
            id="a secret itself",
        ),
        pytest.param(
            {"secret_env": {"A": "env:A"}, "env": {"A": "1"}},
            "secretEnv.A: the variable is set in env as well; set it in one place",
            id="set twice",
        ),
        pytest.param({"timeout_s": 0.0}, "timeout: expected a duration above 0, found 0.0", id="timeout"),
        pytest.param({"parallelism": 0}, "parallelism: expected 1 or more, found 0", id="parallelism"),
        pytest.param({"priority": 2**40}, "priority: expected a number of 32 bits, found 1099511627776", id="priority"),
        pytest.param({"max_failures": -1}, "maxFailures: expected 0 or more, found -1", id="max_failures"),
        pytest.param(
            {"max_failures": "ten%"}, "maxFailures: expected a number or a share such as \"10%\", found 'ten%'", id="no share"
        ),
        pytest.param(
            {"retry": RetryPolicy(attempts=0)}, "retry.attempts: expected 1 or more (tries in all), found 0", id="attempts"
        ),
        pytest.param(
            {"retry": RetryPolicy(exit_codes=(75, 0))},
            "retry.exitCodes[2]: expected a code from 1 to 255, found 0",
            id="exit code",
        ),
        pytest.param(
            {"retry": RetryPolicy(backoff_s=-1.0)}, "retry.backoff: expected 0 seconds or more, found -1.0", id="backoff"
        ),
        pytest.param(
            {"retry": RetryPolicy(oom=OomRetry(factor=0.5))},
            "retry.oom.memory: expected a factor of 1 or more, found 0.5",
            id="oom",
        ),
        pytest.param(
            {"resources": ResourcesDraft(cpu=0)}, "resources.cpu: expected a number of cores above 0, found 0", id="cpu"
        ),
        pytest.param({"resources": ResourcesDraft(gpu=-1)}, "resources.gpu: expected 0 or more, found -1", id="gpu"),
        pytest.param(
            {"provisioning": "sopt"},
            "provisioning: expected spot, standard, flex or reservation/NAME, found 'sopt'. Did you mean 'spot'?",
            id="provisioning",
        ),
        pytest.param({"zones": ("a b",)}, "zones[1]: expected a zone such as 'europe-west4-a', found 'a b'", id="zone"),
        pytest.param({"image": "a b"}, "image: expected the name of a container image, found 'a b'", id="image"),
    ],
)
def test_mistakes(files: RunFiles, fields: dict[str, Any], message: str) -> None:
    """Without positions a message begins with the path of the field; tasks and files are counted from 1."""
    error = refused(files, **fields)
    assert isinstance(error, SpecError | TemplateError)
    assert str(error) == message or (message.endswith(": ") and str(error).startswith(message))


@pytest.mark.parametrize(
    ("fields", "setter", "message"),
    [
        (
            {"command": "align {smaple}", "tasks": rows({"sample": 1, "reads": 2})},
            "setCommandTemplate",
            "{smaple} is not a task parameter (parameters: sample, reads). Did you mean {sample}?",
        ),
        ({"command": " "}, "setCommandTemplate", "expected a command, found an empty text"),
        (
            {"command": "x {y}", "tasks": rows({"y": 1}, {"y": {}})},
            "setCommandTemplate",
            "tasks[2]: parameter y: expected text, a number or a boolean, found a table",
        ),
        ({"tasks": []}, "createTasksFor", "expected at least one row, found none: a job without tasks does nothing"),
        ({"tasks": rows({}, files=(FileDraft("q*"),))}, "createTasksFor", "tasks[1].files[1]: q*: the pattern matches no file"),
        ({"files": (FileDraft("q*"),)}, "addFiles", "files[1]: q*: the pattern matches no file"),
        (
            {"resources": ResourcesDraft(cpu="x")},
            "setResources",
            "cpu: expected a number of cores such as 2, 0.5 or 500m, found 'x'",
        ),
        ({"timeout_s": -1.0}, "setTimeout", "expected a duration above 0, found -1.0"),
        ({"env": {"": "x"}}, "setEnv", "expected a variable's name of letters, digits and _, found ''"),
        ({"max_failures": "110%"}, "setMaxFailures", "expected a number or a share such as \"10%\", found '110%'"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.startswith(("set", "add", "create")) else "",
)
def test_mistakes_of_a_script(files: RunFiles, fields: dict[str, Any], setter: str, message: str) -> None:
    """With positions the error is at the author's line and names the setter."""
    error = refused(files, **fields, positions={"JobBuilder": "w.lua:1", setter: "w.lua:14"})
    assert isinstance(error, WorkflowError)
    assert str(error) == f"w.lua:14: {setter}: {message}"


def test_every_field_has_a_setter() -> None:
    """A field that is added to the draft must be reported somewhere."""
    assert set(SETTERS) == {field.name for field in msgspec.structs.fields(JobDraft)} - {"positions"}
    assert setter_name("pod_template") == "setPodTemplate"


@pytest.mark.parametrize(
    ("share", "count", "expected"),
    [
        ("10%", 25, 2),
        ("10%", 9, 0),
        ("0%", 100, 0),
        ("100%", 7, 7),
        ("2.5%", 1000, 25),
        (" 29 % ", 100, 29),
        (3, 100, 3),
        (None, 5, None),
    ],
)
def test_max_failures(files: RunFiles, share: Any, count: int, expected: int | None) -> None:
    """A share is rounded down, exactly."""
    assert made(files, max_failures=share, tasks=rows({}) * count).spec.max_failures == expected
