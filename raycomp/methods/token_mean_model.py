"""A mean of token vectors with a linear classifier as a transformers model: it is trained and exported.

This file needs torch, transformers and `text_inputs.py` only. Both are copied into every exported folder
(this one as `modeling_raycomp_static.py`), so the model loads without raycomp.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from .text_inputs import join_texts, split_texts


class RaycompStaticConfig(PretrainedConfig):
    """Shape of a mean of token vectors.

    Args:
        vocab_size: Rows of the token table.
        embedding_size: Width of a token's vector.
        pair: Whether a row has two texts.
        sep_token_id: Token that ends the first text of a pair.
        max_positions: Length of the longest text, in tokens.
    """

    model_type = "raycomp_static"

    def __init__(
        self,
        vocab_size: int = 30522,
        embedding_size: int = 256,
        pair: bool = False,
        sep_token_id: int = 102,
        max_positions: int = 128,
        pad_token_id: int | None = 0,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.embedding_size = embedding_size
        self.pair = pair
        self.sep_token_id = sep_token_id
        self.max_positions = max_positions
        super().__init__(pad_token_id=pad_token_id, **kwargs)


class RaycompStaticForSequenceClassification(PreTrainedModel):
    """Token table, mean over the real tokens, linear classifier."""

    config_class = RaycompStaticConfig
    base_model_prefix = ""

    def __init__(self, config: RaycompStaticConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.word = nn.Embedding(config.vocab_size, config.embedding_size)
        texts = 4 if config.pair else 1
        self.classifier = nn.Linear(config.embedding_size * texts, config.num_labels)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Keep torch's own initialisation."""

    def encode(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the mean vector of the real tokens, (batch, embedding)."""
        is_real = mask.unsqueeze(-1).to(self.word.weight.dtype)
        return (self.word(ids) * is_real).sum(1) / is_real.sum(1).clamp(min=1)

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
            ValueError: `input_ids` is missing.
        """
        if input_ids is None:
            raise ValueError("input_ids is missing. Pass the tokenizer's output: model(**tokens).")

        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        config = self.config
        texts = split_texts(input_ids, mask.bool(), config.pair, config.sep_token_id)
        logits = self.classifier(join_texts([self.encode(ids, part) for ids, part in texts]))

        loss = None
        if labels is not None and self.num_labels == 1:
            loss = F.mse_loss(logits.squeeze(-1), labels.to(logits.dtype))
        elif labels is not None:
            loss = F.cross_entropy(logits, labels)
        if return_dict is False:
            return (logits,) if loss is None else (loss, logits)

        return SequenceClassifierOutput(loss=loss, logits=logits)
