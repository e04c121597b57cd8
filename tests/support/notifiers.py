"""Notifiers that treat badly what comes over the wire, around the real one: what a run must stand (SPARKLES_TEST_NOTIFIER=drop|shuffle)."""

from __future__ import annotations

import os
import random
import threading

from sparkles.backends.google.notifier import PubsubNotifier


class Dropping(PubsubNotifier):
    """Nothing that is sent ever arrives; the stream is up all the same."""

    def _receive(self, messages):
        self.dropped = getattr(self, "dropped", 0) + len(messages)


class Shuffling(PubsubNotifier):
    """Everything comes twice, late and out of order."""

    LATE_S = 0.05

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self._held = []
        self._guard = threading.Lock()
        self._timer = None

    def _receive(self, messages):
        with self._guard:
            self._held += [*messages, *messages]
            if self._timer is None:
                self._timer = threading.Timer(self.LATE_S, self._flush)
                self._timer.daemon = True
                self._timer.start()

    def _flush(self):
        with self._guard:
            held, self._held, self._timer = self._held, [], None
        random.Random(len(held)).shuffle(held)
        for message in held:
            super()._receive([message])


KINDS = {"": PubsubNotifier, "drop": Dropping, "shuffle": Shuffling}


def chosen() -> type[PubsubNotifier]:
    """The class that the environment asks for."""
    return KINDS[os.environ.get("SPARKLES_TEST_NOTIFIER", "")]
