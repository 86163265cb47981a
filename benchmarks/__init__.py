"""Side-by-side measurements. Each runs as a file or as a module and prints a table or JSON."""
