"""A project folder with real processes in it, for end-to-end tests of kills, signals and full disks."""

import os
import shutil
import sqlite3
import subprocess
import sys
import uuid

from tests.support import processes


class Site:
    """A project folder, its processes (found by a variable of their environment) and what its tasks saw."""

    def __init__(self, folder, files=()):
        """`files` are copied into the project folder."""
        self.folder = folder
        self.command = [sys.executable, "-m", "sparkles", "run", "workflow.lua"]
        self.mark = f"SPARKLES_KILL_TEST={uuid.uuid4().hex}"
        for file in files:
            shutil.copy(file, folder / file.name)
        (folder / "trace").mkdir()
        (folder / ".sparkles").mkdir()
        name, _, value = self.mark.partition("=")
        self.environ = {**os.environ, name: value, "TRACE": str(folder / "trace"), "SPARKLES_LOCAL_CPU": "2"}

    def sparkles(self, *arguments, code=0):
        """The real command, to its end; it is to leave with `code`."""
        done = subprocess.run(
            [sys.executable, "-m", "sparkles", *arguments],
            cwd=self.folder,
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == code, done.stderr
        return done

    def start(self, command):
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def finish(self):
        """Resumes until the run has ended well; returns what it printed."""
        process = self.start(self.command)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output.decode()
        return output.decode()

    def processes(self):
        return processes.marked(self.mark)

    def workers(self):
        return [pid for pid, line in self.processes() if "worker_process.py" in line]

    def query(self, sql):
        database = self.folder / ".sparkles" / "sparkles.db"
        if not database.exists():
            return []
        connection = sqlite3.connect(database)
        try:
            return connection.execute(sql).fetchall()
        except sqlite3.OperationalError:
            return []  # killed before the first migration
        finally:
            connection.close()

    def succeeded(self):
        return set(self.query("SELECT job, idx, attempt FROM tasks WHERE state = 'succeeded'"))

    def clear(self):
        """Ends whatever is left of this site's processes."""
        processes.end(self.mark)
