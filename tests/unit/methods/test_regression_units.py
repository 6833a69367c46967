"""Regression on numbers of any size: standardised inside, the user's units in all that a user reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import BertForSequenceClassification

from raycomp.config.loader import parse_job
from raycomp.encoder.output_units import OUTPUT_LAYERS, restore_outputs, standardise_outputs
from raycomp.methods.context import RunContext
from raycomp.methods.scoring import score_forward
from raycomp.testing.local_run import CPU
from tests.conftest import make_bert_config, make_sentences, make_tiny_job, make_tokenizer

UNITS = [(218_000.0, 31_000.0), (-4e8, 2e7), (1e-3, 1e-4)]


@pytest.fixture(params=UNITS, ids=str)
def units(request: pytest.FixtureRequest) -> tuple[float, float]:
    mean, deviation = request.param
    return mean, deviation


def write_data(folder: Path, mean: float, deviation: float, rows: int = 200) -> Path:
    """Sentences whose target is one deviation above or below the mean, and a little noise."""
    folder.mkdir()
    for split, seed in (("train", 0), ("validation", 1)):
        frame = make_sentences(rows, seed)
        noise = np.random.default_rng(seed).normal(0, 0.1, rows)
        side = np.where(frame["label"] == "good", 1, -1)
        frame["label"] = mean + deviation * (side + noise)
        frame.to_csv(folder / f"{split}.csv", index=False)
    return folder


def regression_job(model: Path, data: Path, **sections: Any) -> dict[str, Any]:
    job = make_tiny_job(model, data)
    job["task"]["kind"] = "regression"
    job["teacher"] = {"epochs": 12, "learning_rate": 2e-3}
    return job | sections


def begin(job: dict[str, Any], tmp_path: Path) -> RunContext:
    parsed = parse_job(job)
    context = RunContext(parsed, tmp_path / "runs" / parsed.run_id)
    context.run_dir.mkdir(parents=True)
    context.record_facts()
    context.precision(CPU)
    return context


def write_regressor(folder: Path, mean: float, deviation: float) -> Path:
    torch.manual_seed(0)
    model = BertForSequenceClassification(make_bert_config(num_labels=1))
    with torch.no_grad():
        model.classifier.weight *= 50 * deviation
        model.classifier.bias.fill_(mean)
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def test_a_given_teacher_keeps_its_units(units: tuple[float, float], tmp_path: Path) -> None:
    """Its outputs are standardised inside; the largest network's export gives them back."""
    model = write_regressor(tmp_path / "model", *units)
    context = begin(regression_job(model, write_data(tmp_path / "data", *units)), tmp_path)
    assert context.fine_tuned
    network = context.network().eval()
    theirs = BertForSequenceClassification.from_pretrained(model).eval()
    tokens = context.tokenizer(context.task.train.text_a[:8], padding=True, return_tensors="pt")
    static = network.extract(network.largest)
    with torch.no_grad():
        inside = static(**tokens).logits
        expected = theirs(**tokens).logits
        scaling = context.target_scaling
        restore_outputs(static, scaling.mean, scaling.deviation)
        restored = static(**tokens).logits
    assert float(inside.abs().max()) < 100
    assert float((restored - expected).abs().max()) <= 1e-5 * units[1] + 1e-6 * abs(units[0])


def test_a_run_of_an_older_version_keeps_raw_targets(tiny_model: Path, tmp_path: Path) -> None:
    """Its facts have no scaling, and its weights compute the user's units."""
    job = regression_job(tiny_model, write_data(tmp_path / "data", 218_000, 31_000))
    context = begin(job, tmp_path)
    facts = json.loads(context.layout.facts.read_text())
    assert facts.pop("target_mean") == pytest.approx(218_000, rel=0.1)
    assert facts.pop("target_deviation") == pytest.approx(31_000, rel=0.1)
    context.layout.facts.write_text(json.dumps(facts))
    old = RunContext(context.job, context.run_dir)
    assert old.target_scaling.is_identity
    tokens = old.tokens("train")
    assert np.array_equal(tokens.labels, old.task.train.labels)
    assert tokens.written_labels is tokens.labels


def worst_error(labels: np.ndarray, predictions: np.ndarray) -> float:
    assert labels.min() > 100_000
    return -float(np.abs(labels - predictions).max())


def test_a_users_own_metric_reads_the_users_units(tiny_model: Path, tmp_path: Path) -> None:
    job = regression_job(tiny_model, write_data(tmp_path / "data", 218_000, 10_000))
    job["task"]["metric"] = f"{__name__}:worst_error"
    context = begin(job, tmp_path)
    network = context.network().eval()
    score = score_forward(context, lambda batch: network(batch, None).logits, "validation")
    # Outputs near 0 are predictions near the mean.
    assert -60_000 < score.values[context.primary] < -8_000


def test_classes_are_left_alone(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    context = begin(make_tiny_job(tiny_model, tiny_data), tmp_path)
    assert context.target_scaling.is_identity
    assert context.tokens("train").labels.dtype == np.int64


def test_every_exported_type_has_its_output_layer() -> None:
    from raycomp.encoder.static_model import RaycompConfig, RaycompForSequenceClassification
    from raycomp.methods.adabert.cnn_model import RaycompCnnConfig

    assert set(OUTPUT_LAYERS) == {RaycompConfig.model_type, RaycompCnnConfig.model_type}
    config = RaycompConfig(
        vocab_size=20, hidden_size=8, head_size=4, layer_heads=[2], layer_ffn=[8], num_labels=1,
        max_position_embeddings=10,
    )  # fmt: skip
    model = RaycompForSequenceClassification(config).eval()
    ids = torch.tensor([[2, 5, 3]])
    before = model(ids).logits
    restore_outputs(model, 10.0, 4.0)
    torch.testing.assert_close(model(ids).logits, before * 4 + 10)
    layer = model.classifier
    assert isinstance(layer, nn.Linear)
    standardise_outputs(layer, 10.0, 4.0)
    torch.testing.assert_close(model(ids).logits, before)
