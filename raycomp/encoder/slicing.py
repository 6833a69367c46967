"""ALL weight slicing of the project: which part of a weight an architecture uses, and its gradient.

h heads are the first h * head_size rows of query, key and value, and the first columns of the attention
output. k neurons are the first k rows of the FFN's first matrix and the first k columns of its second one
(YOCO-BERT, Section 3.2, "front portion").
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

Slices = tuple[slice, ...]
"""One slice per dimension of a weight."""
WORD_EMBEDDING = "embeddings.word.weight"
"""Name of the word embedding matrix."""
ALL = slice(None)
ATTENTION_MODULES = frozenset(("query", "key", "value", "output", "attention_norm"))


@dataclass(frozen=True)
class EmbeddingRows:
    """Rows of the word embeddings as a leaf tensor: only these rows get a gradient.

    Attributes:
        token_ids: (rows,) int64, sorted.
        rows: (rows, embedding size).
    """

    token_ids: Tensor
    rows: Tensor


@dataclass(frozen=True)
class UsedWeight:
    """The part of a parameter that a step uses, and its gradient.

    Attributes:
        parameter: The whole parameter.
        where: Its slices, or the numbers of its rows, (rows,) int64, each once.
        gradient: Gradient of that part, in the part's shape.
    """

    parameter: Tensor
    where: Slices | Tensor
    gradient: Tensor


class SliceReader(Protocol):
    """How a forward pass reads a slice of a weight."""

    def read(self, parameter: Tensor, where: Slices) -> Tensor:
        """Return the slice, connected to wherever its gradient goes."""
        ...


class AutogradSlices:
    """Reads slices as views: autograd makes gradients of whole parameters, zeros outside of the slice."""

    def read(self, parameter: Tensor, where: Slices) -> Tensor:
        """Return the slice as a view of the parameter."""
        part = parameter[where]
        # Autograd would copy the gradient of a slice that is the whole parameter.
        return parameter if part.shape == parameter.shape else part


class SlicedGradients:
    """Gradients of exactly the weights that a step uses, in one piece of memory.

    Plain autograd makes a gradient of the whole parameter for every slice and adds them up. Here each
    slice is a leaf tensor whose `.grad` is a view of one flat buffer. Autograd adds the gradients of all
    slices in place, and workers sum one tensor. The sums are the same; tests compare them.

    One step:

        gradients.prepare(model.active_parameters(arch), rows, extra=0)
        loss(model(batch, arch, slices=gradients)).backward()
        updater.apply_slices(step, gradients.used, gradients.flat)
        gradients.release()

    Attributes:
        used: The weights of this step with their gradients.
        flat: All gradients, then the extra numbers, (numbers,).
        extra: Further numbers that workers sum with the gradients: a view of the end of `flat`.
    """

    def __init__(self, model: nn.Module) -> None:
        """Own the gradients of a model's parameters.

        Args:
            model: An `ElasticEncoder`. Its parameters are read once: reading all modules in every step
                is slow.
        """
        self._parameters = dict(model.named_parameters())
        self._memory = torch.empty(0)
        self._views: dict[int, Tensor] = {}
        self._bound: list[Tensor] = []
        self.used: list[UsedWeight] = []
        self.flat = self.extra = self._memory

    @torch.no_grad()
    def prepare(
        self, active: Iterable[tuple[str, Slices]], rows: EmbeddingRows | None = None, extra: int = 0
    ) -> None:
        """Reserve zeros for the gradients of a step, and send its gradients there.

        Args:
            active: Name and front slice of every weight that the step uses; each slice contains all
                slices of that weight that the step reads. Frozen parameters are left out.
            rows: The rows of the word embeddings that the step uses; None where those are frozen.
            extra: How many further numbers to reserve.
        """
        self.release()
        names: list[str] = []
        places: list[Slices | Tensor] = []
        parts: list[Tensor] = []
        for name, slices in active:
            parameter = self._parameters[name]
            if name == WORD_EMBEDDING and rows is not None:
                places.append(rows.token_ids)
                parts.append(rows.rows)
            elif parameter.requires_grad:
                places.append(slices)
                parts.append(parameter[slices])
            else:
                continue
            names.append(name)

        views = self._reserve(parts, extra)
        for name, place, view in zip(names, places, views, strict=True):
            parameter = self._parameters[name]
            self.used.append(UsedWeight(parameter, place, view))
            if name == WORD_EMBEDDING and rows is not None:
                rows.rows.grad = view
            else:
                self._bind(parameter, view)

    def read(self, parameter: Tensor, where: Slices) -> Tensor:
        """Return a slice as a leaf tensor whose gradient is added into the buffer."""
        view = self._views.get(id(parameter))
        # A frozen parameter, or a pass outside of a step.
        if view is None:
            return AUTOGRAD_SLICES.read(parameter, where)
        leaf = parameter.detach()[where].requires_grad_()
        leaf.grad = view[where]
        return leaf

    def release(self) -> None:
        """Forget the step: no parameter's `.grad` is a view of the buffer any more."""
        for parameter in self._bound:
            parameter.grad = None
        self._bound = []
        self._views = {}
        self.used = []

    def _bind(self, parameter: Tensor, view: Tensor) -> None:
        """Send a parameter's gradient to a view of the buffer."""
        self._views[id(parameter)] = view
        if view.shape == parameter.shape:
            # Modules such as LayerNorm read it directly; autograd adds to the `.grad` that it finds.
            parameter.grad = view
            self._bound.append(parameter)

    def _reserve(self, parts: Sequence[Tensor], extra: int) -> list[Tensor]:
        """Return views of the buffer, all 0, with the shape and the memory order of each part.

        Args:
            parts: Tensors of one type and device; each is contiguous by rows or by columns.
            extra: How many further numbers to reserve.
        """
        sizes = [part.numel() for part in parts]
        total = sum(sizes) + extra
        like = parts[0]
        if self._memory.numel() < total or self._memory.dtype != like.dtype:
            # The old buffer is freed first: both at once could exceed the memory.
            self.flat = self.extra = self._memory = torch.empty(0)
            self._memory = torch.empty(total, dtype=like.dtype, device=like.device)

        # The buffer is kept from step to step: to touch new pages takes as long as to sum them.
        self.flat = self._memory[:total].zero_()
        self.extra = self.flat[total - extra :]
        views = []
        for part, piece in zip(parts, self.flat[: total - extra].split(sizes), strict=True):
            if part.is_contiguous():
                views.append(piece.view(part.shape))
            else:
                views.append(piece.view(part.t().shape).t())
        return views


AUTOGRAD_SLICES = AutogradSlices()


def front_rows(parameter: Tensor, count: int) -> Slices:
    """Return the slices of the first `count` rows of a parameter (rows, ...)."""
    return (slice(count),) + (ALL,) * (parameter.ndim - 1)


def front_columns(count: int) -> Slices:
    """Return the slices of the first `count` columns of a matrix (rows, columns)."""
    return (ALL, slice(count))


def used_slices(name: str, parameter: Tensor, widths: Mapping[int, tuple[int, int]]) -> Slices | None:
    """Return the slices of a parameter that an architecture uses; None where it uses none of it.

    Args:
        name: Name of the parameter, such as "layers.3.query.weight".
        parameter: The parameter.
        widths: For each layer that runs, rows of its query matrix and neurons of its FFN.
    """
    layer, module, kind = _parse_name(name)
    if layer is None:
        return (ALL,) * parameter.ndim
    if layer not in widths:
        return None

    # A half of width 0 is skipped with its LayerNorm: none of its parameters is used.
    attention_width, ffn = widths[layer]
    width = attention_width if module in ATTENTION_MODULES else ffn
    if width == 0:
        return None
    if module in ("query", "key", "value", "up"):
        return front_rows(parameter, width)
    if module in ("output", "down") and kind == "weight":
        return front_columns(width)
    return (ALL,) * parameter.ndim


@functools.cache
def _parse_name(name: str) -> tuple[int | None, str, str]:
    """Return (layer, module, "weight" or "bias") of a parameter's name; layer None outside the layers."""
    if not name.startswith("layers."):
        return None, "", ""
    # For example "layers.3.query.weight".
    _, layer, module, kind = name.split(".")
    return int(layer), module, kind
