"""What the elastic encoder reads and returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor


class TokenBatch(Protocol):
    """Fields of a batch that the encoder reads, each (batch, length)."""

    @property
    def input_ids(self) -> Tensor:
        """Token ids."""
        ...

    @property
    def attention_mask(self) -> Tensor:
        """True on real tokens."""
        ...

    @property
    def token_type_ids(self) -> Tensor:
        """0 in the first text, 1 in the second."""
        ...


def takes_token_types(config: Any) -> bool:
    """Return whether the model of a configuration tells the two texts of a pair apart by token types."""
    return int(getattr(config, "type_vocab_size", 0) or 0) > 1


def model_inputs(config: Any, batch: TokenBatch) -> dict[str, Tensor]:
    """Return the arguments of a transformers model: token types only where the model has them."""
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    if takes_token_types(config):
        inputs["token_type_ids"] = batch.token_type_ids
    return inputs


def logits_of(model: Any, batch: TokenBatch) -> Tensor:
    """Return the logits of a transformers model, (batch, classes)."""
    logits: Tensor = model(**model_inputs(model.config, batch)).logits
    return logits


@dataclass(frozen=True)
class AttentionStates:
    """Query, key and value of one layer, each (batch, heads, length, head size)."""

    query: Tensor
    key: Tensor
    value: Tensor


@dataclass(frozen=True)
class ElasticOutput:
    """Result of a forward pass.

    Attributes:
        logits: (batch, classes).
        hidden: Embeddings and the output of each layer, each (batch, length, hidden), where asked for.
        layers: Indices of the layers that ran, ascending.
        attention: States of each layer's attention, where asked for; None in a layer without heads.
    """

    logits: Tensor
    hidden: tuple[Tensor, ...] | None = None
    layers: tuple[int, ...] = ()
    attention: tuple[AttentionStates | None, ...] | None = None
