"""Table `ablations` of an old study reads as one that is written today."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from raycomp.report.ablation_forms import with_explicit_columns
from raycomp.storage.tables import read_table, write_rows

PAIRS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (
        {"budget": "half", "method": "yoco", "metric": "accuracy"},
        {"kind": "score", "budget": "half", "method": "yoco", "metric": "accuracy"},
    ),
    (
        {"budget": "network-000", "method": "alone", "metric": "accuracy"},
        {"kind": "ranking", "budget": "network-000", "method": "retrained", "metric": "accuracy"},
    ),
    (
        {"kind": "ranking", "budget": "network-001", "method": "alone", "metric": "accuracy"},
        {"kind": "ranking", "budget": "network-001", "method": "retrained", "metric": "accuracy"},
    ),
    (
        {"budget": "12 networks", "metric": "kendall_tau"},
        {"kind": "agreement", "metric": "kendall_tau", "evaluations": 12},
    ),
    (
        {"budget": "half", "metric": "best10@0016"},
        {"kind": "progress", "budget": "half", "metric": "best10", "evaluations": 16},
    ),
    (
        {"budget": "super-network", "metric": "seconds"},
        {"kind": "cost", "stage": "super-network", "metric": "seconds"},
    ),
]


@pytest.mark.parametrize(("old", "new"), PAIRS, ids=range(len(PAIRS)))
def test_an_old_row_reads_as_a_new_one(old: dict[str, Any], new: dict[str, Any], tmp_path: Path) -> None:
    common = {"run": "r", "variant": "a", "value": 0.5}
    tables = []
    for name, row in (("old", old), ("new", new)):
        write_rows(tmp_path / name, "ablations", [common | row], "part")
        tables.append(with_explicit_columns(read_table(tmp_path / name, "ablations")))
    pd.testing.assert_frame_equal(*tables, check_dtype=False)


def test_an_empty_table_keeps_its_columns(tmp_path: Path) -> None:
    rows = read_table(tmp_path, "ablations")
    assert list(with_explicit_columns(rows).columns) == list(rows.columns)
