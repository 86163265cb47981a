"""Shared fixtures; `settings` differs from the one in `tests.run_fixtures`."""

from tests.training_fixtures import base, data, new_run, run_in, settings

__all__ = ["base", "data", "new_run", "run_in", "settings"]
