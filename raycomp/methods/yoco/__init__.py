"""YOCO-BERT: the EE-SNG sampler and its progressive schedule."""
