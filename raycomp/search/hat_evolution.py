"""HAT's evolutionary search: rounds of parents, mutations and crossovers, ranked by loss.

refs: H. Wang et al. HAT: Hardware-Aware Transformers for Efficient Natural Language Processing. ACL 2020,
Section 3.3, and its code (evolution.py). https://arxiv.org/abs/2005.14187
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from raycomp.encoder.architecture import Architecture, WordTable
from raycomp.search.budget import SearchBudget
from raycomp.search.moves import mutate_table
from raycomp.search.searcher import MAX_DRAWS, HistorySearcher
from raycomp.search.space import SearchSpace, draw_uniform


@dataclass(frozen=True)
class Gene:
    """An architecture with a choice for every layer of the full network.

    Attributes:
        depth: Number of layers that run.
        heads: Heads of each layer, also of those that do not run.
        ffn: Neurons of each layer.
        table: The word table.
    """

    depth: int
    heads: tuple[int, ...]
    ffn: tuple[int, ...]
    table: WordTable

    @classmethod
    def of(cls, arch: Architecture, num_layers: int) -> Gene:
        """Return the gene of an architecture; layers that it lacks are like its first one."""
        missing = num_layers - arch.depth
        heads = arch.heads + arch.heads[:1] * missing
        return cls(arch.depth, heads, arch.ffn + arch.ffn[:1] * missing, arch.table)

    def decode(self) -> Architecture:
        """Return the architecture."""
        widths = (self.heads[: self.depth], self.ffn[: self.depth])
        return Architecture(self.depth, *widths, table=self.table)


class HatEvolution(HistorySearcher):
    """Evolution in rounds. A round is scored whole before the next one is made.

    The first round is random. Each later one has the parents (the networks of the round before with the
    smallest loss), mutations of them, and crossovers. A child above the budget is drawn again.

    Args:
        space: The search space.
        budget: The budget.
        seed: Seed of the random draws.
        population: Networks of a round.
        parents: Networks of a round that stay.
        mutations: Mutations in a round; the rest are crossovers.
        mutation_rate: Probability that a mutation draws a choice again.
        generations: Number of rounds, after which nothing more is proposed.
    """

    def __init__(
        self,
        space: SearchSpace,
        budget: SearchBudget,
        seed: int,
        population: int = 125,
        parents: int = 25,
        mutations: int = 50,
        mutation_rate: float = 0.3,
        generations: int = 30,
    ) -> None:
        super().__init__(space, budget, seed)
        self.round = 0
        self._population = population
        self._num_parents = parents
        self._num_mutations = mutations
        self._rate = mutation_rate
        self._generations = generations
        self._members: list[Architecture] = []

    def ask(self, n: int) -> list[Architecture]:
        """Return up to n networks of the round without a score; none after the last round."""
        waiting = self._waiting()
        # In a small space, a round may have nothing new.
        while not waiting and self.round < self._generations:
            self._members = self._next_round()
            self.round += 1
            waiting = self._waiting()
        return waiting[:n]

    def state_dict(self) -> dict[str, Any]:
        """Return generator, scores and the members of the round."""
        members = [arch.to_json() for arch in self._members]
        return {**super().state_dict(), "members": members, "round": self.round}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state that `state_dict` returned."""
        super().load_state_dict(state)
        self._members = [Architecture.from_json(text) for text in state["members"]]
        self.round = state["round"]

    def parents(self) -> list[Architecture]:
        """Return the members of the round with the smallest loss, best first."""
        scores = self.history.scores
        scored = [arch for arch in dict.fromkeys(self._members) if arch in scores]
        return sorted(scored, key=lambda arch: scores[arch][1])[: self._num_parents]

    def _waiting(self) -> list[Architecture]:
        return [arch for arch in dict.fromkeys(self._members) if arch not in self.history.scores]

    def _next_round(self) -> list[Architecture]:
        """Return the members of the next round."""
        if not self._members:
            return self._draw_many(self._population, lambda: self.space.sample_uniform(self.history.rng))

        parents = self.parents()
        genes = [Gene.of(arch, self.space.num_layers) for arch in parents]
        num_crossovers = self._population - self._num_parents - self._num_mutations
        mutations = self._draw_many(self._num_mutations, lambda: self._mutate(genes))
        crossovers = self._draw_many(num_crossovers, lambda: self._cross(genes))
        return [*parents, *mutations, *crossovers]

    def _draw_many(self, count: int, draw: Callable[[], Architecture]) -> list[Architecture]:
        """Draw networks within the budget: by rejection, and by shrinking where that takes too long."""
        networks: list[Architecture] = []
        for _ in range(count):
            arch: Architecture | None = draw()
            for _ in range(MAX_DRAWS):
                if arch is None or self.budget.is_met_by(arch):
                    break
                arch = draw()
            if arch is not None and not self.budget.is_met_by(arch):
                arch = self.shrink(arch)
            if arch is not None:
                networks.append(arch)
        return networks

    def _mutate(self, genes: list[Gene]) -> Architecture:
        """Draw each choice of a random parent again with the mutation rate, from all its choices."""
        rng = self.history.rng
        # Layers that do not run are mutated too: a later depth may bring them back.
        gene = genes[int(rng.integers(len(genes)))]

        def redraw(value: int, choices: tuple[int, ...]) -> int:
            if rng.random() < self._rate:
                return draw_uniform(choices, rng)
            return value

        heads = tuple(redraw(h, self.space.heads) for h in gene.heads)
        ffn = tuple(redraw(k, self.space.ffn) for k in gene.ffn)
        depth = redraw(gene.depth, self.space.depth)
        child = Gene(depth, heads, ffn, gene.table).decode()
        return self.space.equalised(mutate_table(child, self.space, self._rate, rng))

    def _cross(self, genes: list[Gene]) -> Architecture:
        """Take each choice from one of two different parents, with equal probability."""
        rng = self.history.rng
        # A crossover needs two parents.
        if len(genes) < 2:
            return self._mutate(genes)
        first, second = (genes[int(i)] for i in rng.choice(len(genes), 2, replace=False))

        def pick(a: int, b: int) -> int:
            return (a, b)[int(rng.integers(2))]

        heads = tuple(pick(a, b) for a, b in zip(first.heads, second.heads, strict=True))
        ffn = tuple(pick(a, b) for a, b in zip(first.ffn, second.ffn, strict=True))
        depth = pick(first.depth, second.depth)
        table = first.table
        # A space with one table draws the numbers that it always drew.
        if len(self.space.tables) > 1:
            table = (first, second)[pick(0, 1)].table
        return self.space.equalised(Gene(depth, heads, ffn, table).decode())
