"""The control group that accounts for memory, from the files of whole machines: tests/golden/cgroups.json, which Go's tests play too."""

import json
import os
from pathlib import Path

import pytest

from sparkles.backends.local.cgroup import own_group, read_kills

MACHINES = json.loads((Path(__file__).parents[1] / "golden" / "cgroups.json").read_text())


@pytest.mark.parametrize("machine", MACHINES, ids=[machine["name"] for machine in MACHINES])
def test_the_control_group_of_a_machine(tmp_path, machine):
    """Its version, its folder, how many the kernel ended in it (where it says), and the least limit of it and those above."""
    for name, text in machine["files"].items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    group, expected = own_group(str(tmp_path)), machine["expected"]
    if expected is None:
        assert group is None
        return
    assert (group.version, group.folder) == (expected["version"], str(tmp_path / expected["folder"]))
    assert group.limit() == expected["limit"]
    descriptor = group.open_kills()
    if expected["kills"] is None:
        assert descriptor == -1
        return
    assert read_kills(descriptor) == expected["kills"]
    os.close(descriptor)
