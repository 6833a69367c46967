"""Students as networks: their weights before training, the trained ones, and their scores."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor, nn

from raycomp.data.batches import Batch
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.elastic import ElasticEncoder
from raycomp.encoder.interface import ElasticOutput
from raycomp.encoder.layers import Encoder, EncoderConfig
from raycomp.methods.base import Forward, Run
from raycomp.methods.context import RunContext
from raycomp.methods.selection_scores import ScoredModel, record_outcome, score_model
from raycomp.storage.tensors import load_weights

if TYPE_CHECKING:
    # Workers of a training need no class of transformers, whose import takes seconds.
    from transformers import PreTrainedModel


def student_network(context: RunContext, arch: Architecture) -> ElasticEncoder:
    """Return a network of its own with the sizes of an architecture, its weights not yet loaded."""
    sizes = {"layer_heads": list(arch.heads), "layer_ffn": list(arch.ffn)}
    return ElasticEncoder(Encoder(EncoderConfig.from_config(context.config.to_dict() | sizes)))


def load_source(context: RunContext, start: str) -> ElasticEncoder:
    """Return the network that a student's layers come from.

    Args:
        context: The run's context.
        start: "teacher", or "pretrained" for the model that the job names.
    """
    if start == "teacher":
        return context.teacher()
    return context.network()


def select_layers(
    context: RunContext, source: ElasticEncoder, layers: Sequence[int], arch: Architecture
) -> dict[str, Tensor]:
    """Return a student's weights: layers of a full network, and its embeddings, pooler and classifier.

    Args:
        context: The run's context.
        source: The full network.
        layers: Index of the layer that each layer of the student starts with.
        arch: The student's architecture.
    """
    # Embeddings, pooler and classifier are taken whole.
    weights = source.state_dict()
    student = student_network(context, arch).state_dict()
    for key in student:
        part, _, rest = key.partition(".")
        if part == "layers":
            index, _, name = rest.partition(".")
            student[key] = weights[f"layers.{layers[int(index)]}.{name}"]
        else:
            student[key] = weights[key]
    return student


def load_student(context: RunContext, budget: str, arch: Architecture) -> ElasticEncoder:
    """Return the trained student of a budget, in eval mode."""
    student = student_network(context, arch)
    load_weights(student, context.files.student(budget).network)
    return student.eval()


def build_student(
    context: RunContext, budget: str, arch: Architecture
) -> tuple[PreTrainedModel, Forward]:
    """Return the trained student of a budget as a static model, and its forward function."""
    student = load_student(context, budget, arch)

    def forward(batch: Batch) -> Tensor:
        return student(batch).logits

    return student.extract(student.largest), forward


def score_student(run: Run, budget: str, arch: Architecture) -> None:
    """Score a student on the selection split; write its row of `evaluations` and its outcome."""
    context = run.context
    began = time.perf_counter()
    files = context.files.student(budget)
    student = load_student(context, budget, arch)

    def forward(batch: Batch) -> Tensor:
        return student(batch).logits

    row = score_model(run, ScoredModel.of_network(context, arch, forward, files.network), began)
    record_outcome(run, f"{context.method}-{budget}", files.outcome, row)


class ProjectedStudent(nn.Module):
    """A student and the linear map of its hidden states, which is trained with it.

    Args:
        student: The student.
        width: Width of its hidden states, which is that of the teacher's.
    """

    def __init__(self, student: ElasticEncoder, width: int) -> None:
        super().__init__()
        self.student = student
        self.project = nn.Linear(width, width)
        nn.init.eye_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, batch: Batch, arch: Architecture | None = None, **reads: Any) -> ElasticOutput:
        """Run the student; see `ElasticEncoder.forward`."""
        return cast(ElasticOutput, self.student(batch, arch, **reads))
