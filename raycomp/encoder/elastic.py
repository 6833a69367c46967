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

from raycomp.encoder.architecture import Architecture
from raycomp.encoder.layers import (
    ACTIVATIONS,
    Embeddings,
    Encoder,
    EncoderConfig,
    Layer,
    attend,
    compute_logits,
    dropout,
)
from raycomp.errors import UserError

if TYPE_CHECKING:
    from raycomp.encoder.static_model import RaycompForSequenceClassification


class TokenBatch(Protocol):
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
class EmbeddingRows:
    """Rows of the word embeddings as a leaf of their own, which gathers their gradient alone.

    Attributes:
        words: (words,) int64, sorted ids.
        rows: (words, embedding size).
    """

    words: Tensor
    rows: Tensor


@dataclass(frozen=True)
class ElasticOutput:
    """Result of a forward pass.

    Attributes:
        logits: (batch, classes).
        hidden: Embeddings and the output of each layer, each (batch, length, hidden), where asked for.
        layers: Indices of the layers that ran, ascending.
    """

    logits: Tensor
    hidden: tuple[Tensor, ...] | None = None
    layers: tuple[int, ...] = ()


Slices = tuple[slice, ...]
WORD_EMBEDDING = "embeddings.word.weight"
"""The name of the table of word embeddings."""
LayerPrefix = tuple[tuple[int, bool], ...]
"""The half layers of an architecture: heads or neurons, and whether the layer is its last."""


class ElasticEncoder(nn.Module):
    """A super-network: every sub-network is a front slice of these weights."""

    def __init__(self, full: Encoder | RaycompForSequenceClassification) -> None:
        """Take over the modules of a full-size static model (they are shared, not copied)."""
        super().__init__()
        self.config = EncoderConfig.from_config(full.config)
        self.embeddings: Embeddings = full.embeddings
        self.layers = full.layers
        self.pooler: nn.Linear = full.pooler
        self.classifier: nn.Linear = full.classifier
        self.classifier_dropout = self.config.classifier_dropout
        self.masks_heads: list[Tensor] | None = None  # set while importance is measured
        self._targets: dict[int, Tensor] = {}  # by a parameter's id: where gradients of slices go
        self.training = full.training  # of one mode with its modules
        self._named = dict(self.named_parameters())  # once: to walk the modules takes long

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

    def use_column_major_layout(self) -> None:
        """Lay the matrices that are sliced by columns by columns: every slice is one piece of memory."""
        for layer in self._layers():
            for linear in (layer.output, layer.down):
                linear.weight.data = linear.weight.data.t().contiguous().t()

    def collect(self, targets: dict[str, Tensor]) -> None:
        """Have the next step's gradients added into these tensors.

        Args:
            targets: by name of a parameter; of one that is sliced, in the shape of a front slice that
                holds all slices to come.
        """
        self._targets = {}
        for name, parameter in self._named.items():
            target = targets.get(name)
            if target is not None:
                self._targets[id(parameter)] = target
            whole = target is not None and target.shape == parameter.shape
            parameter.grad = target if whole else None  # autograd adds to what it finds there

    def take_embedding_rows(self, ids: Tensor) -> EmbeddingRows | None:
        """Take the words with these ids out of the embeddings; None where those are not trained."""
        weight = self.embeddings.word.weight
        if not weight.requires_grad:
            return None
        words = ids.unique()
        return EmbeddingRows(words, weight.detach()[words].requires_grad_())

    def embed(self, batch: TokenBatch, table: EmbeddingRows | None = None) -> Tensor:
        """Return the embeddings, (batch, length, hidden): the same for every slice.

        Args:
            batch: as for `forward`.
            table: at least the words of the batch, which are read from there.
        """
        if table is None:
            return cast(Tensor, self.embeddings(batch.input_ids, batch.token_type_ids))
        places = torch.searchsorted(table.words, batch.input_ids)
        return cast(Tensor, self.embeddings(places, batch.token_type_ids, table.rows))

    def forward(
        self,
        batch: TokenBatch,
        arch: Architecture | None = None,
        hidden: bool = False,
        embedded: Tensor | None = None,
    ) -> ElasticOutput:
        """Run the slice `arch` (None: all of it).

        Args:
            batch: input_ids, attention_mask (bool) and token_type_ids, each (batch, length).
            arch: which front slices to use.
            hidden: also return the embeddings and each layer's output, (batch, length, hidden).
            embedded: what `embed` returned for this batch, where several slices share it.

        Raises:
            UserError: the architecture is larger than the network.
        """
        arch = arch or self.largest
        self.check_fits(arch)
        x = self.embed(batch) if embedded is None else embedded
        states = [x]
        mask = batch.attention_mask[:, None, None, :]
        for i in range(arch.depth):
            first = i == arch.depth - 1 and not hidden
            x = self._attention(i, x, mask, arch.heads[i], first)
            x = self._feed_forward(i, x, arch.ffn[i])
            states.append(x)
        layers = tuple(range(arch.depth))
        return ElasticOutput(self._compute_logits(x), tuple(states) if hidden else None, layers)

    def forward_many(self, batch: TokenBatch, archs: Sequence[Architecture]) -> Tensor:
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
            self.check_fits(arch)
        x = self.embed(batch)
        mask = batch.attention_mask[:, None, None, :]
        paths = {i: _layer_prefix(arch) for i, arch in enumerate(archs)}
        logits = {i: self._compute_logits(y) for i, y in self._branches(x, mask, 0, paths)}
        return torch.stack([logits[i] for i in range(len(archs))])

    def _branches(
        self, x: Tensor, mask: Tensor, done: int, paths: dict[int, LayerPrefix]
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield the last state of each path, (batch, 1, hidden), by its number.

        Args:
            x: (batch, length, hidden), what all these paths have after `done` half layers.
            mask: (batch, 1, 1, length).
            done: half layers that are behind x.
            paths: those that began alike, by number.
        """
        parted: dict[tuple[int, bool], dict[int, LayerPrefix]] = {}
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

    def _compute_logits(self, x: Tensor) -> Tensor:
        return compute_logits(
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
            z = F.linear(y, self._rows(linear.weight, inner), self._rows(linear.bias, inner))
            return z.view(*y.shape[:2], heads, layer.head_size).transpose(1, 2)

        rate = layer.attention_dropout if self.training else 0.0
        asked, keys, values = split(layer.query, asking), split(layer.key, x), split(layer.value, x)
        attended = attend(asked, keys, values, mask, rate)
        if self.masks_heads is not None:
            attended = attended * self.masks_heads[i].view(1, -1, 1, 1)
        attended = attended.transpose(1, 2).reshape(*asking.shape[:2], inner)
        attended = F.linear(attended, self._columns(layer.output.weight, inner), layer.output.bias)
        attended = dropout(attended, layer.hidden_dropout, self.training)
        return cast(Tensor, layer.attention_norm(asking + attended))

    def _feed_forward(self, i: int, x: Tensor, ffn: int) -> Tensor:
        """Run the FFN of layer i with its first `ffn` neurons; x keeps its shape."""
        layer = cast(Layer, self.layers[i])
        y = layer.act(F.linear(x, self._rows(layer.up.weight, ffn), self._rows(layer.up.bias, ffn)))
        y = F.linear(y, self._columns(layer.down.weight, ffn), layer.down.bias)
        return cast(Tensor, layer.output_norm(x + dropout(y, layer.hidden_dropout, self.training)))

    def _rows(self, parameter: Tensor, count: int) -> Tensor:
        """Return the first rows of a parameter."""
        return self._part(parameter, (slice(count),) + (slice(None),) * (parameter.ndim - 1))

    def _columns(self, parameter: Tensor, count: int) -> Tensor:
        """Return the first columns of a parameter."""
        return self._part(parameter, (slice(None), slice(count)))

    def _part(self, parameter: Tensor, where: Slices) -> Tensor:
        """Return a slice; where `collect` named a target, as a leaf that gathers its gradient in there.

        Autograd itself would make a gradient of the whole parameter, zeros but for the slice, for every
        slice, and add them up. The same sums; `tests/unit/train/test_slices.py` holds them equal.
        """
        target = self._targets.get(id(parameter))
        if target is not None and torch.is_grad_enabled():
            leaf = parameter.detach()[where].requires_grad_()
            leaf.grad = target[where]
            return leaf
        part = parameter[where]  # autograd would copy the whole of a slice that is all
        return parameter if part.shape == parameter.shape else part

    def active_parameters(self, arch: Architecture) -> list[tuple[str, Slices]]:
        """Return (name, slices) of exactly the weights that `arch` uses, in a fixed order."""
        self.check_fits(arch)
        found: list[tuple[str, Slices]] = []
        for name, parameter in self._named.items():
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
        from raycomp.encoder.static_model import RaycompConfig, RaycompForSequenceClassification

        shapes = {"layer_heads": list(arch.heads), "layer_ffn": list(arch.ffn)}
        model = RaycompForSequenceClassification(RaycompConfig(**self.config.to_dict() | shapes))
        state = {
            name: self._named[name][where].detach().cpu().clone()
            for name, where in self.active_parameters(arch)
        }
        model.load_state_dict(state, strict=True)
        return cast(RaycompForSequenceClassification, model.eval())

    def check_fits(self, arch: Architecture) -> None:
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


def _layer_prefix(arch: Architecture) -> LayerPrefix:
    widths = (w for layer in zip(arch.heads, arch.ffn, strict=True) for w in layer)
    return tuple((width, n // 2 == arch.depth - 1) for n, width in enumerate(widths))
