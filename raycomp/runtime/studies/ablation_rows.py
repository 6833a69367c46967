"""Rows of table `ablations` from a finished study run.

The table is long: one row per figure. Column `kind` names the measurement:

- `score`: validation score of the teacher or of a deployed model (`budget`, `method`).
- `ranking`: score of one sampled sub-network, with inherited weights or trained on its own (`method`).
- `agreement`: Kendall's tau of the two rankings and its p-value, over `evaluations` sub-networks, and
  `chance`, the score of the most frequent class.
- `progress`: best scores of a search for `budget` after `evaluations` evaluations.
- `healing`: selection score of a deployed sub-network (`budget`, `method`) at a `stage`, "inherited" or
  "healed".
- `cost`: wall seconds of a `stage`; passes, tokens and seconds of a method's work (see table `costs`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from raycomp.config.study import StudyRun
from raycomp.config.study_settings import StudySettings
from raycomp.data.metrics import CLASSIFICATION, compute
from raycomp.encoder.architecture import Architecture
from raycomp.methods.context import RunContext
from raycomp.methods.yoco.finetune import list_outcomes
from raycomp.report.cost_table import sum_costs
from raycomp.report.predictions import read_positive
from raycomp.report.statistics import kendall_tau
from raycomp.report.study_costs import list_cost_rows
from raycomp.report.study_healing import list_healing_rows
from raycomp.runtime.studies.stage_timer import read_stage_seconds
from raycomp.storage.files import read_json
from raycomp.storage.layout import RunLayout
from raycomp.storage.tables import read_table

# Number of architectures whose mean score is followed over a search (YOCO-BERT, Fig. 3).
NUM_BEST = 10

Row = dict[str, Any]


def ablation_rows(run_dir: Path, settings: StudySettings, study_run: StudyRun) -> list[Row]:
    """Return every figure of a finished study run as rows of table `ablations`.

    Args:
        run_dir: Directory of the finished run.
        settings: Section [study] of the study.
        study_run: Variant, task, seed and job of the run.
    """
    context = RunContext(study_run.job, run_dir)
    common = {
        "run": run_dir.name,
        "study": settings.name,
        "variant": study_run.variant,
        "task": study_run.task,
        "seed": study_run.seed,
    }

    rows = [
        *_score_rows(context, settings, study_run),
        *_healing_rows(run_dir),
        *ranking_rows(run_dir),
        *_progress_rows(context),
        *_cost_rows(run_dir),
    ]
    return [{**common, **row} for row in rows]


def _score_rows(context: RunContext, settings: StudySettings, study_run: StudyRun) -> list[Row]:
    """Return the score of the teacher, then of each deployed model, with the paper's figures."""
    teacher_scores = read_json(RunLayout(context.run_dir).teacher_score)
    held_out = [score for split, score in teacher_scores.items() if split != "selection"]
    examples = sum(int(score["examples"]) for score in held_out)
    published = settings.published.get(study_run.task, {})

    selection = float(teacher_scores["selection"][context.primary])
    validation = sum(float(score[context.primary]) for score in held_out) / len(held_out)
    teacher = {
        "kind": "score",
        "budget": "teacher",
        "method": "teacher",
        "metric": context.primary,
        "value": validation,
        "selection": selection,
        "gap": selection - validation,
        "examples": examples,
        "params": int(context.costs.cost("params", context.space.largest())),
        "published": published.get("teacher", {}).get("teacher"),
    }

    published_here = published.get(study_run.variant, {})
    deployed = [
        {**row, "examples": examples, "published": published_here.get(row["budget"])}
        for row in _deployment_rows(context.run_dir)
    ]
    return [teacher, *deployed]


def _deployment_rows(run_dir: Path) -> list[Row]:
    """Return a row for each deployed model; scores are those after fine-tuning, if it was fine-tuned."""
    deployments = read_table(run_dir, "deployments")
    deployments = deployments[deployments["validation"].notna()]
    finetuned = {outcome["name"]: outcome for outcome in list_outcomes(run_dir) if outcome["deployed"]}
    num_students = int((deployments["method"] == "adabert").sum())

    rows = []
    for deployment in deployments.to_dict("records"):
        budget = deployment["budget"]
        method = deployment["method"]
        scores: Mapping[Any, Any] = deployment
        if method == "yoco" and str(budget) in finetuned:
            scores = finetuned[str(budget)]
            method = "finetuned"
        # The only CNN of a run has one name in all variants, although its settings differ.
        if method == "adabert" and num_students == 1:
            budget = "cnn"

        rows.append(
            {
                "kind": "score",
                "budget": budget,
                "method": method,
                "metric": deployment["metric"],
                "value": scores["validation"],
                "selection": scores["selection"],
                "gap": scores["selection"] - scores["validation"],
                "params": int(deployment["params"]),
                "flops": deployment["flops"],
                "latency_ms": deployment["latency_ms"],
            }
        )
    return rows


def _healing_rows(run_dir: Path) -> list[Row]:
    """Return the scores of each deployed sub-network with inherited weights, and healed."""
    deployments = read_table(run_dir, "deployments")
    deployments = deployments[deployments["validation"].notna()]
    return [row for record in deployments.to_dict("records") for row in list_healing_rows(record)]


def ranking_rows(run_dir: Path) -> list[Row]:
    """Return two scores of each sampled sub-network, and how well the two rankings agree.

    Method "inherited" is the score with the super-network's weights. Method "retrained"
    is the score of the sub-network after its own training. Both are measured on the selection split.
    """
    networks = [outcome for outcome in list_outcomes(run_dir) if not outcome["deployed"]]
    if not networks:
        return []

    rows: list[Row] = []
    for method, score in (("inherited", "inherited"), ("retrained", "selection")):
        for network in networks:
            rows.append(
                {
                    "kind": "ranking",
                    "budget": network["name"],
                    "method": method,
                    "metric": network["metric"],
                    "value": network[score],
                    "params": network["params"],
                    "examples": network["examples"],
                }
            )

    inherited = [network["inherited"] for network in networks]
    alone = [network["selection"] for network in networks]
    tau, p_value = kendall_tau(inherited, alone)
    agreement = {"kind": "agreement", "evaluations": len(networks)}
    rows.append({**agreement, "metric": "kendall_tau", "value": tau})
    rows.append({**agreement, "metric": "kendall_p", "value": p_value})
    chance = _chance_score(run_dir, networks[0]["metric"])
    if chance is not None:
        rows.append({**agreement, "metric": "chance", "value": chance})
    return rows


def _chance_score(run_dir: Path, metric: str) -> float | None:
    """Return the score of the most frequent class on the selection split.

    None if the task is a regression, the metric is the user's, or the run lacks labels.
    """
    path = RunLayout(run_dir).predictions("labels", "selection")
    if metric not in CLASSIFICATION or not path.exists():
        return None
    labels = np.load(path, allow_pickle=False)
    counts = np.bincount(labels.astype(np.int64))
    logits = np.tile(counts.astype(np.float64), (len(labels), 1))
    return compute([metric], labels, logits, positive=read_positive(run_dir))[metric]


def _progress_rows(context: RunContext) -> list[Row]:
    """Return the best feasible scores after each batch of evaluations of the run's only search.

    Several searches share the ledger, and its rows do not say which of them asked first. Such a run has
    no progress rows.
    """
    job = context.job
    num_searches = len(job.budget) * len(job.search.searchers) * len(job.search.seeds)
    if num_searches != 1:
        return []

    evaluations = read_table(context.run_dir, "evaluations")
    is_search = (evaluations["method"] == "yoco") & (evaluations["weights"] != "healed")
    evaluations = evaluations[is_search].sort_values("created_at", kind="stable")
    budget = context.budget(job.budget[0])
    is_feasible = [budget.is_met_by(Architecture.from_json(str(arch))) for arch in evaluations["arch"]]
    scores = pd.Series(evaluations["value"].to_numpy())

    rows = []
    for count in range(job.search.batch, len(evaluations) + 1, job.search.batch):
        best = scores[:count][is_feasible[:count]].nlargest(NUM_BEST)
        if best.empty:
            continue
        progress = {"kind": "progress", "budget": job.budget[0].name, "evaluations": count}
        rows.append({**progress, "metric": "best", "value": float(best.max())})
        rows.append({**progress, "metric": f"best{NUM_BEST}", "value": float(best.mean())})
    return rows


def _cost_rows(run_dir: Path) -> list[Row]:
    """Return the wall seconds of each stage that this run computed, and the cost of each method."""
    stages: list[Row] = [
        {"kind": "cost", "stage": stage, "metric": "seconds", "value": seconds}
        for stage, seconds in read_stage_seconds(run_dir).items()
    ]
    costs = sum_costs(read_table(run_dir, "costs"))
    return stages + [row for cost in costs for row in list_cost_rows(cost)]
