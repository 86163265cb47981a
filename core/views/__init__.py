"""Tables, charts, search and filters for DataFrames."""
