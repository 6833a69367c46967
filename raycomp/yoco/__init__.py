"""YOCO-BERT: the space, EE-SNG, the super-network step, and the deployment search."""
