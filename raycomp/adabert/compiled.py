"""A searched CNN, compiled, as a transformers model: what is exported.

Torch, transformers and `modules.py` alone: both files are copied into every exported folder (this one
as `modeling_raycomp_cnn.py`), so that the model loads without raycomp. Normalisation is folded into
the convolutions, convolutions that run together are one kernel, and the embedding's factors are one
table; `compiler.py` proves that the logits stay.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from .modules import CompiledCell, Head, inputs, pool

CACHED_ROWS = 32  # on a processor: so many rows' states stay in its cache from one operation to the next


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
        super().__init__(pad_token_id=pad_token_id, **kwargs)


class RaycompCnnForSequenceClassification(PreTrainedModel):
    """Embedding table, cells, pooling, classifier."""

    config_class = RaycompCnnConfig
    base_model_prefix = ""

    def __init__(self, config: RaycompCnnConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.word = nn.Embedding(config.vocab_size, config.width, padding_idx=config.pad_token_id)
        self.position = nn.Parameter(torch.zeros(config.max_positions, config.width))
        self.norm = nn.LayerNorm(config.width)
        self.cells = nn.ModuleList(CompiledCell(config, plan) for plan in config.cells)
        self.head = Head(config.width, config.num_labels)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Leave everything as it was made: a compiled model is always loaded."""

    def get_input_embeddings(self) -> nn.Module:
        """Return the word embeddings."""
        return self.word

    def embed(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Embed (batch, length) tokens; 0 where the mask is 0."""
        return self.norm(self.word(ids) + self.position[: ids.shape[1]]) * mask.unsqueeze(-1)

    def _logits(self, ids: Tensor, real: Tensor) -> Tensor:
        """Map (rows, length) tokens to (rows, labels)."""
        config = self.config
        one, two = inputs(ids, real, config.pair, config.sep_token_id)
        states = [self.embed(*one)]
        states.append(self.embed(*two) if config.pair else states[0])
        mask = (one[1] | two[1]).unsqueeze(-1).to(states[0].dtype)
        for cell in self.cells:
            states = [states[1], cell(states, mask)]
        return self.head(pool(states[1], mask))

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
        rows = CACHED_ROWS if input_ids.device.type == "cpu" else max(1, len(input_ids))
        parts = zip(input_ids.split(rows), real.bool().split(rows), strict=True)
        logits = torch.cat([self._logits(ids, mask) for ids, mask in parts])
        loss = None
        if labels is not None:
            if self.num_labels == 1:
                loss = F.mse_loss(logits.squeeze(-1), labels.to(logits.dtype))
            else:
                loss = F.cross_entropy(logits, labels)
        if return_dict is False:
            return (logits,) if loss is None else (loss, logits)
        return SequenceClassifierOutput(loss=loss, logits=logits)
