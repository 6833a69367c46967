"""Studies: grids of runs and their ablation tables."""
