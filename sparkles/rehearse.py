"""Running a script for show (plan, replay): a planner wired to a script host. Beside app: it knows Lua, the engine and the ports.

Nothing is started, stored or written, whatever the script asks for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from sparkles.engine import results
from sparkles.engine.commands import Ended
from sparkles.engine.planned import REUSED, Planned
from sparkles.engine.planning import PlanSession
from sparkles.engine.session import Options, Ports
from sparkles.engine.strands import Stuck, run_strands
from sparkles.errors import WorkflowError
from sparkles.model import Run, Step, StepKey


class Script(msgspec.Struct, frozen=True):
    """A script to execute: its file, how it is called in positions, its parameters, and where `require` looks."""

    path: Path
    shown_as: str
    args: dict[str, str]
    roots: Sequence[Path]


class Rehearsal(msgspec.Struct, frozen=True):
    """How a rehearsal went. `complete`: the script came to its end; `error` is what it ended with. `diverged` is the first step that
    was asked for and is not recorded, where the rehearsal was to stop at it. `not_asked`: the recorded steps that a script which
    came to its end did not ask for. `answered`: the keys of those that were asked for, whatever became of them since; `texts`: the
    string literals of the script."""

    run: str
    steps: tuple[Planned, ...]
    complete: bool
    error: str = ""
    position: str = ""
    diverged: Planned | None = None
    not_asked: tuple[Step, ...] = ()
    answered: frozenset[StepKey] = frozenset()
    texts: frozenset[str] = frozenset()


class _Diverged(Exception):
    """The script asked for something that is not recorded."""


def rehearse(
    script: Script,
    run: Run,
    previous: Run | None,
    ports: Ports,
    options: Options,
    *,
    strict: bool = False,
    as_recorded: bool = False,
) -> Rehearsal:
    """Runs a script against the record of `run` (which need not exist: then nothing is recorded).

    Args:
        previous: A run to compare with where something is not recorded.
        strict: Stop at the first step that is not answered from the record.
        as_recorded: Whatever is recorded stands, the error that ended the run too.

    Raises:
        WorkflowError: The script is wrong, as `run` would find it.
    """
    from sparkles.lua.host import ScriptHost

    steps: list[Planned] = []
    diverged: list[Planned] = []

    def tell(planned: Planned) -> None:
        if strict and planned.verdict != REUSED:
            diverged.append(planned)
            raise _Diverged
        steps.append(planned)

    session = PlanSession(run, previous, ports, options, tell, as_recorded=as_recorded)
    program = ScriptHost(
        script.path,
        shown_as=script.shown_as,
        args=script.args,
        seed=run.seed,
        roots=script.roots,
        interrupted=lambda: False,
        outcomes=lambda job, first, limit: [results.as_value(each) for each in session.outcomes(job, first, limit)],
    )
    ended = _to_the_end(lambda: run_strands(program, session, ports.notifier, ports.clock, lambda: None))
    seen = frozenset(session.journal.answered)
    if ended is None:
        texts = frozenset(program.literals())
        return Rehearsal(run.id, tuple(steps), False, diverged=diverged[0] if diverged else None, answered=seen, texts=texts)
    error = ended.error
    not_asked = tuple(session.not_asked())
    if error is None:
        return Rehearsal(run.id, tuple(steps), True, not_asked=not_asked, answered=seen)
    position = str(error.fields.get("position") or ended.position)
    if error.usage:
        raise WorkflowError(error.message, position, ended.traceback)
    return Rehearsal(run.id, tuple(steps), True, error.message, position, not_asked=not_asked, answered=seen)


def _to_the_end(execute: Callable[[], Ended]) -> Ended | None:
    try:
        return execute()
    except (Stuck, _Diverged):
        return None
