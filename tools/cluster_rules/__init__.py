"""What tools/check_cluster.py checks: one module for each kind of file."""
