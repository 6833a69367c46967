"""A run from beginning to end: preflight, plan, training, search, deployment."""
