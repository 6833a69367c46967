"""Super-network training as in YOCO-BERT's released code, in plain torch and transformers.

The linear layers of transformers' BERT use front slices of their weights. Autograd fills the unused
part of a gradient with zeros, so gradients are dense and AdamW updates every parameter in every step.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertForSequenceClassification

from raycomp.data.batches import Batch
from raycomp.encoder.architecture import Architecture


class SlicedLinear(nn.Module):
    """A linear layer that uses its first `inputs` inputs and `outputs` outputs; None uses all."""

    def __init__(self, full: nn.Linear) -> None:
        super().__init__()
        self.weight = full.weight
        self.bias = full.bias
        self.inputs: int | None = None
        self.outputs: int | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., outputs) of (..., inputs)."""
        return F.linear(x, self.weight[: self.outputs, : self.inputs], self.bias[: self.outputs])


class ReleasedSupernet:
    """A super-network over transformers' BERT, and its training step.

    Args:
        model: Model whose linear layers are replaced by sliced ones.
    """

    def __init__(self, model: BertForSequenceClassification) -> None:
        self.model = model.train()
        self.layers = list(model.bert.encoder.layer)
        for layer in self.layers:
            attention = layer.attention
            for name in ("query", "key", "value"):
                setattr(attention.self, name, SlicedLinear(getattr(attention.self, name)))
            attention.output.dense = SlicedLinear(attention.output.dense)
            layer.intermediate.dense = SlicedLinear(layer.intermediate.dense)
            layer.output.dense = SlicedLinear(layer.output.dense)

        self.parameters = list(model.parameters())
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-5, weight_decay=0.0)

    def select(self, arch: Architecture) -> None:
        """Use a sub-network: the first layers, and the first heads and neurons of each."""
        layers = self.layers[: arch.depth]
        self.model.bert.encoder.layer = nn.ModuleList(layers)
        for layer, heads, ffn in zip(layers, arch.heads, arch.ffn, strict=True):
            attention = layer.attention
            width = heads * attention.self.attention_head_size
            for projection in (attention.self.query, attention.self.key, attention.self.value):
                projection.outputs = width
            attention.output.dense.inputs = width
            layer.intermediate.dense.outputs = ffn
            layer.output.dense.inputs = ffn

    def logits(self, batch: Batch) -> Tensor:
        """Return logits (batch, classes) of the selected sub-network."""
        return self.model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask.long(),
            token_type_ids=batch.token_type_ids,
        ).logits

    def step(self, batch: Batch, archs: Sequence[Architecture]) -> None:
        """Train on one batch: the mean of the architectures' losses, and one update."""
        for arch in archs:
            self.select(arch)
            loss = F.cross_entropy(self.logits(batch), batch.labels)
            (loss / len(archs)).backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        # Gradients become zeros instead of None, so that AdamW updates all parameters.
        self.optimizer.zero_grad(set_to_none=False)
