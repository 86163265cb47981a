"""Tables, charts, search and filter: DataFrames in, tables and figures out."""
