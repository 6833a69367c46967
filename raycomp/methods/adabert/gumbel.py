"""The distribution over structures and its Gumbel-softmax samples (Eq. 6), straight-through."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from raycomp.methods.adabert.structure import Structure, cell_edges


@dataclass(frozen=True)
class Sample:
    """One draw: one-hot in the forward pass, soft in the backward pass.

    Attributes:
        layers: (K_max,) y^K.
        operations: (edges, candidates) y^o.
        scores: (edges, candidates), (log theta + g) / tau: y^o is their softmax.
        structure: the drawn structure.
    """

    layers: Tensor
    operations: Tensor
    scores: Tensor
    structure: Structure


class Distribution(nn.Module):
    """P_K and one P_o per edge, as logits: log theta up to a constant, which Eq. 6 does not see."""

    def __init__(self, max_layers: int, nodes: int, candidates: Sequence[str]) -> None:
        super().__init__()
        self.nodes = nodes
        self.candidates = tuple(candidates)
        self.layers = nn.Parameter(torch.zeros(max_layers))
        self.operations = nn.Parameter(torch.zeros(len(cell_edges(nodes)), len(self.candidates)))

    def sample(self, temperature: float, seed: int) -> Sample:
        """Draw a structure; the same seed draws the same on every worker and device."""
        generator = torch.Generator().manual_seed(seed)
        layers = straight_through(gumbel_scores(self.layers, temperature, generator))
        scores = gumbel_scores(self.operations, temperature, generator)
        drawn = self._structure(layers.detach(), scores.detach())
        return Sample(layers, straight_through(scores), scores, drawn)

    @torch.no_grad()
    def most_likely(self) -> Structure:
        """Return the argmax of P_alpha: the child."""
        return self._structure(self.layers, self.operations)

    @torch.no_grad()
    def probabilities(self) -> list[tuple[str, str, float]]:
        """Return (variable, choice, probability) of every choice."""
        rows = [("layers", str(k + 1), float(p)) for k, p in enumerate(torch.softmax(self.layers, -1))]
        for (i, j), row in zip(cell_edges(self.nodes), torch.softmax(self.operations, -1), strict=True):
            rows += [(f"edge {i}-{j}", n, float(p)) for n, p in zip(self.candidates, row, strict=True)]
        return rows

    @torch.no_grad()
    def normalised_entropy(self) -> float:
        """Return the share of the largest entropy that is left, 1 at the start."""
        total = limit = 0.0
        for logits in (self.layers.unsqueeze(0), self.operations):
            p = torch.softmax(logits.double(), -1)
            total -= float((p * p.clamp(min=1e-300).log()).sum())
            limit += logits.shape[0] * math.log(logits.shape[1])
        return total / limit if limit else 0.0

    def _structure(self, layers: Tensor, operations: Tensor) -> Structure:
        names = tuple(self.candidates[i] for i in operations.argmax(-1).tolist())
        return Structure(int(layers.argmax()) + 1, names, self.nodes)


def gumbel_scores(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """Return (log theta + g) / tau with Gumbel noise g: the exponents of Eq. 6.

    Args:
        logits: (..., choices), log theta up to a constant.
        temperature: tau > 0.
        generator: on the CPU, so that every device draws the same.
    """
    uniform = torch.rand(logits.shape, generator=generator, dtype=torch.float64)
    noise = -torch.log(-torch.log(uniform.clamp(1e-12, 1 - 1e-12)))
    return (logits + noise.to(logits)) / temperature


def straight_through(scores: Tensor) -> Tensor:
    """Return one-hot rows whose gradient is that of the softmax of `scores` (Eq. 6)."""
    soft = torch.softmax(scores, -1)
    hard = torch.nn.functional.one_hot(soft.argmax(-1), scores.shape[-1]).to(soft.dtype)
    return hard - soft.detach() + soft


def temperature_at(progress: float, rate: float = 1.6, lowest: float = 0.2) -> float:
    """Return tau at a share of the search: max(exp(-rate * progress), lowest).

    The published search decays by exp(-.02 epoch) over 80 epochs, so rate is 1.6 and it ends at .2.
    """
    return max(math.exp(-rate * progress), lowest)
