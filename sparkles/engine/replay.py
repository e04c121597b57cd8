"""Whether a step is answered from the record or carried out: pure decisions. May import model only.

The general rule is `decide`; reads, writes and waits look at the world as well and have rules of their own (DESIGN: a recorded
value stands unless what it spoke of has changed since, and nothing this run did later explains the change).
"""

from __future__ import annotations

import msgspec

from sparkles.model import Digest, Step, StepState


class Reuse(msgspec.Struct, frozen=True):
    """Answer from the record. `notice` is a sentence for the user, or ""."""

    notice: str = ""


class Execute(msgspec.Struct, frozen=True):
    """Carry it out. `why` is one of: never ran, was interrupted, ended the run, failed before the run ended, changed."""

    why: str
    notice: str = ""


def decide(step: Step | None, passed: bool) -> Reuse | Execute:
    """The general rule.

    Args:
        step: What is recorded under the key, or None.
        passed: Whether its outcome is one that the run goes on from. An error that was caught is, and replays as it was; what ended the
            run (see `Journal.ended`) is not, and is tried again.
    """
    if step is None:
        return Execute("never ran")
    if step.state is StepState.STARTED:
        return Execute("was interrupted")
    if not passed:
        return Execute("ended the run" if step.error else "failed before the run ended")
    return Reuse()


def decide_read(path: str, recorded: Digest | None, present: Digest | None, explained: bool, frozen: bool) -> Reuse | Execute:
    """A read whose file may have changed; None stands for "there is no such file".

    Args:
        recorded: The content that the recorded read saw.
        present: The content now.
        explained: Whether a later step of this run wrote or saw what is there now.
        frozen: Whether the user asked to keep what was recorded.
    """
    if recorded == present or explained:
        return Reuse()
    if frozen:
        return Reuse(f"{path} changed since this run read it; the recorded content is used (--frozen)")
    if present is None:
        return Reuse(f"{path} is gone since this run read it; the recorded content is used")
    return Execute("changed", f"{path} changed since this run read it; the new content is used (--frozen keeps the recorded)")


def decide_exists(path: str, recorded: bool | None, present: bool, frozen: bool) -> Reuse | Execute:
    """A look whether a file exists; `recorded` is what it found then, None where it is not recorded."""
    if recorded is None:
        return Execute("never ran")
    if recorded == present or frozen:
        return Reuse()
    how = "exists now" if present else "is gone"
    return Execute(how, f"{path} {how}, unlike when this run first looked")


def decide_write(
    path: str,
    written: Digest,
    present: Digest | None,
    *,
    later: bool = False,
    earlier: bool = False,
    other: str = "",
) -> Reuse | Execute:
    """A recorded write whose file may have changed: written again where it is missing or a run wrote what is there, left alone where
    somebody else did.

    Args:
        written: What the step wrote.
        present: The content now, None where there is no file.
        later: Whether a later step of this run put there what is there.
        earlier: Whether a write before it in the script did, that was performed after it.
        other: Another run that put there what is there, "" where none did.
    """
    if present == written or later:
        return Reuse()
    if present is None:
        return Execute("is missing", f"{path} is missing; it is written again")
    if earlier:
        return Execute("holds what an earlier write put there")
    if other:
        return Execute(f"holds what run {other} wrote", f"{path} holds what run {other} wrote; it is written again")
    return Reuse(f"{path} differs from what this run wrote; it is left alone")
