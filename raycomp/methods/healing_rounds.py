"""Healing in rounds: the better half of a budget's networks is healed again with twice as many steps.

This is successive halving (Jamieson and Talwalkar 2016, algorithm 1); weights are kept from round to
round. Inherited weights do not rank networks that are at chance, and a short healing does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from raycomp.arithmetic import ceil_div
from raycomp.encoder.architecture import Architecture
from raycomp.methods.base import Run
from raycomp.methods.context import RunContext
from raycomp.methods.healing import HealedNetwork, heal_networks
from raycomp.storage.files import read_json

NEAR_TEACHER = 0.97
"""Share of the teacher's selection score from which a budget needs no further network or round."""


@dataclass(frozen=True)
class HealedBudget:
    """The healed networks of one budget.

    Attributes:
        finalists: Networks of its last round.
        networks: All its networks, each with the steps, tokens and seconds of all its rounds.
    """

    finalists: list[HealedNetwork]
    networks: list[HealedNetwork]


def heal_in_rounds(
    run: Run, task: str, candidates: Mapping[str, Sequence[Architecture]]
) -> dict[str, HealedBudget]:
    """Heal the candidates of each budget, then the better half of them, until one is near its teacher.

    Args:
        run: The method's handle, after its search.
        task: Name of the training task `HealTask` in `Method.tasks`.
        candidates: Budget -> networks of its first round.
    """
    target = NEAR_TEACHER * teacher_selection_score(run.context)
    healed: dict[Architecture, HealedNetwork] = {}
    finalists = {name: list(archs) for name, archs in candidates.items() if archs}
    unfinished = dict(finalists)
    for number in range(1, run.context.job.heal.rounds + 1):
        # A network that several budgets share is healed once.
        archs = list(dict.fromkeys(arch for group in unfinished.values() for arch in group))
        for arch, network in heal_networks(run, task, archs, number).items():
            healed[arch] = _add_costs(healed[arch], network) if arch in healed else network

        finalists |= unfinished
        unfinished = {
            name: _better_half(group, healed)
            for name, group in unfinished.items()
            if max(healed[arch].value for arch in group) < target
        }
        if not unfinished:
            break

    return {
        name: HealedBudget([healed[arch] for arch in group], [healed[arch] for arch in candidates[name]])
        for name, group in finalists.items()
    }


def teacher_selection_score(context: RunContext) -> float:
    """Return the teacher's score on the selection split."""
    return float(read_json(context.layout.teacher_score)["selection"][context.primary])


def _better_half(
    archs: Sequence[Architecture], healed: Mapping[Architecture, HealedNetwork]
) -> list[Architecture]:
    """Return the half of a budget's networks with the lowest losses, at least one.

    The loss ranks networks with less noise than the score, which counts rows.
    """
    ranked = sorted(archs, key=lambda arch: (healed[arch].loss, arch.id))
    return ranked[: ceil_div(len(ranked), 2)]


def _add_costs(before: HealedNetwork, after: HealedNetwork) -> HealedNetwork:
    """Return a network after a round, with the cost of the rounds before it."""
    return replace(
        after,
        steps=before.steps + after.steps,
        tokens=before.tokens + after.tokens,
        seconds=before.seconds + after.seconds,
    )
