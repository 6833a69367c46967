"""Read the result of a study in pandas, also while the study runs.

    python examples/ablations.py runs/eesng-1f3a9c02

The argument is the directory of a study that `raycomp run jobs/studies/NAME.toml` writes.
"""

from __future__ import annotations

import sys

import pandas as pd

from raycomp.report import ablation_table, find_pareto_front, load_tables
from raycomp.report.statistics import NO_DIFFERENCE

COLUMNS = ["task", "budget", "variant", "mean", "sd", "low", "high", "published", "p", "verdict"]


def main(study: str) -> None:
    """Print the statistics of a study, the comparisons that it leaves open, and its Pareto front.

    Args:
        study: Directory of the study.
    """
    # One row per task, budget and variant: mean over the seeds, interval, and the test of each variant
    # against the reference variant.
    statistics = ablation_table(study)
    print(statistics[COLUMNS].round(3).to_string(index=False))

    comparisons = statistics[statistics["verdict"] != "reference"]
    open_questions = comparisons[comparisons["verdict"] == NO_DIFFERENCE]
    print(f"\n{len(open_questions)} of {len(comparisons)} comparisons: {NO_DIFFERENCE}")

    # The rows that the statistics come from: one per run and figure.
    tables = load_tables(study)
    counts = tables.ablations.groupby(["variant", "metric"])["value"].count()
    print(counts.to_string())

    # The deployments of all runs of the study.
    front = find_pareto_front(tables.deployments, metric="validation", cost="params")
    print(front[["run", "budget", "params", "validation"]].to_string(index=False))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("Give the directory of a study, such as runs/eesng-1f3a9c02.")
    with pd.option_context("display.width", 200, "display.max_columns", None):
        main(sys.argv[1])
