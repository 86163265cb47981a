"""Judges, verdict ledgers and scoring jobs."""
