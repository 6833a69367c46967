"""A step of AdaBERT's search with the default estimator, against all operations one by one.

The peer is the released code's form: every candidate of every edge runs by itself in all cells, with a
kernel of its own, and enters the sum times its y. P_alpha is trained by both and its rate is 0, so that
both draw the same structures; the teacher's answers are random: neither changes the cost of a step.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.measure import Claim, Options, measure_pair, run_claims, timed
from benchmarks.workload import demo_context, training_batches
from raycomp.methods.adabert.cell import Cell, EdgeExecution
from raycomp.methods.adabert.distillation import DistillationLoss
from raycomp.methods.adabert.efficiency import operation_costs
from raycomp.methods.adabert.gumbel import Distribution
from raycomp.methods.adabert.operations import apply_operations
from raycomp.methods.adabert.step import SearchStep
from raycomp.methods.adabert.student import Parent, StudentShape
from raycomp.methods.context import RunContext
from raycomp.training.optimizers import JointUpdater, Updater, resolve_precision


class Predictions:
    """A teacher's answers to any row, drawn at random."""

    def __init__(self, classes: int, layers: int) -> None:
        self.shape = layers, classes

    def rows(self, index: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return logits (batch, classes) and probe logits (batch, teacher layers, classes)."""
        generator = torch.Generator().manual_seed(int(index[0]))
        said = torch.randn(len(index), *self.shape, generator=generator)
        return said[:, -1], said


def measure(settings: Options) -> list[Claim]:
    """Time the same steps of both; one run holds several, since their depths differ."""
    device, context = torch.device(settings.device), demo_context()
    count = 1 if settings.quick else 6
    rows = 128 if device.type == "cuda" else context.job.adabert.batch_size
    held = training_batches(context, rows, count, device)
    default = context.job.adabert.estimator
    ours = search(context, default, context.job.adabert.share_kernels, device)
    theirs = one_by_one(search(context, "full", False, device))
    paired = measure_pair(
        timed(lambda: [ours(i, b) for i, b in enumerate(held)], device),
        timed(lambda: [theirs(i, b) for i, b in enumerate(held)], device),
        settings.runs,
    )
    name = f"AdaBERT search step, {default} / all operations one by one"
    return [Claim.from_figures(name, paired, "lower", 0.35)]


class OneByOne(Cell):
    """A cell whose candidates run one at a time; what it computes is the same."""

    def forward(self, inputs: Sequence[Tensor], mask: Tensor, paths: Sequence[EdgeExecution]) -> Tensor:
        """As `Cell.forward`, for paths that have every candidate and its y."""
        states = list(inputs)
        for node in range(2, self.nodes + 2):
            total = torch.zeros_like(states[0])
            for (source, target), path, held in zip(self.graph, paths, self.edges, strict=True):
                if target != node:
                    continue
                for y, name in zip(cast(Tensor, path.weights), (path.name, *path.others), strict=True):
                    operation = cast(nn.ModuleDict, held)[name]
                    (output,) = apply_operations(states[source], mask, [(name, operation)])
                    if output is not None:  # `zero` has none
                        total = total + y * output
            states.append(total)
        return cast(Tensor, self.summary(states[2:], mask))


def one_by_one(step: SearchStep) -> SearchStep:
    """Return a step of the estimator "full" whose cells run their candidates one at a time."""
    for cell in step.parent.cells:
        cell.__class__ = OneByOne
    return step


def search(context: RunContext, estimator: str, share: bool, device: torch.device) -> SearchStep:
    """Return the step of a search with the job's settings."""
    torch.manual_seed(0)
    chosen, length, layers = context.job.adabert, context.job.task.max_length, 8
    shape = StudentShape(
        context.config.vocab_size, chosen.embedding, chosen.width, length, 2, False, 102, context.pad_id
    )
    parent = Parent(shape, layers, chosen.nodes, chosen.operations, share).to(device)
    parent.dropout = chosen.dropout
    distribution = Distribution(layers, chosen.nodes, chosen.operations).to(device)
    adam = functools.partial(torch.optim.Adam, betas=(0.5, 0.999))
    return SearchStep(
        parent,
        distribution,
        JointUpdater(
            [
                Updater(parent, lambda step: 1e-4, weight_decay=0.0, clip=chosen.clip),
                Updater(
                    distribution, lambda step: 0.0, weight_decay=0.0, clip=float("inf"), optimizer=adam
                ),
            ]
        ),
        teacher_outputs=Predictions(2, context.config.num_hidden_layers),
        distillation=DistillationLoss(0.8, chosen.temperature, chosen.hints, False),
        op_costs=operation_costs(chosen.operations, shape.width, length, chosen.normalisation).to(device),
        beta=4.0,
        estimator=estimator,
        supervised_depths=chosen.supervise,
        alpha_warmup_steps=0,
        total_steps=1000,
        seed=0,
        precision=resolve_precision("auto", device),
        device=device,
    )


if __name__ == "__main__":
    run_claims(__doc__, measure)
