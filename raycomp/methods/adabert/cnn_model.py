"""A searched CNN, compiled, as a transformers model: the model that is exported.

This file needs torch, transformers, `modules.py` and `winograd.py` only. All three files are copied into
every exported folder (this one as `modeling_raycomp_cnn.py`), so the model loads without raycomp.
Normalisation is folded into the convolutions, convolutions that run at the same time are one kernel, and
the two factors of the embedding are one table; `compiler.py` writes the weights.
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

# On a CPU a batch is computed in parts of this many tokens. The states of a part stay in the CPU's cache
# from one operation to the next.
CACHED_TOKENS = 2048

# Servers such as text-embeddings-inference read these keys of an encoder from config.json.
ENCODER_KEYS = ("hidden_size", "num_hidden_layers", "max_position_embeddings")


class RaycompCnnConfig(PretrainedConfig):
    """Shape of a compiled CNN.

    Args:
        vocab_size: Rows of the token table.
        width: Channels of every state.
        max_positions: Length of the longest text, in tokens.
        pair: Whether a row has two texts, one for each input node of the first cell. Otherwise one text
            goes into both.
        sep_token_id: Token that ends the first text of a pair.
        nodes: Inner nodes of a cell.
        cells: Edges of each cell: `kernels` (sources, targets, size, dilation), `averages`, `maxima` and
            `skips` (source, target).
        structure: Canonical JSON of the searched structure.
        exact_match: Whether tokens that occur in both texts of a pair get an extra embedding.
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
        for name in ENCODER_KEYS:
            kwargs.pop(name, None)
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

    def to_dict(self) -> dict[str, Any]:
        """Return the content of config.json."""
        sizes = (self.width, len(self.cells), self.max_positions)
        return {**super().to_dict(), **dict(zip(ENCODER_KEYS, sizes, strict=True))}


class CompiledCell(nn.Module):
    """One cell: merged kernels, one bias per inner node, pools and skips."""

    def __init__(self, config: Any, plan: dict[str, Any]) -> None:
        """Create the cell with zero weights; `plan` is an entry of `RaycompCnnConfig.cells`."""
        super().__init__()
        width = config.width
        self.plan = plan
        self.nodes = config.nodes
        self.kernels = nn.ParameterList(
            torch.zeros(len(k["targets"]) * width, len(k["sources"]) * width, 1, k["size"])
            for k in plan["kernels"]
        )
        self.bias = nn.Parameter(torch.zeros(config.nodes, width))
        self.summary = Summary(width)
        self._transformed = [TransformedKernel() for _ in plan["kernels"]]
        self.to_channels_last()

    def _apply(self, fn: Any, recurse: bool = True) -> CompiledCell:
        """Move or cast the weights, and drop the transformed kernels, which are computed from them."""
        self._transformed = [TransformedKernel() for _ in self._transformed]
        return super()._apply(fn, recurse)

    def to_channels_last(self) -> None:
        """Give the kernels the memory layout of the states; a convolution then copies neither."""
        for kernel in self.kernels:
            kernel.data = kernel.data.contiguous(memory_format=torch.channels_last)

    def forward(self, states: list[Tensor], mask: Tensor, padded: bool = True) -> Tensor:
        """Map the two input states to the cell's output, each (batch, length, width).

        Args:
            states: Outputs c_{k-2} and c_{k-1} of the two cells before: nodes 0 and 1.
            mask: (batch, length, 1), 1 on real tokens.
            padded: Whether the mask has zeros.
        """
        states = list(states)
        sums = _NodeSums()
        # Level L runs the edges whose source became ready last, and completes node L + 1.
        for level in range(1, self.nodes + 1):
            self._add_kernels(level, states, sums)
            self._add_pools_and_skips(level, states, mask, sums)

            node = sums.total(level + 1, self.bias[level - 1])
            # The bias is not 0 on padding. A node without edges is the bias only, and the mask gives it
            # the shape of a state.
            if padded or node.ndim < mask.ndim:
                node = node * mask
            states.append(node)
        return self.summary(states[2:], mask, padded)

    def _add_kernels(self, level: int, states: list[Tensor], sums: _NodeSums) -> None:
        """Add the outputs of the kernels that run at a level to their targets."""
        width = self.bias.shape[1]
        for i, kernel in enumerate(self.plan["kernels"]):
            if max(1, *kernel["sources"]) != level:
                continue
            output = self._convolve(i, [states[source] for source in kernel["sources"]])
            for n, target in enumerate(kernel["targets"]):
                sums.add(target, output[..., n * width : (n + 1) * width], owned=True)

    def _add_pools_and_skips(
        self, level: int, states: list[Tensor], mask: Tensor, sums: _NodeSums
    ) -> None:
        """Add the pools and skips that run at a level; edges of one source share a result."""
        for name, run in (("averages", average_pool), ("maxima", max_pool), ("skips", _identity)):
            ready = [(source, target) for source, target in self.plan[name] if max(1, source) == level]
            results = {source: run(states[source], mask) for source, _ in ready}
            for source, target in ready:
                sums.add(target, results[source], owned=False)

    def _convolve(self, index: int, sources: list[Tensor]) -> Tensor:
        """Apply a merged kernel to the ReLU of the states that it reads, joined by channels."""
        kernel = self.kernels[index]
        size = self.plan["kernels"][index]["size"]
        dilation = self.plan["kernels"][index]["dilation"]
        # The transformed kernel is cached by the version of the weights, which inference tensors lack.
        if can_use_winograd(sources[0], kernel, dilation) and not kernel.is_inference():
            return convolve_relu(sources, self._transformed[index].of(kernel), size)
        x = torch.relu(sources[0]) if len(sources) == 1 else torch.cat(sources, -1).relu_()
        return convolve(x, kernel, dilation)


class _NodeSums:
    """The sum of the edges into each node, as far as they have run."""

    def __init__(self) -> None:
        self._sums: dict[int, Tensor] = {}
        # Nodes whose sum no other edge reads. Without autograd these can be added to in place.
        self._owned: set[int] = set()

    def add(self, node: int, value: Tensor, *, owned: bool) -> None:
        """Add a value to a node's sum; `owned` says that nothing else reads the value."""
        if node not in self._sums:
            self._sums[node] = value
            if owned:
                self._owned.add(node)
        elif node in self._owned and not torch.is_grad_enabled():
            self._sums[node].add_(value)
        else:
            self._sums[node] = self._sums[node] + value
            self._owned.add(node)

    def total(self, node: int, bias: Tensor) -> Tensor:
        """Return the sum plus the bias, (batch, length, width), or the bias (width,) without edges."""
        return self._sums[node] + bias if node in self._sums else bias


def _identity(x: Tensor, mask: Tensor) -> Tensor:
    return x


class RaycompCnnForSequenceClassification(PreTrainedModel):
    """Embedding table, cells, pooling and classifier.

    Called as any transformers classifier: `model(input_ids=..., attention_mask=...).logits`.
    """

    config_class = RaycompCnnConfig
    base_model_prefix = ""
    # The model lacks attention, so any implementation of it fits.
    _supports_sdpa = True

    def __init__(self, config: RaycompCnnConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.word = nn.Embedding(config.vocab_size, config.width, padding_idx=config.pad_token_id)
        self.position = nn.Parameter(torch.zeros(config.max_positions, config.width))
        self.exact_match = nn.Parameter(torch.zeros(config.width)) if config.exact_match else None
        self.norm = nn.LayerNorm(config.width)
        self.cells = nn.ModuleList(CompiledCell(config, plan) for plan in config.cells)
        self.head = Head(config.width, config.num_labels)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Keep the zeros: the weights of a compiled model are always loaded or copied."""

    def get_input_embeddings(self) -> nn.Module:
        """Return the token table."""
        return self.word

    def embed(
        self, ids: Tensor, mask: Tensor, padded: bool = True, matches: Tensor | None = None
    ) -> Tensor:
        """Embed (batch, length) tokens into (batch, length, width), 0 where the mask is 0.

        Args:
            ids: (batch, length) tokens.
            mask: (batch, length), true on real tokens.
            padded: Whether the mask has zeros.
            matches: (batch, length), true on tokens that also occur in the other text.

        Raises:
            ValueError: A text is longer than the model has positions.
        """
        max_length = self.position.shape[0]
        if not torch.jit.is_tracing() and ids.shape[1] > max_length:
            raise ValueError(
                f"The input has {ids.shape[1]} tokens, and this model reads at most {max_length}. "
                "Truncate the text: the tokenizer in the model's folder does it with truncation=True."
            )
        x = self.word(ids) + self.position[: ids.shape[1]]
        if self.exact_match is not None and matches is not None:
            x = x + matches.unsqueeze(-1) * self.exact_match
        x = self.norm(x)
        return x * mask.unsqueeze(-1) if padded else x

    def _logits(self, ids: Tensor, real: Tensor, inspect_mask: bool) -> Tensor:
        """Map (rows, length) tokens to (rows, labels) logits.

        Args:
            ids: (rows, length) tokens.
            real: (rows, length), true on real tokens.
            inspect_mask: Whether to look for padding, and to leave out the masks without it. A model
                that is traced must not branch on values.
        """
        config = self.config
        first, second = split_inputs(ids, real, config.pair, config.sep_token_id)
        first_matches: Tensor | None = None
        second_matches: Tensor | None = None
        if config.exact_match:
            first_matches, second_matches = exact_matches(first, second, config.sep_token_id)

        padded = not inspect_mask or not bool(first[1].all() and second[1].all())
        states = [self.embed(*first, padded, first_matches)]
        states.append(self.embed(*second, padded, second_matches) if config.pair else states[0])
        mask = (first[1] | second[1]).unsqueeze(-1).to(states[0].dtype)
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
        """Classify (batch, length) tokens; with `labels` (batch,) the output has a loss.

        Raises:
            ValueError: `input_ids` is missing, or a text is longer than the model has positions.
        """
        if input_ids is None:
            raise ValueError("input_ids is missing. Pass the tokenizer's output: model(**tokens).")
        real = torch.ones_like(input_ids) if attention_mask is None else attention_mask

        # A traced or exported model must serve any batch, so it has neither parts nor branches. On
        # a GPU, inspecting the mask would wait for the GPU.
        is_traced = torch.jit.is_tracing() or torch.compiler.is_compiling()
        if is_traced or input_ids.device.type != "cpu":
            logits = self._logits(input_ids, real.bool(), inspect_mask=False)
        else:
            rows = max(1, CACHED_TOKENS // max(1, input_ids.shape[1]))
            parts = zip(input_ids.split(rows), real.bool().split(rows), strict=True)
            logits = torch.cat([self._logits(ids, mask, inspect_mask=True) for ids, mask in parts])

        loss = None
        if labels is not None:
            if self.num_labels == 1:
                loss = F.mse_loss(logits.squeeze(-1), labels.to(logits.dtype))
            else:
                loss = F.cross_entropy(logits, labels)
        if return_dict is False:
            return (logits,) if loss is None else (loss, logits)
        return SequenceClassifierOutput(loss=loss, logits=logits)
