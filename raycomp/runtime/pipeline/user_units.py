"""Models that leave a run have the user's units; networks of a run compute standardised outputs."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor
from transformers import PreTrainedModel

from raycomp.data.batches import Batch
from raycomp.encoder.output_units import restore_outputs
from raycomp.methods.base import Deployable, Forward
from raycomp.methods.context import RunContext


def in_user_units(context: RunContext, deployable: Deployable) -> Deployable:
    """Return a deployable whose model and reference compute the user's units.

    Args:
        context: The run's context.
        deployable: A deployable. One that has the user's units stays as it is.
    """
    scaling = context.target_scaling
    build = deployable.build
    if build is None or scaling.is_identity or deployable.has_user_units:
        return deployable

    def build_restored() -> tuple[PreTrainedModel, Forward]:
        model, reference = build()
        restore_outputs(model, scaling.mean, scaling.deviation)

        # In fp64: the reference must not be rounded where the mean is large.
        def restored_reference(batch: Batch) -> Tensor:
            return reference(batch).double() * scaling.deviation + scaling.mean

        return model, restored_reference

    return replace(deployable, build=build_restored, has_user_units=True)


def standardised(context: RunContext, forward: Forward) -> Forward:
    """Return a forward function of a run from one that computes the user's units.

    Args:
        context: The run's context.
        forward: Function from a batch to outputs of an exported model.
    """
    scaling = context.target_scaling
    if scaling.is_identity:
        return forward

    def standardised_outputs(batch: Batch) -> Tensor:
        return (forward(batch).double() - scaling.mean) / scaling.deviation

    return standardised_outputs
