"""What commands ask for: runs from beginning to end, plans, recovery. The backends come from installation.py."""

from __future__ import annotations

import functools
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sparkles import digest, hints
from sparkles.engine.drive import Interrupts, drive
from sparkles.engine.events import Noticed, Report
from sparkles.engine.session import Options
from sparkles.errors import SparklesError, UsageError, WorkflowError
from sparkles.installation import Installation
from sparkles.model import ProcessId, Run, RunId, RunState
from sparkles.scripts import Scripts

if TYPE_CHECKING:
    from sparkles.engine.commands import Program
    from sparkles.lua.declared import Refusal
    from sparkles.rehearse import Rehearsal

STALE_OWNER_S = 60.0
"""An owner on another host cannot be looked at: it counts as dead after its heartbeat stood still for this long."""


class App(Installation):
    """An installation, and what commands do with it."""

    @functools.cached_property
    def scripts(self) -> Scripts:
        """The workflows that can be run here."""
        return Scripts(self.settings.root)

    def run_workflow(
        self,
        script: str,
        args: dict[str, str],
        *,
        report: Report,
        interrupts: Interrupts,
        new: bool = False,
        cache: bool = True,
        frozen: bool = False,
        keep_failed: bool = False,
        fork: RunId | None = None,
        rerun: Sequence[str] = (),
    ) -> RunId:
        """Executes a script: resumes the newest run of the same script and parameters if it is unfinished, else begins one.

        Args:
            fork: Begin a run from the journal of this one.
            rerun: With `fork`: steps (numbers) and jobs (names or ids) that are performed anew.

        Raises: as `engine.drive.drive`, and RunBusy where another driver holds the run.
        """
        from sparkles.engine import forking

        path, identity = self.scripts.find(script)
        canonical = digest.canonical(args)
        try:
            source = path.read_bytes()
        except OSError as error:
            raise UsageError(f"{script}: cannot be read: {error.strerror}") from None
        if mistakes := self.refusal(script, args, lambda: interrupts.level > 0):
            raise mistakes
        self.begin(report, path)
        self.recover(report)
        others = fork is None and not new
        newest = self.runs.list_runs(workflow=identity, args=canonical, limit=1) if others else []
        # What of a run is answered from the record has to ask for the same: a fork draws from its math.random as the run did.
        goes_on = newest[0] if newest and newest[0].state is not RunState.SUCCEEDED else None
        forked = self.runs.get_run(fork) if fork is not None else None
        like = forked or goes_on
        seed = like.seed if like is not None else secrets.randbits(53)
        # Compiled before anything is stored: a script that is no Lua has no run.
        program = self._program(path, script, args, seed, interrupts)
        if forked is not None:
            instead = f"leave --fork out; `{hints.command('replay', forked.id, script)}` shows where it leaves the record"
            self._check_edited(forked, path, script, args, source, instead)
        run = fresh = Run(
            id=RunId(f"r-{secrets.token_hex(4)}"),
            workflow=identity,
            args=canonical,
            state=RunState.RUNNING,
            seed=seed,
            driver=self.driver,
            created_at_ms=self.clock.now_ms(),
            workflow_digest=digest.of_bytes(source),
            forked_from=fork or "",
        )
        if others:
            run = self.runs.begin_run(fresh)
        else:
            self.runs.create_run(fresh)
        if run.id != fresh.id:
            instead = f"--new begins another run, and `{hints.command('plan', script)}` shows what differs"
            self._check_edited(run, path, script, args, source, instead)
            run = self._take(run.id, report)
            if run.seed != seed:  # another driver began it, and left it, since the newest was looked at
                program = self._program(path, script, args, run.seed, interrupts)
        if forked is not None:
            try:
                forking.fork(self.runs, forked, run.id, rerun)
            except SparklesError:
                self.runs.delete_run(run.id)
                raise
            if gone := forking.gone_jobs(self.runs, self.jobs, forked):
                report(Noticed(text=gone))
        options = self._options(run, cache=cache, frozen=frozen, keep_failed=keep_failed)
        self._drive(run, program, options, report, interrupts)
        return run.id

    def refusal(self, script: str, args: dict[str, str], interrupted: Callable[[], bool] = lambda: False) -> Refusal | None:
        """What a workflow's `params{...}` has against these parameters, if anything; no run begins and nothing is stored."""
        from sparkles.lua.declared import refusal

        path, _ = self.scripts.find(script)
        return refusal(path, script, self.scripts.module_folders(path), args, interrupted)

    def plan(
        self, script: str, args: dict[str, str], *, new: bool = False, cache: bool = True, frozen: bool = False
    ) -> tuple[Rehearsal, bool, str]:
        """What `run_workflow` with the same arguments would do now, whether it would resume a run, and the sentence with which it would
        refuse to, if it would. Nothing is done.

        Raises:
            WorkflowError: The script is wrong.
        """
        from sparkles.engine import selecting

        path, identity = self.scripts.find(script)
        canonical = digest.canonical(args)
        if not self.has_state():
            self.imagine_state()
        same = self.runs.list_runs(workflow=identity, args=canonical, limit=1)
        resumes = bool(same) and same[0].state is not RunState.SUCCEEDED and not new
        run = same[0] if resumes else Run(RunId("r-planned"), identity, canonical, RunState.RUNNING, 0)
        options = self._options(run, cache=cache, frozen=frozen)
        found = self._rehearse(path, script, run, selecting.earlier(self.runs, run), args, options)
        instead = f"`{hints.command('run', '--new', script)}` begins another run"
        refused = self._refused_edit(run, path, script, args, path.read_bytes(), instead) if resumes else ""
        return found, resumes, refused

    def replay(self, run_id: RunId, script: str | None = None, *, strict: bool = True) -> Rehearsal:
        """Runs a script (default: the run's own) against the record of a run, if `strict` up to the first thing that is not recorded."""
        run = self.runs.get_run(run_id)
        path, shown = self.scripts.of_run(run) if script is None else (self.scripts.find(script)[0], script)
        return self._rehearse(path, shown, run, run, digest.parse(run.args), self._options(frozen=True), strict, True)

    def _rehearse(
        self,
        path: Path,
        shown: str,
        run: Run,
        previous: Run | None,
        args: dict[str, str],
        options: Options,
        strict: bool = False,
        as_recorded: bool = False,
    ) -> Rehearsal:
        from sparkles.rehearse import Script, rehearse

        script = Script(path, shown, args, self.scripts.module_folders(path))
        return rehearse(script, run, previous, self.ports(), options, strict=strict, as_recorded=as_recorded)

    def _check_edited(self, run: Run, path: Path, shown: str, args: dict[str, str], source: bytes, instead: str) -> None:
        """Refuses to go on from the record of a run with a script that asks for nothing of it; `instead` is what to do."""
        if refusal := self._refused_edit(run, path, shown, args, source, instead):
            raise UsageError(refusal)

    def _refused_edit(self, run: Run, path: Path, shown: str, args: dict[str, str], source: bytes, instead: str) -> str:
        """The sentence of `_check_edited`, "" where it lets the script pass."""
        from sparkles.engine import relating

        if run.workflow_digest == digest.of_bytes(source):
            return ""
        recorded = self.runs.list_steps(run.id)
        kept = relating.kept(recorded)
        if not kept:
            return ""
        try:
            found = self._rehearse(path, shown, run, run, args, self._options())
        except WorkflowError:
            return ""  # the run itself will say so, and nothing is lost
        if relating.is_related(recorded, found.answered, found.steps, found.complete, found.texts):
            return ""
        return f"{shown} asks for nothing that run {run.id} recorded (steps kept: {len(kept)}): it is another workflow now; {instead}"

    def resume_run(
        self,
        run_id: RunId,
        *,
        report: Report,
        interrupts: Interrupts,
        cache: bool = True,
        frozen: bool = False,
        keep_failed: bool = False,
    ) -> None:
        """Executes an unfinished run again. Raises UsageError where it has succeeded already."""
        run = self.runs.get_run(run_id)
        if run.state is RunState.SUCCEEDED:
            raise UsageError(
                f"run {run_id} has succeeded; `{hints.command('run', run.workflow.removeprefix('workflows:'))}` begins another"
            )
        path, shown = self.scripts.of_run(run)
        args = digest.parse(run.args)
        program = self._program(path, shown, args, run.seed, interrupts)
        self.begin(report, path)
        self.recover(report)
        instead = f"`{hints.command('run', '--new', shown)}` begins another run, and `{hints.command('plan', shown)}` shows what differs"
        self._check_edited(run, path, shown, args, path.read_bytes(), instead)
        run = self._take(run_id, report)
        options = self._options(run, cache=cache, frozen=frozen, keep_failed=keep_failed)
        self._drive(run, program, options, report, interrupts)

    def _take(self, run_id: RunId, report: Report) -> Run:
        run = self.runs.take_run(run_id, self.driver, self._is_dead(run_id, report), self.clock.now_ms())
        self.end_shell_commands(run_id)
        return run

    def end_shell_commands(self, run_id: str) -> None:
        """Ends the `shell` commands that a run's killed driver left: a resumed run runs them again."""
        from sparkles.backends.local.process import end_marked
        from sparkles.engine.shelling import MARKER

        end_marked(MARKER, run_id, grace_s=1.0)

    def _is_dead(self, run_id: RunId, report: Report) -> Callable[[ProcessId], bool]:
        from sparkles.backends.local.process import liveness

        def is_dead(process: ProcessId) -> bool:
            state = liveness(process)
            if state != "elsewhere":
                return state == "dead"
            report(
                Noticed(text=f"run {run_id} was driven on host {process.host}; watching its heartbeat for {STALE_OWNER_S:g} s")
            )
            return self._stands_still(run_id)

        return is_dead

    def _stands_still(self, run_id: RunId) -> bool:
        before = self.runs.get_run(run_id).beat_ms
        until = self.clock.monotonic() + STALE_OWNER_S
        while self.clock.monotonic() < until:
            self.clock.sleep(1.0)
            if self.runs.get_run(run_id).beat_ms != before:
                return False
        return True

    def _program(self, path: Path, shown: str, args: dict[str, str], seed: int, interrupts: Interrupts) -> Program:
        """The script, compiled: one that is no Lua is refused before there is a run of it. Raises WorkflowError."""
        from sparkles.engine import results
        from sparkles.lua.host import ScriptHost

        jobs = self.jobs
        host = ScriptHost(
            path,
            shown_as=shown,
            args=args,
            seed=seed,
            roots=self.scripts.module_folders(path),
            interrupted=lambda: interrupts.level > 0,
            outcomes=lambda job_id, first, limit: results.page(jobs, job_id, first, limit),
        )
        host.compile()
        return host

    def _drive(self, run: Run, program: Program, options: Options, report: Report, interrupts: Interrupts) -> None:
        if self.database.notice:
            report(Noticed(text=self.database.notice))
        drive(run, self.driver, program, self.ports(), options, report, interrupts)

    def _options(
        self, run: Run | None = None, *, cache: bool = True, frozen: bool = False, keep_failed: bool = False
    ) -> Options:
        """How `run` is to be executed; a fork knows what of it is to run anew."""
        from sparkles.backends.local.process import end_marked
        from sparkles.engine import forking

        return Options(
            root=self.settings.root,
            state=self.settings.state,
            environ=self.settings.environ,
            cache=cache,
            frozen=frozen,
            keep_failed=keep_failed,
            defaults=self.defaults(),
            rerun=forking.to_run_again(self.runs, run) if run is not None and run.forked_from else frozenset(),
            end_marked=end_marked,
        )

    def recover(self, report: Report) -> None:
        """Puts in order what dead workers left: surviving processes are ended, finished tasks recorded, the others given back."""
        if self.in_cloud:
            sentences = self.cloud.healer()
        else:
            from sparkles.backends.local.recovery import recover

            sentences = recover(self.jobs, self.workspace, self.clock)
        for sentence in sentences:
            report(Noticed(text=sentence))
