"""Static embeddings (in the style of Model2Vec) with a linear head: the fastest text model.

Every token of the vocabulary goes through the teacher once, with its special tokens around it. The mean
of its last states, cut to principal components, is the token's vector. It is multiplied by a / (a + p),
where p is the frequency of the token in the training text (SIF weighting). A text is the mean of its
tokens' vectors, in any order; a linear head is trained on the labels.

refs: S. Tulkens, T. van Dongen. Model2Vec: Fast State-of-the-Art Static Embeddings. 2024.
https://github.com/MinishLab/model2vec
S. Arora, Y. Liang, T. Ma. A Simple but Tough-to-Beat Baseline for Sentence Embeddings. ICLR 2017 (SIF).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from transformers import PreTrainedModel

from raycomp.data.tokens import TokenSplit
from raycomp.encoder.elastic import ElasticEncoder
from raycomp.methods.context import RunContext
from raycomp.methods.principal_components import principal_components
from raycomp.methods.tasks import TrainingTask
from raycomp.methods.text_students import TextStudentMethod, TextStudentSettings, TextStudentTask
from raycomp.methods.token_mean_model import (
    RaycompStaticConfig,
    RaycompStaticForSequenceClassification,
)
from raycomp.training.hints import LABELS_ONLY, Logits, Objective

VOCABULARY_BATCH = 512
"""Tokens that the teacher reads at once."""


class StaticSettings(TextStudentSettings):
    """Static embeddings (Model2Vec-style) with a linear head; one model, whose size no budget binds."""

    method: ClassVar[str] = "static"
    title: ClassVar[str] = "Static embeddings (Model2Vec-style) + linear head"
    length_keys: ClassVar[tuple[str, ...]] = ()

    learning_rate: float = Field(
        1e-2, gt=0, lt=10, description="Largest learning rate. It falls linearly to 0."
    )
    augment: bool = Field(False, description="Whether the training text is augmented as [augment] says.")
    dimension: int = Field(256, ge=1, description="Largest width of a token's vector.")
    sif: float = Field(
        1e-3, gt=0, description="Weight a of the SIF weighting: frequent tokens count less."
    )
    tune: bool = Field(False, description="Whether the tokens' vectors are trained with the head.")
    distill: bool = Field(
        False, description="Whether the head also learns from the teacher's predictions."
    )


class Static(TextStudentMethod):
    """Static embeddings with a linear head."""

    settings: ClassVar[type[TextStudentSettings]] = StaticSettings
    tasks: ClassVar[Mapping[str, type[TrainingTask]]] = {"static-student": TextStudentTask}
    encoder_prefix: ClassVar[str] = "layers."

    def deployment(self, context: RunContext) -> str:
        """Return the width of the vectors as a name."""
        return f"dimension{_config_of(context).embedding_size}"

    def objective(self, context: RunContext) -> Objective:
        """Return the labels, and the teacher's predictions where the job asks for them."""
        if context.job.settings(StaticSettings).distill:
            return Objective((*LABELS_ONLY.terms, (1.0, Logits())))
        return LABELS_ONLY

    def build_model(self, context: RunContext) -> PreTrainedModel:
        """Return the model; the vectors are frozen where the job does not tune them."""
        model = RaycompStaticForSequenceClassification(_config_of(context))
        model.word.requires_grad_(context.job.settings(StaticSettings).tune)
        return model

    def start_weights(self, context: RunContext) -> dict[str, Tensor]:
        """Return the tokens' vectors and a random head."""
        torch.manual_seed(context.job.run.seed)
        settings = context.job.settings(StaticSettings)
        weights = {k: v.clone() for k, v in self.build_model(context).state_dict().items()}
        states = read_vocabulary(context.teacher().eval(), context.tokenizer, context.pad_id)
        vectors = principal_components(states, weights["word.weight"].shape[1])
        # One scale for all vectors: the head's learning rate then fits every teacher.
        vectors = vectors / vectors.norm(dim=1).mean()
        importance = sif_weights(context.tokens("train"), len(vectors), settings.sif)
        # Special tokens are in every text and tell texts apart in nothing.
        importance[torch.tensor(sorted(set(context.tokenizer.all_special_ids)))] = 0.0
        weights["word.weight"] = (vectors * importance[:, None]).contiguous()
        return weights

    def start_tokens(self, context: RunContext) -> int:
        """Return the tokens of the vocabulary, each with the special tokens around it."""
        return 3 * context.config.vocab_size

    def forward_flops(self, context: RunContext) -> float:
        """Return the FLOPs of the mean and of the head."""
        config = _config_of(context)
        head = 2 * config.embedding_size * (1 + 3 * config.pair) * config.num_labels
        return float(config.embedding_size * context.flops_length + head)


def _config_of(context: RunContext) -> RaycompStaticConfig:
    """Return the shape of a job's model."""
    encoder = context.config
    return RaycompStaticConfig(
        vocab_size=encoder.vocab_size,
        embedding_size=min(context.job.settings(StaticSettings).dimension, encoder.hidden_size),
        pair=context.facts.pair,
        sep_token_id=int(context.facts.sep_token_id or 0),
        max_positions=min(context.job.task.max_length, encoder.max_positions),
        pad_token_id=context.pad_id,
        num_labels=context.facts.num_labels,
    )


@torch.inference_mode()
def read_vocabulary(model: ElasticEncoder, tokenizer: Any, pad_id: int) -> Tensor:
    """Return the mean of the last states of each token of the vocabulary, (tokens, hidden).

    Args:
        model: The teacher.
        tokenizer: Its tokenizer, which names the tokens around a text.
        pad_id: Token that pads a batch.
    """
    # RoBERTa and XLM-R have both; a tokenizer without them gives the token by itself.
    around = [getattr(tokenizer, name) for name in ("cls_token_id", "sep_token_id")]
    before = [token for token in around[:1] if token is not None]
    after = [token for token in around[1:] if token is not None]
    rows = []

    for first in range(0, model.config.vocab_size, VOCABULARY_BATCH):
        tokens = range(first, min(first + VOCABULARY_BATCH, model.config.vocab_size))
        ids = torch.tensor([[*before, token, *after] for token in tokens])
        batch = SimpleNamespace(
            input_ids=ids, attention_mask=torch.ones_like(ids).bool(), token_type_ids=ids * 0
        )
        states = cast(tuple[Tensor, ...], model(batch, None, hidden=True).hidden)
        rows.append(states[-1].float().mean(1))

    return torch.cat(rows).clone()


def sif_weights(tokens: TokenSplit, vocab_size: int, a: float) -> Tensor:
    """Return a / (a + p) of each token, with its frequency p in a text, (vocabulary,)."""
    counts = np.bincount(np.asarray(tokens.input_ids), minlength=vocab_size)[:vocab_size]
    frequency = torch.from_numpy(counts / counts.sum()).float()
    return a / (a + frequency)
