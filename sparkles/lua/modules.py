"""Where `require` finds modules: in a few folders and nowhere else. May import errors only."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from sparkles.suggest import nearest


class Modules:
    """Looks for `name.lua` and `name/init.lua` below each root in turn; symbolic links must not lead out of the root."""

    def __init__(self, script: Path, shown_as: str, roots: Sequence[Path], hidden: Sequence[Path]) -> None:
        """`hidden` are files that are not modules: those of the host itself. `shown_as` is how the script is called in messages."""
        beside = Path(os.path.realpath(script)).parent
        self._shown = Path(shown_as).parent
        self._beside = beside
        self._roots = list(dict.fromkeys([beside, *(Path(os.path.realpath(root)) for root in roots)]))
        self._hidden = {os.path.realpath(path) for path in hidden}

    def find(self, name: str) -> tuple[str, str, bytes] | str:
        """(what identifies the module, how it is shown, its text), or the sentence that says why there is none."""
        relative = name.replace(".", "/")
        for root in self._roots:
            for candidate in (root / f"{relative}.lua", root / relative / "init.lua"):
                real = os.path.realpath(candidate)
                if real in self._hidden or not os.path.isfile(real):
                    continue
                if not Path(real).is_relative_to(root):
                    return f"'{name}': {candidate.name} is a link that leads out of its folder"
                try:
                    text = Path(real).read_bytes()
                except OSError as error:
                    return f"'{name}': {error.strerror}"
                return real, self._show(candidate, root), text
        near = nearest(name, self._names())
        hint = f". Did you mean '{near}'?" if near else ""
        return f"no module '{name}' beside the script, among the workflows or in the library{hint}"

    def _show(self, path: Path, root: Path) -> str:
        inside = path.relative_to(root)
        if root == self._beside:
            return str(self._shown / inside)
        return f"{root.name}/{inside}"

    def _names(self) -> list[str]:
        names = []
        for root in self._roots:
            if root.is_dir():
                names += [path.stem for path in sorted(root.glob("*.lua")) if os.path.realpath(path) not in self._hidden]
        return [name for name in names if "." not in name]
