"""Which workflows there are, and where a script's modules lie. Beside app; may import model and below.

A workflow is known by its path from the project root, so that the same script is the same one from whichever folder it is started.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path

from sparkles.errors import UsageError
from sparkles.model import Run
from sparkles.suggest import did_you_mean


class Scripts:
    """The scripts of a project, and the ready ones that come with sparkles."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @functools.cached_property
    def ready_folder(self) -> Path:
        """Where the ready workflows are: in the package once installed, beside it in a source tree."""
        package = Path(__file__).resolve().parent
        inside = package / "workflows"
        return inside if inside.is_dir() else package.parent / "workflows"

    def ready(self) -> list[str]:
        """The names that `sparkles run NAME` knows, sorted."""
        return sorted(path.stem for path in self.ready_folder.glob("*.lua") if not path.stem.endswith("_test"))

    def find(self, script: str) -> tuple[Path, str]:
        """The script's file and what identifies it: its path from the project root, or `workflows:NAME` for a ready one.

        Raises UsageError where there is none. A folder is no script: it does not hide a ready workflow of its name.
        """
        path = Path(os.path.normpath(Path.cwd() / os.path.expanduser(script)))
        if path.is_file():
            # A link to a script, or a project reached through one, is the same workflow.
            path, root = path.resolve(), self._root.resolve()
            return path, path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()
        if script in self.ready():
            return self.ready_folder / f"{script}.lua", f"workflows:{script}"
        if path.is_dir():
            raise UsageError(f"{script}: a folder, not a workflow; name a .lua file in it")
        if "/" not in script and not script.endswith(".lua"):
            known = self.ready()
            listed = f" (ready workflows: {', '.join(known)})" if known else ""
            raise UsageError(f"{script}: no such file and no ready workflow{listed}.{did_you_mean(script, known)}")
        near = [each.name for each in path.parent.glob("*.lua")] if path.parent.is_dir() else []
        raise UsageError(f"{script}: no such file (looked for {path}).{did_you_mean(path.name, near)}")

    def module_folders(self, script: Path) -> list[Path]:
        """Where `require` looks: beside the script, the ready workflows, sparkles' own Lua files."""
        return [script.parent, self.ready_folder, Path(__file__).resolve().parent / "lua"]

    def of_run(self, run: Run) -> tuple[Path, str]:
        """The file of a run's script, and how it is called in positions. Raises UsageError where it is gone."""
        if run.workflow.startswith("workflows:"):
            name = run.workflow.partition(":")[2]
            return self.ready_folder / f"{name}.lua", name
        path = self._root / run.workflow
        if not path.is_file():
            raise UsageError(
                f"run {run.id}: its workflow {path} is not there; it is looked for from the project root, {self._root}"
            )
        shown = os.path.relpath(path)
        return path, shown if not shown.startswith("..") else str(path)
