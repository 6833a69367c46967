"""The elastic encoder: ALL weight slicing of the project lives here.

The network holds the full weights under the names of the static model. The architecture is an
argument of `forward`; h heads are the first h * head_size rows of query, key and value and the first
columns of the attention output; k neurons are the first k rows and columns of the FFN; d layers are
the first d (YOCO-BERT, Section 3.2, "front portion").
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
Path = tuple[tuple[int, bool], ...]
"""The half layers of an architecture: heads or neurons, and whether the layer is its last."""


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
            first = i == arch.depth - 1 and not hidden
            x = self._attention(i, x, mask, arch.heads[i], first)
            x = self._feed_forward(i, x, arch.ffn[i])
            states.append(x)
        return ElasticOutput(self._head(x), tuple(states) if hidden else None)

    def forward_many(self, batch: Tokens, archs: Sequence[Architecture]) -> Tensor:
        """Run several slices; what they share from the input on is computed once.

        The same numbers, bit for bit, as `forward` of each: the half layers of an architecture are a
        path, paths that begin alike are one until they part, and a node of this tree is the same
        operation on the same tensor as in `forward`.

        Args:
            batch: as for `forward`.
            archs: which front slices to use.

        Returns:
            Logits (architectures, batch, classes).

        Raises:
            UserError: an architecture is larger than the network.
        """
        for arch in archs:
            self.check(arch)
        x = self.embeddings(batch.input_ids, batch.token_type_ids)
        mask = batch.attention_mask[:, None, None, :]
        paths = {i: _path(arch) for i, arch in enumerate(archs)}
        logits = {i: self._head(y) for i, y in self._branches(x, mask, 0, paths)}
        return torch.stack([logits[i] for i in range(len(archs))])

    def _branches(
        self, x: Tensor, mask: Tensor, done: int, paths: dict[int, Path]
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield the last state of each path, (batch, 1, hidden), by its number.

        Args:
            x: (batch, length, hidden), what all these paths have after `done` half layers.
            mask: (batch, 1, 1, length).
            done: half layers that are behind x.
            paths: those that began alike, by number.
        """
        parted: dict[tuple[int, bool], dict[int, Path]] = {}
        for number, path in paths.items():
            parted.setdefault(path[done], {})[number] = path
        for (width, last), members in parted.items():
            if done % 2 == 0:
                y = self._attention(done // 2, x, mask, width, last)
            else:
                y = self._feed_forward(done // 2, x, width)
            if last and done % 2 == 1:
                yield from ((number, y) for number in members)
            else:
                yield from self._branches(y, mask, done + 1, members)

    def _head(self, x: Tensor) -> Tensor:
        return head(
            x[:, 0],
            self.pooler,
            self.classifier,
            ACTIVATIONS[self.config.head_act],
            self.classifier_dropout if self.training else 0.0,
            self.config.drop_before_pooler,
        )

    def _attention(self, i: int, x: Tensor, mask: Tensor, heads: int, first: bool) -> Tensor:
        """Run the attention of layer i with its first `heads` heads: (batch, length, hidden).

        Args:
            i: the layer.
            x: (batch, length, hidden).
            mask: (batch, 1, 1, length).
            heads: how many.
            first: for the first token alone, (batch, 1, hidden): the head of the network reads no
                other, so the last layer owes no more unless hidden states are asked for.
        """
        layer = cast(Layer, self.layers[i])
        inner = heads * layer.head_size
        asking = x[:, :1] if first else x

        def split(linear: nn.Linear, y: Tensor) -> Tensor:
            z = F.linear(y, _rows(linear.weight, inner), _rows(linear.bias, inner))
            return z.view(*y.shape[:2], heads, layer.head_size).transpose(1, 2)

        attended = F.scaled_dot_product_attention(
            split(layer.query, asking),
            split(layer.key, x),
            split(layer.value, x),
            attn_mask=mask,
            dropout_p=layer.attention_dropout if self.training else 0.0,
        )
        if self.masks_heads is not None:
            attended = attended * self.masks_heads[i].view(1, -1, 1, 1)
        attended = attended.transpose(1, 2).reshape(*asking.shape[:2], inner)
        attended = F.linear(attended, _columns(layer.output.weight, inner), layer.output.bias)
        attended = F.dropout(attended, layer.hidden_dropout, self.training)
        return cast(Tensor, layer.attention_norm(asking + attended))

    def _feed_forward(self, i: int, x: Tensor, ffn: int) -> Tensor:
        """Run the FFN of layer i with its first `ffn` neurons; x keeps its shape."""
        layer = cast(Layer, self.layers[i])
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


def _path(arch: Architecture) -> Path:
    widths = (w for layer in zip(arch.heads, arch.ffn, strict=True) for w in layer)
    return tuple((width, n // 2 == arch.depth - 1) for n, width in enumerate(widths))


def _rows(tensor: Tensor, count: int) -> Tensor:
    """Return the first rows; the tensor itself when that is all (autograd then saves a copy)."""
    return tensor if count == tensor.shape[0] else tensor[:count]


def _columns(tensor: Tensor, count: int) -> Tensor:
    return tensor if count == tensor.shape[1] else tensor[:, :count]
