"""Judges of answers, the ledger of their verdicts, and what the scores can tell."""
