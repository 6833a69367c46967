"""Healing in rounds: the better half of a budget's networks is healed again with twice as many steps.

This is successive halving (Jamieson and Talwalkar 2016, algorithm 1); weights are kept from round to
round. Inherited weights do not rank networks that are at chance, and a short healing does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from raycomp.arithmetic import ceil_div
from raycomp.config.budget import BudgetSettings
from raycomp.encoder.architecture import Architecture
from raycomp.methods.base import Run
from raycomp.methods.context import RunContext
from raycomp.methods.heal_task import last_round
from raycomp.methods.healing import HealedNetwork, heal_networks
from raycomp.search.outcome import Outcome
from raycomp.storage.files import file_hash, read_json
from raycomp.storage.tables import read_table


@dataclass(frozen=True)
class HealedBudget:
    """The healed networks of one budget.

    Attributes:
        finalists: Networks of its last round.
        networks: All its networks, each with the steps, tokens and seconds of all its rounds.
    """

    finalists: list[HealedNetwork]
    networks: list[HealedNetwork]


def select_candidates(
    context: RunContext, budget: BudgetSettings, trials: Sequence[Outcome]
) -> list[Architecture]:
    """Return the networks of a budget to be healed: what the searches chose, then the best scores.

    It is only the best one where that is near its teacher: such networks differ by less than the noise of
    their scores. Far below the teacher their order changes, so there are as many as the first round has,
    of all depths.

    Args:
        context: The run's context.
        budget: The budget.
        trials: Outcomes of its searches.
    """
    # The evaluations of other budgets count as well: their networks can meet this budget, too.
    scores = {Architecture.from_json(o.arch): (o.value, -o.loss) for o in trials if o.arch is not None}

    rows = read_table(context.run_dir, "evaluations")
    is_inherited = (rows["method"] == context.method) & (rows["split"] == "selection")
    if len(rows):
        is_inherited &= rows["weights_id"] == file_hash(context.files.supernet_network)

    limit = context.budget(budget)
    for row in rows[is_inherited].to_dict("records"):
        arch = Architecture.from_json(str(row["arch"]))
        if limit.is_met_by(arch):
            scores.setdefault(arch, (float(row["value"]), -float(row["loss"])))

    # The searches may choose by a smoothed score, so their winners come first. Networks that leave the
    # limit unused come last, as in the choice without healing.
    winners = {Architecture.from_json(o.arch) for o in trials if o.arch is not None}
    least = context.job.search.min_use * min(limit.limit, limit.largest)
    ranked = sorted(
        scores,
        key=lambda arch: (arch in winners, limit.cost(arch) >= least, *scores[arch], arch.id),
        reverse=True,
    )
    return candidates_of(context, ranked, scores[ranked[0]][0] if ranked else 0.0)


def candidates_of(context: RunContext, ranked: Sequence[Architecture], best: float) -> list[Architecture]:
    """Return the networks to be healed, of all that a budget allows; see `select_candidates`.

    Args:
        context: The run's context.
        ranked: The networks, best first.
        best: Selection score of the first one.
    """
    if ranked and best >= _target_score(context):
        return list(ranked[:1])
    return _alternate_depths(ranked)[: context.job.heal.networks_of_round(1)]


def _alternate_depths(ranked: Sequence[Architecture]) -> list[Architecture]:
    """Return networks in turns of all depths, each depth in its order.

    Scores of networks at chance say nothing, and the depth changes a healed network more than its widths.
    """
    turns: Counter[int] = Counter()
    numbered = []
    for arch in ranked:
        numbered.append((turns[arch.depth], arch))
        turns[arch.depth] += 1
    # Sorting is stable: within a turn the networks keep their order.
    return [arch for _, arch in sorted(numbered, key=lambda pair: pair[0])]


def heal_in_rounds(
    run: Run, task: str, candidates: Mapping[str, Sequence[Architecture]]
) -> dict[str, HealedBudget]:
    """Heal the candidates of each budget, then the better half of them, until one is near its teacher.

    Args:
        run: The method's handle, after its search.
        task: Name of the training task `HealTask` in `Method.tasks`.
        candidates: Budget -> networks of its first round.
    """
    target = _target_score(run.context)
    healed: dict[Architecture, HealedNetwork] = {}
    rounds_of: dict[Architecture, int] = {}
    finalists = {name: list(archs) for name, archs in candidates.items() if archs}
    unfinished = dict(finalists)
    for number in range(1, run.context.job.heal.rounds + 1):
        # A network that several budgets share is healed once.
        archs = list(dict.fromkeys(arch for group in unfinished.values() for arch in group))
        for arch, network in heal_networks(run, task, archs, number).items():
            healed[arch] = _add_costs(healed[arch], network) if arch in healed else network
            rounds_of[arch] = number

        finalists |= unfinished
        unfinished = {
            name: _better_half(group, healed)
            for name, group in unfinished.items()
            if max(healed[arch].value for arch in group) < target
        }
        if not unfinished:
            break

    for arch in healed:
        healed[arch] = _add_later_rounds(run, task, healed[arch], rounds_of[arch])
    return {
        name: HealedBudget([healed[arch] for arch in group], [healed[arch] for arch in candidates[name]])
        for name, group in finalists.items()
    }


def teacher_selection_score(context: RunContext) -> float:
    """Return the teacher's score on the selection split."""
    return float(read_json(context.layout.teacher_score)["selection"][context.primary])


def _target_score(context: RunContext) -> float:
    """Return the selection score from which a budget needs no further network or round."""
    return context.job.heal.target_retention * teacher_selection_score(context)


def _better_half(
    archs: Sequence[Architecture], healed: Mapping[Architecture, HealedNetwork]
) -> list[Architecture]:
    """Return the half of a budget's networks with the lowest losses, at least one.

    The loss ranks networks with less noise than the score, which counts rows.
    """
    ranked = sorted(archs, key=lambda arch: (healed[arch].loss, arch.id))
    return ranked[: ceil_div(len(ranked), 2)]


def _add_later_rounds(run: Run, task: str, network: HealedNetwork, number: int) -> HealedNetwork:
    """Return a network after the last round that it has finished, which nothing trains again.

    An earlier search of the run can have healed it further, and the last weights are those deployed.

    Args:
        run: The method's handle.
        task: As in `heal_in_rounds`.
        network: The network after round `number`.
        number: Its last round in this search.
    """
    for later in range(number + 1, last_round(run.context, network.arch) + 1):
        after = heal_networks(run, task, [network.arch], later)[network.arch]
        network = _add_costs(network, after)
    return network


def _add_costs(before: HealedNetwork, after: HealedNetwork) -> HealedNetwork:
    """Return a network after a round, with the cost of the rounds before it."""
    return replace(
        after,
        steps=before.steps + after.steps,
        tokens=before.tokens + after.tokens,
        seconds=before.seconds + after.seconds,
    )
