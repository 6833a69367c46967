"""Hints on attention: scores before the softmax (TinyBERT) and relations of states (MiniLM).

Both read query, key and value of student and teacher, which the encoder returns with `attention=True`.
Padding takes no part: neither as a query nor as a key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from raycomp.data.batches import Batch
from raycomp.encoder.interface import AttentionStates, ElasticOutput
from raycomp.training.hints import Average, required_output
from raycomp.training.layer_maps import LayerMap, layer_pairs

Relation = Literal["query-key", "query-query", "key-key", "value-value"]
MINILM_V1: tuple[Relation, ...] = ("query-key", "value-value")
MINILM_V2: tuple[Relation, ...] = ("query-query", "key-key", "value-value")


@dataclass(frozen=True)
class Attention:
    """Match attention scores before the softmax by squared error (TinyBERT, Jiao et al. 2020).

    The error is averaged over heads and real (query, key) pairs of a text, then over texts. The mean of
    TinyBERT's code also counts padded pairs; without padding both are equal.

    Attributes:
        map: Pairs of states, see `layer_maps`; a layer's attention belongs to the state after it.
        over_layers: "sum" (TinyBERT) or "mean" over the pairs of layers.
    """

    map: str | LayerMap = "uniform"
    over_layers: Average = "sum"
    needs_teacher: ClassVar[bool] = True
    needs_hidden: ClassVar[bool] = False
    needs_attention: ClassVar[bool] = True

    def loss(self, student: ElasticOutput, teacher: ElasticOutput | None, batch: Batch) -> Tensor:
        """Return the mean squared error of the mapped layers; see `Hint.loss`.

        Raises:
            ValueError: A layer of the student has another number of heads than its teacher's layer.
        """
        own = required_output(student.attention)
        target = required_output(required_output(teacher).attention)
        pairs = layer_pairs(self.map, student.layers, len(target))
        # State 0 is the embeddings, which no attention belongs to.
        pairs = [(i, j) for i, j in pairs if i > 0 and j > 0]
        divisor = len(pairs) if self.over_layers == "mean" else 1

        total = torch.zeros((), device=student.logits.device)
        for i, j in pairs:
            own_states = _states_of(own, i - 1)
            target_states = _states_of(target, j - 1)
            _check_heads(own_states, target_states)
            total = total + _score_error(own_states, target_states, batch) / divisor
        return total


@dataclass(frozen=True)
class Relations:
    """Match how the tokens of one layer relate to each other, by KL divergence (MiniLM, v1 and v2).

    Wang et al. 2020 and 2021. A relation is softmax(A B' / sqrt(d)) of two states A and B. The loss is
    KL(teacher || student), averaged over heads and tokens and summed over the relations.

    Attributes:
        relations: Pairs of states, such as `MINILM_V1` or `MINILM_V2`.
        heads: Number of relation heads, into which all heads' states are split again (MiniLM v2); None
            keeps the attention heads, of which the student then needs as many as the teacher.
        student_layer: Position among the layers that the student runs; negative counts from the last.
        teacher_layer: Layer of the teacher; negative counts from the last.
    """

    relations: tuple[Relation, ...] = MINILM_V1
    heads: int | None = None
    student_layer: int = -1
    teacher_layer: int = -1
    needs_teacher: ClassVar[bool] = True
    needs_hidden: ClassVar[bool] = False
    needs_attention: ClassVar[bool] = True

    def loss(self, student: ElasticOutput, teacher: ElasticOutput | None, batch: Batch) -> Tensor:
        """Return the summed divergences of the relations; see `Hint.loss`.

        Raises:
            ValueError: The numbers of heads differ, or do not divide the width.
        """
        own = _states_of(required_output(student.attention), self.student_layer)
        target = _states_of(required_output(required_output(teacher).attention), self.teacher_layer)
        # Relations have the size (length, length) for every width of a head. Only the numbers of heads
        # must agree.
        if self.heads is None:
            _check_heads(own, target)
        else:
            own = _split_again(own, self.heads)
            target = _split_again(target, self.heads)

        total = torch.zeros((), device=student.logits.device)
        for relation in self.relations:
            total = total + _divergence(relation, own, target, batch)
        return total


def _score_error(own: AttentionStates, target: AttentionStates, batch: Batch) -> Tensor:
    """Return the squared error of one layer's attention scores, a scalar."""
    difference = _scores(own.query, own.key) - _scores(target.query, target.key)
    real = batch.attention_mask.to(torch.float32)
    is_real_pair = real[:, None, :, None] * real[:, None, None, :]
    error = (difference.square() * is_real_pair).sum((1, 2, 3))

    # A mean per text: long texts do not outweigh short ones, and padding does not count.
    heads = difference.shape[1]
    pairs = real.sum(1).square()
    return (error / (heads * pairs)).sum() / batch.total


def _divergence(
    relation: Relation, own: AttentionStates, target: AttentionStates, batch: Batch
) -> Tensor:
    """Return KL(teacher || student) of one relation, a scalar."""
    first, second = relation.split("-")
    padding_keys = ~batch.attention_mask[:, None, None, :]
    log_own, log_target = (
        torch.log_softmax(
            # Finite: 0 times the difference of two padded entries must be 0, not NaN.
            _scores(getattr(states, first), getattr(states, second)).masked_fill(padding_keys, -1e9),
            dim=-1,
        )
        for states in (own, target)
    )

    divergence = (log_target.exp() * (log_target - log_own)).sum(-1)
    is_real_query = batch.attention_mask[:, None, :].to(torch.float32)
    heads = divergence.shape[1]
    return (divergence * is_real_query).sum() / (heads * batch.total_tokens)


def _scores(first: Tensor, second: Tensor) -> Tensor:
    """Return A B' / sqrt(d) of (batch, heads, length, d) in fp32: (batch, heads, length, length)."""
    return first.float() @ second.float().transpose(-1, -2) * first.shape[-1] ** -0.5


def _split_again(states: AttentionStates, heads: int) -> AttentionStates:
    """Return the states of all heads, concatenated and split into another number of heads.

    Raises:
        ValueError: The number does not divide the width of all heads together.
    """
    width = states.query.shape[1] * states.query.shape[3]
    if width % heads:
        raise ValueError(f"{heads} relation heads do not divide a width of {width}")

    def split(tensor: Tensor) -> Tensor:
        batch_size, _, length, _ = tensor.shape
        return tensor.transpose(1, 2).reshape(batch_size, length, heads, -1).transpose(1, 2)

    return AttentionStates(split(states.query), split(states.key), split(states.value))


def _states_of(attention: Sequence[AttentionStates | None], layer: int) -> AttentionStates:
    """Return the states of a layer.

    Raises:
        ValueError: The layer has 0 heads.
    """
    states = attention[layer]
    if states is None:
        raise ValueError(f"the attention of layer {layer} cannot be matched: its number of heads is 0")
    return states


def _check_heads(own: AttentionStates, target: AttentionStates) -> None:
    own_heads = own.query.shape[1]
    target_heads = target.query.shape[1]
    if own_heads != target_heads:
        raise ValueError(f"the student has {own_heads} heads where the teacher has {target_heads}")
