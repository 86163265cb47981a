"""The queue, the executors and the trainer process."""
