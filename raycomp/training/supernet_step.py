"""One step of super-network training: lambda architectures, one batch, one update (Alg. 1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from raycomp.data.batches import Batch
from raycomp.encoder.architecture import Architecture, enclosing_architecture
from raycomp.encoder.elastic import ElasticEncoder
from raycomp.encoder.interface import ElasticOutput
from raycomp.encoder.slicing import SlicedGradients
from raycomp.training.finetune_step import Teacher, check_teacher, run_teacher
from raycomp.training.hints import Objective
from raycomp.training.loop import StepResult
from raycomp.training.optimizers import autocast, set_training_mode
from raycomp.training.sliced_optimizer import SliceUpdater
from raycomp.training.step_cost import StepCost


class Sampler(Protocol):
    """Source of the architectures of each step: in this process, or an actor on Ray.

    A step calls `ask`, `info` and `tell`, in this order.
    """

    def ask(self, step: int) -> list[Architecture]:
        """Return the architectures of a step; every worker gets the same."""
        ...

    def tell(self, step: int, losses: Sequence[float]) -> None:
        """Report this worker's share of each architecture's loss; the shares add up to the mean.

        It may return before the sampler has them. An error is then raised by a later `ask`.

        Args:
            step: The step.
            losses: Label loss of each architecture, in the order of `ask`.
        """
        ...

    def info(self, step: int) -> dict[str, Any]:
        """Return p_exploit, entropy, explored and phase of a step."""
        ...


class SupernetStep:
    """Trains the slices of lambda architectures on the same batch and reports their losses.

    The gradient is the mean over the lambda architectures (YOCO-BERT, Alg. 1). All of them see the same
    batch and the same weights: their losses can be compared.
    """

    def __init__(
        self,
        model: ElasticEncoder,
        sampler: Sampler,
        updater: SliceUpdater,
        *,
        teacher: Teacher | None,
        objective: Objective,
        precision: str,
        device: torch.device,
        average: bool = True,
        cost: StepCost | None = None,
    ) -> None:
        """Prepare the step; the model's memory layout changes, its function does not.

        Args:
            model: The super-network, on `device`.
            sampler: Source of the architectures.
            updater: Optimizer of the model's parameters.
            teacher: Source of the outputs that the hints read; None where the objective needs none.
            objective: Weighted hints to minimise.
            precision: "bf16" or "fp32".
            device: Device of the model and of the teacher.
            average: Whether the gradient is the mean over the architectures; else it is their sum.
            cost: FLOPs of each architecture; None leaves FLOPs out of the figures of a step.

        Raises:
            ValueError: The objective needs a teacher, and none is given.
        """
        check_teacher(objective, teacher)
        self.average = average
        self.cost = cost
        self.model = model
        self.model.use_column_major_layout()
        self._gradients = SlicedGradients(model)
        self.sampler = sampler
        self.updater = updater
        self.teacher = teacher
        self.objective = objective
        self.precision = precision
        self.device = device

    def __call__(self, index: int, batch: Batch) -> StepResult:
        """Train on one batch."""
        archs = self.sampler.ask(index)
        # Counted before the batch moves: a GPU would have to be waited for.
        tokens = int(batch.attention_mask.sum()) * len(archs)
        batch = batch.to(self.device)
        target = run_teacher(self.teacher, batch, self.precision, self.device)

        set_training_mode(self.model)
        token_ids = batch.input_ids if batch.words is None else batch.words
        rows = self.model.take_embedding_rows(token_ids)
        with autocast(self.precision, self.device):
            embedded = self.model.embed(batch, rows)
        # All slices start from this leaf, which adds up their gradients.
        start = embedded.detach().requires_grad_()

        active = self.model.active_parameters(enclosing_architecture(archs))
        self._gradients.prepare(active, rows, extra=2 * len(archs))
        label_losses, objectives = self._gradients.extra.view(2, -1)
        divisor = len(archs) if self.average else 1
        for i, arch in enumerate(archs):
            with autocast(self.precision, self.device):
                output = self.model(
                    batch,
                    arch,
                    hidden=self.objective.needs_hidden,
                    attention=self.objective.needs_attention,
                    embedded=start,
                    slices=self._gradients,
                )
            objective, labels = self.slice_losses(i, output, target, batch)
            (objective / divisor).backward()
            label_losses[i] = labels
            objectives[i] = objective.detach()
        embedded.backward(start.grad)

        # Before the all-reduce: the sampler updates theta and draws while the network is updated, and
        # knows which ranks came this far if the all-reduce fails.
        info = self.sampler.info(index)
        self.sampler.tell(index, label_losses.tolist())
        self.updater.apply_slices(index, self._gradients.used, self._gradients.flat)
        flops = None
        if self.cost is not None:
            flops = self.cost.of_step(batch, archs, has_teacher=self.teacher is not None)
        result = StepResult(
            float(objectives.mean()), tokens, {**info, "loss": float(label_losses.mean())}, flops
        )
        self._gradients.release()
        return result

    def slice_losses(
        self, position: int, output: ElasticOutput, target: ElasticOutput | None, batch: Batch
    ) -> tuple[Tensor, Tensor]:
        """Return the objective of one architecture (with gradients), and its label loss.

        Args:
            position: Number of the architecture in the step, from 0.
            output: Output of its slice.
            target: Output of the teacher; None where the objective needs none.
            batch: The batch.
        """
        return self.objective.losses(output, target, batch)
