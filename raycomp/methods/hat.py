"""HAT, adapted to BERT: one uniform sub-network a step on the labels, then evolution on the loss.

Each step trains one sub-network, drawn uniformly per variable, on the labels only (Section 3.2). An
evolutionary search with HAT's population (125 = 25 parents + 50 mutations + 50 crossovers, 30 rounds)
then looks for the smallest loss on the selection split, and the network with the smallest loss of all
that were scored is deployed. Differences from HAT: heads are removed instead of re-partitioned; the
super-network starts from a fine-tuned encoder; the deployed network inherits its weights, and [heal] may
tune them (HAT trains it from scratch).

refs: H. Wang, Z. Wu, Z. Liu, H. Cai, L. Zhu, C. Gan, S. Han. HAT: Hardware-Aware Transformers for
Efficient Natural Language Processing. ACL 2020. https://arxiv.org/abs/2005.14187
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from pydantic import Field, model_validator

from raycomp.config.job import Job
from raycomp.config.search import SearchSettings
from raycomp.config.section import MethodSettings, choices
from raycomp.encoder.architecture import Architecture
from raycomp.methods.context import RunContext
from raycomp.methods.elastic_method import (
    ElasticMethod,
    StatelessSampler,
    plan_one_phase,
    search_as_published,
)
from raycomp.methods.heal_task import HealTask
from raycomp.methods.supernet import SupernetTask
from raycomp.methods.tasks import TrainingTask
from raycomp.search.choice import ChooseBy
from raycomp.search.space import SearchSpace


class HatSettings(MethodSettings):
    """HAT, adapted to BERT; [train] sets optimizer and batch size, [heal] the tuning of the winners."""

    method: ClassVar[str] = "hat"
    title: ClassVar[str] = "HAT (adapted to BERT)"
    length_keys: ClassVar[tuple[str, ...]] = ("epochs",)
    shared_sections: ClassVar[tuple[str, ...]] = ("heal",)
    # Earlier runs deployed the best score.
    identity_defaults: ClassVar[dict[str, Any]] = {"choose_by": "score"}

    epochs: float = Field(
        10.0, gt=0, le=10_000, description="Passes over the training split, one sub-network per step."
    )
    population: int = Field(125, ge=4, le=10_000, description="Networks of one round of the evolution.")
    parents: int = Field(25, ge=2, description="Best networks of a round, which stay in the next one.")
    mutations: int = Field(
        50, ge=0, description="Mutated parents in a round. The rest of the population are crossovers."
    )
    mutation_rate: float = Field(
        0.3, ge=0, le=1, description="Probability that a mutation draws a choice again."
    )
    generations: int = Field(30, ge=1, le=10_000, description="Rounds of the evolution.")
    choose_by: ChooseBy = Field(
        "loss",
        description=choices(
            "What decides which of the scored networks is deployed.",
            {
                "loss": "the smallest loss on the selection split (the paper's form)",
                "score": "the largest score, then the smallest loss, as in earlier versions",
            },
        ),
    )

    @model_validator(mode="after")
    def _population(self) -> HatSettings:
        if self.parents + self.mutations > self.population:
            raise ValueError(
                f"has parents = {self.parents} and mutations = {self.mutations}. Their sum must be at "
                f"most population = {self.population}"
            )
        return self

    @property
    def evaluations(self) -> int:
        """Different networks that are scored, at most: parents keep their scores."""
        return self.population + (self.generations - 1) * (self.population - self.parents)


class HatSampler(StatelessSampler):
    """Draws one sub-network a step, uniformly per variable.

    Args:
        space: The search space.
        seed: Seed of the draws.
        evolution: Settings of the evolution, which the search reads from the sampler's state.
    """

    def __init__(self, space: SearchSpace, seed: int, evolution: dict[str, Any]) -> None:
        super().__init__(space)
        self._seed = seed
        self._evolution = evolution

    def ask(self, step: int) -> list[Architecture]:
        """Return the sub-network of a step."""
        return [self.space.sample_uniform(np.random.default_rng((self._seed, step)))]

    def state(self, step: int) -> dict[str, Any]:
        """Return the uniform distribution and the settings of the evolution."""
        return {**super().state(step), "evolution": self._evolution}


def build_sampler(job: Job, plan: dict[str, Any]) -> HatSampler:
    """Return the sampler of a training plan."""
    return HatSampler(SearchSpace.from_dict(plan["space"]), job.run.seed, plan["sampler"]["evolution"])


class Hat(ElasticMethod):
    """HAT, adapted to BERT."""

    settings: ClassVar[type[MethodSettings]] = HatSettings
    tasks: ClassVar[Mapping[str, type[TrainingTask]]] = {
        "hat-supernet": SupernetTask,
        "hat-heal": HealTask,
    }
    description: ClassVar[str] = (
        "Extracted by raycomp from a super-network that was trained on uniformly sampled sub-networks "
        "(HAT, adapted to BERT) and searched by evolution."
    )

    def training_plan(self, context: RunContext, num_rows: int) -> dict[str, Any]:
        """Return the plan of the super-network's training: uniform samples, labels only."""
        settings = context.job.settings(HatSettings)
        evolution = settings.model_dump(
            include={"population", "parents", "mutations", "mutation_rate", "generations"}
        )
        sampler = {"name": "hat", "evolution": evolution}
        return plan_one_phase(context, sampler, epochs=settings.epochs, num_rows=num_rows)

    def search_settings(self, context: RunContext) -> SearchSettings:
        """Return HAT's evolution, with as many evaluations as its generations need."""
        settings = context.job.settings(HatSettings)
        # Parents keep their scores, so a round costs fewer evaluations than it has networks.
        return search_as_published(
            context, "hat", evaluations=settings.evaluations, choose_by=settings.choose_by
        )
