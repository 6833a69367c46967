"""What small text models share: configuration, the texts of a row, and the forward function.

This file needs torch and transformers only: it is copied next to the code of every exported model that
imports it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput


class TextConfig(PretrainedConfig):
    """Shape of a small text model.

    Args:
        vocab_size: Rows of the token table.
        embedding_size: Width of a token's vector.
        pair: Whether a row has two texts.
        sep_token_id: Token that ends the first text of a pair.
        max_positions: Length of the longest text, in tokens.
    """

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


class TextClassifier(PreTrainedModel):
    """Abstract: a model that maps each text of a row to a vector, and classifies the vectors."""

    base_model_prefix = ""

    def __init__(self, config: TextConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels

    def _init_weights(self, module: nn.Module) -> None:
        """Keep torch's own initialisation."""

    def encode(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the vector of one text, (batch, features).

        Args:
            ids: (batch, length) tokens.
            mask: (batch, length), True on real tokens.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define encode")

    def classify(self, features: Tensor) -> Tensor:
        """Return logits (batch, classes) of the features of a row, (batch, features)."""
        raise NotImplementedError(f"{type(self).__name__} does not define classify")

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
        texts = split_texts(input_ids, mask.bool(), self.config.pair, self.config.sep_token_id)
        logits = self.classify(join_texts([self.encode(ids, text_mask) for ids, text_mask in texts]))

        loss = None
        if labels is not None and self.num_labels == 1:
            loss = F.mse_loss(logits.squeeze(-1), labels.to(logits.dtype))
        elif labels is not None:
            loss = F.cross_entropy(logits, labels)
        if return_dict is False:
            return (logits,) if loss is None else (loss, logits)

        return SequenceClassifierOutput(loss=loss, logits=logits)


def split_texts(ids: Tensor, mask: Tensor, pair: bool, sep: int) -> list[tuple[Tensor, Tensor]]:
    """Return (ids, mask) of each text of a row; each text starts at position 0.

    Args:
        ids: (batch, length) tokens.
        mask: (batch, length), True on real tokens.
        pair: Whether a row has two texts.
        sep: Token that ends the first text; it stays with the first text.
    """
    if not pair:
        return [(ids, mask)]

    is_sep = ((ids == sep) & mask).long()
    seps_before = is_sep.cumsum(1) - is_sep
    first_mask = mask & (seps_before == 0)

    # The second text moves to the left by the length of the first.
    positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    offset = first_mask.sum(1, keepdim=True)
    second_ids = ids.gather(1, (positions + offset).clamp(max=ids.shape[1] - 1))
    second_mask = positions < (mask & (seps_before > 0)).sum(1, keepdim=True)

    return [(ids, first_mask), (second_ids, second_mask)]


def join_texts(vectors: list[Tensor]) -> Tensor:
    """Return the vector of one text, or [u, v, |u - v|, u v] of a pair, (batch, features)."""
    if len(vectors) == 1:
        return vectors[0]
    first, second = vectors
    return torch.cat([first, second, (first - second).abs(), first * second], dim=1)
