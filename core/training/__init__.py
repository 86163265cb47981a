"""The training loop, optimizers, checkpoints and evaluation. Uses only a run's directory and event writer."""
