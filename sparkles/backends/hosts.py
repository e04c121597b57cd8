"""What workers hold of a host that they share. Pure; imports nothing of sparkles."""

from __future__ import annotations

Amounts = tuple[float, int]
"""cpu in cores, memory in bytes."""

_ROUNDING = 1e-9
"""Sums of 0.1 and the like must not exceed a total by their rounding."""


def may_hold(held: Amounts, wanted: Amounts, others: Amounts, total: Amounts) -> bool:
    """Whether a worker that holds `held` may hold `wanted` instead, where the host's other workers hold `others` together.

    A decrease may always; so may anything where nobody else holds anything, or a task larger than the host would never run.
    """
    if wanted[0] <= held[0] and wanted[1] <= held[1]:
        return True
    if others[0] <= _ROUNDING and others[1] <= 0:
        return True
    return others[0] + wanted[0] <= total[0] + _ROUNDING and others[1] + wanted[1] <= total[1]
