"""One run on disk: its directory, events, name, lock and log."""
