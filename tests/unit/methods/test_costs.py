"""The cost of a method: FLOPs of a step against torch's counter, and what is counted where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from raycomp.data.batches import collate
from raycomp.encoder.architecture import Architecture
from raycomp.methods.context import RunContext
from raycomp.methods.costs import derive_costs
from raycomp.methods.registry import load_method_class
from raycomp.report.cost_table import build_cost_table, sum_costs
from raycomp.storage.files import write_json
from raycomp.storage.tables import read_table, write_rows
from raycomp.training.finetune_step import FinetuneStep
from raycomp.training.hints import DISTILLATION
from raycomp.training.optimizers import Updater
from raycomp.training.step_cost import StepCost
from tests.unit.methods.golden import compress, make_context

CPU = torch.device("cpu")


def rows_of(context: RunContext) -> pd.DataFrame:
    """Return the rows of table `costs` after a method, those of its preparation included."""
    rows = derive_costs(context, load_method_class(context.method)())
    if rows:
        write_rows(context.run_dir, "costs", rows, context.method)
    return read_table(context.run_dir, "costs")


def deploy_row(context: RunContext, **columns: Any) -> None:
    """Write a row of table `deployments`, as far as costs read it."""
    row = {"run": "run", "method": context.method, "budget": "half", "feasible": True, **columns}
    write_rows(context.run_dir, "deployments", [row], context.method)


def test_the_flops_of_a_step_are_those_that_torch_counts(
    tiny_job: dict[str, Any], tuned_model: Path, tmp_path: Path
) -> None:
    context = make_context(tiny_job, tmp_path, "first_n", tuned_model)
    tokens = context.tokens("train")
    # Texts of one length: padding is computed, but it is not counted.
    rows = (tokens.lengths == 9).nonzero()[0][:8]
    batch = collate(tokens, rows, context.pad_id)
    context.job.search.__dict__["flops_length"] = 9

    model = context.network()
    frozen = context.teacher().eval().requires_grad_(False)
    step = FinetuneStep(
        model,
        Updater(model, lambda step: 1e-4, weight_decay=0.0, clip=1.0),
        precision="fp32",
        device=CPU,
        # Hidden states of the last layer are read, so it is computed for all tokens.
        objective=DISTILLATION["hidden"],
        teacher=lambda batch: frozen(batch, None, hidden=True),
        cost=context.step_cost(),
    )
    with FlopCounterMode(display=False) as counter:
        result = step(0, batch)
    assert result.flops == pytest.approx(counter.get_total_flops(), rel=0.12)


def test_a_teacher_counts_once_and_each_trained_network_three_times() -> None:
    cost = StepCost(lambda arch: 5.0 if arch is None else float(arch.depth), teacher=7.0)
    one = Architecture(1, (4,), (64,))
    batch = type("Batch", (), {"total_tokens": 10})()
    assert cost.of_step(batch, [None], has_teacher=False) == 150.0
    assert cost.of_step(batch, [one, one], has_teacher=True) == 130.0


@pytest.mark.parametrize(("distill", "teacher"), [("none", 0.0), ("logits", 1.0)])
def test_a_student_costs_its_share_of_a_pass_and_its_teacher_a_third(
    distill: str, teacher: float, tiny_job: dict[str, Any], tuned_model: Path, tmp_path: Path
) -> None:
    """Two epochs of two of three layers; a teacher adds a third of a full pass each."""
    context = make_context(tiny_job, tmp_path, "first_n", tuned_model, epochs=2, distill=distill)
    compress(context)
    deploy_row(context)
    rows = rows_of(context)
    training = rows[rows["work"] == "training"].iloc[0]
    share = context.token_flops(Architecture(2, (4, 4), (64, 64))) / context.token_flops()
    assert training["passes"] == pytest.approx(2 * (share + teacher / 3), rel=1e-6)
    assert training["budget"] == "half"
    assert training["tokens"] == 2 * context.tokens("train").lengths.sum()

    (cost,) = sum_costs(rows)
    assert cost.once == 0
    assert cost.marginal == pytest.approx(training["passes"])
    # One network is scored for one budget, and a forward pass is a third of a training pass.
    selection, train = (context.tokens(s).lengths for s in ("selection", "train"))
    # FLOPs of the table `evaluations` have one mean length for all texts.
    assert cost.scoring == pytest.approx(share * selection.sum() / train.sum() / 3, rel=1e-6)


@pytest.mark.parametrize(("heal_steps", "is_free"), [(0, True), (4, False)])
def test_a_further_budget_of_a_super_network_is_free_unless_it_is_healed(
    heal_steps: int, is_free: bool, tiny_job: dict[str, Any], tuned_model: Path, tmp_path: Path
) -> None:
    tiny_job["heal"] = {"steps": heal_steps}
    tiny_job["search"] = {"evaluations": 4, "batch": 2}
    context = make_context(tiny_job, tmp_path, "sandwich", tuned_model, epochs=0.5)
    write_json(context.layout.teacher_score, {"selection": {context.primary: 0.9}})
    compress(context)
    deploy_row(context, **({} if is_free else {"heal_tokens": 100}))
    rows = rows_of(context)
    (cost,) = sum_costs(rows)
    assert cost.once > 0
    assert (cost.marginal == 0) == is_free
    # Heads and neurons were sorted by their importance before the training.
    assert rows[rows["part"] == "importance"]["passes"].item() > 0


def test_networks_that_all_budgets_share_are_scored_once(
    tiny_job: dict[str, Any], tuned_model: Path, tmp_path: Path
) -> None:
    """Two searches of 6 networks each scored 8 in all: 4 serve both, and 2 each budget."""
    context = make_context(tiny_job, tmp_path, "hat", tuned_model)
    budgets = [{"run": "run", "method": "hat", "budget": name, "feasible": True} for name in ("a", "b")]
    write_rows(context.run_dir, "deployments", budgets, "hat")
    scored = {"run": "run", "method": "hat", "flops": 100.0, "examples": 50, "seconds": 1.0}
    write_rows(context.run_dir, "evaluations", [scored] * 8, "ledger")
    for name in ("a", "b"):
        write_json(context.files.search_outcome(name, "hat", 0), {"evaluations": 6})

    rows = rows_of(context)
    counts = rows.fillna({"budget": "all"}).set_index("budget")["count"].to_dict()
    assert counts == {"all": 4, "a": 2, "b": 2}
    assert rows["seconds"].sum() == pytest.approx(8.0)


def test_steps_of_earlier_versions_leave_flops_empty(
    tiny_job: dict[str, Any], tuned_model: Path, tmp_path: Path
) -> None:
    context = make_context(tiny_job, tmp_path, "pkd", tuned_model)
    step = {"run": "run", "method": "pkd", "training": "pkd-student.half", "tokens": 9, "seconds": 1.0}
    write_rows(context.run_dir, "steps", [step], "pkd-student.half-0")
    deploy_row(context)
    row = rows_of(context).iloc[0]
    assert row["tokens"] == 9
    assert pd.isna(row["flops"])
    table = build_cost_table(rows_of(context))
    assert table is not None
    # An unknown sum is not printed as 0.
    assert table.rows[0][table.columns.index("total")] == ""


def test_runs_without_rows_have_no_cost_table() -> None:
    assert build_cost_table(pd.DataFrame({"run": [], "method": [], "work": []})) is None
