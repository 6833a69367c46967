"""BiLSTM-soft: a one-layer bidirectional LSTM that matches the teacher's logits.

The last states of both directions go through a hidden layer of ReLU to the classifier. The two texts of a
pair share the LSTM, and are joined as [u, v, |u - v|, u v]. The loss is the mean squared error of the
logits; no label is read. Differences: the token tables are the teacher's, cut to `embedding` dimensions
by principal components (the paper: word2vec); augmentation is that of [augment]; AdamW.

refs: R. Tang, Y. Lu, L. Liu, L. Mou, O. Vechtomova, J. Lin. Distilling Task-Specific Knowledge from BERT
into Simple Neural Networks. 2019. https://arxiv.org/abs/1903.12136
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import AfterValidator, Field
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from raycomp.config.section import choices
from raycomp.data.batches import Batch
from raycomp.encoder.interface import ElasticOutput
from raycomp.methods.bilstm_model import (
    RaycompBilstmConfig,
    RaycompBilstmForSequenceClassification,
)
from raycomp.methods.context import RunContext
from raycomp.methods.principal_components import principal_components
from raycomp.methods.tasks import TrainingTask
from raycomp.methods.text_students import TextStudentMethod, TextStudentSettings, TextStudentTask
from raycomp.training.hints import Labels, Objective, required_output

AUTO_RATES = {"adamw": 1e-3, "adadelta": 1.0}
"""Learning rate of each optimizer; that of Adadelta is the paper's."""


def _check_rate(rate: float | Literal["auto"]) -> float | Literal["auto"]:
    if rate != "auto" and not 0 < rate < 10:
        raise ValueError('it must be "auto", or a number above 0 and below 10')
    return rate


LearningRate = Annotated[float | Literal["auto"], AfterValidator(_check_rate)]


class BilstmSettings(TextStudentSettings):
    """BiLSTM-soft; one model, whose size no budget binds."""

    method: ClassVar[str] = "bilstm"
    title: ClassVar[str] = "BiLSTM-soft (teacher's embeddings)"

    # Other small text models have numbers only.
    learning_rate: LearningRate = Field(  # type: ignore[assignment]
        "auto",
        description=choices(
            "Largest learning rate. It falls linearly to 0.",
            {"auto": "0.001 with `adamw`, and 1.0 with `adadelta` (the paper's)"},
        ),
    )
    hidden: int = Field(150, ge=1, description="Width of the LSTM in each direction: 150 or 300.")
    fc: int = Field(200, ge=1, description="Width of the layer before the classifier: 200 or 400.")
    embedding: int = Field(300, ge=1, description="Largest width of a token's vector in each channel.")
    channels: Literal[1, 2] = Field(
        2,
        description=choices(
            "Token tables.",
            {"2": "a fixed and a trained one (the released code's form)", "1": "a trained one"},
        ),
    )
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout rate before the classifier.")
    labels_weight: float = Field(
        0.0,
        ge=0,
        description="Weight of the labels. The released code's form for one text is 1.",
    )
    optimizer: Literal["adamw", "adadelta"] = Field(
        "adamw",
        description=choices(
            "Optimizer.",
            {"adamw": "AdamW", "adadelta": "Adadelta with rho = 0.95 (the released code's form)"},
        ),
    )

    @property
    def largest_rate(self) -> float:
        """The largest learning rate, that of the optimizer where the job leaves it open."""
        return AUTO_RATES[self.optimizer] if self.learning_rate == "auto" else self.learning_rate

    def identity_values(self) -> dict[str, Any]:
        """Return the learning rate as the number that earlier versions wrote."""
        return {"learning_rate": self.largest_rate}


@dataclass(frozen=True)
class LogitDistance:
    """Mean squared error of the logits, over classes and rows."""

    needs_teacher: ClassVar[bool] = True
    needs_hidden: ClassVar[bool] = False
    needs_attention: ClassVar[bool] = False

    def loss(self, student: ElasticOutput, teacher: ElasticOutput | None, batch: Batch) -> Tensor:
        """Return the mean squared error; see `Hint.loss`."""
        target = required_output(teacher).logits.float()
        error = F.mse_loss(student.logits.float(), target, reduction="sum")
        return error / (batch.total * target.shape[-1])


class Bilstm(TextStudentMethod):
    """BiLSTM-soft."""

    settings: ClassVar[type[TextStudentSettings]] = BilstmSettings
    tasks: ClassVar[Mapping[str, type[TrainingTask]]] = {"bilstm-student": TextStudentTask}
    encoder_prefix: ClassVar[str] = "lstm."

    def deployment(self, context: RunContext) -> str:
        """Return the width of the LSTM as a name."""
        return f"hidden{context.job.settings(BilstmSettings).hidden}"

    def objective(self, context: RunContext) -> Objective:
        """Return the error of the logits, and the labels where they have a weight."""
        weight = context.job.settings(BilstmSettings).labels_weight
        if weight == 0:
            return Objective(((1.0, LogitDistance()),))
        return Objective(((1.0, LogitDistance()), (weight, Labels())))

    def build_model(self, context: RunContext) -> PreTrainedModel:
        """Return the BiLSTM; the token table of the first channel is frozen."""
        model = RaycompBilstmForSequenceClassification(_config_of(context))
        if model.fixed_word is not None:
            model.fixed_word.requires_grad_(False)
        return model

    def start_weights(self, context: RunContext) -> dict[str, Tensor]:
        """Return random weights, and the teacher's token table in each channel."""
        # The LSTM starts at random; the tables do not.
        torch.manual_seed(context.job.run.seed)
        model = self.build_model(context)
        weights = {key: value.clone() for key, value in model.state_dict().items()}
        table = context.teacher().embeddings.word.weight.detach()
        reduced = principal_components(table, weights["word.weight"].shape[1])
        for key in ("word.weight", "fixed_word.weight"):
            if key in weights:
                weights[key] = reduced.clone()
        return weights

    def optimizer(self, context: RunContext) -> Any:
        """Return Adadelta where the job names it."""
        settings = context.job.settings(BilstmSettings)
        if settings.optimizer == "adamw":
            return None
        return functools.partial(torch.optim.Adadelta, rho=0.95, lr=settings.largest_rate)

    def forward_flops(self, context: RunContext) -> float:
        """Return the FLOPs of LSTM, hidden layer and classifier."""
        config = _config_of(context)
        width = config.embedding_size * config.channels
        per_token = 2 * 4 * config.hidden_size * (width + config.hidden_size) * 2
        inputs = 2 * config.hidden_size * (1 + 3 * config.pair)
        head = 2 * config.fc_size * (inputs + config.num_labels)
        return float(per_token * context.flops_length + head)


def _config_of(context: RunContext) -> RaycompBilstmConfig:
    """Return the shape of a job's BiLSTM."""
    settings = context.job.settings(BilstmSettings)
    encoder = context.config
    return RaycompBilstmConfig(
        vocab_size=encoder.vocab_size,
        embedding_size=min(settings.embedding, encoder.embedding_size),
        channels=settings.channels,
        hidden_size=settings.hidden,
        fc_size=settings.fc,
        dropout=settings.dropout,
        pair=context.facts.pair,
        sep_token_id=int(context.facts.sep_token_id or 0),
        max_positions=min(context.job.task.max_length, encoder.max_positions),
        pad_token_id=context.pad_id,
        num_labels=context.facts.num_labels,
    )
