"""Rules of tools/check_cluster.py: one module for each kind of file."""
