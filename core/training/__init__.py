"""The training loop, optimizers, checkpoints and evaluation. Sees a run only as a directory and an event writer."""
