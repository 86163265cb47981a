"""Tables, charts, search and filters over DataFrames."""
