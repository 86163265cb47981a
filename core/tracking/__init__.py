"""The DuckDB index over all runs: schema, sync and queries."""
