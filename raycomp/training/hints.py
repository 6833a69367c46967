"""Distillation terms ("hints") as values: each one gives a loss from student, teacher and batch.

An `Objective` is a weighted sum of hints, and what a training step minimises. For example BERT-PKD:

    Objective((
        (0.3, Labels()),
        (0.7, Logits(temperature=10.0, divergence="kl")),
        (100.0, Hidden(map="skip", on="cls", normalise=True, over_layers="sum", over_features="sum")),
    ))

Every loss is a sum over the examples (or tokens) of this worker divided by the number in the global
batch: the sum over the workers is the loss of one worker that has the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from raycomp.config.references import resolve_reference
from raycomp.data.batches import Batch
from raycomp.encoder.interface import ElasticOutput
from raycomp.errors import PermanentError
from raycomp.training.layer_maps import LayerMap, layer_pairs
from raycomp.training.objectives import label_loss, prediction_loss, squared_error

Output = TypeVar("Output")
Average = Literal["mean", "sum"]
Projection = Callable[[Tensor], Tensor]
"""Maps student states (..., student width) to the teacher's width, such as an `nn.Linear`."""


class Hint(Protocol):
    """One term of an objective.

    Attributes:
        needs_teacher: Whether `loss` reads the teacher's output.
        needs_hidden: Whether `loss` reads the hidden states of student and teacher.
        needs_attention: Whether `loss` reads query, key and value of student and teacher.
    """

    needs_teacher: ClassVar[bool]
    needs_hidden: ClassVar[bool]
    needs_attention: ClassVar[bool]

    def loss(self, student: ElasticOutput, teacher: ElasticOutput | None, batch: Batch) -> Tensor:
        """Return the loss of this worker's rows, a scalar.

        Args:
            student: Output of the network that is trained.
            teacher: Output of the teacher on the same batch; None only where `needs_teacher` is False.
            batch: The rows that both outputs belong to.

        Raises:
            ValueError: An output that the hint reads is missing.
        """
        ...


@dataclass(frozen=True)
class Labels:
    """Cross-entropy with the labels, or squared error for regression; no teacher."""

    needs_teacher: ClassVar[bool] = False
    needs_hidden: ClassVar[bool] = False
    needs_attention: ClassVar[bool] = False

    def loss(self, student: ElasticOutput, teacher: ElasticOutput | None, batch: Batch) -> Tensor:
        """Return the mean label loss; see `Hint.loss`."""
        return label_loss(student.logits, batch.labels, batch.total)


@dataclass(frozen=True)
class Logits:
    """Match the teacher's class probabilities (Hinton et al. 2015); its outputs for regression.

    Attributes:
        temperature: Divisor T of both logits; the loss is multiplied by T squared.
        divergence: "cross_entropy" or "kl". Both have the same gradients; "kl" is 0 where the student
            equals the teacher.
        per_class: Divide by the number of classes too, as BERT-PKD's and TinyBERT's released code does.
    """

    temperature: float = 1.0
    divergence: Literal["cross_entropy", "kl"] = "cross_entropy"
    per_class: bool = False
    needs_teacher: ClassVar[bool] = True
    needs_hidden: ClassVar[bool] = False
    needs_attention: ClassVar[bool] = False

    def loss(self, student: ElasticOutput, teacher: ElasticOutput | None, batch: Batch) -> Tensor:
        """Return the mean divergence over examples; see `Hint.loss`."""
        target = required_output(teacher).logits
        regression = batch.labels.is_floating_point()
        loss = prediction_loss(
            student.logits, target, batch.total, regression=regression, temperature=self.temperature
        )

        # KL = cross-entropy minus the teacher's entropy. Only the former depends on the student.
        if self.divergence == "kl" and not regression:
            entropy = prediction_loss(
                target, target, batch.total, regression=False, temperature=self.temperature
            )
            loss = loss - entropy

        return loss / target.shape[-1] if self.per_class else loss


@dataclass(frozen=True)
class Hidden:
    """Match hidden states of the teacher's layers by squared error.

    Attributes:
        map: Pairs of states (student, teacher): "uniform", "skip", "last", "same", or a function; see
            `layer_maps`.
        on: "tokens" (every real token) or "cls" (the first token).
        normalise: Scale each state to length 1 first (BERT-PKD).
        over_layers: "mean" or "sum" over the pairs of states.
        over_features: "mean" or "sum" over the hidden dimension.
        project: Applied to the student's states, where its width differs from the teacher's.
    """

    map: str | LayerMap = "uniform"
    on: Literal["tokens", "cls"] = "tokens"
    normalise: bool = False
    over_layers: Average = "mean"
    over_features: Average = "mean"
    project: Projection | None = None
    needs_teacher: ClassVar[bool] = True
    needs_hidden: ClassVar[bool] = True
    needs_attention: ClassVar[bool] = False

    def loss(self, student: ElasticOutput, teacher: ElasticOutput | None, batch: Batch) -> Tensor:
        """Return the squared error of the mapped states; see `Hint.loss`."""
        own = required_output(student.hidden)
        target = required_output(required_output(teacher).hidden)
        pairs = layer_pairs(self.map, student.layers, len(target) - 1)
        divisor = len(pairs) if self.over_layers == "mean" else 1

        total = torch.zeros((), device=own[0].device)
        for i, j in pairs:
            total = total + self._state_loss(own[i], target[j], batch) / divisor
        return total

    def _state_loss(self, own: Tensor, target: Tensor, batch: Batch) -> Tensor:
        """Return the squared error of one pair of states, each (batch, length, hidden)."""
        if self.on == "cls":
            own, target = own[:, :1], target[:, :1]
            mask, count = batch.attention_mask[:, :1], batch.total
        else:
            mask, count = batch.attention_mask, batch.total_tokens

        if self.project is not None:
            own = self.project(own)
        # Patience compares directions of states (BERT-PKD).
        if self.normalise:
            own = F.normalize(own.float(), dim=-1)
            target = F.normalize(target.float(), dim=-1)

        features = own.shape[-1] if self.over_features == "mean" else 1
        return squared_error(own, target, mask) / (count * features)


@dataclass(frozen=True)
class Embeddings:
    """Match the teacher's embeddings (state 0) by mean squared error over tokens (TinyBERT).

    Attributes:
        project: Applied to the student's embeddings, where its width differs from the teacher's.
    """

    project: Projection | None = None
    needs_teacher: ClassVar[bool] = True
    needs_hidden: ClassVar[bool] = True
    needs_attention: ClassVar[bool] = False

    def loss(self, student: ElasticOutput, teacher: ElasticOutput | None, batch: Batch) -> Tensor:
        """Return the mean squared error of the embeddings; see `Hint.loss`."""
        hint = Hidden(map=lambda layers, teacher_layers: [(0, 0)], project=self.project)
        return hint.loss(student, teacher, batch)


@dataclass(frozen=True)
class Cosine:
    """Match the direction of the teacher's last hidden states (DistilBERT)."""

    needs_teacher: ClassVar[bool] = True
    needs_hidden: ClassVar[bool] = True
    needs_attention: ClassVar[bool] = False

    def loss(self, student: ElasticOutput, teacher: ElasticOutput | None, batch: Batch) -> Tensor:
        """Return the mean of 1 - cos(s, t) over real tokens; see `Hint.loss`."""
        own = required_output(student.hidden)[-1].float()
        target = required_output(required_output(teacher).hidden)[-1].float()
        distance = 1 - F.cosine_similarity(own, target, dim=-1)
        return (distance * batch.attention_mask).sum() / batch.total_tokens


@dataclass(frozen=True)
class Objective:
    """A weighted sum of hints.

    Attributes:
        terms: Pairs (weight, hint), summed in this order.
    """

    terms: tuple[tuple[float, Hint], ...]

    @property
    def needs_teacher(self) -> bool:
        """Whether a term reads the teacher's output."""
        return any(hint.needs_teacher for _, hint in self.terms)

    @property
    def needs_hidden(self) -> bool:
        """Whether a term reads hidden states."""
        return any(hint.needs_hidden for _, hint in self.terms)

    @property
    def needs_attention(self) -> bool:
        """Whether a term reads query, key and value."""
        return any(hint.needs_attention for _, hint in self.terms)

    def losses(
        self, student: ElasticOutput, teacher: ElasticOutput | None, batch: Batch
    ) -> tuple[Tensor, Tensor]:
        """Return the objective (with gradients) and the label loss (for reports), both scalars.

        Args:
            student: Output of the network that is trained.
            teacher: Output of the teacher; None where `needs_teacher` is False.
            batch: The rows that both outputs belong to.

        Raises:
            ValueError: The objective lacks terms.
        """
        total: Tensor | None = None
        labels: Tensor | None = None
        for weight, hint in self.terms:
            loss = hint.loss(student, teacher, batch)
            # Samplers and reports read the label loss; where it is a term, it is not computed again.
            if isinstance(hint, Labels):
                labels = loss.detach()
            term = loss if weight == 1.0 else weight * loss
            total = term if total is None else total + term

        if total is None:
            raise ValueError("an objective needs at least one term")
        if labels is None:
            labels = label_loss(student.logits.detach(), batch.labels, batch.total)
        return total, labels


LABELS_ONLY = Objective(((1.0, Labels()),))
DISTILLATION = {
    "none": LABELS_ONLY,
    "logits": Objective(((1.0, Labels()), (1.0, Logits()))),
    "hidden": Objective(((1.0, Labels()), (1.0, Logits()), (1.0, Hidden()))),
    # A network that reads the same rows many times memorises their labels, as the teacher did before.
    "teacher": Objective(((1.0, Logits(temperature=2.0)), (1.0, Hidden()))),
}
"""Objectives of `train.distill`, by its values."""


def load_objective(name: str) -> Objective:
    """Return the objective that `train.distill` names.

    Args:
        name: Key of `DISTILLATION`, or a reference to a hint, to an objective, or to a class or function
            that returns one without arguments. A hint is added to the labels, with weight 1.

    Raises:
        UserError: The reference cannot be imported.
        PermanentError: It is neither a hint nor an objective.
    """
    if name in DISTILLATION:
        return DISTILLATION[name]

    value = resolve_reference(name, "train.distill")
    if callable(value):
        value = value()
    if isinstance(value, Objective):
        return value

    parts = ("loss", "needs_teacher", "needs_hidden", "needs_attention")
    missing = [part for part in parts if not hasattr(value, part)]
    if missing:
        raise PermanentError(
            f"train.distill = {name!r} is neither a hint nor an objective: it lacks "
            f"{', '.join(missing)}. raycomp.training.hints.Hint lists what a hint has."
        )
    return Objective(((1.0, Labels()), (1.0, value)))


def required_output(output: Output | None) -> Output:
    """Return an output that a hint reads.

    Raises:
        ValueError: It is missing.
    """
    if output is None:
        raise ValueError("a hint reads an output that the step did not ask for")
    return output
