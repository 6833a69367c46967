"""The conformance suite of compression methods, without Ray.

    from raycomp.testing import check_method

    def test_my_method(tmp_path):
        check_method("my_method", job, tmp_path)

`job` is a small job as a nested dict, with at least one budget that the method can meet.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch

from raycomp.config.loader import parse_job
from raycomp.methods.base import Deployable, Method
from raycomp.methods.context import RunContext
from raycomp.methods.costs import derive_costs
from raycomp.methods.registry import (
    load_method_class,
    load_settings,
)
from raycomp.methods.scoring import score_forward
from raycomp.runtime.pipeline.deploy import MAX_LOGIT_DIFFERENCE, deploy_all, export_deployable
from raycomp.storage.files import write_json
from raycomp.storage.tables import read_table
from raycomp.storage.tensors import save_tensors
from raycomp.testing.local_run import CPU, LocalRun

REQUIRED_COLUMNS = (
    "run", "method", "budget", "kind", "limit", "feasible", "searcher", "seed", "arch_id", "arch",
    "params", "params_ratio", "encoder_params", "flops", "cost", "latency_ms", "selection", "validation",
    "teacher_validation", "retention", "evaluations", "metric", "gap", "parity", "export",
)  # fmt: skip
"""Columns of table `deployments` that a deployed model must have."""


def check_method(name: str, job: dict[str, Any], storage: Path) -> None:
    """Check that a method does what the platform expects of it.

    A method must describe its settings, leave the identity of other jobs as it is, compress every
    feasible budget, repeat nothing that is finished, resume bit for bit, deploy models with parity and
    complete rows within their budgets, and count the FLOPs of its steps.

    Args:
        name: Name of the method in the registry.
        job: A small job as a nested dict; `run.methods` is set by this function.
        storage: An empty directory.

    Raises:
        AssertionError: The method breaks a rule; the message says which.
    """
    job = copy.deepcopy(job)
    job.setdefault("run", {})["methods"] = [name]
    method: Method = load_method_class(name)()

    _check_settings(name, method, job)
    context = _prepare(name, job, storage / "whole")
    _check_plan(method, context)
    run = LocalRun(context)
    deployables = method.compress(run)
    _check_deployables(method, context, deployables)

    again = LocalRun(context)
    method.compress(again)
    assert again.trained == [], f"{name} repeats finished trainings: {again.trained}"

    _check_deployment(method, context, deployables)
    _check_costs(method, context)
    # A method that trains nothing has nothing to resume.
    if method.tasks:
        _check_resume(method, job, storage / "resumed", deployables)


def _check_settings(name: str, method: Method, job: dict[str, Any]) -> None:
    schema = load_settings(name)
    assert schema is method.settings, f"{name}: the registry names another settings class"
    assert schema.method == name, f"{name}: its settings are those of {schema.method!r}"
    assert schema.title, f"{name} lacks a title"
    for key, field in schema.model_fields.items():
        assert field.description, f"{name}.{key} lacks a description"

    other = copy.deepcopy(job)
    other["run"]["methods"] = ["yoco"] if name != "yoco" else ["first_n"]
    other.pop(name, None)
    before = parse_job(other).identity()
    if schema.model_fields:
        other[name] = {}
        assert parse_job(other).identity() == before, f"[{name}] changes the identity of other jobs"


def _prepare(name: str, job: dict[str, Any], storage: Path) -> RunContext:
    """Return the context of a run whose teacher is the given model."""
    parsed = parse_job(job)
    context = RunContext(parsed, storage / parsed.run_id, method=name)
    context.run_dir.mkdir(parents=True)
    context.record_facts()
    context.precision(CPU)
    save_tensors(context.layout.teacher_network, context.network().state_dict())
    teacher = context.teacher().eval()
    scores = {}
    for split in ("selection", *(v.name for v in context.task.validation)):
        score = score_forward(context, lambda batch: teacher(batch, None).logits, split, "teacher")
        scores[split] = {**score.values, "loss": score.loss, "examples": score.examples}
    write_json(context.layout.teacher_score, scores)
    return context


def _check_plan(method: Method, context: RunContext) -> None:
    plan = method.plan(context)
    json.dumps(plan)
    assert plan.get("flops", 0) > 0, f"{method.name} does not estimate its training"
    assert method.find_problems(context) == [], f"{method.name} refuses the job"
    assert all(rows > 0 for rows in method.smallest_batches(context))


def _check_deployables(method: Method, context: RunContext, deployables: list[Deployable]) -> None:
    assert deployables, f"{method.name} returns no deployable"
    names = [deployable.budget for deployable in deployables]
    assert len(set(names)) == len(names), f"{method.name} returns a budget twice"
    if method.settings.needs_budget:
        assert names == [budget.name for budget in context.job.budget]
    for deployable in deployables:
        assert (deployable.build is None) == bool(deployable.reason), (
            f"{method.name}: a deployable has either a model or a reason"
        )
        assert deployable.build is None or deployable.description, (
            f"{method.name}: the model card of {deployable.budget} does not say how it was made"
        )
    assert any(deployable.build is not None for deployable in deployables)


def _check_deployment(method: Method, context: RunContext, deployables: list[Deployable]) -> None:
    latency_ms = deploy_all(context, deployables, lambda done, total, info: None)
    assert latency_ms > 0
    rows = read_table(context.run_dir, "deployments")
    assert len(rows) == len(deployables)
    json.dumps(method.summary(LocalRun(context)))
    tolerances = {deployable.budget: deployable.tolerance for deployable in deployables}

    for row in rows[rows["feasible"]].to_dict("records"):
        empty = [
            column for column in REQUIRED_COLUMNS if row[column] is None or row[column] != row[column]
        ]
        assert not empty, f"{method.name}: empty columns {empty}"
        assert row["parity"] <= MAX_LOGIT_DIFFERENCE
        if method.settings.needs_budget:
            largest = row["limit"] * (1 + tolerances[row["budget"]])
            assert row["cost"] <= largest, f"{method.name}: {row['budget']} is above its limit"

        restored = method.restore(context, {str(key): value for key, value in row.items()})
        assert restored.arch_id == row["arch_id"], f"{method.name}: restore() returns another model"
        proof = export_deployable(context, restored, context.run_dir / "again" / str(row["budget"]))
        assert proof["params"] == row["params"]


def _check_costs(method: Method, context: RunContext) -> None:
    """Every part of the work has its FLOPs, and the trainings of a budget name it."""
    derived = derive_costs(context, method)
    recorded = read_table(context.run_dir, "costs").to_dict("records")
    assert derived or recorded, f"{method.name} does not cost anything"

    trainings = [row for row in derived if row["work"] in ("training", "healing")]
    assert bool(trainings) == bool(method.tasks)
    for row in trainings:
        assert row.get("flops", 0) > 0, (
            f"{method.name}: the steps of {row['part']} do not count their FLOPs. Give the step a `cost`."
        )
    deployed = set(read_table(context.run_dir, "deployments")["budget"])
    budgets = {row["budget"] for row in derived if "budget" in row}
    assert budgets <= deployed, f"{method.name}: costs of unknown budgets {budgets - deployed}"


def _check_resume(
    method: Method, job: dict[str, Any], storage: Path, deployables: list[Deployable]
) -> None:
    """Interrupt the first training in its middle, resume it, and compare the models bit for bit."""
    context = _prepare(method.name, job, storage)
    interrupted = LocalRun(context, stop_after=2)
    try:
        method.compress(interrupted)
    except KeyboardInterrupt:
        pass
    else:
        raise AssertionError(f"{method.name} trains less than two steps: give a longer job")

    resumed = method.compress(LocalRun(context))
    for whole, other in zip(deployables, resumed, strict=True):
        assert whole.arch == other.arch, f"{method.name}: resuming chooses another architecture"
        assert whole.selection == other.selection, f"{method.name}: resuming changes the score"
        if whole.build is not None and other.build is not None:
            first, second = whole.build()[0].state_dict(), other.build()[0].state_dict()
            for key, tensor in first.items():
                assert torch.equal(tensor, second[key]), f"{method.name}: resuming changes {key}"
