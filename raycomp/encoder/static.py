"""A BERT-like encoder with its own heads and FFN width in every layer, as a transformers model.

This file is self-contained (torch and transformers alone): it is copied into every exported folder
as `modeling_raycomp.py`, so that the model loads without raycomp.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

ACTIVATIONS = {
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "swish": F.silu,
    "tanh": torch.tanh,
}


class RaycompConfig(PretrainedConfig):
    """Shapes of a heterogeneous encoder.

    Args:
        layer_heads: attention heads of each layer.
        layer_ffn: FFN neurons of each layer.
        head_size: width of one head; the same in all layers.
        hidden_size: width of the residual stream.
        embedding_size: width of the embeddings; a projection follows where it differs.
        position_offset: first position id of a text (RoBERTa: padding id + 1).
        type_vocab_size: token types; 0 for none (DistilBERT).
        hidden_act: activation of the FFN.
        head_act: activation between pooler and classifier (tanh, gelu, relu).
        drop_before_pooler: dropout also before the pooler (RoBERTa, ELECTRA).
    """

    model_type = "raycomp"

    def __init__(
        self,
        vocab_size: int = 30522,
        hidden_size: int = 768,
        embedding_size: int | None = None,
        head_size: int = 64,
        layer_heads: list[int] | None = None,
        layer_ffn: list[int] | None = None,
        max_position_embeddings: int = 512,
        position_offset: int = 0,
        type_vocab_size: int = 2,
        hidden_act: str = "gelu",
        head_act: str = "tanh",
        drop_before_pooler: bool = False,
        layer_norm_eps: float = 1e-12,
        hidden_dropout: float = 0.1,
        attention_dropout: float = 0.1,
        classifier_dropout: float = 0.1,
        initializer_range: float = 0.02,
        pad_token_id: int | None = 0,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.embedding_size = embedding_size or hidden_size
        self.head_size = head_size
        self.layer_heads = list(layer_heads) if layer_heads is not None else [12] * 12
        self.layer_ffn = list(layer_ffn) if layer_ffn is not None else [3072] * 12
        self.max_position_embeddings = max_position_embeddings
        self.position_offset = position_offset
        self.type_vocab_size = type_vocab_size
        self.hidden_act = hidden_act
        self.head_act = head_act
        self.drop_before_pooler = drop_before_pooler
        self.layer_norm_eps = layer_norm_eps
        self.hidden_dropout = hidden_dropout
        self.attention_dropout = attention_dropout
        self.classifier_dropout = classifier_dropout
        self.initializer_range = initializer_range
        super().__init__(pad_token_id=pad_token_id, **kwargs)

    @property
    def num_hidden_layers(self) -> int:
        """Number of layers."""
        return len(self.layer_heads)

    @property
    def max_positions(self) -> int:
        """Longest text, in tokens."""
        return self.max_position_embeddings - self.position_offset


class Embeddings(nn.Module):
    """Word + position + token type, normalised, projected where the widths differ."""

    def __init__(self, config: RaycompConfig) -> None:
        super().__init__()
        size = config.embedding_size
        self.word = nn.Embedding(config.vocab_size, size, padding_idx=config.pad_token_id)
        self.position = nn.Embedding(config.max_position_embeddings, size)
        self.token_type = nn.Embedding(config.type_vocab_size, size) if config.type_vocab_size else None
        self.norm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.project = nn.Linear(size, config.hidden_size) if size != config.hidden_size else None
        self.position_offset = config.position_offset
        self.dropout = config.hidden_dropout

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None) -> Tensor:
        """Embed (batch, length) tokens into (batch, length, hidden)."""
        first = self.position_offset
        positions = torch.arange(first, first + input_ids.shape[1], device=input_ids.device)
        x = self.word(input_ids) + self.position(positions)
        if self.token_type is not None:
            types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
            x = x + self.token_type(types)
        x = F.dropout(self.norm(x), self.dropout, self.training)
        return x if self.project is None else self.project(x)


class Layer(nn.Module):
    """One post-norm Transformer layer with `heads` heads and `ffn` neurons."""

    def __init__(self, config: RaycompConfig, heads: int, ffn: int) -> None:
        super().__init__()
        hidden, inner = config.hidden_size, heads * config.head_size
        self.heads, self.head_size = heads, config.head_size
        self.query = nn.Linear(hidden, inner)
        self.key = nn.Linear(hidden, inner)
        self.value = nn.Linear(hidden, inner)
        self.output = nn.Linear(inner, hidden)
        self.attention_norm = nn.LayerNorm(hidden, eps=config.layer_norm_eps)
        self.up = nn.Linear(hidden, ffn)
        self.down = nn.Linear(ffn, hidden)
        self.output_norm = nn.LayerNorm(hidden, eps=config.layer_norm_eps)
        self.act = ACTIVATIONS[config.hidden_act]
        self.hidden_dropout = config.hidden_dropout
        self.attention_dropout = config.attention_dropout

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Map (batch, length, hidden) to the same shape; mask (batch, 1, 1, length) or None."""
        batch, length, _ = x.shape

        def split(y: Tensor) -> Tensor:
            return y.view(batch, length, self.heads, self.head_size).transpose(1, 2)

        attended = F.scaled_dot_product_attention(
            split(self.query(x)),
            split(self.key(x)),
            split(self.value(x)),
            attn_mask=mask,
            dropout_p=self.attention_dropout if self.training else 0.0,
        )
        attended = self.output(attended.transpose(1, 2).reshape(batch, length, -1))
        x = self.attention_norm(x + F.dropout(attended, self.hidden_dropout, self.training))
        y = self.down(self.act(self.up(x)))
        return self.output_norm(x + F.dropout(y, self.hidden_dropout, self.training))


class RaycompForSequenceClassification(PreTrainedModel):
    """Encoder, pooler on the first token, classifier."""

    config_class = RaycompConfig
    base_model_prefix = ""

    def __init__(self, config: RaycompConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(
            Layer(config, h, k) for h, k in zip(config.layer_heads, config.layer_ffn, strict=True)
        )
        self.pooler = nn.Linear(config.hidden_size, config.hidden_size)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            module.weight.data.normal_(0.0, self.config.initializer_range)
        if isinstance(module, nn.Linear) and module.bias is not None:
            module.bias.data.zero_()
        if isinstance(module, nn.LayerNorm):
            module.weight.data.fill_(1.0)
            module.bias.data.zero_()

    def get_input_embeddings(self) -> nn.Module:
        """Return the word embeddings."""
        return self.embeddings.word

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the word embeddings."""
        self.embeddings.word = value

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
        x = self.embeddings(input_ids, token_type_ids)
        mask = None if attention_mask is None else attention_mask.bool()[:, None, None, :]
        for layer in self.layers:
            x = layer(x, mask)
        logits = head(
            x[:, 0],
            self.pooler,
            self.classifier,
            ACTIVATIONS[self.config.head_act],
            self.config.classifier_dropout if self.training else 0.0,
            self.config.drop_before_pooler,
        )
        loss = None
        if labels is not None:
            if self.num_labels == 1:
                loss = F.mse_loss(logits.squeeze(-1), labels.to(logits.dtype))
            else:
                loss = F.cross_entropy(logits, labels)
        if return_dict is False:
            return (logits,) if loss is None else (loss, logits)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def head(
    first: Tensor, pooler: nn.Linear, classifier: nn.Linear, act: Any, dropout: float, before: bool
) -> Tensor:
    """Map the first token's state (batch, hidden) to logits (batch, classes)."""
    if before:
        first = F.dropout(first, dropout, dropout > 0)
    pooled = act(pooler(first))
    return classifier(F.dropout(pooled, dropout, dropout > 0))
