"""The command line interface, `python -m core`."""
