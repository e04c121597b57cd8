"""What end-to-end tests share: an empty project folder, whose processes are ended with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cli import Project


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """A module that needs more in it has a fixture of this name of its own."""
    project = Project(tmp_path / "project")
    yield project
    project.close()
