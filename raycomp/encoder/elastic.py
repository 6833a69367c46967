"""The elastic encoder: ALL weight slicing of the project lives here.

The network holds the full weights under the names of the static model. The architecture is an
argument of `forward`; h heads are the first h * head_size rows of query, key and value and the first
columns of the attention output; k neurons are the first k rows and columns of the FFN; d layers are
the first d (YOCO-BERT, Section 3.2, "front portion").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raycomp.encoder.arch import Architecture
from raycomp.encoder.layers import ACTIVATIONS, Embeddings, Encoder, EncoderConfig, Layer, head
from raycomp.errors import UserError

if TYPE_CHECKING:
    from raycomp.encoder.static import RaycompForSequenceClassification


class Tokens(Protocol):
    """What the encoder reads of a batch, each (batch, length)."""

    @property
    def input_ids(self) -> Tensor:
        """Token ids."""
        ...

    @property
    def attention_mask(self) -> Tensor:
        """True on real tokens."""
        ...

    @property
    def token_type_ids(self) -> Tensor:
        """0 in the first text, 1 in the second."""
        ...


@dataclass(frozen=True)
class ElasticOutput:
    """Logits (batch, classes); with `hidden=True` also the embeddings and each layer's output."""

    logits: Tensor
    hidden: tuple[Tensor, ...] | None = None


Slices = tuple[slice, ...]


class ElasticEncoder(nn.Module):
    """A super-network: every sub-network is a front slice of these weights."""

    def __init__(self, full: Encoder | RaycompForSequenceClassification) -> None:
        """Take over the modules of a full-size static model (they are shared, not copied)."""
        super().__init__()
        self.config = EncoderConfig.of(full.config)
        self.embeddings: Embeddings = full.embeddings
        self.layers = full.layers
        self.pooler: nn.Linear = full.pooler
        self.classifier: nn.Linear = full.classifier
        self.classifier_dropout = self.config.classifier_dropout
        self.masks_heads: list[Tensor] | None = None  # set while importance is measured

    @property
    def largest(self) -> Architecture:
        """The full architecture."""
        heads, ffn = self.config.layer_heads, self.config.layer_ffn
        return Architecture(len(heads), heads, ffn)

    def set_dropout(self, rate: float | None) -> None:
        """Set every dropout rate; None leaves the network's own."""
        if rate is None:
            return
        self.classifier_dropout = self.embeddings.dropout = rate
        for layer in self._layers():
            layer.hidden_dropout = layer.attention_dropout = rate

    def forward(
        self, batch: Tokens, arch: Architecture | None = None, hidden: bool = False
    ) -> ElasticOutput:
        """Run the slice `arch` (None: all of it).

        Args:
            batch: input_ids, attention_mask (bool) and token_type_ids, each (batch, length).
            arch: which front slices to use.
            hidden: also return the embeddings and each layer's output, (batch, length, hidden).

        Raises:
            UserError: the architecture is larger than the network.
        """
        arch = arch or self.largest
        self.check(arch)
        x = self.embeddings(batch.input_ids, batch.token_type_ids)
        states = [x]
        mask = batch.attention_mask[:, None, None, :]
        for i in range(arch.depth):
            x = self._layer(i, x, mask, arch.heads[i], arch.ffn[i])
            states.append(x)
        logits = head(
            x[:, 0],
            self.pooler,
            self.classifier,
            ACTIVATIONS[self.config.head_act],
            self.classifier_dropout if self.training else 0.0,
            self.config.drop_before_pooler,
        )
        return ElasticOutput(logits, tuple(states) if hidden else None)

    def _layer(self, i: int, x: Tensor, mask: Tensor, heads: int, ffn: int) -> Tensor:
        """Run layer i with its first `heads` heads and `ffn` neurons: (batch, length, hidden)."""
        layer = cast(Layer, self.layers[i])
        batch, length, _ = x.shape
        inner = heads * layer.head_size

        def split(linear: nn.Linear) -> Tensor:
            y = F.linear(x, _rows(linear.weight, inner), _rows(linear.bias, inner))
            return y.view(batch, length, heads, layer.head_size).transpose(1, 2)

        attended = F.scaled_dot_product_attention(
            split(layer.query),
            split(layer.key),
            split(layer.value),
            attn_mask=mask,
            dropout_p=layer.attention_dropout if self.training else 0.0,
        )
        if self.masks_heads is not None:
            attended = attended * self.masks_heads[i].view(1, -1, 1, 1)
        attended = attended.transpose(1, 2).reshape(batch, length, inner)
        attended = F.linear(attended, _columns(layer.output.weight, inner), layer.output.bias)
        x = layer.attention_norm(x + F.dropout(attended, layer.hidden_dropout, self.training))
        y = layer.act(F.linear(x, _rows(layer.up.weight, ffn), _rows(layer.up.bias, ffn)))
        y = F.linear(y, _columns(layer.down.weight, ffn), layer.down.bias)
        return cast(Tensor, layer.output_norm(x + F.dropout(y, layer.hidden_dropout, self.training)))

    def active_parameters(self, arch: Architecture) -> list[tuple[str, Slices]]:
        """Return (name, slices) of exactly the weights that `arch` uses, in a fixed order."""
        self.check(arch)
        found: list[tuple[str, Slices]] = []
        for name, parameter in self.named_parameters():
            where = self._active(name, parameter, arch)
            if where is not None:
                found.append((name, where))
        return found

    def _active(self, name: str, parameter: Tensor, arch: Architecture) -> Slices | None:
        parts = name.split(".")
        if parts[0] != "layers":
            return (slice(None),) * parameter.ndim
        i, part, kind = int(parts[1]), parts[2], parts[3]
        if i >= arch.depth:
            return None
        inner = arch.heads[i] * self.config.head_size
        if part in ("query", "key", "value"):
            return (slice(inner), slice(None)) if kind == "weight" else (slice(inner),)
        if part == "up":
            return (slice(arch.ffn[i]), slice(None)) if kind == "weight" else (slice(arch.ffn[i]),)
        if part == "output" and kind == "weight":
            return (slice(None), slice(inner))
        if part == "down" and kind == "weight":
            return (slice(None), slice(arch.ffn[i]))
        return (slice(None),) * parameter.ndim

    @torch.no_grad()
    def extract(self, arch: Architecture) -> RaycompForSequenceClassification:
        """Return the slice as a static model with weights of its own, in eval mode."""
        # Here and not above: importing transformers' model classes takes seconds, which every
        # worker would pay and none needs.
        from raycomp.encoder.static import RaycompConfig, RaycompForSequenceClassification

        shapes = {"layer_heads": list(arch.heads), "layer_ffn": list(arch.ffn)}
        model = RaycompForSequenceClassification(RaycompConfig(**self.config.to_dict() | shapes))
        parameters = dict(self.named_parameters())
        state = {
            name: parameters[name][where].detach().cpu().clone()
            for name, where in self.active_parameters(arch)
        }
        model.load_state_dict(state, strict=True)
        return cast(RaycompForSequenceClassification, model.eval())

    def check(self, arch: Architecture) -> None:
        """Raise UserError when an architecture does not fit into this network."""
        heads, ffn = self.config.layer_heads, self.config.layer_ffn
        if arch.depth > len(heads):
            raise UserError(f"depth {arch.depth} was given; this network has {len(heads)} layers")
        for i in range(arch.depth):
            if arch.heads[i] > heads[i] or arch.ffn[i] > ffn[i]:
                raise UserError(
                    f"layer {i}: {arch.heads[i]} heads and {arch.ffn[i]} neurons were given; this "
                    f"network has {heads[i]} and {ffn[i]}"
                )

    def _layers(self) -> list[Layer]:
        return [cast(Layer, layer) for layer in self.layers]


def _rows(tensor: Tensor, count: int) -> Tensor:
    """Return the first rows; the tensor itself when that is all (autograd then saves a copy)."""
    return tensor if count == tensor.shape[0] else tensor[:count]


def _columns(tensor: Tensor, count: int) -> Tensor:
    return tensor if count == tensor.shape[1] else tensor[:, :count]
