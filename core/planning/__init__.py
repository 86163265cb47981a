"""Checks and estimates before a launch: problems, steps, memory, time and disk space."""
