"""The DuckDB index of all runs: schema, sync and queries."""
