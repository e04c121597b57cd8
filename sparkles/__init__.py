"""sparkles: a Lua-scriptable workflow executor with checkpointing."""

__version__ = "0.1.0"

__all__ = ["__version__"]
