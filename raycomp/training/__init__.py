"""Training without Ray: the one loop, its steps, optimizers, objectives and evaluation."""
