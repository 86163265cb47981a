"""Instruction fine-tuning experiments with GPT-2: `from core import Lab, RunConfig, Sweep` in a notebook or script.

The names are imported on first use, so that importing a submodule does not load DuckDB.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from core.config import RunConfig
    from core.lab import Lab
    from core.studies.sweep import Sweep

__all__ = ["Lab", "RunConfig", "Sweep"]


def __getattr__(name: str) -> Any:
    if name == "Lab":
        from core.lab import Lab

        return Lab
    if name == "RunConfig":
        from core.config import RunConfig

        return RunConfig
    if name == "Sweep":
        from core.studies.sweep import Sweep

        return Sweep
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
