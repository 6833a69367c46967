"""A fixed list of sub-networks: their scores, and the best one for each budget."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

from raycomp.config.budget import BudgetSettings
from raycomp.encoder.architecture import Architecture
from raycomp.methods.base import Deployable, Run
from raycomp.methods.context import RunContext
from raycomp.methods.healing_rounds import candidates_of, heal_in_rounds
from raycomp.methods.selection_scores import ScoredModel, forget_outcome, record_outcome, score_model
from raycomp.methods.students import FULL_USE
from raycomp.methods.subnetworks import NOT_HEALED, build_subnetwork, choose_healed
from raycomp.storage.files import file_hash, read_json


class ScoredNetworks:
    """Scores a few sub-networks of a trained super-network, each once, and chooses among them.

    Args:
        run: The method's handle.
        networks: The sub-networks.
        description: Sentence of the model card.
        tolerance: Part of a limit by which a network may exceed it.
        heal_task: Name of the training task that heals the chosen networks; None: they keep the weights
            that they inherited.
    """

    def __init__(
        self,
        run: Run,
        networks: Sequence[Architecture],
        description: str,
        *,
        tolerance: float = 0.0,
        heal_task: str | None = None,
    ) -> None:
        self._run = run
        self._tolerance = tolerance
        self._heal_task = heal_task
        self._context = run.context
        self._networks = networks
        self._description = description

    def choose(self, explain_infeasible: Callable[[BudgetSettings], str]) -> list[Deployable]:
        """Return one deployable per budget: the network with the best score of those within it.

        Args:
            explain_infeasible: From a budget that no network meets to the reason.
        """
        deployables = []
        candidates: dict[str, list[Architecture]] = {}

        for budget in self._context.job.budget:
            limit = self._context.limit(budget)
            key = self._context.cost_key(budget)
            largest = limit * (1 + self._tolerance)
            met = [a for a in self._networks if self._context.costs.cost(key, a) <= largest]

            if met:
                scores = {arch: self._score(arch) for arch in met}
                ranked = sorted(met, key=lambda arch: (-scores[arch]["value"], scores[arch]["loss"]))
                deployables.append(self._deployable(budget, ranked[0], list(scores.values())))
                best = scores[ranked[0]]["value"]
                if self._heal_task:
                    candidates[budget.name] = candidates_of(self._context, ranked, best)
            else:
                reason = explain_infeasible(budget)
                deployables.append(
                    Deployable(budget.name, budget.kind, limit, None, evaluations=0, reason=reason)
                )

        if not self._heal_task:
            return deployables

        healed = heal_in_rounds(self._run, self._heal_task, candidates)
        return [
            choose_healed(self._run, deployable, healed[deployable.budget], self._description)
            if deployable.budget in healed
            else deployable
            for deployable in deployables
        ]

    @staticmethod
    def forget_lost(context: RunContext, networks: Sequence[Architecture], parts: set[str]) -> list[str]:
        """Delete the scores of networks without an evaluation; see `Method.forget_lost_results`."""
        messages = []
        for arch in networks:
            outcome = context.files.student(arch.id).outcome
            subject = f"{context.method}'s network {arch.id}"
            messages += forget_outcome(outcome, f"{context.method}-{arch.id}", parts, subject)
        return messages

    def _score(self, arch: Architecture) -> dict[str, Any]:
        """Return the score of a network on the selection split; it is computed once."""
        context = self._context
        outcome = context.files.student(arch.id).outcome
        # Several budgets share networks.
        if outcome.exists():
            return read_json(outcome)

        began = time.perf_counter()
        _, forward = build_subnetwork(context, arch)
        model = ScoredModel.of_network(context, arch, forward, context.files.supernet_network)
        row = score_model(self._run, model, began)
        record_outcome(self._run, f"{context.method}-{arch.id}", outcome, row)
        return row

    def _deployable(
        self, budget: BudgetSettings, arch: Architecture, scores: Sequence[dict[str, Any]]
    ) -> Deployable:
        context = self._context
        text = f"{self._description} {NOT_HEALED}"
        share = float(context.costs.cost(context.cost_key(budget), arch)) / context.limit(budget)
        if share < FULL_USE:
            text += f" It is the best of {len(scores)} networks, and uses {share:.0%} of its budget."

        if share > 1:
            text += f" It has {share - 1:.2%} more than its budget allows (`tolerance`)."

        return Deployable(
            budget=budget.name,
            kind=budget.kind,
            limit=context.limit(budget),
            build=functools.partial(build_subnetwork, context, arch),
            arch=arch.to_json(),
            arch_id=arch.id,
            flops=float(context.costs.cost("flops", arch)),
            selection=next(row["value"] for row in scores if row["arch_id"] == arch.id),
            evaluations=len(scores),
            seconds=sum(row["seconds"] for row in scores),
            description=text,
            certificate={"weights_id": file_hash(context.files.supernet_network)},
            tolerance=self._tolerance,
        )
