"""Scores of a forward function on a split of the run's task."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from raycomp.data.batches import Batch
from raycomp.methods.context import RunContext
from raycomp.storage.files import write_array
from raycomp.training.evaluation import Score, predict_logits, score_logits


def score_forward(
    context: RunContext,
    forward: Callable[[Batch], Tensor],
    split: str,
    save_as: str = "",
    metrics: tuple[str, ...] | None = None,
) -> Score:
    """Score a forward function on a split, in fp32 on the CPU.

    Args:
        context: The run's context.
        forward: Function from a batch to logits (batch, classes); standardised for regression.
        split: Name of the split.
        save_as: Name under which the logits are written into the run directory. Later
            comparisons example by example read them. Empty: they are not written.
        metrics: Metrics to compute; None is all metrics of the task. A metric function of the user's is
            imported.
    """
    tokens = context.tokens(split)
    logits = predict_logits(
        forward,
        tokens,
        pad_id=context.pad_id,
        max_tokens=context.job.search.max_tokens,
        precision="fp32",
        device=torch.device("cpu"),
    )
    if save_as:
        # A user reads these files: they have the units of the targets as written.
        write_array(context.layout.predictions(save_as, split), tokens.scaling.restore(logits))
        write_array(context.layout.predictions("labels", split), np.asarray(tokens.written_labels))
    names = context.metrics if metrics is None else metrics
    return score_logits(names, tokens, logits, context.facts.positive)


def score_validation(context: RunContext, forward: Callable[[Batch], Tensor], save_as: str) -> float:
    """Return the task's metric on held-out data: the mean over the validation splits.

    MNLI has two of them, matched and mismatched; the papers report their mean.
    """
    names = context.validation_names()
    values = [score_forward(context, forward, name, save_as).values[context.primary] for name in names]
    return float(np.mean(values))
