"""AdaBERT: differentiable search of a small task-adaptive CNN."""
