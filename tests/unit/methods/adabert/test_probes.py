"""Probes on the teacher's layers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from raycomp.methods.adabert.probes import apply_probes, fit_probe, probe_features


@pytest.mark.parametrize("classes", [1, 2, 3])
def test_a_probe_learns_a_linear_target(classes: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, (600, 20)).astype(np.float32)
    centred = x[:, :3] - x[:, :3].mean(0)
    if classes == 1:
        labels = centred[:, 0].astype(np.float32)
    else:
        labels = centred[:, :classes].argmax(1).astype(np.int64)

    weight, bias = fit_probe(x, labels, classes)
    assert weight.shape == (classes, 20)
    logits = apply_probes(torch.from_numpy(x).unsqueeze(1), weight.unsqueeze(0), bias.unsqueeze(0))
    assert logits.shape == (600, 1, classes)
    predictions = logits[:, 0].numpy()
    if classes == 1:
        assert np.corrcoef(predictions[:, 0], labels)[0, 1] > 0.95
    else:
        assert (predictions.argmax(1) == labels).mean() > 0.9


def test_a_class_without_rows_is_never_predicted() -> None:
    x = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    weight, bias = fit_probe(x, (x[:, 0] > 0).astype(np.int64) * 2, 3)
    logits = apply_probes(torch.from_numpy(x).unsqueeze(1), weight[None], bias[None])
    assert set(logits[:, 0].argmax(1).tolist()) == {0, 2}


def test_probe_features_ignore_padding() -> None:
    hidden = torch.randn(2, 5, 3)
    mask = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1]]).bool()
    features = probe_features([hidden, hidden * 2], mask)
    assert features.shape == (2, 2, 6)
    torch.testing.assert_close(features[0, 0, 3:], hidden[0, :2].mean(0))
    torch.testing.assert_close(features[0, 1, :3], 2 * hidden[0, 0])
