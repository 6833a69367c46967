"""The encoder as a transformers model, as it is exported.

This file imports only torch, transformers and `layers.py`. Both files are copied into every exported
folder (this one as `modeling_raycomp.py`): the model loads without raycomp.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from .layers import DerivedSizes, Encoder, classify_batch, initialise_module


class RaycompConfig(DerivedSizes, PretrainedConfig):
    """Shapes of a heterogeneous encoder.

    The arguments are the attributes of `layers.EncoderConfig`.
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
        word_rank: int | None = None,
        **kwargs: Any,
    ) -> None:
        # Written for readers of config.json, such as text-embeddings-inference; here it is a property.
        kwargs.pop("num_hidden_layers", None)
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
        self.word_rank = word_rank
        super().__init__(pad_token_id=pad_token_id, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of config.json."""
        return {**super().to_dict(), "num_hidden_layers": self.num_hidden_layers}


class RaycompForSequenceClassification(PreTrainedModel):
    """Encoder, pooler on the first token, classifier."""

    config_class = RaycompConfig
    base_model_prefix = ""
    # The layers call torch's scaled_dot_product_attention, so attn_implementation="sdpa" is accepted.
    _supports_sdpa = True

    def __init__(self, config: RaycompConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        for name, part in Encoder(config).named_children():
            self.add_module(name, part)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        initialise_module(module, self.config.initializer_range)

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
        """Classify (batch, length) tokens; the loss is computed where labels are given.

        Args:
            input_ids: (batch, length) token ids.
            attention_mask: (batch, length), 1 on real tokens; None where all are real.
            token_type_ids: (batch, length), 0 in the first text and 1 in the second; None is 0.
            labels: (batch,) int64 classes, or float targets for regression.
            return_dict: False returns a tuple.
            **kwargs: Arguments of other models, which are ignored.

        Raises:
            ValueError: input_ids is missing.
        """
        if input_ids is None:
            raise ValueError("input_ids is required")
        logits = classify_batch(self, input_ids, attention_mask, token_type_ids)
        loss = None
        if labels is not None and self.num_labels == 1:
            loss = F.mse_loss(logits.squeeze(-1), labels.to(logits.dtype))
        elif labels is not None:
            loss = F.cross_entropy(logits, labels)

        if return_dict is False:
            return (logits,) if loss is None else (loss, logits)
        return SequenceClassifierOutput(loss=loss, logits=logits)
