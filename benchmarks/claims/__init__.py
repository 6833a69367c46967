"""One file a claim, or a few that share what they set up: `python -m benchmarks.claims.NAME --help`."""
