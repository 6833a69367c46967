"""Deployed models: latency and formats."""
