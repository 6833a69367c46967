"""Deployed models: latency, formats and certificates."""
