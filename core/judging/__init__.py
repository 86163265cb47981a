"""Judges, the ledger of their verdicts, and the scorer."""
