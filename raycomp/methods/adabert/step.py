"""The training step of AdaBERT's search: the weights of the parent, and P_alpha."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from raycomp.data.batches import Batch
from raycomp.methods.adabert.child_step import reduce_and_update, to_device
from raycomp.methods.adabert.distillation import DistillationLoss, TeacherOutputs
from raycomp.methods.adabert.efficiency import efficiency_loss, training_flops
from raycomp.methods.adabert.gumbel import Distribution, Sample, temperature_at
from raycomp.methods.adabert.held_out import HeldOutUpdates
from raycomp.methods.adabert.student import Parent
from raycomp.training.loop import StepResult
from raycomp.training.optimizers import JointUpdater, autocast, set_training_mode

# Eq. 4 sums over the rows of a batch, and the published beta of 4 belongs to sums over 128 rows.
# Losses here are means over rows, so beta is divided by the rows that it was published for.
PAPER_BATCH = 128

# Structures are drawn from generators with the seeds `seed * SEED_STRIDE + step`. The stride is a prime
# far above the steps of a search: two searches never share a draw. Changing it changes every result.
SEED_STRIDE = 7_368_787


HELD_OUT_DRAWS = SEED_STRIDE // 2
"""Added to the seeds of the structures that P_alpha learns from on held-out rows."""


class SearchStep:
    """Trains the parent's weights and P_alpha (Section 2.5.2).

    The training loop calls `step(index, batch)`. A call does, in this order:

    1. It draws a structure of K cells (Eq. 6), the same on every worker, and runs it in the parent.
    2. It computes the distillation loss at each depth that ran (Eqs. 1, 3 and 4).
    3. It adds beta times the efficiency loss (Eq. 5), and computes the gradients of the weights and, in
       the paper's form, of P_alpha in one backward pass.
    4. It sums gradients, losses and running statistics over the workers, and updates both.

    With `held_out`, P_alpha learns before that, in updates of its own (`HeldOutUpdates`).

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
        held_out: HeldOutUpdates | None = None,
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
            held_out: Updates of P_alpha on held-out rows. None: it learns from the rows of the weights,
                in the same pass.
        """
        self.parent = parent
        self.distribution = distribution
        self.held_out = held_out
        # The entropy that noise gives after each step of P_alpha; the training task sets it.
        self.noise_band: Sequence[tuple[float, float]] = ()
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
        self._parameters = [*parent.parameters(), *distribution.parameters()]

    def __call__(self, index: int, batch: Batch) -> StepResult:
        """Train on one batch; the same index, batch and state give the same update on every worker."""
        alpha_flops = 0.0
        if self.held_out is not None and index >= self.alpha_warmup_steps:
            alpha_flops = self.held_out.run(
                index - self.alpha_warmup_steps,
                self.temperature(index),
                self._draw_seed(HELD_OUT_DRAWS),
                self.held_out_loss,
            )

        batch = batch.to(self.device)
        teacher = to_device(self.teacher_outputs.rows(batch.index), self.device)
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
        objective, label_mean = reduce_and_update(
            self.updater, index, batch, self.parent, self._parameters, (sampled_objective, label)
        )
        info: dict[str, float | str | bool] = {
            "loss": float(label_mean),
            "entropy": self.distribution.normalised_entropy(),
        }
        if self.noise_band and index >= self.alpha_warmup_steps:
            low, high = self.noise_band[index - self.alpha_warmup_steps]
            info |= {"noise_low": low, "noise_high": high}
        tokens = int(batch.attention_mask.sum())
        loss = float(objective + weighted_efficiency.detach())
        flops = alpha_flops + self._count_flops(index, batch, sample)
        return StepResult(loss, tokens, info, flops)

    def _count_flops(self, index: int, batch: Batch, sample: Sample) -> float:
        return training_flops(self.parent, sample.structure, batch, self._estimator_at(index))

    def _trains_alpha(self, index: int) -> bool:
        """Return whether the pass of the weights also trains P_alpha."""
        return self.held_out is None and index >= self.alpha_warmup_steps

    def _estimator_at(self, index: int) -> str:
        """Return the estimator of the pass of the weights.

        P_alpha needs the outputs of operations that were not drawn. Where this pass does not train it,
        these operations need not run.
        """
        return self.estimator if self._trains_alpha(index) else "sampled"

    def held_out_loss(self, sample: Sample, batch: Batch, seed: int) -> Tensor:
        """Return the loss of a structure that P_alpha learns from: value L_K + beta L_E, a scalar.

        Args:
            sample: Draw from P_alpha.
            batch: Held-out rows.
            seed: Seed of the random choices of `estimators.plan_edges`.
        """
        teacher = to_device(self.teacher_outputs.rows(batch.index), self.device)
        with autocast(self.precision, self.device):
            logits, probes = self.parent(
                batch.input_ids, batch.attention_mask, sample, self.estimator, seed
            )
        _, objectives = self._depth_objectives(logits, probes, batch, teacher, sample.structure.layers)
        sampled = objectives[sample.structure.layers - 1]
        efficiency = efficiency_loss(sample.layers, sample.operations, self.op_costs)
        return _add_depth_gradient(sampled, sample, objectives) + self.beta / PAPER_BATCH * efficiency

    def temperature(self, index: int) -> float:
        """Return tau of Eq. 6 at a step."""
        return temperature_at(index / max(1, self.total_steps - 1))

    def _draw_seed(self, number: int) -> int:
        return (self.seed * SEED_STRIDE + number) % 2**63

    def _sampled_forward(self, index: int, batch: Batch) -> tuple[Sample, list[Tensor], list[Tensor]]:
        """Draw the structure of a step and run it in the parent.

        Returns:
            The sample, and after each cell that ran the logits and the probe's logits, each
            (batch, classes).
        """
        self.distribution.requires_grad_(self._trains_alpha(index))
        estimator = self._estimator_at(index)

        seed = self._draw_seed(index)
        sample = self.distribution.sample(self.temperature(index), seed)

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

        return _add_depth_gradient(trained, sample, objectives)


def _add_depth_gradient(trained: Tensor, sample: Sample, objectives: Sequence[Tensor]) -> Tensor:
    """Return L + sum_k y^K_k l_k - l_K, whose value is L; see `SearchStep._depth_surrogate`.

    Args:
        trained: L, a scalar.
        sample: The sampled structure.
        objectives: Loss at each depth that ran.
    """
    sampled_depth = sample.structure.layers
    run_values = torch.stack([objective.detach() for objective in objectives])
    missing = len(sample.layers) - len(objectives)
    values = torch.cat([run_values, run_values[sampled_depth - 1].expand(missing)])  # l_k
    return trained + (sample.layers * values).sum() - values[sampled_depth - 1]
