"""The one training loop and what it needs. Knows a run only as a directory and an event writer."""
