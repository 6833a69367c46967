"""The entropy of P_alpha that pure noise gives: a search that learned something must be below it.

Adam moves P_alpha by its learning rate in each update, whether its gradients say something or not. Its
entropy therefore falls in any search. This module repeats a search's updates with random numbers in place
of the losses, for several seeds at once. It leaves out weight decay, whose effect depends on the size of
the gradients: a search with decay ends higher on noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from raycomp.methods.adabert.gumbel import gumbel_scores
from raycomp.methods.adabert.structure import CONVOLUTIONS, cell_edges

SEEDS = 20
"""Repetitions of a search on noise."""

BAND = (0.025, 0.975)
"""Quantiles of the repetitions that bound the band."""


@dataclass(frozen=True)
class AlphaUpdates:
    """The updates of P_alpha of a search.

    Attributes:
        layers: K_max.
        nodes: Inner nodes of a cell.
        candidates: Names of the operations.
        structures: Structures of an update.
        estimator: Operations that an update compares; see `estimators.plan_edges`.
        learning_rate: Learning rate of Adam.
        temperatures: tau of each update.
    """

    layers: int
    nodes: int
    candidates: tuple[str, ...]
    structures: int
    estimator: str
    learning_rate: float
    temperatures: tuple[float, ...]


def entropy_on_noise(updates: AlphaUpdates, seeds: int = SEEDS, seed: int = 0) -> np.ndarray:
    """Return the share of entropy left after each update with noise, (updates, seeds).

    Args:
        updates: Number and form of the updates.
        seeds: Repetitions.
        seed: Seed of the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    edges = len(cell_edges(updates.nodes))
    layers = torch.zeros(seeds, 1, updates.layers, requires_grad=True)
    operations = torch.zeros(seeds, edges, len(updates.candidates), requires_grad=True)
    optimizer = torch.optim.Adam([layers, operations], lr=updates.learning_rate, betas=(0.5, 0.999))

    entropies = np.empty((len(updates.temperatures), seeds))
    for number, temperature in enumerate(updates.temperatures):
        layers.grad = _noise_gradient(layers.detach(), temperature, updates, generator, None)
        operations.grad = _noise_gradient(
            operations.detach(), temperature, updates, generator, updates.estimator
        )
        optimizer.step()

        entropies[number] = _shares(layers.detach(), operations.detach())
    return entropies


def _noise_gradient(
    logits: Tensor,
    temperature: float,
    updates: AlphaUpdates,
    generator: torch.Generator,
    estimator: str | None,
) -> Tensor:
    """Return the mean gradient of the draws of an update, (seeds, variables, choices).

    The loss of a draw is the inner product of y (Eq. 6) and noise n. With p the softmax over the compared
    choices, its gradient is p (n - sum p n) / tau.

    Args:
        logits: (seeds, variables, choices).
        temperature: tau.
        updates: Form of the updates.
        generator: Generator of Gumbel draws and noise.
        estimator: Which choices are compared; None compares all.
    """
    drawn_logits = logits.expand(updates.structures, *logits.shape)
    scores = gumbel_scores(drawn_logits, temperature, generator)
    noise = torch.randn(scores.shape, generator=generator)

    if estimator == "contrast":
        scores = scores.masked_fill(~_contrasted(scores, updates.candidates, generator), float("-inf"))
    if estimator == "sampled":
        # Only the sampled operation has an output.
        noise = noise * torch.nn.functional.one_hot(scores.argmax(-1), scores.shape[-1])

    p = torch.softmax(scores, -1)
    gradients = p * (noise - (p * noise).sum(-1, keepdim=True)) / temperature
    return gradients.mean(0)


def _contrasted(scores: Tensor, candidates: tuple[str, ...], generator: torch.Generator) -> Tensor:
    """Return which operations a step compares: the drawn one, those without weights, one convolution."""
    is_convolution = torch.tensor([name in CONVOLUTIONS for name in candidates])
    sampled = scores.argmax(-1, keepdim=True)
    compared = (~is_convolution).expand(scores.shape).clone().scatter_(-1, sampled, True)
    luck = torch.rand(scores.shape, generator=generator).masked_fill_(compared, -1.0)
    best_luck, rival = luck.max(-1, keepdim=True)
    # Without another convolution the rival is compared already.
    return compared.scatter_(-1, rival, (best_luck >= 0) | compared.gather(-1, rival))


def _shares(layers: Tensor, operations: Tensor) -> np.ndarray:
    """Return the entropy of each repetition divided by its largest value, (seeds,)."""
    entropy = torch.zeros(len(layers), dtype=torch.float64)
    largest = 0.0

    for logits in (layers, operations):
        p = torch.softmax(logits.double(), -1)
        entropy -= (p * p.clamp(min=1e-300).log()).sum((1, 2))
        largest += logits.shape[1] * math.log(logits.shape[2])

    return (entropy / largest).numpy() if largest else np.zeros(len(layers))


def noise_band(updates: AlphaUpdates) -> list[tuple[float, float]]:
    """Return the band of the entropy after each update: its lower and upper bound on noise."""
    entropies = entropy_on_noise(updates)
    if not len(entropies):
        return []
    low, high = np.quantile(entropies, BAND, axis=1)
    return list(zip(low.tolist(), high.tolist(), strict=True))
