"""The Pareto front of a frame of results."""

from __future__ import annotations

import pandas as pd

from raycomp.errors import UserError
from raycomp.report.query import get_column


def find_pareto_front(
    frame: pd.DataFrame, metric: str = "validation", cost: str = "params"
) -> pd.DataFrame:
    """Return the rows that no other row beats: none scores as high for less, nor higher for as much.

    Rows equal in both columns do not beat each other: all of them are kept, or none. A row that
    lacks either figure (NaN) is dropped.

    Args:
        frame: any table with the two columns, such as `load(run).deployments`.
        metric: column of scores, higher is better.
        cost: column of costs, lower is better.

    Returns:
        Rows of `frame` with their index, by cost ascending; equal rows in the order given.

    Raises:
        UserError: a column does not exist or holds no numbers.
    """
    for name in (metric, cost):
        if get_column(frame, name).dtype.kind not in "iuf":
            raise UserError(f"column '{name}' holds no numbers; choose two columns of numbers")
    known = frame[frame[metric].notna() & frame[cost].notna()]
    known = known.sort_values(cost, kind="stable")
    best = known.groupby(cost)[metric].max().astype(float)  # of each cost, ascending
    cheaper = best.cummax().shift()  # the best that costs less; NaN for the cheapest, which stays
    front = best[~(best <= cheaper)]
    return known[known[metric] == known[cost].map(front)]
