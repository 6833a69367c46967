"""Compression methods, one module or package each."""
