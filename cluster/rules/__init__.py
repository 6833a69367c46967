"""What cluster/check.py checks: one module for each kind of file."""
