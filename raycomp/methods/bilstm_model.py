"""A bidirectional LSTM with one layer as a transformers model: it is trained and exported.

This file needs torch, transformers and `text_inputs.py` only. Both are copied into every exported folder
(this one as `modeling_raycomp_bilstm.py`), so the model loads without raycomp.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from .text_inputs import join_texts, split_texts


class RaycompBilstmConfig(PretrainedConfig):
    """Shape of a BiLSTM.

    Args:
        vocab_size: Rows of the token table.
        embedding_size: Width of a token's vector, in each channel.
        channels: 2 reads a fixed and a trained token table; 1 the trained one.
        hidden_size: Width of the LSTM in each direction.
        fc_size: Width of the layer before the classifier.
        dropout: Dropout rate before the classifier.
        pair: Whether a row has two texts.
        sep_token_id: Token that ends the first text of a pair.
        max_positions: Length of the longest text, in tokens.
    """

    model_type = "raycomp_bilstm"

    def __init__(
        self,
        vocab_size: int = 30522,
        embedding_size: int = 300,
        channels: int = 2,
        hidden_size: int = 150,
        fc_size: int = 200,
        dropout: float = 0.1,
        pair: bool = False,
        sep_token_id: int = 102,
        max_positions: int = 128,
        pad_token_id: int | None = 0,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.embedding_size = embedding_size
        self.channels = channels
        self.hidden_size = hidden_size
        self.fc_size = fc_size
        self.dropout = dropout
        self.pair = pair
        self.sep_token_id = sep_token_id
        self.max_positions = max_positions
        super().__init__(pad_token_id=pad_token_id, **kwargs)


class RaycompBilstmForSequenceClassification(PreTrainedModel):
    """Token tables, BiLSTM, the last states of both directions, one hidden layer, classifier."""

    config_class = RaycompBilstmConfig
    base_model_prefix = ""

    def __init__(self, config: RaycompBilstmConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
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

    def _init_weights(self, module: nn.Module) -> None:
        """Keep torch's own initialisation."""

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
        features = join_texts([self.encode(ids, text_mask) for ids, text_mask in texts])
        hidden = F.dropout(F.relu(self.fc(features)), config.dropout, self.training)
        logits = self.classifier(hidden)

        loss = None
        if labels is not None and self.num_labels == 1:
            loss = F.mse_loss(logits.squeeze(-1), labels.to(logits.dtype))
        elif labels is not None:
            loss = F.cross_entropy(logits, labels)
        if return_dict is False:
            return (logits,) if loss is None else (loss, logits)

        return SequenceClassifierOutput(loss=loss, logits=logits)
