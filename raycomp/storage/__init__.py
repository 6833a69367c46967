"""The run directory: tables, atomic files, locks and copies at a URL."""
