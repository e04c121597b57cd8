"""job.json: read strictly, with a schema that agrees with the reader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from sparkles.engine.commands import FileDraft, JobDraft, ResourcesDraft, TaskDraft
from sparkles.engine.jobfile import job_schema, load_job, schema_text
from sparkles.errors import RowsError, SpecError
from sparkles.model import OomRetry, OutputGlob, RetryPolicy

SCHEMA = Path(__file__).resolve().parents[2] / "docs" / "job.schema.json"

FULL = {
    "$schema": "job.schema.json",
    "name": "align",
    "command": "align {sample} {^reads}",
    "tasks": [
        {"params": {"sample": "a", "reads": "a.fq"}},
        {
            "params": {"sample": "b", "reads": "b.fq"},
            "command": ["align", "{sample}"],
            "files": [{"src": "extra.txt", "dst": "in/"}],
            "env": {"T": "1"},
            "resources": {"memory": "8Gi"},
            "name": "second",
        },
    ],
    "files": [
        "ref/*.fa",
        {"src": "big.db", "link": True},
        {"artifact": {"job": "fit-1", "index": 1, "name": "m.bin", "digest": "0" * 64, "size": 3}},
    ],
    "outputs": ["*.log", {"pattern": "*.bam", "required": True}],
    "env": {"A": "1"},
    "secretEnv": {"TOKEN": "env:TOKEN"},
    "workDir": "w",
    "timeout": "1h30m",
    "retry": {
        "attempts": 3,
        "exitCodes": [75],
        "backoff": "2s",
        "backoffFactor": 3,
        "maxBackoff": 60,
        "oom": {"max": "64Gi"},
    },
    "resources": {"cpu": "500m", "memory": 1073741824, "disk": "10G", "gpu": 1},
    "parallelism": 4,
    "priority": 2,
    "properties": {"team": "x", "n": 1, "ok": True},
    "cache": False,
    "maxFailures": "10%",
    "image": "align:3",
    "zones": ["europe-west4-a"],
    "provisioning": "spot",
    "podTemplate": {"spec": {}},
}


def load(value: Any) -> JobDraft:
    return load_job(json.dumps(value).encode(), "job.json")


def test_a_full_file() -> None:
    """Every key arrives in the draft."""
    artifact = {
        "job": "fit-1",
        "index": 1,
        "name": "m.bin",
        "digest": "0" * 64,
        "size": 3,
        "executable": False,
        "private": False,
    }
    assert load(FULL) == JobDraft(
        name="align",
        command="align {sample} {^reads}",
        tasks=[
            TaskDraft({"sample": "a", "reads": "a.fq"}),
            TaskDraft(
                {"sample": "b", "reads": "b.fq"},
                ("align", "{sample}"),
                (FileDraft("extra.txt", "in/"),),
                {"T": "1"},
                ResourcesDraft(memory="8Gi"),
                "second",
            ),
        ],
        files=(FileDraft("ref/*.fa"), FileDraft("big.db", link=True), FileDraft(artifact=artifact)),
        outputs=(OutputGlob("*.log"), OutputGlob("*.bam", required=True)),
        env={"A": "1"},
        secret_env={"TOKEN": "env:TOKEN"},
        work_dir="w",
        timeout_s=5400.0,
        retry=RetryPolicy(3, (75,), 2.0, 3.0, 60.0, OomRetry(2.0, 64 << 30)),
        resources=ResourcesDraft("500m", 1073741824, "10G", 1),
        parallelism=4,
        priority=2,
        properties={"team": "x", "n": 1, "ok": True},
        cache=False,
        max_failures="10%",
        image="align:3",
        zones=("europe-west4-a",),
        provisioning="spot",
        pod_template={"spec": {}},
    )


def test_a_short_file() -> None:
    """What is left out is as in a script that does not call the setter."""
    assert load({"name": "j", "command": "true"}) == JobDraft(name="j", command="true")
    assert load({"name": "j", "retry": {}, "resources": {}, "timeout": 5}) == JobDraft(name="j", timeout_s=5.0)
    assert load({"name": "j", "retry": {"oom": {"memory": "x1.5"}}}).retry == RetryPolicy(oom=OomRetry(1.5))


WRONG = [
    pytest.param([], "expected an object, found a list", id="list"),
    pytest.param({"command": "x"}, "name: missing", id="no name"),
    pytest.param({"name": 3}, "name: expected text, found an integer", id="name"),
    pytest.param({"name": "j", "command": {"a": 1}}, "command: expected text or a list, found an object", id="command"),
    pytest.param(
        {"name": "j", "tasks": [{}, {"params": []}]}, "tasks[2].params: expected an object, found a list", id="params"
    ),
    pytest.param(
        {"name": "j", "tasks": [{"files": ["a", {"scr": "x"}]}]},
        "tasks[1].files[2].scr: there is no such key (keys: src, dst, link, artifact). Did you mean 'src'?",
        id="key of a task's file",
    ),
    pytest.param(
        {"name": "j", "outputs": [{"required": True}]},
        "outputs[1].pattern: missing",
        id="no pattern",
    ),
    pytest.param(
        {"name": "j", "retry": {"oom": {"maximum": 1}}},
        "retry.oom.maximum: there is no such key (keys: memory, max).",
        id="key of oom",
    ),
    pytest.param({"name": "j", "env": {"A": "1", "B": 2}}, "env.B: expected text, found an integer", id="env"),
    pytest.param(
        {"name": "j", "tasks": [{}, {"env": {"A": None}}]}, "tasks[2].env.A: expected text, found null", id="a task's env"
    ),
    pytest.param({"name": "j", "cache": "no"}, "cache: expected true or false, found text", id="cache"),
    pytest.param({"name": "j", "priority": 1.5}, "priority: expected an integer, found a number", id="priority"),
]


@pytest.mark.parametrize(("value", "message"), WRONG)
def test_wrong_files(value: Any, message: str) -> None:
    """The file, the path of the wrong field, and the nearest right key."""
    with pytest.raises(SpecError) as caught:
        load(value)
    assert str(caught.value) == f"job.json: {message}"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"timeout": "soon"}, "timeout: expected a duration such as 90s, 1.5m or 24h, found 'soon'"),
        ({"retry": {"backoff": -1}}, "retry.backoff: expected a number of seconds above 0, found -1"),
        ({"retry": {"oom": {"memory": "double"}}}, "retry.oom.memory: expected a factor such as x2, found 'double'"),
        (
            {"retry": {"oom": {"max": "1g"}}},
            "retry.oom.max: expected a size such as 4Gi or 800M, found '1g' (did you mean 1G?)",
        ),
    ],
)
def test_wrong_quantities(fields: dict[str, Any], message: str) -> None:
    """Texts that the schema cannot judge."""
    with pytest.raises(SpecError) as caught:
        load({"name": "j", **fields})
    assert str(caught.value) == f"job.json: {message}"


def test_a_misspelt_key_of_the_job() -> None:
    """The keys there are, and the nearest."""
    with pytest.raises(
        SpecError, match=r"^job\.json: comand: there is no such key \(keys: name, command, .*\)\. Did you mean 'command'\?$"
    ):
        load({"name": "j", "comand": "x"})


@pytest.mark.parametrize(
    ("fields", "right"),
    [
        ({"max_failures": 1}, "maxFailures"),
        ({"work_dir": "w"}, "workDir"),
        ({"secret_env": {}}, "secretEnv"),
        ({"pod_template": {}}, "podTemplate"),
        ({"retry": {"exit_codes": [75]}}, "exitCodes"),
        ({"retry": {"max_backoff": 1}}, "maxBackoff"),
        ({"retry": {"backoff_factor": 1}}, "backoffFactor"),
    ],
)
def test_keys_are_spelled_as_in_scripts(fields: dict[str, Any], right: str) -> None:
    """Any other spelling is refused with the right one."""
    with pytest.raises(SpecError, match=rf"there is no such key .*Did you mean '{right}'\?$"):
        load({"name": "j", **fields})


def test_not_json() -> None:
    """With line and column."""
    with pytest.raises(RowsError) as caught:
        load_job(b'{"name": "j",\n "command": x}', "job.json")
    assert str(caught.value) == "job.json:2:13: not JSON: Expecting value"


def test_the_published_schema_is_current() -> None:
    """docs/job.schema.json is what `python -m sparkles.engine.jobfile` writes."""
    assert SCHEMA.read_text("utf-8") == schema_text()


@pytest.mark.parametrize("value", [FULL, {"name": "j", "command": "true"}, {"name": "j", "tasks": [{"command": ["x"]}]}])
def test_the_schema_accepts_what_the_reader_accepts(value: Any) -> None:
    """An editor that knows the schema shows no error in a good file."""
    jsonschema.Draft202012Validator.check_schema(job_schema())
    jsonschema.validate(value, job_schema(), cls=jsonschema.Draft202012Validator)
    load(value)


@pytest.mark.parametrize(("value", "message"), WRONG)
def test_the_schema_refuses_what_the_reader_refuses(value: Any, message: str) -> None:
    """And shows one in a bad file."""
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(value, job_schema(), cls=jsonschema.Draft202012Validator)
