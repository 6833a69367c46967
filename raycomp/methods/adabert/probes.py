"""Softmax probes on the teacher's hidden layers (Section 2.3): what each layer knows of the task.

A probe is a linear classifier on the first token's state and the mean over real tokens of one layer,
fitted on the gold labels while the teacher stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

STRENGTH = 0.01  # inverse of the penalty on standardised features


def probe_features(hidden: Sequence[Tensor], mask: Tensor) -> Tensor:
    """Return what the probes read: (batch, layers, 2 * hidden).

    Args:
        hidden: output of each layer, (batch, length, hidden).
        mask: (batch, length), true on real tokens.
    """
    stacked = torch.stack([h.float() for h in hidden], 1)
    weight = mask[:, None, :, None].to(stacked.dtype)
    mean = (stacked * weight).sum(2) / weight.sum(2).clamp(min=1)
    return torch.cat([stacked[:, :, 0], mean], -1)


def fit_probe(x: np.ndarray, labels: np.ndarray, classes: int) -> tuple[Tensor, Tensor]:
    """Fit one layer's probe.

    Args:
        x: (rows, features).
        labels: (rows,) int classes, or float targets where `classes` is 1.
        classes: outputs.

    Returns:
        weight (classes, features) and bias (classes,), fp32; a class that no row has gets a bias far
        below the others.
    """
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(x)
    scaled = scaler.transform(x)
    if classes == 1:
        ridge = Ridge(alpha=1 / STRENGTH).fit(scaled, labels)
        weight, bias = ridge.coef_.reshape(1, -1), np.array([ridge.intercept_])
    else:
        found = LogisticRegression(C=STRENGTH, max_iter=500).fit(scaled, labels)
        coefficients, intercepts = found.coef_, found.intercept_
        if len(found.classes_) == 2:  # one row of logits z: as two classes, -z/2 and z/2
            coefficients = np.concatenate([-coefficients, coefficients]) / 2
            intercepts = np.concatenate([-intercepts, intercepts]) / 2
        weight = np.zeros((classes, x.shape[1]))
        bias = np.full(classes, -30.0)
        weight[found.classes_], bias[found.classes_] = coefficients, intercepts
    weight = weight / scaler.scale_
    bias = bias - weight @ scaler.mean_
    return torch.from_numpy(weight).float(), torch.from_numpy(bias).float()


def apply_probes(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return logits (rows, layers, classes) of features (rows, layers, features)."""
    return torch.einsum("nlf,lcf->nlc", x.float(), weight) + bias
