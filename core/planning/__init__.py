"""Checks, estimates and measurements before a launch."""
