from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from raycomp.storage.rows import DeploymentRow, EvaluationRow
from raycomp.storage.schemas import SCHEMAS
from raycomp.storage.tables import read_table, write_rows

EVALUATION = EvaluationRow(
    arch_id="a1",
    arch="{}",
    split="selection",
    precision="fp32",
    metric="accuracy",
    value=0.9,
    loss=0.3,
    examples=100,
    params=10,
    flops=2e3,
    seconds=0.1,
    weights="inherited",
)
INFEASIBLE = DeploymentRow(
    run="r-1",
    method="yoco",
    budget="watch",
    kind="params",
    limit=50.0,
    feasible=False,
    searcher="sng",
    seed=0,
    metric="accuracy",
    evaluations=64,
    teacher_validation=0.8,
    reason="the smallest network has 60",
)
DEPLOYED = replace(
    INFEASIBLE,
    feasible=True,
    reason=None,
    params=40,
    full_params=100.0,
    cost=40.0,
    selection=0.9,
    validation=0.6,
)


def test_an_evaluation_is_completed_with_its_run(tmp_path: Path) -> None:
    assert "run" not in EVALUATION.to_row()
    row = EVALUATION.complete("r-1", "yoco", "abc").to_row()
    assert row.keys() == set(SCHEMAS["evaluations"].names)

    write_rows(tmp_path, "evaluations", [row], "a")
    assert read_table(tmp_path, "evaluations").iloc[0]["weights_id"] == "abc"


def test_columns_that_follow_from_others_are_added(tmp_path: Path) -> None:
    row = DEPLOYED.to_row()
    assert row["params_ratio"] == 0.4
    assert row["used_share"] == 0.8
    assert row["gap"] == pytest.approx(0.3)
    assert row["retention"] == pytest.approx(0.75)
    assert row.keys() <= set(SCHEMAS["deployments"].names)

    write_rows(tmp_path, "deployments", [row, INFEASIBLE.to_row()], "a")
    assert read_table(tmp_path, "deployments")["feasible"].tolist() == [True, False]


def test_a_budget_without_a_model_has_no_scores() -> None:
    assert not {"gap", "retention", "used_share", "params_ratio"} & INFEASIBLE.to_row().keys()


def test_a_penalty_is_not_a_limit() -> None:
    assert replace(DEPLOYED, kind="beta", limit=4.0).used_share is None
