"""The steps of AdaBERT that the one loop calls: the search of the parent, the training of a child."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from raycomp.data.batches import Batch
from raycomp.methods.adabert.efficiency import efficiency_loss
from raycomp.methods.adabert.gumbel import Distribution, temperature_at
from raycomp.methods.adabert.losses import matched_layers, probe_loss, probe_weights, student_objective
from raycomp.methods.adabert.student import Child, Parent
from raycomp.training.loop import StepResult
from raycomp.training.objectives import label_loss, prediction_loss
from raycomp.training.optimizers import JointUpdater, Updater, autocast, set_training_mode

# Eq. 4 sums over the instances of a batch, and so fixes what beta weighs against: the published
# beta of 4 meets batches of 128. Losses here are means, so beta is shared out over so many rows.
PAPER_BATCH = 128


class TeacherOutputs(Protocol):
    """What the teacher said of each row of the training text, computed once."""

    def rows(self, index: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return logits (batch, classes) and probe logits (batch, teacher layers, classes)."""
        ...


@dataclass(frozen=True)
class DistillationLoss:
    """How a student is taught.

    Attributes:
        gamma: share of distillation (Eq. 1).
        temperature: T of Eq. 3.
        hints: "probes" (Eqs. 3 and 4, and the teacher's own prediction) or "logits" (the prediction
            alone: Base-KD of the paper's Table 4).
        regression: one real-valued output.
    """

    gamma: float
    temperature: float
    hints: str
    regression: bool

    def loss(
        self,
        logits: Tensor,
        probes: Sequence[Tensor],
        batch: Batch,
        teacher: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Return the label loss and (1 - gamma) L_CE + gamma L_KD.

        Args:
            logits: (batch, classes) of the student.
            probes: logits of its probes, one per cell.
            batch: the rows.
            teacher: logits (batch, classes) and probe logits (batch, teacher layers, classes).
        """
        said, probed = teacher
        label = label_loss(logits, batch.labels, batch.total)
        distilled = prediction_loss(
            logits, said, batch.total, regression=self.regression, temperature=self.temperature
        )
        if self.hints == "probes":
            where = [j - 1 for j in matched_layers(len(probes), probed.shape[1])]
            target = probed[:, where]
            weights = probe_weights(target, batch.labels)
            student = torch.stack(list(probes), 1)
            distilled = distilled + probe_loss(student, target, weights, batch.total, self.temperature)
        return label, student_objective(label, distilled, 0.0, self.gamma, 0.0)


class SearchStep:
    """Trains weights and P_alpha together on one sampled structure (Section 2.5.2)."""

    def __init__(
        self,
        parent: Parent,
        distribution: Distribution,
        updater: JointUpdater,
        *,
        teacher_outputs: TeacherOutputs,
        distillation: DistillationLoss,
        op_costs: Tensor,
        beta: float,
        estimator: str,
        supervised_depths: str,
        alpha_warmup_steps: int,
        total_steps: int,
        seed: int,
        precision: str,
        device: torch.device,
    ) -> None:
        self.parent, self.distribution, self.updater = parent, distribution, updater
        self.teacher_outputs, self.distillation = teacher_outputs, distillation
        self.op_costs, self.beta, self.estimator = op_costs, beta, estimator
        self.supervised_depths, self.alpha_warmup_steps = supervised_depths, alpha_warmup_steps
        self.total_steps, self.seed = total_steps, seed
        self.precision, self.device = precision, device

    def __call__(self, index: int, batch: Batch) -> StepResult:
        """Train on one batch; every worker draws the same structure.

        In the first `alpha_warmup_steps` P_alpha is not trained, so nothing runs beside what is drawn.
        """
        batch = batch.to(self.device)
        waiting = index < self.alpha_warmup_steps
        self.distribution.requires_grad_(not waiting)
        estimator = "sampled" if waiting else self.estimator
        teacher = _on(self.teacher_outputs.rows(batch.index), self.device)
        tau = temperature_at(index / max(1, self.total_steps - 1))
        seed = (self.seed * 7_368_787 + index) % 2**63
        sample = self.distribution.sample(tau, seed)
        drawn = sample.structure.layers
        set_training_mode(self.parent)
        with autocast(self.precision, self.device):
            logits, probes = self.parent(batch.input_ids, batch.attention_mask, sample, estimator, seed)
        label, loss = self._losses(logits, probes, batch, teacher, drawn)
        guided = loss[drawn - 1]
        # Forward only the drawn depth counts; backward y^K also sees what other depths would lose.
        # Depths that were not run are taken to lose what the drawn one does.
        others = torch.stack([value.detach() for value in loss])
        deeper = guided.detach().expand(len(sample.layers) - len(loss))
        contrast = torch.cat([others, deeper])
        trained = torch.stack(loss[:drawn]).mean() if self.supervised_depths == "depths" else guided
        objective_ = trained + (sample.layers * contrast).sum() - contrast[drawn - 1]
        share = len(batch.labels) / batch.total
        price = efficiency_loss(sample.layers, sample.operations, self.op_costs)
        weighted = self.beta / PAPER_BATCH * price
        (objective_ + weighted * share).backward()
        told = torch.stack([guided.detach(), label.detach()])
        statistics = _statistics(self.parent, share) if self.updater.reduce else []
        grads = [p.grad for p in self._parameters() if p.grad is not None]
        self.updater.apply(index, [*grads, *statistics], told)
        _restore(self.parent, statistics)
        info: dict[str, float | str | bool] = {
            "loss": float(told[1]),
            "entropy": self.distribution.normalised_entropy(),
        }
        tokens = int(batch.attention_mask.sum())
        return StepResult(float(told[0] + weighted.detach()), tokens, info)

    def _losses(
        self,
        logits: Sequence[Tensor],
        probes: Sequence[Tensor],
        batch: Batch,
        teacher: tuple[Tensor, Tensor],
        drawn: int,
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the label loss at the drawn depth and the guided loss at every depth that ran.

        What `supervised_depths` does not train has no graph.
        """
        found: list[Tensor] = []
        label = logits[0].new_zeros(())
        for k in range(1, len(logits) + 1):
            taught = k <= drawn if self.supervised_depths == "depths" else k == drawn
            with torch.set_grad_enabled(taught):
                task, guided = self.distillation.loss(logits[k - 1], probes[:k], batch, teacher)
            label = task if k == drawn else label
            found.append(guided)
        return label, found

    def _parameters(self) -> list[nn.Parameter]:
        return [*self.parent.parameters(), *self.distribution.parameters()]


class ChildStep:
    """Trains a child on labels and distillation."""

    def __init__(
        self,
        child: Child,
        updater: Updater,
        *,
        teacher_outputs: TeacherOutputs,
        distillation: DistillationLoss,
        precision: str,
        device: torch.device,
    ) -> None:
        self.child, self.updater = child, updater
        self.teacher_outputs, self.distillation = teacher_outputs, distillation
        self.precision, self.device = precision, device

    def __call__(self, index: int, batch: Batch) -> StepResult:
        """Train on one batch."""
        batch = batch.to(self.device)
        teacher = _on(self.teacher_outputs.rows(batch.index), self.device)
        set_training_mode(self.child)
        with autocast(self.precision, self.device):
            logits, probes = self.child(batch.input_ids, batch.attention_mask)
        label, guided = self.distillation.loss(logits, probes.unbind(1), batch, teacher)
        guided.backward()
        told = torch.stack([guided.detach(), label.detach()])
        share = len(batch.labels) / batch.total
        statistics = _statistics(self.child, share) if self.updater.reduce else []
        grads = [p.grad for p in self.child.parameters() if p.grad is not None]
        self.updater.apply(index, [*grads, *statistics], told)
        _restore(self.child, statistics)
        tokens = int(batch.attention_mask.sum())
        return StepResult(float(told[0]), tokens, {"loss": float(told[1])})


def cosine_rate(high: float, low: float, total: int, step: int) -> float:
    """Return the learning rate of a step, from `high` to `low` by half a cosine."""
    return low + (high - low) * (1 + math.cos(math.pi * step / max(1, total))) / 2


def _on(pair: tuple[Tensor, Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
    return pair[0].to(device), pair[1].to(device)


def _statistics(model: nn.Module, share: float) -> list[Tensor]:
    """Return this worker's share of the running statistics, so that the sum is their mean."""
    return [buffer.detach() * share for buffer in model.buffers()]


@torch.no_grad()
def _restore(model: nn.Module, statistics: Sequence[Tensor]) -> None:
    if statistics:  # empty where one worker sees it all
        for buffer, value in zip(model.buffers(), statistics, strict=True):
            buffer.copy_(value)
