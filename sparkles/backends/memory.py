"""The ports in memory, under one name. One lock per store; everything is gone with the process. May import ports and below."""

from sparkles.backends.memory_jobs import MemoryJobStore
from sparkles.backends.memory_runs import MemoryRunStore

__all__ = ["MemoryJobStore", "MemoryRunStore"]
