"""Training without Ray: the one loop, the optimizer, the teacher, and evaluation."""
