"""What raycomp claims, as ratios of two things measured side by side."""
