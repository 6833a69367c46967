"""Scores on Ray: evaluator actors, the ledger of evaluations, the deployment search."""
