"""The Pareto front of a table of results."""

from __future__ import annotations

import pandas as pd

from raycomp.errors import UserError
from raycomp.report.query import get_column


def find_pareto_front(
    frame: pd.DataFrame, metric: str = "validation", cost: str = "params"
) -> pd.DataFrame:
    """Return the rows that no other row dominates.

    A row dominates another if it scores at least as high and costs at most as much, and is strictly
    better in one of the two. Rows that are equal in both columns do not dominate each other, so all of
    them are on the front or none is. A row without one of the figures (NaN) is left out.

    Example:
        >>> deployments = pd.DataFrame({"validation": [0.8, 0.7, 0.6], "params": [3e6, 1e6, 2e6]})
        >>> find_pareto_front(deployments)["params"].tolist()
        [1000000.0, 3000000.0]

    Args:
        frame: A table with the two columns, such as `load_tables(run).deployments`.
        metric: Column of scores; higher is better.
        cost: Column of costs; lower is better.

    Returns:
        Rows of `frame` with their index, in ascending order of cost. Equal rows have the order of
        `frame`.

    Raises:
        UserError: A column does not exist or does not contain numbers.
    """
    for name in (metric, cost):
        if get_column(frame, name).dtype.kind not in "iuf":
            raise UserError(f"Column '{name}' does not contain numbers. Choose two columns with numbers.")

    rows = frame[frame[metric].notna() & frame[cost].notna()].sort_values(cost, kind="stable")
    # Best score of each cost, by ascending cost.
    best = rows.groupby(cost)[metric].max().astype(float)
    # Best score among the lower costs. It is NaN for the lowest cost, which therefore stays on the front.
    best_of_cheaper = best.cummax().shift()
    front = best[~(best <= best_of_cheaper)]
    # All rows that reach the best score of their cost are on the front, not only the first of them.
    return rows[rows[metric] == rows[cost].map(front)]
