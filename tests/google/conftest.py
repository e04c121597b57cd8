"""What the tests of the cloud store share: a fresh installation on each of Google's emulators that keeps entities."""

from __future__ import annotations

import secrets

import pytest


@pytest.fixture(params=["datastore", "firestore"])
def service(request):
    """The Datastore emulator, and Firestore's in Datastore mode."""
    return request.param


@pytest.fixture
def site(service):
    """One installation: as many clients of it as a test asks for."""
    found = Site(service)
    yield found
    found.close()


@pytest.fixture
def cloud(tmp_path, request):
    """A project folder with the real command and an installation of its own; indirectly parametrized: on datastore or firestore."""
    from tests.support.cloud import CloudProject

    project = CloudProject(tmp_path / "project", getattr(request, "param", "datastore"))
    yield project
    project.close()


class Site:
    """A prefix on one emulator, and what was opened of it."""

    def __init__(self, service: str) -> None:
        self.service = service
        self.prefix = f"t{secrets.token_hex(6)}/"
        self._opened = []

    def datastore(self, **options):
        from tests.support import google

        found = google.datastore(self.service, self.prefix, **options)
        self._opened.append(found)
        return found

    def bucket(self, **options):
        from tests.support import google

        found = google.bucket(self.prefix, **options)
        self._opened.append(found)
        return found

    def jobs(self, **options):
        """A job store with clients of its own, as another process has it."""
        from tests.support import google

        found, clients = google.job_store(self.service, self.prefix, **options)
        self._opened += clients
        return found

    def close(self) -> None:
        for each in self._opened:
            each.close()
