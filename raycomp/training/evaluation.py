"""Scores: one pass over a split, by any architecture of a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from raycomp.data.batches import Batch, collate, eval_batches, padding, tokens_at_once
from raycomp.data.metrics import compute
from raycomp.data.tokens import TokenSplit
from raycomp.training.objectives import label_loss
from raycomp.training.optimizers import autocast


@dataclass(frozen=True)
class Score:
    """Figures of one network on one split.

    Attributes:
        values: Metric -> value.
        loss: Mean label loss.
        examples: Rows of the split.
    """

    values: dict[str, float]
    loss: float
    examples: int


@torch.inference_mode()
def predict_logits(
    forward: Callable[[Batch], Tensor],
    tokens: TokenSplit,
    *,
    pad_id: int,
    max_tokens: int | None,
    precision: str,
    device: torch.device,
) -> np.ndarray:
    """Return the logits (..., rows, classes) in fp32, in the order of the split.

    Args:
        forward: Function from a batch to logits (..., batch, classes), such as those of several networks;
            the caller has set eval mode.
        tokens: The split.
        pad_id: Token that fills a batch up.
        max_tokens: Padded tokens of a batch; None is the fastest number for the device.
        precision: "bf16" or "fp32".
        device: Device of the network.

    Raises:
        ValueError: The split is empty.
    """
    out: np.ndarray | None = None
    multiple = padding(device)
    for rows in eval_batches(tokens.lengths, tokens_at_once(max_tokens, device), multiple):
        batch = collate(tokens, rows, pad_id, multiple=multiple).to(device)
        with autocast(precision, device):
            logits = forward(batch).float().cpu().numpy()
        # The number of networks and classes is known after the first batch.
        if out is None:
            out = np.empty((*logits.shape[:-2], len(tokens), logits.shape[-1]), np.float32)
        out[..., rows, :] = logits
    if out is None:
        raise ValueError("the split is empty")
    return out


def score_logits(
    metrics: tuple[str, ...], tokens: TokenSplit, logits: np.ndarray, positive: int = 1
) -> Score:
    """Compute metrics and the mean label loss.

    Args:
        metrics: Names of the metrics. A reference to a function of the user's is imported, which only a
            run may do, or a user who allows it (`FormatSettings.allow_code`).
        tokens: The split, with its labels.
        logits: (rows, classes), in the order of the split; standardised where the targets are.
        positive: Number of the class that F1 of two classes counts as positive.

    Returns:
        Metrics in the user's units, and the loss in those of training.
    """
    labels = torch.from_numpy(np.array(tokens.labels))
    loss = float(label_loss(torch.from_numpy(logits), labels, len(tokens)))
    written = np.asarray(tokens.written_labels)
    outputs = tokens.scaling.restore(logits)
    values = compute(metrics, written, outputs, positive=positive, allow_custom=True)
    return Score(values, loss, len(tokens))
