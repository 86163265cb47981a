"""Fixtures shared by the planning tests."""

from tests.training_fixtures import base, data, new_config, new_run, run_in

__all__ = ["base", "data", "new_config", "new_run", "run_in"]
