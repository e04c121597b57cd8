"""`sparkles run workflow.lua` in a process that ends itself with SIGKILL at a chosen step boundary.

usage: crashing.py COUNT WHOM...   after the COUNT-th write to the journal, SIGKILL to each WHOM: supervisor, worker, driver
"""

import os
import signal
import sys
from pathlib import Path

from sparkles.app import App
from sparkles.config import load
from sparkles.engine.drive import Interrupts


class CrashingRunStore:
    """A run store whose COUNT-th put_step is the last thing that some process did."""

    def __init__(self, store, after, act):
        self._store = store
        self._left = after
        self._act = act

    def __getattr__(self, name):
        return getattr(self._store, name)

    def put_step(self, run_id, step):
        self._store.put_step(run_id, step)
        self._left -= 1
        if self._left == 0:
            self._act()


def parent(pid):
    """The process that started another one; consume's worker has a supervisor."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def main(count, whom):
    app = App(load())
    app.begin(lambda event: None)

    def kill():
        workers = [worker.process.pid for worker in app.jobs.list_workers()]
        victims = []
        if "supervisor" in whom:
            victims += [parent(pid) for pid in workers]
        if "worker" in whom:
            victims += workers
        for number in (signal.SIGSTOP, signal.SIGKILL):  # stopped, none sees another one's end and does something about it
            for pid in victims:
                os.kill(pid, number)
        if "driver" in whom:
            os.kill(os.getpid(), signal.SIGKILL)

    app.runs = CrashingRunStore(app.runs, count, kill)
    app.run_workflow("workflow.lua", {}, report=lambda event: None, interrupts=Interrupts())
    app.close()


main(int(sys.argv[1]), sys.argv[2:])
