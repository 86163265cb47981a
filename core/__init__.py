"""Instruction fine-tuning experiments with GPT-2: `from core import Lab, RunConfig` in a notebook or script.

Both names are imported on first use, so that importing a submodule does not load DuckDB.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from core.config import RunConfig
    from core.lab import Lab

__all__ = ["Lab", "RunConfig"]


def __getattr__(name: str) -> Any:
    if name == "Lab":
        from core.lab import Lab

        return Lab
    if name == "RunConfig":
        from core.config import RunConfig

        return RunConfig
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
