"""Reads table `ablations` as earlier versions wrote it: fewer columns, and another name of a method."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import pandas as pd


def with_explicit_columns(rows: pd.DataFrame) -> pd.DataFrame:
    """Return table `ablations` with `kind`, `stage`, `evaluations` and `method` as they are today.

    An old row has the stage of a cost or the number of ranked networks ("12 networks") in `budget`, and
    the number of evaluations of a search ("best@0016") in `metric`. Rows that have a `kind` have
    these columns. The score of a sampled network after its own training had another method name.
    """
    rows = rows.assign(method=rows["method"].replace({"alone": "retrained"}))
    records = [_explicit_row(row) for row in rows.to_dict("records")]
    return pd.DataFrame(records, columns=rows.columns).astype(rows.dtypes)


def _explicit_row(row: dict[Hashable, Any]) -> dict[Hashable, Any]:
    if pd.notna(row["kind"]):
        return row

    metric = str(row["metric"])
    if "@" in metric:
        name, _, count = metric.partition("@")
        return row | {"kind": "progress", "metric": name, "evaluations": int(count)}
    if metric == "seconds":
        return row | {"kind": "cost", "stage": row["budget"], "budget": None}
    if metric in ("kendall_tau", "kendall_p"):
        count = str(row["budget"]).partition(" ")[0]
        return row | {"kind": "agreement", "evaluations": int(count), "budget": None}

    is_ranking = row["method"] in ("inherited", "retrained")
    return row | {"kind": "ranking" if is_ranking else "score"}
