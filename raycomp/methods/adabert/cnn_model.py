"""A searched CNN, compiled, as a transformers model: what is exported.

Torch, transformers, `modules.py` and `winograd.py` alone: all three files are copied into every exported
folder (this one as `modeling_raycomp_cnn.py`), so that the model loads without raycomp. Normalisation is
folded into the convolutions, convolutions that run together are one kernel, and the embedding's factors
are one table; `compiler.py` proves that the logits stay.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from .modules import (
    Head,
    Summary,
    average_pool,
    convolve,
    exact_matches,
    max_pool,
    pool_states,
    split_inputs,
)
from .winograd import TransformedKernel, can_use_winograd, convolve_relu

CACHED_TOKENS = 2048  # on a processor: so many tokens' states stay in its cache between two operations


class RaycompCnnConfig(PretrainedConfig):
    """Shape of a compiled CNN.

    Args:
        vocab_size: rows of the word table.
        width: channels of every state.
        max_positions: longest text, in tokens.
        pair: two texts, one into each input node of the first cell; else one text into both.
        sep_token_id: the token that ends the first text of a pair.
        nodes: inner nodes of a cell.
        cells: for each cell what its edges do: `kernels` (sources, targets, size, dilation),
            `averages`, `maxima` and `skips` (source, target).
        structure: canonical JSON of the searched structure.
        exact_match: of a pair, tokens that both texts have are marked.
    """

    model_type = "raycomp_cnn"

    def __init__(
        self,
        vocab_size: int = 30522,
        width: int = 128,
        max_positions: int = 128,
        pair: bool = False,
        sep_token_id: int = 102,
        nodes: int = 3,
        cells: list[dict[str, Any]] | None = None,
        structure: str = "",
        pad_token_id: int | None = 0,
        exact_match: bool = False,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.width = width
        self.max_positions = max_positions
        self.pair = pair
        self.sep_token_id = sep_token_id
        self.nodes = nodes
        self.cells = cells if cells is not None else []
        self.structure = structure
        self.exact_match = exact_match
        super().__init__(pad_token_id=pad_token_id, **kwargs)


class CompiledCell(nn.Module):
    """One cell: merged kernels, one bias a node, pools and skips."""

    def __init__(self, config: Any, plan: dict[str, Any]) -> None:
        super().__init__()
        self.plan, self.nodes, width = plan, config.nodes, config.width
        self.kernels = nn.ParameterList(
            torch.zeros(len(k["targets"]) * width, len(k["sources"]) * width, 1, k["size"])
            for k in plan["kernels"]
        )
        self.bias = nn.Parameter(torch.zeros(config.nodes, width))
        self.summary = Summary(width)
        self._transformed = [TransformedKernel() for _ in plan["kernels"]]
        self.to_channels_last()

    def _apply(self, fn: Any, recurse: bool = True) -> CompiledCell:
        """Move or cast; transformed kernels are not taken along."""
        self._transformed = [TransformedKernel() for _ in self._transformed]
        return super()._apply(fn, recurse)

    def to_channels_last(self) -> None:
        """Lay the kernels out as the states are."""
        for kernel in self.kernels:
            kernel.data = kernel.data.contiguous(memory_format=torch.channels_last)

    def forward(self, states: list[Tensor], mask: Tensor, padded: bool = True) -> Tensor:
        """Map the two input states to the cell's output, each (batch, length, width).

        Args:
            states: c_{k-2} and c_{k-1}.
            mask: (batch, length, 1), 1 on real tokens.
            padded: the mask has zeros.
        """
        states, sums = list(states), _Sums()
        width = self.bias.shape[1]
        for stage in range(1, self.nodes + 1):  # nodes 0 .. stage are ready
            for i, k in enumerate(self.plan["kernels"]):
                if max(1, *k["sources"]) == stage:
                    made = self._convolve(i, [states[s] for s in k["sources"]])
                    for n, target in enumerate(k["targets"]):
                        sums.add(target, made[..., n * width : (n + 1) * width], own=True)
            for name, run in (("averages", average_pool), ("maxima", max_pool), ("skips", _same)):
                now = [(s, t) for s, t in self.plan[name] if max(1, s) == stage]
                pooled = {s: run(states[s], mask) for s, _ in now}
                for source, target in now:
                    sums.add(target, pooled[source], own=False)
            node = sums.of(stage + 1, self.bias[stage - 1])
            states.append(node * mask if padded or node.ndim < mask.ndim else node)
        return self.summary(states[2:], mask, padded)

    def _convolve(self, index: int, read: list[Tensor]) -> Tensor:
        """Apply a merged kernel to the positive parts of the states that it reads."""
        kernel, k = self.kernels[index], self.plan["kernels"][index]
        if can_use_winograd(read[0], kernel, k["dilation"]) and not kernel.is_inference():
            return convolve_relu(read, self._transformed[index].of(kernel), k["size"])
        x = torch.relu(read[0]) if len(read) == 1 else torch.cat(read, -1).relu_()
        return convolve(x, kernel, k["dilation"])


class _Sums:
    """What has come to each node so far."""

    def __init__(self) -> None:
        self._held: dict[int, Tensor] = {}
        self._own: set[int] = set()  # nobody else reads these: they are added to in place

    def add(self, node: int, value: Tensor, *, own: bool) -> None:
        """Add a value; `own`: nobody else reads it."""
        if node not in self._held:
            self._held[node] = value
            if own:
                self._own.add(node)
        elif node in self._own and not torch.is_grad_enabled():
            self._held[node].add_(value)
        else:
            self._held[node] = self._held[node] + value
            self._own.add(node)

    def of(self, node: int, bias: Tensor) -> Tensor:
        """Return a node's sum and its bias: (batch, length, width), or (width,) where nothing came."""
        return self._held[node] + bias if node in self._held else bias


def _same(x: Tensor, mask: Tensor) -> Tensor:
    return x


class RaycompCnnForSequenceClassification(PreTrainedModel):
    """Embedding table, cells, pooling, classifier."""

    config_class = RaycompCnnConfig
    base_model_prefix = ""

    def __init__(self, config: RaycompCnnConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.word = nn.Embedding(config.vocab_size, config.width, padding_idx=config.pad_token_id)
        self.position = nn.Parameter(torch.zeros(config.max_positions, config.width))
        self.mark = nn.Parameter(torch.zeros(config.width)) if config.exact_match else None
        self.norm = nn.LayerNorm(config.width)
        self.cells = nn.ModuleList(CompiledCell(config, plan) for plan in config.cells)
        self.head = Head(config.width, config.num_labels)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Leave everything as it was made: a compiled model is always loaded."""

    def get_input_embeddings(self) -> nn.Module:
        """Return the word embeddings."""
        return self.word

    def embed(self, ids: Tensor, mask: Tensor, padded: bool = True, same: Tensor | None = None) -> Tensor:
        """Embed (batch, length) tokens; 0 where the mask is 0, which `padded` says that it has.

        Args:
            ids, mask: (batch, length).
            padded: the mask has zeros.
            same: (batch, length), true on tokens that bear the mark.

        Raises:
            ValueError: a text is longer than the model has positions.
        """
        most = self.position.shape[0]
        if not torch.jit.is_tracing() and ids.shape[1] > most:
            raise ValueError(
                f"a text of {ids.shape[1]} tokens was given; this model reads at most {most}: "
                "truncate it (the tokenizer beside the model does with truncation=True)"
            )
        found = self.word(ids) + self.position[: ids.shape[1]]
        if self.mark is not None and same is not None:
            found = found + same.unsqueeze(-1) * self.mark
        found = self.norm(found)
        return found * mask.unsqueeze(-1) if padded else found

    def _logits(self, ids: Tensor, real: Tensor, look: bool) -> Tensor:
        """Map (rows, length) tokens to (rows, labels); `look`: at what is padded, to save work."""
        config = self.config
        one, two = split_inputs(ids, real, config.pair, config.sep_token_id)
        padded = not look or not bool(one[1].all() and two[1].all())
        marks = exact_matches(one, two, config.sep_token_id) if config.exact_match else (None, None)
        states = [self.embed(*one, padded, marks[0])]
        states.append(self.embed(*two, padded, marks[1]) if config.pair else states[0])
        mask = (one[1] | two[1]).unsqueeze(-1).to(states[0].dtype)
        for cell in self.cells:
            states = [states[1], cell(states, mask, padded)]
        return self.head(pool_states(states[1], mask))

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput | tuple[Tensor, ...]:
        """Classify (batch, length) tokens; the loss is computed where labels are given."""
        if input_ids is None:
            raise ValueError("input_ids is required")
        real = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        # What is traced or exported has no parts and no branches, for it must serve any batch.
        fixed = torch.jit.is_tracing() or torch.compiler.is_compiling()
        if fixed or input_ids.device.type != "cpu":  # on a GPU a look at the mask would wait for it
            logits = self._logits(input_ids, real.bool(), look=False)
        else:
            rows = max(1, CACHED_TOKENS // max(1, input_ids.shape[1]))
            parts = zip(input_ids.split(rows), real.bool().split(rows), strict=True)
            logits = torch.cat([self._logits(ids, mask, look=True) for ids, mask in parts])
        loss = None
        if labels is not None:
            if self.num_labels == 1:
                loss = F.mse_loss(logits.squeeze(-1), labels.to(logits.dtype))
            else:
                loss = F.cross_entropy(logits, labels)
        if return_dict is False:
            return (logits,) if loss is None else (loss, logits)
        return SequenceClassifierOutput(loss=loss, logits=logits)
