"""A mean of token vectors with a linear classifier as a transformers model: it is trained and exported.

This file needs torch, transformers and `text_model.py` only. Both are copied into every exported folder
(this one as `modeling_raycomp_static.py`), so the model loads without raycomp.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .text_model import TextClassifier, TextConfig


class RaycompStaticConfig(TextConfig):
    """Shape of a mean of token vectors; see `TextConfig`."""

    model_type = "raycomp_static"

    def __init__(self, **kwargs: Any) -> None:
        # transformers 5 gives a configuration without a constructor of its own one that ignores the base.
        super().__init__(**kwargs)


class RaycompStaticForSequenceClassification(TextClassifier):
    """Token table, mean over the real tokens, linear classifier."""

    config_class = RaycompStaticConfig

    def __init__(self, config: RaycompStaticConfig) -> None:
        super().__init__(config)
        self.word = nn.Embedding(config.vocab_size, config.embedding_size)
        texts = 4 if config.pair else 1
        self.classifier = nn.Linear(config.embedding_size * texts, config.num_labels)
        self.post_init()

    def encode(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the mean vector of the real tokens, (batch, embedding)."""
        is_real = mask.unsqueeze(-1).to(self.word.weight.dtype)
        return (self.word(ids) * is_real).sum(1) / is_real.sum(1).clamp(min=1)

    def classify(self, features: Tensor) -> Tensor:
        """Return logits by the linear classifier."""
        return self.classifier(features)
