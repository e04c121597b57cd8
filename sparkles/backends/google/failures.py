"""Errors of Google's clients as sparkles's own, with a sentence that says what to do. May import errors."""

from __future__ import annotations

from typing import Any

from sparkles.errors import BackendError, NotFound

_RETRYABLE = {"UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED", "RESOURCE_EXHAUSTED", "INTERNAL"}


def code_of(error: Any) -> str:
    """The gRPC code's name, from an error of a stub or of a client; "" where it has none."""
    code = getattr(error, "grpc_status_code", None) or (error.code() if callable(getattr(error, "code", None)) else None)
    return getattr(code, "name", "") or ""


def retryable(error: Any) -> bool:
    """Whether the same call can succeed later without anybody changing anything."""
    return code_of(error) in _RETRYABLE


def details(error: Any) -> str:
    """What the service said."""
    said = error.details() if callable(getattr(error, "details", None)) else getattr(error, "message", None)
    return str(said or error)


def translate(error: Any, what: str, resource: str = "") -> BackendError:
    """The error to raise instead."""
    code = code_of(error)
    if code == "NOT_FOUND":
        return NotFound(f"{what}: {details(error)}", what, resource)
    return BackendError(f"{what}: {code or type(error).__name__}: {details(error)}", what, resource, retryable(error))
