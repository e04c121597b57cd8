"""Fixtures that more than one contract suite uses; their parameters are all backends."""

from __future__ import annotations

import pytest

from sparkles.backends.local.blobs import DirectoryBlobs
from sparkles.backends.memory_blobs import MemoryBlobs
from tests.support.blobs import Store


@pytest.fixture(params=["directory", "memory"])
def blob_store(request, tmp_path):
    """Each Blobs, empty."""
    blobs = DirectoryBlobs(tmp_path / "state") if request.param == "directory" else MemoryBlobs()
    yield Store(blobs, tmp_path / "state")
    blobs.close()


@pytest.fixture
def blobs(blob_store):
    """The same without its harness."""
    return blob_store.blobs
