"""Whether an edited script is still the workflow that a run recorded. Pure; may import planned and below.

It is where it asks for at least one recorded step, or submits a job of the same name. A rehearsal stops at the first step whose
outcome only an effect can tell; what stands behind that step is judged by the texts in the script.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from sparkles import digest
from sparkles.engine.planned import Planned
from sparkles.model import Json, Step, StepKey, StepState

_ANYWHERE = ("log", "now", "random", "uuid", "sleep", "join")
"""What any two scripts may have in common."""

_LEAST_PIECE = 4
"""A text of the script that is a part of a recorded one tells something from this length on."""


def kept(steps: Iterable[Step]) -> list[Step]:
    """The recorded steps that would be lost for a script that does not ask for them: what was done, and not only looked at or drawn."""
    cheap = (*_ANYWHERE, "read")
    return [step for step in steps if step.key.kind not in cheap and step.state is StepState.DONE and not step.error]


def is_related(
    steps: Sequence[Step], answered: Collection[StepKey], planned: Sequence[Planned], complete: bool, texts: Collection[str]
) -> bool:
    """Whether a script has anything to do with recorded steps.

    Args:
        answered: The recorded steps that the script asked for in a rehearsal.
        planned: Everything that it asked for.
        complete: Whether the rehearsal came to the script's end.
        texts: The string literals of the script and its modules.
    """
    if any(key.kind not in _ANYWHERE for key in answered):
        return True
    names = [name for step in steps for name in _names(step)]
    jobs = {each.what.rpartition("-")[0] for each in planned if each.kind == "submit"}
    if any(step.key.kind == "submit" and not jobs.isdisjoint(_names(step)) for step in steps):
        return True
    if complete:
        return False
    pieces = [text for text in texts if len(text.strip()) >= _LEAST_PIECE]
    return any(name in texts or any(piece in name for piece in pieces) for name in names)


def _names(step: Step) -> list[str]:
    """What a recorded step is called by in the script."""
    parts: Json = digest.parse(step.parts)
    kind = step.key.kind
    if not isinstance(parts, dict):
        return []
    if kind == "submit":
        return [parts["spec"]["name"]]
    if kind == "shell":
        command = parts["command"]
        return [command] if isinstance(command, str) else [str(word) for word in command]
    named_by = {"step": "name", "read": "path", "write": "path", "fetch": "dest"}.get(kind)
    return [str(parts[named_by])] if named_by is not None else []
