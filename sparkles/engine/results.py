"""A job's results as scripts and `--json` see them: plain values, a page at a time. May import ports and below."""

from __future__ import annotations

from sparkles import digest
from sparkles.model import Json
from sparkles.ports import JobStore, Outcome


def page(store: JobStore, job_id: str, first: int, limit: int) -> list[dict[str, Json]]:
    """Up to `limit` tasks of a job from index `first` on (see `as_value`)."""
    return [as_value(outcome) for outcome in store.list_outcomes(job_id, first=first, limit=limit)]


def as_value(outcome: Outcome) -> dict[str, Json]:
    """One task: index, name, params, state, class, exitCode, signal, reason, results (decoded results.json), outputs {name: artifact},
    attempts (tries in all), seconds (wall time of the attempt that counts), cpuSeconds, peakMemory (bytes), reusedFrom ("JOB/INDEX").

    What does not apply is None. An artifact is {job, index, name, digest, size}, plus executable and private where it is.
    """
    task, attempt = outcome.task, outcome.attempt
    value: dict[str, Json] = {
        "index": task.index,
        "name": task.name or None,
        "params": outcome.params,
        "state": str(task.state),
        "class": str(task.failure) if task.failure is not None else None,
        "exitCode": task.exit_code,
        "signal": None,
        "reason": task.reason or None,
        "results": None,
        "outputs": {},
        "attempts": task.attempt,
        "seconds": None,
        "cpuSeconds": None,
        "peakMemory": None,
        "reusedFrom": f"{task.origin.job}/{task.origin.index}" if task.reused and task.origin is not None else None,
    }
    if attempt is not None:
        value["exitCode"] = attempt.exit_code  # that of the reused attempt, where it is one
        value["signal"] = attempt.signal or None
        value["results"] = digest.parse(attempt.results) if attempt.results is not None else None
        value["seconds"] = (attempt.ended_at_ms - attempt.started_at_ms) / 1000
        value["cpuSeconds"] = attempt.cpu_s
        value["peakMemory"] = attempt.peak_memory_bytes
        for output in attempt.outputs:
            artifact: dict[str, Json] = {
                "job": attempt.ref.job,
                "index": attempt.ref.index,
                "name": output.name,
                "digest": output.digest,
                "size": output.size_bytes,
            }
            if output.executable:
                artifact["executable"] = True
            if output.private:
                artifact["private"] = True
            value["outputs"][output.name] = artifact
    return value
