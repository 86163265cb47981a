"""Run directories, the DuckDB index over them, the queue and what drives it."""
