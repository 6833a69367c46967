"""Whole regression runs on large numbers: all that a user reads has the user's units."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from raycomp.methods.context import RunContext
from raycomp.methods.scoring import score_forward
from raycomp.storage.tensors import save_tensors
from raycomp.testing import check_method
from raycomp.testing.local_run import LocalRun
from tests.unit.methods.test_regression_units import begin, regression_job, write_data, write_regressor


def train_teacher(context: RunContext) -> Any:
    save_tensors(context.layout.teacher_start, context.network().state_dict())
    LocalRun(context).train("teacher", {})
    return context.teacher().eval()


def test_a_teacher_learns_large_numbers(tiny_model: Path, tmp_path: Path) -> None:
    mean, deviation = 218_000.0, 31_000.0
    data = write_data(tmp_path / "data", mean, deviation)
    context = begin(regression_job(tiny_model, data), tmp_path)
    labels = context.tokens("train").labels
    assert abs(float(labels.mean())) < 1e-3
    assert float(labels.std()) == pytest.approx(1, abs=1e-3)
    teacher = train_teacher(context)
    score = score_forward(context, lambda batch: teacher(batch, None).logits, "validation", "teacher")
    assert score.values["pearson"] > 0.9
    assert score.loss < 0.3

    # What a user reads has the user's units: the labels as they were written.
    written = pd.read_csv(str(context.job.task.validation))["label"].to_numpy(np.float32)
    saved = np.load(context.layout.predictions("labels", "validation"))
    assert np.array_equal(saved, written)
    predicted = np.load(context.layout.predictions("teacher", "validation"))[:, 0]
    assert abs(float(predicted.mean()) - mean) < 0.5 * deviation
    assert float(predicted.std()) == pytest.approx(deviation, rel=0.4)


@pytest.mark.parametrize("name", ["first_n", "adabert"])
def test_methods_deploy_in_the_users_units(name: str, tmp_path: Path) -> None:
    """The whole suite of methods: parity, scores and rows, for prices."""
    mean, deviation = 218_000.0, 31_000.0
    model = write_regressor(tmp_path / "model", mean, deviation)
    job = regression_job(model, write_data(tmp_path / "data", mean, deviation))
    job["augment"] = {"copies": 1, "candidates": 2}
    small = {"layers": 2, "width": 8, "embedding": 4, "epochs": 0.5, "child_epochs": 0.5, "candidates": 0}
    job[name] = small | {"batch_size": 32} if name == "adabert" else {"epochs": 2}
    check_method(name, job, tmp_path / "runs")
    export = next((tmp_path / "runs" / "whole").glob("*/exports/*"))
    loaded = AutoModelForSequenceClassification.from_pretrained(export, trust_remote_code=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(export, trust_remote_code=True)
    with torch.no_grad():
        logits = loaded(**tokenizer("the film was fine", return_tensors="pt")).logits
    assert abs(float(logits) - mean) < 5 * deviation
