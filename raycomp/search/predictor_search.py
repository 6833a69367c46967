"""OFA's search: a small network predicts scores, and evolution runs on its predictions.

refs: H. Cai, C. Gan, T. Wang, Z. Zhang, S. Han. Once-for-All: Train One Network and Specialize It for
Efficient Deployment. ICLR 2020, Section 3.3, and its code (acc_predictor.py, evolution.py).
https://arxiv.org/abs/1908.09791
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from raycomp.encoder.architecture import Architecture
from raycomp.search.budget import SearchBudget
from raycomp.search.moves import cross, mutate
from raycomp.search.searcher import HistorySearcher
from raycomp.search.space import SearchSpace

TRAINING_STEPS = 400
"""Steps of Adam that fit the predictor, each on all scored networks."""


class AccuracyPredictor:
    """A network of three hidden layers of ReLU from the choices of an architecture to its score.

    The last layer lacks a bias: it predicts the difference from the mean score.

    Args:
        space: The search space.
        seed: Seed of the first weights.
        width: Width of the hidden layers.
    """

    def __init__(self, space: SearchSpace, seed: int, width: int = 400) -> None:
        self._space = space
        self._sizes = [len(variable.choices) for variable in space.variables()]
        rng = np.random.default_rng(seed)
        widths = [sum(self._sizes), width, width, width, 1]
        self._weights = [
            rng.normal(0.0, np.sqrt(2 / fan_in), (fan_in, fan_out))
            for fan_in, fan_out in itertools.pairwise(widths)
        ]
        self._biases = [np.zeros(fan_out) for fan_out in widths[1:-1]]
        self._mean = 0.0

    def encode(self, archs: Sequence[Architecture]) -> np.ndarray:
        """Return one 1 per variable of each architecture; layers that do not run have zeros.

        Returns:
            (architectures, choices of all variables).
        """
        firsts = np.cumsum([0, *self._sizes[:-1]])
        features = np.zeros((len(archs), sum(self._sizes)))
        for row, arch in enumerate(archs):
            indices = self._space.encode(arch)
            present = indices >= 0
            features[row, firsts[present] + indices[present]] = 1.0
        return features

    def fit(self, archs: Sequence[Architecture], values: Sequence[float], rate: float = 1e-3) -> None:
        """Fit the scores by squared error with Adam.

        Args:
            archs: Scored architectures.
            values: Their scores.
            rate: Learning rate.
        """
        features = self.encode(archs)
        scores = np.asarray(values)
        self._mean = float(scores.mean())
        parameters = [*self._weights, *self._biases]
        first = [np.zeros_like(p) for p in parameters]
        second = [np.zeros_like(p) for p in parameters]

        for step in range(1, TRAINING_STEPS + 1):
            gradients = self._gradients(features, scores - self._mean)
            for p, gradient, m, v in zip(parameters, gradients, first, second, strict=True):
                m += 0.1 * (gradient - m)
                v += 0.001 * (gradient**2 - v)
                p -= rate * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)

    def predict(self, archs: Sequence[Architecture]) -> np.ndarray:
        """Return predicted scores, (architectures,)."""
        return self._run(self.encode(archs))[-1][:, 0] + self._mean

    def _run(self, features: np.ndarray) -> list[np.ndarray]:
        """Return the input and the output of each layer."""
        outputs = [features]
        for weight, bias in zip(self._weights, self._biases, strict=False):
            outputs.append(np.maximum(outputs[-1] @ weight + bias, 0.0))
        outputs.append(outputs[-1] @ self._weights[-1])
        return outputs

    def _gradients(self, features: np.ndarray, targets: np.ndarray) -> list[np.ndarray]:
        """Return the gradients of the mean squared error: of the weights, then of the biases."""
        outputs = self._run(features)
        signal = 2 * (outputs[-1] - targets[:, None]) / len(targets)
        weights: list[np.ndarray] = []
        biases: list[np.ndarray] = []
        for layer in range(len(self._weights) - 1, -1, -1):
            weights.insert(0, outputs[layer].T @ signal)
            if layer > 0:
                signal = (signal @ self._weights[layer].T) * (outputs[layer] > 0)
                biases.insert(0, signal.sum(0))
        return [*weights, *biases]


class PredictorSearch(HistorySearcher):
    """Scores random networks, fits the predictor, and proposes the winners of an evolution on it.

    Args:
        space: The search space.
        budget: The budget.
        seed: Seed of the random draws.
        samples: Random networks that the predictor is fitted to. They do not depend on the budget.
        population: Networks of a round of the evolution.
        rounds: Rounds of the evolution.
        parent_share: Part of a population that become parents.
        mutation_rate: Probability that a mutation draws a choice again.
    """

    def __init__(
        self,
        space: SearchSpace,
        budget: SearchBudget,
        seed: int,
        samples: int = 1000,
        population: int = 100,
        rounds: int = 500,
        parent_share: float = 0.25,
        mutation_rate: float = 0.1,
    ) -> None:
        super().__init__(space, budget, seed)
        self._seed = seed
        self._population = population
        self._rounds = rounds
        self._num_parents = max(2, round(parent_share * population))
        self._rate = mutation_rate
        self.num_predictions = 0
        self._winners: list[Architecture] | None = None

        # From a generator of their own: they are the same for every budget.
        rng = np.random.default_rng(seed)
        networks = [space.sample_uniform(rng) for _ in range(samples)]
        self._samples = list(dict.fromkeys(networks))

    def ask(self, n: int) -> list[Architecture]:
        """Return n of the random networks, or the best predicted ones once those have scores."""
        waiting = [arch for arch in self._samples if arch not in self.history.scores]
        if waiting:
            return waiting[:n]
        if self._winners is None:
            self._winners = self._evolve()
        return [arch for arch in self._winners if arch not in self.history.scores][:n]

    def state_dict(self) -> dict[str, Any]:
        """Return generator, scores and the winners of the evolution."""
        winners = None
        if self._winners is not None:
            winners = [arch.to_json() for arch in self._winners]
        return {**super().state_dict(), "winners": winners}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state that `state_dict` returned."""
        super().load_state_dict(state)
        self._winners = None
        if state["winners"] is not None:
            self._winners = [Architecture.from_json(text) for text in state["winners"]]

    def _evolve(self) -> list[Architecture]:
        """Return the last parents of an evolution on predicted scores, best first."""
        # Also networks above the budget: the predictor learns from every score.
        scores = self.history.scores
        predictor = AccuracyPredictor(self.space, self._seed)
        predictor.fit(list(scores), [value for value, _ in scores.values()])

        random_networks = [
            self.shrink(self.space.sample_uniform(self.history.rng)) for _ in range(self._population)
        ]
        population = [arch for arch in random_networks if arch is not None]
        parents: list[Architecture] = []

        for round_number in range(self._rounds + 1):
            self.num_predictions += len(population)
            candidates = list(dict.fromkeys([*parents, *population]))
            if not candidates:
                return []
            order = np.argsort(-predictor.predict(candidates), kind="stable")
            parents = [candidates[int(i)] for i in order[: self._num_parents]]
            if round_number < self._rounds:
                population = self._next_population(parents)

        return parents

    def _next_population(self, parents: list[Architecture]) -> list[Architecture]:
        """Return children of the parents: half mutations, half crossovers."""
        rng = self.history.rng
        children: list[Architecture | None] = []
        for i in range(self._population):
            parent = parents[int(rng.integers(len(parents)))]
            if i % 2:
                other = parents[int(rng.integers(len(parents)))]
                children.append(self.shrink(cross(parent, other, self.space, rng)))
            else:
                children.append(self.shrink(mutate(parent, self.space, self._rate, rng)))
        return [child for child in children if child is not None]
