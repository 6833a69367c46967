"""Small students, texts, a teacher and a search step that several tests use."""

from __future__ import annotations

import functools
import random
from dataclasses import replace

import numpy as np
import torch

from raycomp.data.batches import Batch
from raycomp.methods.adabert.distillation import DistillationLoss
from raycomp.methods.adabert.efficiency import operation_costs
from raycomp.methods.adabert.gumbel import Distribution
from raycomp.methods.adabert.step import SearchStep
from raycomp.methods.adabert.structure import OPERATIONS, Structure, cell_edges
from raycomp.methods.adabert.student import Parent, StudentShape
from raycomp.training.optimizers import JointUpdater, Updater

CPU = torch.device("cpu")
SHAPE = StudentShape(
    vocab_size=30,
    embedding_size=8,
    width=12,
    max_positions=16,
    classes=2,
    pair=False,
    sep_token_id=3,
    pad_token_id=0,
)
DISTILLATION = DistillationLoss(gamma=0.8, temperature=1.0, hints="probes", regression=False)


class ConfidentTeacher:
    """A teacher of three layers that is nearly certain of each row's label."""

    def __init__(self, labels: torch.Tensor) -> None:
        self.logits = torch.nn.functional.one_hot(labels, 2) * 4.0
        self.probes = torch.stack([self.logits / 4, self.logits / 2, self.logits], 1)

    def rows(self, index: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        return self.logits[index], self.probes[index]


def make_batch(rows: int = 16, total: int | None = None) -> Batch:
    """Return texts of 3 to 9 tokens whose first token gives the label."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(4, 30, (rows, 9), generator=generator)
    labels = torch.arange(rows) % 2
    ids[:, 0] = 4 + labels
    real = torch.arange(9) < torch.randint(3, 10, (rows, 1), generator=generator)
    return Batch(ids * real, real, ids * 0, labels, np.arange(rows), total or rows, int(real.sum()))


def make_search_step(
    estimator: str = "sampled",
    beta: float = 0.0,
    total_steps: int = 60,
    alpha_warmup_steps: int = 0,
    supervised_depths: str = "depths",
    nodes: int = 3,
    rate: float = 0.02,
) -> SearchStep:
    """Return the search of at most three cells of `nodes` inner nodes; the same weights every time."""
    torch.manual_seed(0)
    parent = Parent(SHAPE, 3, nodes)
    distribution = Distribution(3, nodes, OPERATIONS)
    sgd = functools.partial(torch.optim.SGD, momentum=0.9, lr=rate)
    adam = functools.partial(torch.optim.Adam, betas=(0.5, 0.999))
    updater = JointUpdater(
        [
            Updater(parent, lambda step: rate, weight_decay=0.0, clip=5.0, optimizer=sgd),
            Updater(distribution, lambda step: 0.05, weight_decay=0.0, clip=1e9, optimizer=adam),
        ]
    )
    return SearchStep(
        parent,
        distribution,
        updater,
        teacher_outputs=ConfidentTeacher(make_batch().labels),
        distillation=DISTILLATION,
        op_costs=operation_costs(OPERATIONS, 128, 128, "spread"),
        beta=beta,
        estimator=estimator,
        supervised_depths=supervised_depths,
        alpha_warmup_steps=alpha_warmup_steps,
        total_steps=total_steps,
        seed=1,
        precision="fp32",
        device=CPU,
    )


# Students of 50 tokens, 16 channels and three classes: of one text, of pairs, and with exact match.
ONE_TEXT = replace(SHAPE, vocab_size=50, embedding_size=12, width=16, max_positions=32, classes=3)
PAIR = replace(ONE_TEXT, pair=True)
EXACT_MATCH = replace(PAIR, exact_match=True)


def seeded_structure(seed: int, layers: int = 3, nodes: int = 3) -> Structure:
    rng = random.Random(seed)
    return Structure(layers, tuple(rng.choice(OPERATIONS) for _ in cell_edges(nodes)), nodes)


def make_texts(rows: int = 5, length: int = 14, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids and mask of pairs of texts of 5 to `length` tokens: first SEP second SEP."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, 50, (rows, length), generator=generator)
    lengths = torch.randint(5, length + 1, (rows,), generator=generator)
    real = torch.arange(length) < lengths[:, None]
    for row, n in enumerate(lengths.tolist()):
        ids[row, n // 2] = ids[row, n - 1] = SHAPE.sep_token_id
    return ids * real, real


def perturb(model: torch.nn.Module) -> None:
    """Change every weight and running statistic, because a default value could hide an error."""
    torch.manual_seed(1)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    for name, buffer in model.named_buffers():
        buffer += 0.1 * torch.randn_like(buffer).abs() if "variance" in name else 0.1
