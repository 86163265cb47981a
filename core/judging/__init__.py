"""Judges, the ledgers of their verdicts, and scoring jobs."""
