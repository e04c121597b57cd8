"""Failures of a gRPC service on a real channel: raised before the call reaches the server, or after the server has done it."""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Iterable

import grpc


class Failed(grpc.RpcError):
    """As grpc raises it."""

    def __init__(self, code: grpc.StatusCode) -> None:
        super().__init__(f"{code.name}: made by a test")
        self._code = code

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return f"{self._code.name} made by a test"


class Faults(grpc.UnaryUnaryClientInterceptor):
    """Interferes with the calls of one method: `plan` first, then by chance.

    plan: for each call "" (let it be), "before CODE" or "after CODE" (the server has done it, the answer is lost).
    chance: of one call to fail, alternating between CODES.
    """

    CHANCES = (
        "before ABORTED",
        "before UNAVAILABLE",
        "after UNAVAILABLE",
        "after DEADLINE_EXCEEDED",
        "before RESOURCE_EXHAUSTED",
    )

    def __init__(self, method: str = "Commit", *, plan: Iterable[str] = (), chance: float = 0.0, seed: int = 0) -> None:
        self._method, self._chance = method, chance
        self.plan = deque(plan)
        self.calls = 0
        self.made: list[str] = []
        self._random = random.Random(seed)
        self._lock = threading.Lock()

    def _next(self) -> str:
        with self._lock:
            self.calls += 1
            fault = self.plan.popleft() if self.plan else ""
            if not fault and self._random.random() < self._chance:
                fault = self._random.choice(self.CHANCES)
            if fault:
                self.made.append(fault)
            return fault

    def intercept_unary_unary(self, continuation, details, request):
        method = details.method if isinstance(details.method, str) else details.method.decode()
        fault = self._next() if method.endswith(f"/{self._method}") else ""
        if not fault:
            return continuation(details, request)
        when, code = fault.split()
        if when == "after":
            continuation(details, request).result()
        raise Failed(grpc.StatusCode[code])
