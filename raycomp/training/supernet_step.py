"""One step of super-network training: lambda architectures, one batch, one update (Alg. 1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from raycomp.data.batches import Batch
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.elastic import WORD_EMBEDDING, ElasticEncoder, EmbeddingRows, Slices
from raycomp.training.finetune_step import Teacher, check_teacher, run_teacher
from raycomp.training.hints import Objective
from raycomp.training.loop import StepResult
from raycomp.training.optimizers import autocast, set_training_mode
from raycomp.training.sliced_optimizer import FlatGradients, Part, SliceUpdater


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


def enclosing_architecture(archs: Sequence[Architecture]) -> Architecture:
    """Return the smallest architecture that contains all: front slices nest."""
    depth = max(a.depth for a in archs)
    heads = tuple(max(a.heads[i] for a in archs if i < a.depth) for i in range(depth))
    ffn = tuple(max(a.ffn[i] for a in archs if i < a.depth) for i in range(depth))
    return Architecture(depth, heads, ffn)


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
        self._parameters = dict(model.named_parameters())
        self._memory = FlatGradients()
        self.sampler = sampler
        self.updater = updater
        self.teacher = teacher
        self.objective = objective
        self.precision = precision
        self.device = device

    def __call__(self, index: int, batch: Batch) -> StepResult:
        """Train on one batch."""
        archs = self.sampler.ask(index)
        tokens = int(batch.attention_mask.sum()) * len(archs)  # before it moves: a GPU need not wait
        batch = batch.to(self.device)
        target = run_teacher(self.teacher, batch, self.precision, self.device)
        set_training_mode(self.model)
        table = self.model.take_embedding_rows(batch.input_ids if batch.words is None else batch.words)
        with autocast(self.precision, self.device):
            embedded = self.model.embed(batch, table)
        start = embedded.detach().requires_grad_()  # all slices begin here: it gathers their gradients
        parts, flat, shares = self._open(archs, table)
        for i, arch in enumerate(archs):
            with autocast(self.precision, self.device):
                output = self.model(batch, arch, hidden=self.objective.needs_hidden, embedded=start)
            objective, labels = self.objective.losses(output, target, batch)
            (objective / len(archs)).backward()
            shares[0, i] = labels
            shares[1, i] = objective.detach()
        embedded.backward(start.grad)
        # Before the sum over the workers: the sampler learns theta and draws while the network is
        # updated, and knows which ranks came so far when the sum fails.
        drawn = self.sampler.info(index)
        self.sampler.tell(index, shares[0].tolist())
        self.updater.apply_parts(index, parts, flat)
        info = {**drawn, "loss": float(shares[0].mean())}
        return StepResult(float(shares[1].mean()), tokens, info)

    @torch.no_grad()
    def _open(
        self, archs: Sequence[Architecture], table: EmbeddingRows | None
    ) -> tuple[list[Part], Tensor, Tensor]:
        """Make room for the gradients of exactly the weights that the union of the architectures uses.

        Returns:
            The parts, the memory of their gradients, and in it room for the losses: (2, architectures).
        """
        names: list[str] = []
        used: list[tuple[Tensor, Slices | Tensor, Tensor]] = []
        for name, where in self.model.active_parameters(enclosing_architecture(archs)):
            parameter = self._parameters[name]
            if name == WORD_EMBEDDING and table is not None:
                used.append((parameter, table.words, table.rows.detach()))
            elif parameter.requires_grad:
                used.append((parameter, where, parameter[where]))
            else:
                continue
            names.append(name)
        pieces = [piece for *_, piece in used]
        self.model.collect({})  # views of memory that may be about to grow
        flat, views, losses = self._memory.lay(pieces, 2 * len(archs))
        targets = dict(zip(names, views, strict=True))
        if table is not None:
            table.rows.grad = targets.pop(WORD_EMBEDDING)
        self.model.collect(targets)
        parts = [Part(p, where, view) for (p, where, _), view in zip(used, views, strict=True)]
        return parts, flat, losses.view(2, -1)
