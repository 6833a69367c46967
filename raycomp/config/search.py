"""The sections [search], [heal] and [finetune] of a job file: the use of the trained super-network."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from raycomp.config.elastic import AUTO_RATE, DISTILLATIONS, LearningRate
from raycomp.config.references import check_choice
from raycomp.config.section import Section, choices, plain_seeds

SEARCHERS = ("rated", "sng", "random", "evolution", "hat", "coarse_to_fine", "predictor")
"""Searchers of raycomp's own."""


class SearchSettings(Section):
    """The deployment search: it finds the best architecture within each budget, on inherited weights."""

    searchers: list[str] = Field(
        ["rated"],
        min_length=1,
        description=choices(
            "Searchers. Each of them searches each budget with each seed; the best architecture wins.",
            {
                "rated": "hundreds of candidates, of which those that theta and a model of the scores "
                "rate best are scored",
                "sng": "stochastic natural gradient, from the trained architecture distribution",
                "random": "uniform draws within the budget",
                "evolution": "mutation and crossover of the best architectures so far",
                "hat": "HAT's evolution: 30 rounds of 125 networks, ranked by loss. They need "
                "3,025 `evaluations`; with at most 125, only random networks are scored",
                "coarse_to_fine": "BigNAS' search: networks of equal layers, then mutations of the best",
                "predictor": "OFA's search: a predictor of the score, and evolution on its predictions. "
                "It needs more than 1,000 `evaluations`; with fewer, only random networks are scored",
                "module:class": "your class with `ask` and `tell`, made with (space, budget, seed). All "
                "nodes must be able to import the module",
            },
        ),
    )
    seeds: list[int] = Field(
        [0], min_length=1, description="Seeds of the searchers, each added to `run.seed`."
    )
    evaluations: int = Field(
        64,
        ge=4,
        description="Architectures that one trial (budget, searcher, seed) can ask for. The methods "
        "`hat` and `ofa` use their own number.",
    )
    shared_fraction: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Part of `evaluations` that is the shared initial set: the same architectures for "
        "all budgets, scored once, from 0 to 1. Not set: large enough that G budgets together "
        "need at most G^0.45 times the evaluations of one. Budgets whose limits differ by at most 2.5% "
        "count as one: they share their whole search.",
    )
    batch: int = Field(
        8, ge=2, description="Architectures that a searcher asks for at once (lambda in the paper)."
    )
    min_use: float = Field(
        0.95,
        ge=0,
        le=1,
        description="Part of the limit that a deployed network uses at least, where a scored one does. "
        "0: the best score wins, however small the network.",
    )
    smoothing: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Weight of the predicted loss in the choice among scored networks, 0 to 1; the rest "
        "is the measured loss. The prediction comes from all scored networks, so a lucky score counts "
        "less. 0: `choose_by` decides (the paper's form).",
    )
    choose_by: Literal["score", "loss"] = Field(
        "score",
        description=choices(
            "What decides among the scored networks where `smoothing` is 0.",
            {
                "score": "the largest score, then the smallest loss (the paper's form)",
                "loss": "the smallest loss, then the largest score. A loss has less noise than a score, "
                "which counts rows",
            },
        ),
    )
    alpha: float = Field(2.0, gt=0, le=100, description="Exponent of the reward (alpha of Eq. 7).")
    reward: Literal["corrected", "printed"] = Field(
        "corrected",
        description=choices(
            "Reward of an architecture that exceeds the limit (Eq. 7).",
            {
                "corrected": "it falls as the violation grows",
                "printed": "the equation as the paper prints it: it rises as the violation grows",
            },
        ),
    )
    evaluators: int = Field(
        0, ge=0, description="Evaluators: processes that score architectures. 0: one per CPU or GPU."
    )
    gpus: float = Field(
        0,
        ge=0,
        description="GPUs of each evaluator; fractions are possible. 0: one GPU if the cluster has GPUs, "
        "else none.",
    )
    flops_length: int | None = Field(
        None,
        ge=1,
        description="Tokens of the sequence whose FLOPs are counted. Not set: `task.max_length`.",
    )
    max_tokens: int | None = Field(
        None,
        ge=16,
        description="Tokens of one batch of an evaluation, padding included. Not set: 2,048 on a CPU, "
        "16,384 on a GPU.",
    )

    @field_validator("searchers")
    @classmethod
    def _searchers(cls, value: list[str]) -> list[str]:
        return [check_choice(name, SEARCHERS, "a searcher") for name in value]

    @field_validator("seeds")
    @classmethod
    def _seeds(cls, value: list[int]) -> list[int]:
        return plain_seeds(value)


class HealSettings(Section):
    """Healing: the networks that the search chose are distilled from the teacher for a short time.

    Sub-networks inherit their weights from the super-network. Small ones then lose much accuracy, which
    a short distillation restores. The network with the best score on the selection split is deployed.
    """

    steps: int = Field(
        230,
        ge=0,
        le=1_000_000,
        description="Steps of each network in the first round. 0: no healing (the papers' form).",
    )
    networks: int = Field(
        1,
        ge=1,
        le=64,
        description="Networks of each budget in the last round. Only one is healed where it keeps "
        "`target_retention`: such networks differ by less than the noise of their scores. A network that "
        "several budgets share is healed once.",
    )
    rounds: int = Field(
        3,
        ge=1,
        le=10,
        description="Largest number of rounds of a budget. Each round heals half as many networks as the "
        "one before, those with the lowest losses, with twice as many steps. A budget whose best network "
        "keeps `target_retention` needs no further round.",
    )
    target_retention: float = Field(
        0.97,
        gt=0,
        le=1,
        description="Share of the teacher's selection score from which a budget needs no further network "
        "or round. A value close to 1 costs time: budgets that cannot reach it are healed in all rounds.",
    )
    batch_size: int = Field(32, ge=1, description="Texts of one step, summed over all workers.")
    learning_rate: LearningRate = Field(
        "auto",
        description=choices(
            "Largest learning rate. It falls linearly to 0 in each round, after a warm-up of "
            "`train.warmup`.",
            AUTO_RATE,
        ),
    )
    int8_share: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Part of the steps, at their end, in which the weights and inputs of products are "
        "rounded as in INT8, from 0 to 1. Useful where an INT8 file loses more than half a point.",
    )
    distill: str = Field(
        "hidden",
        description=choices(
            "What the networks learn from.",
            {
                "none": "the labels only",
                "logits": "the labels and the teacher's predictions",
                "hidden": "the labels, the teacher's predictions and its hidden states",
                "teacher": "the teacher's predictions at temperature 2 and its hidden states, no labels",
                "module:name": "the labels and your hint, or your objective. All nodes must be able to "
                "import the module",
            },
        ),
    )

    def steps_of_round(self, number: int) -> int:
        """Return the steps of each network in a round, counted from 1."""
        return int(self.steps * 2 ** (number - 1))

    def networks_of_round(self, number: int) -> int:
        """Return the largest number of networks of a budget in a round, counted from 1."""
        return int(self.networks * 2 ** (self.rounds - number))

    @field_validator("distill")
    @classmethod
    def _distill(cls, value: str) -> str:
        return check_choice(value, DISTILLATIONS, "a hint")


class FinetuneSettings(Section):
    """Fine-tuning of sub-networks. It shows how well inherited weights rank them.

    Fine-tuned sub-networks are scored, not exported.
    """

    epochs: float = Field(
        0.0,
        ge=0,
        le=1000,
        description="Passes over the training split. 0: no fine-tuning (the paper's form).",
    )
    learning_rate: float = Field(
        2e-5,
        gt=0,
        lt=1,
        description="Largest learning rate. It falls linearly to 0 after a warm-up of `teacher.warmup`.",
    )
    batch_size: int = Field(32, ge=1, description="Texts of one step.")
    start: Literal["supernet", "teacher"] = Field(
        "supernet",
        description=choices(
            "Weights before the fine-tuning.",
            {
                "supernet": "the weights that the sub-network inherits from the trained super-network",
                "teacher": "the same slice of the network before it was trained as a super-network",
            },
        ),
    )
    networks: int = Field(
        0,
        ge=0,
        description="Number of sub-networks that are drawn uniformly from the space and fine-tuned, to "
        "compare rankings. 0: the deployed sub-networks are fine-tuned instead.",
    )
