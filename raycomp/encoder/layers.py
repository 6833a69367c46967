"""The modules of a BERT-like encoder with its own heads and FFN width in every layer.

This file imports only torch: it is copied next to `modeling_raycomp.py` into every exported folder.
Training does not import transformers' model classes either, which takes seconds.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ACTIVATIONS = {
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "swish": F.silu,
    "tanh": torch.tanh,
}


class DerivedSizes:
    """Sizes that follow from an encoder's configuration; a base of the project's and the exported one."""

    layer_heads: Any
    max_position_embeddings: int
    position_offset: int

    @property
    def num_hidden_layers(self) -> int:
        """Number of layers."""
        return len(self.layer_heads)

    @property
    def max_positions(self) -> int:
        """Longest text, in tokens."""
        return self.max_position_embeddings - self.position_offset


@dataclass(frozen=True)
class EncoderConfig(DerivedSizes):
    """Shapes of a heterogeneous encoder.

    Attributes:
        vocab_size: Number of tokens.
        hidden_size: Width of the residual stream.
        embedding_size: Width of the embeddings; a projection follows where it differs from `hidden_size`.
        head_size: Width of one head; the same in all layers.
        layer_heads: Attention heads of each layer; 0 is a layer without attention.
        layer_ffn: FFN neurons of each layer; 0 is a layer without FFN.
        max_position_embeddings: Rows of the position embeddings.
        position_offset: First position id of a text (RoBERTa: padding id + 1).
        type_vocab_size: Number of token types; 0 for DistilBERT.
        hidden_act: Activation of the FFN, a key of `ACTIVATIONS`.
        head_act: Activation between pooler and classifier, a key of `ACTIVATIONS`.
        drop_before_pooler: Whether dropout is also applied before the pooler (RoBERTa, ELECTRA).
        layer_norm_eps: Epsilon of every LayerNorm.
        hidden_dropout: Dropout rate of embeddings and of the outputs of attention and FFN.
        attention_dropout: Dropout rate of attention weights.
        classifier_dropout: Dropout rate around the pooler.
        initializer_range: Standard deviation of new weights.
        pad_token_id: Id of the padding token.
        num_labels: Number of outputs; 1 for regression.
        word_rank: Columns of the first of two matrices whose product is the word table; None: one matrix.
    """

    vocab_size: int = 30522
    hidden_size: int = 768
    embedding_size: int = 768
    head_size: int = 64
    layer_heads: tuple[int, ...] = (12,) * 12
    layer_ffn: tuple[int, ...] = (3072,) * 12
    max_position_embeddings: int = 512
    position_offset: int = 0
    type_vocab_size: int = 2
    hidden_act: str = "gelu"
    head_act: str = "tanh"
    drop_before_pooler: bool = False
    layer_norm_eps: float = 1e-12
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    classifier_dropout: float = 0.1
    initializer_range: float = 0.02
    pad_token_id: int | None = 0
    num_labels: int = 2
    word_rank: int | None = None

    @classmethod
    def from_config(cls, config: Any) -> EncoderConfig:
        """Read an object with these attributes, or the dict that `to_dict` returned, also after JSON."""
        names = [field.name for field in fields(cls)]
        values = config if isinstance(config, dict) else {name: getattr(config, name) for name in names}
        # JSON has lists; a frozen configuration has tuples.
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-able values; a missing rank is left out."""
        values = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        return values if self.word_rank else {k: v for k, v in values.items() if k != "word_rank"}


class Embeddings(nn.Module):
    """Sum of word, position and token type embeddings; normalised, projected where the widths differ."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        size = config.embedding_size
        rank = config.word_rank
        self.word = nn.Embedding(config.vocab_size, rank or size, padding_idx=config.pad_token_id)
        self.expand = nn.Linear(rank, size, bias=False) if rank else None
        self.position = nn.Embedding(config.max_position_embeddings, size)
        self.token_type = nn.Embedding(config.type_vocab_size, size) if config.type_vocab_size else None
        self.norm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.project = nn.Linear(size, config.hidden_size) if size != config.hidden_size else None
        self.position_offset = config.position_offset
        self.dropout = config.hidden_dropout

    def forward(
        self, input_ids: Tensor, token_type_ids: Tensor | None, table: Tensor | None = None
    ) -> Tensor:
        """Embed (batch, length) tokens into (batch, length, hidden).

        Args:
            input_ids: Token ids, or row numbers of `table` where one is given.
            token_type_ids: 0 in the first text, 1 in the second; None and types beyond the table are 0.
            table: Rows of the word embeddings to read instead of all of them, (rows, embedding size).
        """
        x = self.word(input_ids) if table is None else F.embedding(input_ids, table)
        x = x if self.expand is None else self.expand(x)
        first = self.position_offset
        positions = torch.arange(first, first + input_ids.shape[1], device=input_ids.device)
        x = x + self.position(positions)
        if self.token_type is not None:
            if token_type_ids is None:
                token_type_ids = torch.zeros_like(input_ids)
            # A RoBERTa has one type, but BERT's tokenizer sends two: types beyond the table are 0.
            token_type_ids = token_type_ids * (token_type_ids < self.token_type.num_embeddings)
            x = x + self.token_type(token_type_ids)

        x = dropout(self.norm(x), self.dropout, self.training)
        return x if self.project is None else self.project(x)


class Layer(nn.Module):
    """One post-norm Transformer layer.

    With 0 heads, the layer lacks attention; with 0 neurons, the FFN. A missing half has neither weights
    nor LayerNorm, and its output is its input.
    """

    def __init__(self, config: EncoderConfig, heads: int, ffn: int) -> None:
        super().__init__()
        hidden = config.hidden_size
        inner = heads * config.head_size
        self.heads = heads
        self.head_size = config.head_size
        self.ffn = ffn
        if heads:
            self.query = nn.Linear(hidden, inner)
            self.key = nn.Linear(hidden, inner)
            self.value = nn.Linear(hidden, inner)
            self.output = nn.Linear(inner, hidden)
            self.attention_norm = nn.LayerNorm(hidden, eps=config.layer_norm_eps)
        if ffn:
            self.up = nn.Linear(hidden, ffn)
            self.down = nn.Linear(ffn, hidden)
            self.output_norm = nn.LayerNorm(hidden, eps=config.layer_norm_eps)
        self.act = ACTIVATIONS[config.hidden_act]
        self.hidden_dropout = config.hidden_dropout
        self.attention_dropout = config.attention_dropout

    def forward(self, x: Tensor, mask: Tensor | None, first_only: bool = False) -> Tensor:
        """Map (batch, length, hidden) to the same shape.

        Args:
            x: (batch, length, hidden).
            mask: True on real tokens, (batch, 1, 1, length), or None.
            first_only: Whether to compute the first token only, (batch, 1, hidden).
        """
        return self._feed_forward(self._attention(x, mask, first_only))

    def _attention(self, x: Tensor, mask: Tensor | None, first_only: bool) -> Tensor:
        # Keys and values are computed for all tokens: the first one attends to them.
        queried = x[:, :1] if first_only else x
        if not self.heads:
            return queried

        def split_heads(y: Tensor) -> Tensor:
            return y.view(*y.shape[:2], self.heads, self.head_size).transpose(1, 2)

        query = split_heads(self.query(queried))
        key = split_heads(self.key(x))
        value = split_heads(self.value(x))
        attended = attend(query, key, value, mask, self.attention_dropout if self.training else 0.0)
        attended = self.output(attended.transpose(1, 2).reshape(*queried.shape[:2], -1))
        attended = dropout(attended, self.hidden_dropout, self.training)
        return self.attention_norm(queried + attended)

    def _feed_forward(self, x: Tensor) -> Tensor:
        if not self.ffn:
            return x
        y = self.down(self.act(self.up(x)))
        return self.output_norm(x + dropout(y, self.hidden_dropout, self.training))


class Encoder(nn.Module):
    """Embeddings, layers, pooler on the first token, classifier."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(
            Layer(config, h, k) for h, k in zip(config.layer_heads, config.layer_ffn, strict=True)
        )
        self.pooler = nn.Linear(config.hidden_size, config.hidden_size)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        for module in self.modules():
            initialise_module(module, config.initializer_range)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None, token_type_ids: Tensor | None
    ) -> Tensor:
        """Map (batch, length) tokens to logits (batch, classes)."""
        return classify_batch(self, input_ids, attention_mask, token_type_ids)


def initialise_module(module: nn.Module, deviation: float) -> None:
    """Draw one module's weights as BERT does: matrices of this deviation, biases of 0, norms of 1."""
    with torch.no_grad():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            module.weight.normal_(0.0, deviation)
        if isinstance(module, nn.Linear) and module.bias is not None:
            module.bias.zero_()
        if isinstance(module, nn.LayerNorm):
            module.weight.fill_(1.0)
            module.bias.zero_()


def classify_batch(
    model: Any, input_ids: Tensor, attention_mask: Tensor | None, token_type_ids: Tensor | None
) -> Tensor:
    """Run a model with an encoder's modules and `config`: logits (batch, classes).

    Args:
        model: An `Encoder` or the exported model.
        input_ids: (batch, length) token ids.
        attention_mask: (batch, length), True or 1 on real tokens; None where all are real.
        token_type_ids: (batch, length), 0 in the first text and 1 in the second; None is 0.
    """
    x = model.embeddings(input_ids, token_type_ids)
    mask = None if attention_mask is None else attention_mask.bool()[:, None, None, :]

    for i, layer in enumerate(model.layers):
        # The classifier only reads the first token.
        x = layer(x, mask, first_only=i + 1 == len(model.layers))

    config = model.config
    rate = config.classifier_dropout if model.training else 0.0
    act = ACTIVATIONS[config.head_act]
    return compute_logits(x[:, 0], model.pooler, model.classifier, act, rate, config.drop_before_pooler)


def compute_logits(
    x: Tensor, pooler: nn.Linear, classifier: nn.Linear, act: Any, rate: float, drop_before_pooler: bool
) -> Tensor:
    """Map the first token's state, (batch, hidden), to logits (batch, classes). Rate 0 drops none."""
    if drop_before_pooler:
        x = dropout(x, rate, rate > 0)
    pooled = act(pooler(x))
    return classifier(dropout(pooled, rate, rate > 0))


def dropout(x: Tensor, rate: float, training: bool) -> Tensor:
    """Set each number to 0 with probability `rate` and scale the others up, while training.

    On a CPU torch draws one random number per entry, which takes a tenth of a training step. Here one
    64-bit number decides four entries: the rate is rounded to 1/65536, and the scale fits the rounded
    rate.
    """
    if not training or rate == 0.0:
        return x
    threshold = round(rate * 65536)
    if x.device.type != "cpu" or not 0 < threshold < 65536:
        return F.dropout(x, rate, True)

    count = (x.numel() + 3) // 4
    random_bits = torch.empty(count, dtype=torch.int64).random_(-(2**63), None)
    # Four integers from -32768 to 32767 in each number: those below the threshold drop their entry.
    is_retained = random_bits.view(torch.int16)[: x.numel()].view(x.shape) >= threshold - 32768
    return x * is_retained.to(x.dtype).mul_(65536 / (65536 - threshold))


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, rate: float) -> Tensor:
    """Return scaled dot-product attention, (batch, heads, queries, head size).

    It is torch's own, with two exceptions on a CPU. Torch lacks a fused kernel with dropout there, and
    its random numbers are slow (see `dropout`). Its gradient in bf16 takes 4 to 8 times as long as in
    fp32. Scores and weights are in fp32, as in torch.

    Args:
        query: (batch, heads, queries, head size).
        key: (batch, heads, length, head size).
        value: (batch, heads, length, head size).
        mask: True on real tokens, (batch, 1, 1, length), or None.
        rate: Dropout rate of the attention weights.
    """
    is_cpu = query.device.type == "cpu"
    is_bf16 = query.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu")
    if not is_cpu or (rate == 0.0 and not (is_bf16 and query.requires_grad)):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=rate)

    # Autocast would convert the numbers back to bf16.
    dtype = query.dtype
    with torch.autocast("cpu", enabled=False):
        query, key, value = query.float(), key.float(), value.float()
        if rate == 0.0:
            return F.scaled_dot_product_attention(query, key, value, attn_mask=mask).to(dtype)

        scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        weights = dropout(torch.softmax(scores, dim=-1), rate, True)
        return (weights @ value).to(dtype)
