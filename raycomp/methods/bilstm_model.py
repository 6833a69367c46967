"""A bidirectional LSTM with one layer as a transformers model: it is trained and exported.

This file needs torch, transformers and `text_model.py` only. Both are copied into every exported folder
(this one as `modeling_raycomp_bilstm.py`), so the model loads without raycomp.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence

from .text_model import TextClassifier, TextConfig


class RaycompBilstmConfig(TextConfig):
    """Shape of a BiLSTM.

    Args:
        embedding_size: Width of a token's vector, in each channel.
        channels: 2 reads a fixed and a trained token table; 1 the trained one.
        hidden_size: Width of the LSTM in each direction.
        fc_size: Width of the layer before the classifier.
        dropout: Dropout rate before the classifier.
        **kwargs: Further settings of `TextConfig`.
    """

    model_type = "raycomp_bilstm"

    def __init__(
        self,
        embedding_size: int = 300,
        channels: int = 2,
        hidden_size: int = 150,
        fc_size: int = 200,
        dropout: float = 0.1,
        **kwargs: Any,
    ) -> None:
        self.channels = channels
        self.hidden_size = hidden_size
        self.fc_size = fc_size
        self.dropout = dropout
        super().__init__(embedding_size=embedding_size, **kwargs)


class RaycompBilstmForSequenceClassification(TextClassifier):
    """Token tables, BiLSTM, the last states of both directions, one hidden layer, classifier."""

    config_class = RaycompBilstmConfig

    def __init__(self, config: RaycompBilstmConfig) -> None:
        super().__init__(config)
        self.word = nn.Embedding(config.vocab_size, config.embedding_size)
        self.fixed_word: nn.Embedding | None = None
        if config.channels == 2:
            self.fixed_word = nn.Embedding(config.vocab_size, config.embedding_size)
        width = config.embedding_size * config.channels
        self.lstm = nn.LSTM(width, config.hidden_size, batch_first=True, bidirectional=True)
        texts = 4 if config.pair else 1
        self.fc = nn.Linear(2 * config.hidden_size * texts, config.fc_size)
        self.classifier = nn.Linear(config.fc_size, config.num_labels)
        self.post_init()

    def encode(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the last states of both directions, (batch, 2 hidden)."""
        x = self.word(ids)
        if self.fixed_word is not None:
            x = torch.cat([x, self.fixed_word(ids)], dim=-1)
        # Packed: the backward direction starts at the last real token, and an empty text has one token.
        lengths = mask.sum(1).clamp(min=1).cpu()
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        _, (last, _) = self.lstm(packed)
        return torch.cat([last[0], last[1]], dim=1)

    def classify(self, features: Tensor) -> Tensor:
        """Return logits by the hidden layer and the classifier."""
        hidden = F.dropout(F.relu(self.fc(features)), self.config.dropout, self.training)
        return self.classifier(hidden)
