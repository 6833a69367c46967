"""Text to batches: tasks, metrics, tokens, length buckets."""
