"""The real command in a project of its own: no settings and no state of whoever runs the tests reach it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

SPARKLES = str(Path(sys.executable).parent / "sparkles")


def environment(folder: Path, **more: str) -> dict[str, str]:
    """The variables of a user with an empty home in `folder`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SPARKLES_")}
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "XDG_CONFIG_HOME", "PYTHONHASHSEED", "PYTHONDONTWRITEBYTECODE"):
        kept.pop(name, None)
    return {**kept, "HOME": str(folder), "TERM": "xterm-256color", **more}


class Project:
    """A folder with scripts, and the command in it."""

    timeout_s = 60.0

    def __init__(self, folder: Path, **variables: str) -> None:
        """`variables` are in the environment of every command."""
        self.folder = folder
        self.variables = variables
        self._started: list[subprocess.Popen[str]] = []
        folder.mkdir(parents=True, exist_ok=True)

    def environment(self, **more: str) -> dict[str, str]:
        """What a command finds; `more` goes before the project's own variables."""
        return environment(self.folder, **{**self.variables, **more})

    def write(self, name: str, text: str) -> Path:
        """Puts a file there."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
        return path

    def run(self, *arguments: str, code: int | None = 0, **how: Any) -> subprocess.CompletedProcess[str]:
        """Runs the command to its end; `code` is what it must end with (None: anything)."""
        env = self.environment(**how.pop("env", {}))
        how = {"timeout": self.timeout_s, **how}
        done = subprocess.run(
            [SPARKLES, *arguments], cwd=self.folder, env=env, capture_output=True, text=True, check=False, **how
        )
        assert code is None or done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done

    def json(self, *arguments: str, code: int = 0) -> list[dict[str, Any]]:
        """What the command prints with --json, a value a line."""
        return [json.loads(line) for line in self.run(*arguments, "--json", code=code).stdout.splitlines()]

    def start(self, *arguments: str, **how: Any) -> subprocess.Popen[str]:
        """Starts the command; its output can be read while it runs."""
        process = subprocess.Popen(
            [SPARKLES, *arguments],
            cwd=self.folder,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **how,
        )
        self._started.append(process)
        return process

    def close(self) -> None:
        """Ends what a test left running: commands that it started, and tasks of any job."""
        for process in self._started:
            if process.poll() is None:
                process.kill()
                process.communicate()
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        if (self.folder / ".sparkles" / "sparkles.db").exists():
            self.run("kill", "*", code=None)
