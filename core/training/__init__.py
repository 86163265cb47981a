"""The training loop, optimizers, checkpoints and evaluation. Knows a run as a directory and an event writer."""
