"""Benchmarks and stress tests. Run them with `python -m benchmarks.NAME`; each prints a table or JSON."""
