"""`plan` and `replay`: what a script would do, and where it leaves a record. Nothing is carried out."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from sparkles.cli import render
from sparkles.cli.arguments import RUN, WORKFLOW, pairs
from sparkles.cli.parameters import PARAMETER, WorkflowCommand
from sparkles.errors import RunFailed, UsageError

if TYPE_CHECKING:
    from sparkles.cli.main import Invocation
    from sparkles.engine.planned import Planned
    from sparkles.rehearse import Rehearsal

_STYLES = {"reused": "dim", "would run": "yellow", "unknown": "cyan"}
_SHOWN = 8


@click.command(cls=WorkflowCommand, epilog="Example:  sparkles plan workflow.lua --alpha 0.5")
@click.argument("workflow", type=WORKFLOW)
@click.option(
    "-p",
    "--param",
    "params",
    metavar="KEY=VALUE",
    type=PARAMETER,
    multiple=True,
    callback=pairs,
    help="A parameter of the script; --KEY VALUE behind WORKFLOW is the same.",
)
@click.option("--new", is_flag=True, help="As if another run were begun, whatever is unfinished.")
@click.option("--no-cache", is_flag=True, help="As if no task's result were reused.")
@click.option("--frozen", is_flag=True, help="As if reads kept what was recorded, though files changed.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a step.")
@click.pass_obj
def plan(
    invocation: Invocation,
    /,
    workflow: str,
    params: dict[str, str],
    new: bool,
    no_cache: bool,
    frozen: bool,
    as_json: bool,
) -> None:
    """Shows what run would do: each step reused, would run and why, or unknown.

    The script runs, its effects do not: files are read and hashed, nothing is started or written. For a sweep the tasks are counted
    that have their result already; for the others the part that differs is shown. A step that needs what only an effect can tell
    ends the plan of its line of control.
    """
    rehearsal, resumes, refused = invocation.app.plan(workflow, params, new=new, cache=not no_cache, frozen=frozen)
    if as_json:
        for step in rehearsal.steps:
            render.json_line(_value(step))
    else:
        goes_on = f"run {rehearsal.run} would {'not ' if refused else ''}go on"
        render.say(goes_on if resumes else "a new run would begin")
        _show(rehearsal)
    if refused:
        raise UsageError(refused)


@click.command(epilog="Example:  sparkles replay LAST workflow.lua")
@click.argument("run_word", metavar="RUN", type=RUN)
@click.argument("workflow", type=WORKFLOW, required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_obj
def replay(invocation: Invocation, /, run_word: str, workflow: str | None, as_json: bool) -> None:
    """Runs a script against a run's record, up to the first thing not recorded.

    RUN is a run's id, the beginning of one, or LAST; WORKFLOW is the run's own script unless another is named. Nothing is carried
    out. The exit code is 1 where the script asks for something that the record does not hold.
    """
    from sparkles.engine import selecting

    app = invocation.app
    run = selecting.run(app.runs, run_word)
    rehearsal = app.replay(run.id, workflow)
    diverged = rehearsal.diverged
    if as_json:
        value: dict[str, Any] = {"run": run.id, "steps": len(rehearsal.steps), "complete": rehearsal.complete}
        value["diverged"] = _value(diverged) if diverged is not None else None
        value["notAsked"] = [{"kind": step.key.kind, "position": step.position} for step in rehearsal.not_asked]
        render.json_line(value)
    elif diverged is None:
        how = "to its end" if rehearsal.complete else "as far as the record goes"
        render.line(f"{render.plural(len(rehearsal.steps), 'step')} of run {run.id}: the script replays {how}")
        if rehearsal.error:
            render.line(f"it ends with an error, as recorded or now: {rehearsal.position}: {rehearsal.error}")
        if rehearsal.not_asked:
            listed = [f"{step.key.kind} at {step.position or 'an unknown line'}" for step in rehearsal.not_asked]
            more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
            many = render.plural(len(listed), "recorded step")
            render.line(f"{many} {'is' if len(listed) == 1 else 'are'} not asked for: {', '.join(listed[:_SHOWN])}{more}")
    if diverged is not None:
        raise RunFailed(_divergence(run.id, len(rehearsal.steps), diverged))


def _divergence(run_id: str, answered: int, step: Planned) -> str:
    lines = [
        f"{step.position}: after {render.plural(answered, 'step')} the script asks for {_called(step)},"
        f" which run {run_id} does not hold: {step.why or 'it never ran'}"
    ]
    for difference in step.differences:
        lines += difference.lines()
    for reason in step.reasons:
        lines.append(f"{render.plural(reason.count, 'task')}: {reason.why} (first: task {reason.example})")
        for difference in reason.differences:
            lines += [f"  {line}" for line in difference.lines()]
    return "\n  ".join(lines)


def _called(step: Planned) -> str:
    return f"{step.kind} {step.what}" if step.what else step.kind


def _show(rehearsal: Rehearsal) -> None:
    for step in rehearsal.steps:
        tasks = ""
        if step.kind == "submit":
            total = step.tasks_reused + step.tasks_new
            tasks = f": {step.tasks_reused:,} of {total:,} tasks reused, {step.tasks_new:,} would run"
        strand = "" if step.strand == "main" else f"  [{step.strand}]"
        whys = [step.why] if step.why else []
        if step.as_in:
            whys.append(f"the plan goes on with its outcome in run {step.as_in}")
        why = f" ({'; '.join(whys)})" if whys else ""
        text = f"{step.verdict:<9}  {step.kind:<6}  {step.what}{tasks}{why}{strand}  {step.position}".rstrip()
        render.line(text, _STYLES[step.verdict])
        for difference in step.differences:
            for line in difference.lines():
                render.line(f"             {line}")
        for reason in step.reasons:
            example = f"task {reason.example}" if reason.count == 1 else f"first: task {reason.example}"
            render.line(f"             {render.plural(reason.count, 'task')}: {reason.why} ({example})")
            for difference in reason.differences:
                for line in difference.lines():
                    render.line(f"               {line}")
    counts = Counter(step.verdict for step in rehearsal.steps)
    parts = [f"{counts[verdict]} {verdict}" for verdict in _STYLES if counts[verdict]]
    new, reused = sum(s.tasks_new for s in rehearsal.steps), sum(s.tasks_reused for s in rehearsal.steps)
    render.say(f"steps: {', '.join(parts) or 'none'}; tasks: {reused:,} reused, {new:,} would run")
    if rehearsal.error:
        render.say(f"then the script would end with: {rehearsal.position}: {rehearsal.error}")
    elif not rehearsal.complete:
        render.say("what comes after the last line is not known before the steps above have ended")


def _value(step: Planned) -> dict[str, Any]:
    def differences(found: Any) -> list[dict[str, str]]:
        return [{"part": each.part, "before": each.before, "after": each.after} for each in found]

    return {
        "verdict": step.verdict,
        "kind": step.kind,
        "what": step.what,
        "position": step.position,
        "strand": step.strand,
        "why": step.why,
        "asIn": step.as_in or None,
        "differences": differences(step.differences),
        "tasksReused": step.tasks_reused,
        "tasksNew": step.tasks_new,
        "reasons": [
            {"why": each.why, "count": each.count, "example": each.example, "differences": differences(each.differences)}
            for each in step.reasons
        ],
    }
