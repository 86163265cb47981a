"""The run queue, the executors and the trainer process."""
