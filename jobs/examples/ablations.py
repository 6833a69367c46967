"""A study in pandas: python jobs/examples/ablations.py runs/eesng-1f3a9c02 (works while it runs)."""

from __future__ import annotations

import sys

import pandas as pd

from raycomp.report import ablation_table, find_pareto_front, load_tables
from raycomp.report.statistics import NO_DIFFERENCE


def main(folder: str) -> None:
    """Print a study's statistics, what it does not show, and its Pareto front."""
    table = ablation_table(folder)
    columns = ["task", "budget", "variant", "mean", "sd", "low", "high", "published", "p", "verdict"]
    with pd.option_context("display.width", 200, "display.max_columns", None):
        print(table[columns].round(3).to_string(index=False))

        tested = table[table["verdict"] != "reference"]
        open_questions = tested[tested["verdict"] == NO_DIFFERENCE]
        print(f"\n{len(open_questions)} of {len(tested)} comparisons: {NO_DIFFERENCE}")

        # The rows behind it, one per run and figure, and the deployments of all of the study's runs.
        tables = load_tables(folder)
        print(tables.ablations.groupby(["variant", "metric"])["value"].count().to_string())
        front = find_pareto_front(tables.deployments, metric="validation", cost="params")
        print(front[["run", "budget", "params", "validation"]].to_string(index=False))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("give a study's folder, such as runs/eesng-1f3a9c02")
    main(sys.argv[1])
