"""The two training steps of AdaBERT: the search of the parent, and the training of a child."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from raycomp.data.batches import Batch
from raycomp.methods.adabert.distillation import DistillationLoss, TeacherOutputs
from raycomp.methods.adabert.efficiency import efficiency_loss, training_flops
from raycomp.methods.adabert.gumbel import Distribution, Sample, temperature_at
from raycomp.methods.adabert.student import Child, Parent
from raycomp.training.loop import StepResult
from raycomp.training.optimizers import JointUpdater, Updater, autocast, set_training_mode

# Eq. 4 sums over the rows of a batch, and the published beta of 4 belongs to sums over 128 rows.
# Losses here are means over rows, so beta is divided by the rows that it was published for.
PAPER_BATCH = 128

# Structures are drawn from generators with the seeds `seed * SEED_STRIDE + step`. The stride is a prime
# far above the steps of a search: two searches never share a draw. Changing it changes every result.
SEED_STRIDE = 7_368_787


class SearchStep:
    """Trains the parent's weights and P_alpha together on one sampled structure (Section 2.5.2).

    The training loop calls `step(index, batch)`. A call does, in this order:

    1. It draws a structure of K cells (Eq. 6), the same on every worker, and runs it in the parent.
    2. It computes the distillation loss at each depth that ran (Eqs. 1, 3 and 4).
    3. It adds beta times the efficiency loss (Eq. 5), and computes the gradients of the weights and of
       P_alpha in one backward pass.
    4. It sums gradients, losses and running statistics over the workers, and updates both.

    Source: AdaBERT (Chen et al., 2020), Sections 2.3 to 2.5.
    """

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
        """Set up the search.

        Args:
            parent: Network with every candidate operation on every edge.
            distribution: P_alpha.
            updater: Optimizers of the parent and of the distribution.
            teacher_outputs: Outputs of the teacher for each row of the training text.
            distillation: Loss on labels and on the teacher's outputs.
            op_costs: Normalised SIZE + FLOPs of each candidate, (candidates,), on `device`.
            beta: Weight of the efficiency loss (Eq. 1).
            estimator: Operations that run for the gradient of P_alpha, see `estimators.plan_edges`.
            supervised_depths: "depths" trains the classifier after each cell up to the sampled depth,
                "drawn" trains it after the last of them only (the paper).
            alpha_warmup_steps: First steps, in which the weights are trained and P_alpha is not.
            total_steps: Steps of the search; the temperature of Eq. 6 falls over them.
            seed: Seed of the sampled structures.
            precision: "fp32" or "bf16".
            device: Device of parent and distribution.
        """
        self.parent = parent
        self.distribution = distribution
        self.updater = updater
        self.teacher_outputs = teacher_outputs
        self.distillation = distillation
        self.op_costs = op_costs
        self.beta = beta
        self.estimator = estimator
        self.supervised_depths = supervised_depths
        self.alpha_warmup_steps = alpha_warmup_steps
        self.total_steps = total_steps
        self.seed = seed
        self.precision = precision
        self.device = device

    def __call__(self, index: int, batch: Batch) -> StepResult:
        """Train on one batch; the same index, batch and state give the same update on every worker."""
        batch = batch.to(self.device)
        teacher = _to_device(self.teacher_outputs.rows(batch.index), self.device)
        sample, logits, probes = self._sampled_forward(index, batch)
        label, objectives = self._depth_objectives(
            logits, probes, batch, teacher, sample.structure.layers
        )

        # Eq. 5. The term does not depend on the rows, so each worker adds its share of it.
        efficiency = efficiency_loss(sample.layers, sample.operations, self.op_costs)
        weighted_efficiency = self.beta / PAPER_BATCH * efficiency
        batch_share = len(batch.labels) / batch.total
        total = self._depth_surrogate(sample, objectives) + weighted_efficiency * batch_share  # Eq. 1
        total.backward()

        sampled_objective = objectives[sample.structure.layers - 1]
        parameters = [*self.parent.parameters(), *self.distribution.parameters()]
        objective, label_mean = _reduce_and_update(
            self.updater, index, batch, self.parent, parameters, (sampled_objective, label)
        )
        info: dict[str, float | str | bool] = {
            "loss": float(label_mean),
            "entropy": self.distribution.normalised_entropy(),
        }
        tokens = int(batch.attention_mask.sum())
        loss = float(objective + weighted_efficiency.detach())
        return StepResult(loss, tokens, info, self._count_flops(index, batch, sample))

    def _count_flops(self, index: int, batch: Batch, sample: Sample) -> float:
        estimator = self._estimator_at(index)
        width = self.parent.shape.width
        per_token = training_flops(sample.structure, width, self.parent.candidates, estimator)
        return batch.total_tokens * per_token

    def _estimator_at(self, index: int) -> str:
        """Return the estimator of a step.

        P_alpha needs the outputs of operations that were not drawn. It is not trained during warm-up, so
        these operations need not run then.
        """
        return "sampled" if index < self.alpha_warmup_steps else self.estimator

    def _sampled_forward(self, index: int, batch: Batch) -> tuple[Sample, list[Tensor], list[Tensor]]:
        """Draw the structure of a step and run it in the parent.

        Returns:
            The sample, and after each cell that ran the logits and the probe's logits, each
            (batch, classes).
        """
        self.distribution.requires_grad_(index >= self.alpha_warmup_steps)
        estimator = self._estimator_at(index)

        temperature = temperature_at(index / max(1, self.total_steps - 1))
        seed = (self.seed * SEED_STRIDE + index) % 2**63
        sample = self.distribution.sample(temperature, seed)

        set_training_mode(self.parent)
        with autocast(self.precision, self.device):
            logits, probes = self.parent(batch.input_ids, batch.attention_mask, sample, estimator, seed)
        return sample, logits, probes

    def _depth_objectives(
        self,
        logits: Sequence[Tensor],
        probes: Sequence[Tensor],
        batch: Batch,
        teacher: tuple[Tensor, Tensor],
        sampled_depth: int,
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the label loss at the sampled depth, and the distillation loss at each depth that ran.

        Only the depths that train the weights (`supervised_depths`) have a graph. The others are
        computed for the gradient of P_alpha, which needs their value only.
        """
        objectives: list[Tensor] = []
        label = logits[0].new_zeros(())
        for depth in range(1, len(logits) + 1):
            if self.supervised_depths == "depths":
                is_trained = depth <= sampled_depth
            else:
                is_trained = depth == sampled_depth

            with torch.set_grad_enabled(is_trained):
                depth_label, objective = self.distillation.loss(
                    logits[depth - 1], probes[:depth], batch, teacher
                )
            objectives.append(objective)
            if depth == sampled_depth:
                label = depth_label
        return label, objectives

    def _depth_surrogate(self, sample: Sample, objectives: Sequence[Tensor]) -> Tensor:
        """Return a scalar that trains the weights and y^K, the one-hot vector of the sampled depth K.

        With L_k the loss at depth k, l_k its value as a constant, and L the loss that trains the
        weights (L_K, or the mean of L_1 .. L_K), the surrogate is

            S = L + sum_k y^K_k l_k - l_K

        Its value is L: y^K is one-hot at K in the forward pass, so the sum is l_K. Its gradients are

            dS/dw = dL/dw        dS/dy^K_k = l_k

        The paper's loss has the same gradient with respect to y^K, because sum_k y^K_k L_k is the loss
        of the sampled depth. A depth that did not run gets l_k = l_K: it counts as equally good as
        the sampled depth.
        """
        depth = sample.structure.layers
        sampled = objectives[depth - 1]
        if self.supervised_depths == "depths":
            trained = torch.stack(list(objectives[:depth])).mean()  # L
        else:
            trained = sampled

        run_values = torch.stack([objective.detach() for objective in objectives])
        missing_values = sampled.detach().expand(len(sample.layers) - len(objectives))
        values = torch.cat([run_values, missing_values])  # l_k
        return trained + (sample.layers * values).sum() - values[depth - 1]


class ChildStep:
    """Trains a child on labels and on the teacher's outputs; the training loop calls it.

    Source: AdaBERT (Chen et al., 2020), Eq. 1 without the efficiency term, which a fixed structure
    does not change.
    """

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
        """Set up the training; the arguments are those of `SearchStep`."""
        self.child = child
        self.updater = updater
        self.teacher_outputs = teacher_outputs
        self.distillation = distillation
        self.precision = precision
        self.device = device

    def __call__(self, index: int, batch: Batch) -> StepResult:
        """Train on one batch."""
        batch = batch.to(self.device)
        teacher = _to_device(self.teacher_outputs.rows(batch.index), self.device)
        set_training_mode(self.child)
        with autocast(self.precision, self.device):
            logits, probes = self.child(batch.input_ids, batch.attention_mask)

        label, objective = self.distillation.loss(logits, probes.unbind(1), batch, teacher)
        objective.backward()

        objective, label = _reduce_and_update(
            self.updater, index, batch, self.child, self.child.parameters(), (objective, label)
        )
        tokens = int(batch.attention_mask.sum())
        flops = batch.total_tokens * training_flops(self.child.structure, self.child.shape.width)
        return StepResult(float(objective), tokens, {"loss": float(label)}, flops)


def cosine_rate(high: float, low: float, total: int, step: int) -> float:
    """Return the learning rate of a step, which falls from `high` to `low` along half a cosine."""
    return low + (high - low) * (1 + math.cos(math.pi * step / max(1, total))) / 2


def _to_device(pair: tuple[Tensor, Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
    return pair[0].to(device), pair[1].to(device)


def _reduce_and_update(
    updater: Updater | JointUpdater,
    index: int,
    batch: Batch,
    model: nn.Module,
    parameters: Iterable[nn.Parameter],
    losses: Sequence[Tensor],
) -> Tensor:
    """Sum gradients, losses and running statistics over the workers, and update the parameters.

    Args:
        updater: Optimizer of the parameters.
        index: Number of the step.
        batch: Rows of this worker, which knows the rows of the global batch.
        model: Network whose buffers are the running statistics of batch normalisation.
        parameters: Parameters with the gradients that this worker computed.
        losses: Scalars, each a sum over this worker's rows divided by the rows of the global batch.

    Returns:
        The losses over the global batch, (len(losses),).
    """
    loss_sums = torch.stack([loss.detach() for loss in losses])

    # Each worker normalises its own rows. The sum of the weighted statistics is their mean over the
    # global batch; without an all-reduce the buffers hold that already.
    statistics: list[Tensor] = []
    if updater.reduce:
        batch_share = len(batch.labels) / batch.total
        statistics = [buffer.detach() * batch_share for buffer in model.buffers()]

    gradients = [p.grad for p in parameters if p.grad is not None]
    updater.apply(index, [*gradients, *statistics], loss_sums)

    if statistics:
        with torch.no_grad():
            for buffer, mean in zip(model.buffers(), statistics, strict=True):
                buffer.copy_(mean)
    return loss_sums
