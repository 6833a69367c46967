"""Claim: a step of AdaBERT's search is faster with the default estimator than in the released form.

The released form runs every candidate of every edge by itself, in all cells and with its own kernel, and
adds the outputs times their y. Both sides train P_alpha at a learning rate of 0 and therefore draw the
same structures, and the teacher's outputs are random. Neither changes the cost of a step.
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
from raycomp.methods.adabert.settings import AdabertSettings
from raycomp.methods.adabert.step import SearchStep
from raycomp.methods.adabert.student import Parent, StudentShape
from raycomp.methods.context import RunContext
from raycomp.training.optimizers import JointUpdater, Updater, resolve_precision

MAX_LAYERS = 8
TARGET = 0.35
"""Most time of a step, relative to the released form."""


class RandomTeacher:
    """Random outputs of a teacher for any row."""

    def __init__(self, classes: int, layers: int) -> None:
        self.shape = layers, classes

    def rows(self, index: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return logits (batch, classes) and probe logits (batch, teacher layers, classes)."""
        generator = torch.Generator().manual_seed(int(index[0]))
        probes = torch.randn(len(index), *self.shape, generator=generator)
        return probes[:, -1], probes


def measure(options: Options) -> list[Claim]:
    """Time the same steps of both; a run has several steps, because their depths differ."""
    device = torch.device(options.device)
    context = demo_context()
    count = 1 if options.quick else 6
    settings = context.job.settings(AdabertSettings)
    rows = 128 if device.type == "cuda" else settings.batch_size
    batches = training_batches(context, rows, count, device)

    estimator = settings.estimator
    default = make_search(context, estimator, settings.share_kernels, device)
    released = one_by_one(make_search(context, "full", False, device))
    figures = measure_pair(
        timed(lambda: [default(i, batch) for i, batch in enumerate(batches)], device),
        timed(lambda: [released(i, batch) for i, batch in enumerate(batches)], device),
        options.runs,
    )
    name = f"AdaBERT search step, {estimator} / all operations one by one"
    return [Claim.from_figures(name, figures, "lower", TARGET)]


class OneByOneCell(Cell):
    """A cell that runs its candidates one at a time; its output is that of `Cell`."""

    def forward(
        self, inputs: Sequence[Tensor], mask: Tensor, executions: Sequence[EdgeExecution]
    ) -> Tensor:
        """Compute `Cell.forward` for executions that have every candidate and its y."""
        states = list(inputs)
        for node in range(2, self.nodes + 2):
            total = torch.zeros_like(states[0])
            for (source, target), run, operations in zip(self.graph, executions, self.edges, strict=True):
                if target != node:
                    continue
                weights = cast(Tensor, run.weights)
                for y, name in zip(weights, (run.name, *run.others), strict=True):
                    operation = cast(nn.ModuleDict, operations)[name]
                    (output,) = apply_operations(states[source], mask, [(name, operation)])
                    if output is not None:  # the output of `zero` is None
                        total = total + y * output
            states.append(total)
        return cast(Tensor, self.summary(states[2:], mask))


def one_by_one(step: SearchStep) -> SearchStep:
    """Make the cells of a step with the estimator "full" run their candidates one at a time."""
    for cell in step.parent.cells:
        cell.__class__ = OneByOneCell
    return step


def make_search(context: RunContext, estimator: str, share: bool, device: torch.device) -> SearchStep:
    """Return the step of a search with the job's settings.

    Args:
        context: Context of a run, whose job has the settings.
        estimator: "contrast", "sampled" or "full".
        share: Whether an edge's convolutions of one dilation share their middle taps.
        device: Device of the networks.
    """
    torch.manual_seed(0)
    settings = context.job.settings(AdabertSettings)
    length = context.job.task.max_length
    shape = StudentShape(
        vocab_size=context.config.vocab_size,
        embedding_size=settings.embedding,
        width=settings.width,
        max_positions=length,
        classes=2,
        pair=False,
        sep_token_id=102,
        pad_token_id=context.pad_id,
    )
    parent = Parent(shape, MAX_LAYERS, settings.nodes, settings.operations, share).to(device)
    parent.dropout = settings.dropout
    distribution = Distribution(MAX_LAYERS, settings.nodes, settings.operations).to(device)

    adam = functools.partial(torch.optim.Adam, betas=(0.5, 0.999))
    weights = Updater(parent, lambda step: 1e-4, weight_decay=0.0, clip=settings.clip)
    alpha = Updater(distribution, lambda step: 0.0, weight_decay=0.0, clip=float("inf"), optimizer=adam)
    op_costs = operation_costs(settings.operations, shape.width, length, settings.normalisation)
    return SearchStep(
        parent,
        distribution,
        JointUpdater([weights, alpha]),
        teacher_outputs=RandomTeacher(2, context.config.num_hidden_layers),
        distillation=DistillationLoss(0.8, settings.temperature, settings.hints, False),
        op_costs=op_costs.to(device),
        beta=4.0,
        estimator=estimator,
        supervised_depths=settings.supervise,
        alpha_warmup_steps=0,
        total_steps=1000,
        seed=0,
        precision=resolve_precision("auto", device),
        device=device,
    )


if __name__ == "__main__":
    run_claims(__doc__, measure)
