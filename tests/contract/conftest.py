"""Fixtures that more than one contract suite uses; their parameters are all backends."""

from __future__ import annotations

import pytest

from sparkles.backends.local.blobs import DirectoryBlobs
from sparkles.backends.memory_blobs import MemoryBlobs
from tests.support.blobs import Store


def _store(kind, folder):
    if kind == "google":
        from tests.support import google

        return google.BlobStore(folder)
    return Store(DirectoryBlobs(folder) if kind == "directory" else MemoryBlobs(), folder)


@pytest.fixture(params=["directory", "memory", pytest.param("google", marks=pytest.mark.google)])
def blob_store(request, tmp_path):
    """Each Blobs, empty."""
    store = _store(request.param, tmp_path / "state")
    yield store
    store.blobs.close()


@pytest.fixture
def blobs(blob_store):
    """The same without its harness."""
    return blob_store.blobs


@pytest.fixture(params=["directory", "memory"])
def workspace_store(request, tmp_path):
    """Each Workspace, empty."""
    store = _store(request.param, tmp_path / "state")
    yield store
    store.blobs.close()


@pytest.fixture
def workspace(workspace_store):
    """The same without its harness."""
    return workspace_store.blobs
