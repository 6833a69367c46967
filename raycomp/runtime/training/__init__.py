"""Training on Ray Train: workers, checkpoints and the sampler actor."""
