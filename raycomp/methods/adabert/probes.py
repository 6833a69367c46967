"""Softmax probes on the teacher's layers (Section 2.3): how well each layer predicts the labels.

A probe is a linear classifier. It reads the first token's state and the mean state of one layer, and it
is fitted on the labels while the teacher does not change.

Source: AdaBERT (Chen et al., 2020), Section 2.3; Alain and Bengio, 2016, arXiv:1610.01644.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

INVERSE_PENALTY = 0.01
"""Inverse weight of the L2 penalty on the weights of standardised features (C of scikit-learn)."""

ABSENT_CLASS_BIAS = -30.0
"""Bias of a class without rows: far below the logits of the others, so it is never predicted."""


def probe_features(hidden: Sequence[Tensor], mask: Tensor) -> Tensor:
    """Return the input of the probes: first token and mean state, (batch, layers, 2 * hidden).

    Args:
        hidden: Output of each layer, (batch, length, hidden).
        mask: (batch, length), true on real tokens.
    """
    stacked = torch.stack([h.float() for h in hidden], 1)
    weight = mask[:, None, :, None].to(stacked.dtype)
    mean = (stacked * weight).sum(2) / weight.sum(2).clamp(min=1)
    return torch.cat([stacked[:, :, 0], mean], -1)


def fit_probe(x: np.ndarray, labels: np.ndarray, classes: int) -> tuple[Tensor, Tensor]:
    """Fit the probe of one layer: logistic regression, or ridge regression where `classes` is 1.

    Args:
        x: (rows, features).
        labels: (rows,) int classes, or float targets where `classes` is 1.
        classes: Outputs of the task.

    Returns:
        weight (classes, features) and bias (classes,), in fp32.
    """
    # Imported here: scikit-learn takes seconds to import, and few processes fit probes.
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(x)
    scaled = scaler.transform(x)
    if classes == 1:
        ridge = Ridge(alpha=1 / INVERSE_PENALTY).fit(scaled, labels)
        weight = ridge.coef_.reshape(1, -1)
        bias = np.array([ridge.intercept_])
    else:
        model = LogisticRegression(C=INVERSE_PENALTY, max_iter=500).fit(scaled, labels)
        coefficients, intercepts = model.coef_, model.intercept_
        if len(model.classes_) == 2:
            # Two classes have one row z of logits; as logits of each class, they are -z/2 and z/2.
            coefficients = np.concatenate([-coefficients, coefficients]) / 2
            intercepts = np.concatenate([-intercepts, intercepts]) / 2
        weight = np.zeros((classes, x.shape[1]))
        bias = np.full(classes, ABSENT_CLASS_BIAS)
        weight[model.classes_] = coefficients
        bias[model.classes_] = intercepts

    # Fold the standardisation (x - mean) / scale into weight and bias.
    weight = weight / scaler.scale_
    bias = bias - weight @ scaler.mean_
    return torch.from_numpy(weight).float(), torch.from_numpy(bias).float()


def apply_probes(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return the logits of all layers' probes, (rows, layers, classes).

    Args:
        x: Result of `probe_features`, (rows, layers, features).
        weight: (layers, classes, features).
        bias: (layers, classes).
    """
    return torch.einsum("nlf,lcf->nlc", x.float(), weight) + bias
