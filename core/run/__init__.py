"""Runs on disk: their directories, events, names, locks and logs."""
