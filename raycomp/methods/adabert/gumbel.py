"""P_alpha, the distribution over structures, and its Gumbel-softmax samples (Eq. 6)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from raycomp.methods.adabert.structure import Structure, cell_edges


@dataclass(frozen=True)
class Sample:
    """One sampled structure: one-hot in the forward pass, soft in the backward pass.

    Attributes:
        layers: y^K, (K_max,).
        operations: y^o of each edge, (edges, candidates).
        scores: (log theta + g) / tau, (edges, candidates); y^o is their softmax.
        structure: The sampled structure.
    """

    layers: Tensor
    operations: Tensor
    scores: Tensor
    structure: Structure


class Distribution(nn.Module):
    """P_alpha: one categorical for the number of cells (P_K) and one per edge for its operation (P_o).

    The parameters are logits, that is log theta up to a constant, which cancels in Eq. 6. They start
    at 0: every structure is equally probable.

    Source: AdaBERT (Chen et al., 2020), Section 2.5.2.

    >>> distribution = Distribution(max_layers=8, nodes=3, candidates=["std_conv_3", "skip", "zero"])
    >>> sample = distribution.sample(temperature=1.0, seed=0)
    >>> sample.layers.shape, sample.operations.shape
    (torch.Size([8]), torch.Size([9, 3]))
    >>> sample.layers.sum().backward()  # the gradient of the soft sample, which Eq. 6 defines
    >>> distribution.layers.grad.shape
    torch.Size([8])
    >>> len(distribution.most_likely().operations)
    9

    Attributes:
        nodes: Inner nodes of a cell.
        candidates: Names of the operations, in the order of the logits' columns.
        layers: Logits of K = 1 .. K_max, (K_max,).
        operations: Logits of each edge's operations, (edges, candidates).
    """

    def __init__(self, max_layers: int, nodes: int, candidates: Sequence[str]) -> None:
        super().__init__()
        self.nodes = nodes
        self.candidates = tuple(candidates)
        self.layers = nn.Parameter(torch.zeros(max_layers))
        self.operations = nn.Parameter(torch.zeros(len(cell_edges(nodes)), len(self.candidates)))

    def sample(self, temperature: float, seed: int) -> Sample:
        """Draw a structure; the same seed draws the same structure on every worker and device."""
        generator = torch.Generator().manual_seed(seed)
        # P_K first, then P_o: the order of the draws is part of the result.
        layers = straight_through(gumbel_scores(self.layers, temperature, generator))
        scores = gumbel_scores(self.operations, temperature, generator)
        return Sample(
            layers=layers,
            operations=straight_through(scores),
            scores=scores,
            structure=self._argmax(layers.detach(), scores.detach()),
        )

    @torch.no_grad()
    def most_likely(self) -> Structure:
        """Return the argmax of P_alpha: the structure of the child."""
        return self._argmax(self.layers, self.operations)

    @torch.no_grad()
    def probabilities(self) -> list[tuple[str, str, float]]:
        """Return rows (variable, choice, probability), one for each choice of each variable."""
        layer_probabilities = torch.softmax(self.layers, -1).tolist()
        rows = [("layers", str(k), p) for k, p in enumerate(layer_probabilities, 1)]
        edge_probabilities = torch.softmax(self.operations, -1).tolist()
        for (i, j), edge_row in zip(cell_edges(self.nodes), edge_probabilities, strict=True):
            variable = f"edge {i}-{j}"
            rows += [(variable, name, p) for name, p in zip(self.candidates, edge_row, strict=True)]
        return rows

    @torch.no_grad()
    def normalised_entropy(self) -> float:
        """Return the entropy of P_alpha divided by its largest value: 1 at the start, 0 when certain."""
        entropy = largest = 0.0
        # The number of cells is one variable, and each edge is one.
        for logits in (self.layers.unsqueeze(0), self.operations):
            p = torch.softmax(logits.double(), -1)
            entropy -= float((p * p.clamp(min=1e-300).log()).sum())
            largest += logits.shape[0] * math.log(logits.shape[1])
        return entropy / largest if largest else 0.0

    def _argmax(self, layers: Tensor, operations: Tensor) -> Structure:
        names = tuple(self.candidates[i] for i in operations.argmax(-1).tolist())
        return Structure(int(layers.argmax()) + 1, names, self.nodes)


def gumbel_scores(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """Return (log theta + g) / tau with Gumbel noise g, the exponents of Eq. 6; the shape of `logits`.

    Args:
        logits: log theta up to a constant, (..., choices).
        temperature: tau, above 0.
        generator: Generator on the CPU, which gives every device the same noise.
    """
    uniform = torch.rand(logits.shape, generator=generator, dtype=torch.float64)
    noise = -torch.log(-torch.log(uniform.clamp(1e-12, 1 - 1e-12)))  # g ~ Gumbel(0, 1)
    return (logits + noise.to(logits)) / temperature


def straight_through(scores: Tensor) -> Tensor:
    """Return one-hot rows at the largest scores; their gradient is that of the softmax (Eq. 6).

    Args:
        scores: (..., choices).

    Returns:
        As `scores`.
    """
    soft = torch.softmax(scores, -1)  # Eq. 6
    hard = torch.nn.functional.one_hot(soft.argmax(-1), scores.shape[-1]).to(soft.dtype)
    # The value is `hard`, and only the last term has a gradient.
    return hard - soft.detach() + soft


def temperature_at(progress: float, rate: float = 1.6, lowest: float = 0.2) -> float:
    """Return tau at a share of the search: max(exp(-rate * progress), lowest).

    The published search decays by exp(-.02 epoch) over 80 epochs: its rate is 1.6, and it ends at .2.

    Args:
        progress: Share of the search that is done, 0 to 1.
        rate: Decay over the whole search.
        lowest: Lower limit of tau.
    """
    return max(math.exp(-rate * progress), lowest)
