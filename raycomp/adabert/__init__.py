"""AdaBERT: a differentiable search of a small, task-adaptive CNN student (Chen et al., 2020)."""
