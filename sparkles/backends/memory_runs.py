"""The RunStore in memory: the reference implementation, in plain dict code, of what the others must do. May import ports and below."""

from __future__ import annotations

import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from msgspec.structs import replace

from sparkles.backends import messages
from sparkles.backends.names import MOST_CLEANED, check_run_id
from sparkles.model import Cleaned, ProcessId, Run, RunId, RunState, Step, StepKey
from sparkles.ports import RunStore


class MemoryRunStore:
    """See ports.RunStore."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._runs: dict[str, Run] = {}
        self._steps: dict[str, dict[StepKey, Step]] = {}
        self._cleaned: dict[str, Cleaned] = {}
        self._home: Path | None = None

    def create_run(self, run: Run) -> None:
        """See ports.RunStore."""
        with self._lock:
            if run.id in self._runs:
                raise messages.run_exists(run.id)
            self._runs[run.id] = run
            self._steps[run.id] = {}

    def begin_run(self, run: Run) -> Run:
        """See ports.RunStore."""
        with self._lock:
            for newest in self.list_runs(workflow=run.workflow, args=run.args, limit=1):
                if newest.state is not RunState.SUCCEEDED:
                    return newest
            self.create_run(run)
        return run

    def get_run(self, run_id: RunId) -> Run:
        """See ports.RunStore."""
        with self._lock:
            if run_id not in self._runs:
                raise messages.no_run(run_id)
            return self._runs[run_id]

    def list_runs(self, *, workflow: str | None = None, args: str | None = None, limit: int = 1000) -> list[Run]:
        """See ports.RunStore."""
        with self._lock:
            found = [
                run
                for run in reversed(self._runs.values())
                if (workflow is None or run.workflow == workflow) and (args is None or run.args == args)
            ]
        return found[:limit]

    def take_run(self, run_id: RunId, driver: ProcessId, is_dead: Callable[[ProcessId], bool], now_ms: int) -> Run:
        """See ports.RunStore."""
        while True:
            before = self.get_run(run_id)
            messages.refuse_ended(before)
            if before.driver is not None and before.driver != driver and not is_dead(before.driver):
                raise messages.run_busy(before, before.driver)
            with self._lock:
                now = self._runs.get(run_id)
                if now is not None and now.driver == before.driver and now.state is not RunState.SUCCEEDED:
                    taken = replace(now, driver=driver, state=RunState.RUNNING, error="", ended_at_ms=None, beat_ms=now_ms)
                    self._runs[run_id] = taken
                    return taken

    def beat_run(self, run_id: RunId, driver: ProcessId, now_ms: int) -> None:
        """See ports.RunStore."""
        with self._lock:
            self._runs[run_id] = replace(self._owned(run_id, driver), beat_ms=now_ms)

    def end_run(self, run_id: RunId, driver: ProcessId, state: RunState, error: str, now_ms: int) -> None:
        """See ports.RunStore."""
        with self._lock:
            run = self._owned(run_id, driver)
            self._runs[run_id] = replace(run, state=state, error=error, ended_at_ms=now_ms, driver=None)

    def folder(self, run_id: str) -> Path:
        """See ports.RunStore."""
        check_run_id(run_id)
        with self._lock:
            if self._home is None:
                self._home = Path(tempfile.mkdtemp(prefix="sparkles-"))
                weakref.finalize(self, shutil.rmtree, self._home, ignore_errors=True)
        return self._home / run_id

    def delete_run(self, run_id: RunId) -> int:
        """See ports.RunStore."""
        folder = self.folder(run_id)
        with self._lock:
            self._runs.pop(run_id, None)
            self._steps.pop(run_id, None)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        shutil.rmtree(folder, ignore_errors=True)
        return size

    def put_cleaned(self, cleaned: Sequence[Cleaned]) -> None:
        """See ports.RunStore."""
        with self._lock:
            for each in cleaned:
                self._cleaned.pop(each.id, None)
                self._cleaned[each.id] = each
            for each_id in list(self._cleaned)[:-MOST_CLEANED]:
                del self._cleaned[each_id]

    def list_cleaned(self) -> list[Cleaned]:
        """See ports.RunStore."""
        with self._lock:
            return list(reversed(self._cleaned.values()))

    def get_step(self, run_id: RunId, key: StepKey) -> Step | None:
        """See ports.RunStore."""
        with self._lock:
            return self._steps.get(run_id, {}).get(key)

    def put_step(self, run_id: RunId, step: Step) -> None:
        """See ports.RunStore."""
        with self._lock:
            if run_id not in self._steps:
                raise messages.no_run(run_id)
            before = self._steps[run_id].get(step.key)
            self._steps[run_id][step.key] = step if before is None else replace(step, sequence=before.sequence)

    def move_steps(self, run_id: RunId, positions: Mapping[StepKey, str]) -> None:
        """See ports.RunStore."""
        with self._lock:
            steps = self._steps.get(run_id, {})
            for key in steps.keys() & positions.keys():
                steps[key] = replace(steps[key], position=positions[key])

    def list_steps(self, run_id: RunId, *, kinds: Collection[str] | None = None) -> list[Step]:
        """See ports.RunStore."""
        with self._lock:
            steps = [step for step in self._steps.get(run_id, {}).values() if kinds is None or step.key.kind in kinds]
        return sorted(steps, key=lambda step: step.sequence)

    def list_strand(self, run_id: RunId, strand: str, *, after: int, limit: int) -> list[Step]:
        """See ports.RunStore."""
        return [step for step in self.list_steps(run_id) if step.key.strand == strand and step.sequence > after][:limit]

    def list_strands(self, run_id: RunId) -> list[str]:
        """See ports.RunStore."""
        return list(dict.fromkeys(step.key.strand for step in self.list_steps(run_id)))

    def last_sequence(self, run_id: RunId) -> int:
        """See ports.RunStore."""
        return max((step.sequence for step in self.list_steps(run_id)), default=0)

    def _owned(self, run_id: RunId, driver: ProcessId) -> Run:
        run = self._runs.get(run_id)
        if run is None or run.driver != driver:
            raise messages.run_lost(run_id, driver)
        return run


_STORE: RunStore = MemoryRunStore()
