"""Units of a regression's output, as a change of the layer that computes it.

Networks of a run compute standardised outputs; checkpoints and exports compute the user's units.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel

OUTPUT_LAYERS = {"raycomp": "classifier", "raycomp_cnn": "head.out"}
"""Type of an exported model -> name of its last layer."""


@torch.no_grad()
def standardise_outputs(layer: nn.Linear, mean: float, deviation: float) -> None:
    """Change a last layer from outputs in the user's units to standardised ones.

    Args:
        layer: The last layer of a network.
        mean: Mean of the training targets.
        deviation: Deviation of the training targets.
    """
    # In fp64: the mean can be a million times the deviation.
    weight = layer.weight.double() / deviation
    bias = (layer.bias.double() - mean) / deviation
    layer.weight.copy_(weight)
    layer.bias.copy_(bias)


@torch.no_grad()
def restore_outputs(model: PreTrainedModel, mean: float, deviation: float) -> None:
    """Change a model that is exported from standardised outputs to the user's units.

    Args:
        model: A model of one of the types in `OUTPUT_LAYERS`.
        mean: Mean of the training targets.
        deviation: Deviation of the training targets.
    """
    # The last layer is linear, so the units are a factor of its weights and a shift of its bias.
    layer = model.get_submodule(OUTPUT_LAYERS[model.config.model_type])
    weight = layer.weight.double() * deviation
    bias = layer.bias.double() * deviation + mean
    layer.weight.copy_(weight)
    layer.bias.copy_(bias)
