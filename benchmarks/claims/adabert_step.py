"""A step of AdaBERT's search with the default estimator, against all operations one by one.

The peer is the paper's form: every candidate of every edge runs in all cells, each with a kernel of
its own. P_alpha is trained by both and its rate is 0, so that both draw the same structures; the
teacher's answers are random: neither changes the cost of a step.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

from benchmarks.measure import Claim, Settings, alternating, main, seconds
from benchmarks.setting import batches, workplace
from raycomp.adabert.efficiency import prices
from raycomp.adabert.gumbel import Distribution
from raycomp.adabert.step import Guidance, SearchStep
from raycomp.adabert.student import Parent, StudentShape
from raycomp.runtime.workplace import Workplace
from raycomp.train.optim import JointUpdater, Updater, resolve_precision


class Answers:
    """A teacher's answers to any row, drawn at random."""

    def __init__(self, classes: int, layers: int) -> None:
        self.shape = layers, classes

    def rows(self, index: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return logits (batch, classes) and probe logits (batch, teacher layers, classes)."""
        generator = torch.Generator().manual_seed(int(index[0]))
        said = torch.randn(len(index), *self.shape, generator=generator)
        return said[:, -1], said


def measure(settings: Settings) -> list[Claim]:
    """Time the same steps of both; one run holds several, since their depths differ."""
    device, place = torch.device(settings.device), workplace()
    count = 1 if settings.quick else 6
    rows = 128 if device.type == "cuda" else place.job.adabert.batch_size
    held = batches(place, rows, count, device)
    default = place.job.adabert.estimator
    ours = search(place, default, place.job.adabert.share_kernels, device)
    theirs = search(place, "full", False, device)
    paired = alternating(
        seconds(lambda: [ours(i, b) for i, b in enumerate(held)], device),
        seconds(lambda: [theirs(i, b) for i, b in enumerate(held)], device),
        settings.runs,
    )
    name = f"AdaBERT search step, {default} / all operations one by one"
    return [Claim.of(name, paired, "lower", 0.35)]


def search(place: Workplace, estimator: str, share: bool, device: torch.device) -> SearchStep:
    """Return the step of a search with the job's settings."""
    torch.manual_seed(0)
    chosen, length, layers = place.job.adabert, place.job.task.max_length, 8
    shape = StudentShape(
        place.config.vocab_size, chosen.embedding, chosen.width, length, 2, False, 102, place.pad_id
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
        knowledge=Answers(2, place.config.num_hidden_layers),
        guidance=Guidance(0.8, chosen.temperature, chosen.hints, False),
        price=prices(chosen.operations, shape.width, length, chosen.normalisation).to(device),
        beta=4.0,
        estimator=estimator,
        supervise=chosen.supervise,
        wait=0,
        total_steps=1000,
        seed=0,
        precision=resolve_precision("auto", device),
        device=device,
    )


if __name__ == "__main__":
    main(__doc__, measure)
