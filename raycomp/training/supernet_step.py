"""One step of super-network training: lambda architectures, one batch, one update (Alg. 1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from raycomp.data.batches import Batch
from raycomp.encoder.architecture import Architecture, enclosing_architecture
from raycomp.encoder.elastic import ElasticEncoder
from raycomp.encoder.slicing import SlicedGradients
from raycomp.training.finetune_step import Teacher, check_teacher, run_teacher
from raycomp.training.hints import Objective
from raycomp.training.loop import StepResult
from raycomp.training.optimizers import autocast, set_training_mode
from raycomp.training.sliced_optimizer import SliceUpdater


class Sampler(Protocol):
    """Where the architectures of a step come from: in this process, or over Ray."""

    def ask(self, step: int) -> list[Architecture]:
        """Return the architectures of a step; every worker gets the same."""
        ...

    def tell(self, step: int, losses: Sequence[float]) -> None:
        """Hand in this worker's share of each architecture's loss (shares add up to the mean).

        May return before the sampler has taken them: what goes wrong is then raised by a later ask.
        """
        ...

    def info(self, step: int) -> dict[str, Any]:
        """Return p_exploit, entropy, explored and phase of a step."""
        ...


class SupernetStep:
    """Trains the slices of lambda architectures on the same batch and tells the sampler.

    The gradient is Eq. 5's mean over the lambda architectures. All members of a step see the same
    batch and the same weights, so that their losses can be compared.
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
    ) -> None:
        check_teacher(objective, teacher)
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
            objective, labels = self.objective.losses(output, target, batch)
            (objective / len(archs)).backward()
            label_losses[i] = labels
            objectives[i] = objective.detach()
        embedded.backward(start.grad)

        # Before the all-reduce: the sampler updates theta and draws while the network is updated, and
        # knows which ranks came this far if the all-reduce fails.
        info = self.sampler.info(index)
        self.sampler.tell(index, label_losses.tolist())
        self.updater.apply_slices(index, self._gradients.used, self._gradients.flat)
        result = StepResult(
            float(objectives.mean()), tokens, {**info, "loss": float(label_losses.mean())}
        )
        self._gradients.release()
        return result
