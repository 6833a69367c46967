"""Healing: networks that inherited their weights are distilled from the teacher for a short time.

Inherited weights fit all sub-networks at once, so the smallest ones are far from their best. Healing
trains the networks that the search chose on their own, and restores most of that loss. The networks of a
group are trained in one process: the teacher, which costs as much as several small networks, runs once
for all of them.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from raycomp.arithmetic import ceil_div
from raycomp.config.budget import BudgetSettings
from raycomp.deployment.cpu import needs_reduced_range
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.elastic import ElasticEncoder
from raycomp.methods.base import Run
from raycomp.methods.context import RunContext
from raycomp.methods.heal_task import load_healed
from raycomp.methods.selection_scores import ScoredModel, score_model
from raycomp.methods.supernet import smallest_cost
from raycomp.methods.task_vocabulary import reading_cut_ids
from raycomp.storage.files import read_json, write_json
from raycomp.storage.tables import read_table

GROUP_PARAMS = 250_000_000
"""Largest number of trained parameters of a group: weights, gradients and AdamW take 16 bytes of each."""

GROUP_CPUS = 4
"""CPUs of a group. With more of them a step of small networks is hardly faster."""

FAR_SHARE = 0.2
"""Share of the way from the smallest network to the full one, below which a plan counts all rounds."""


@dataclass(frozen=True)
class HealedNetwork:
    """A healed network, and what its healing cost.

    Attributes:
        arch: Its architecture.
        value: Score on the selection split.
        loss: Loss on the selection split.
        examples: Rows of the selection split.
        weights_id: Hash of its weights.
        steps: Training steps of all its rounds.
        tokens: Tokens of its training text, of all its rounds.
        seconds: Its share of the training time of its groups, in proportion to the FLOPs of a step.
    """

    arch: Architecture
    value: float
    loss: float
    examples: int
    weights_id: str
    steps: int
    tokens: int
    seconds: float


def heal_networks(
    run: Run, task: str, archs: Sequence[Architecture], number: int = 1
) -> dict[Architecture, HealedNetwork]:
    """Heal and score networks in one round; finished ones are not healed again.

    Args:
        run: The method's handle, after its search.
        task: Name of the training task `HealTask` in `Method.tasks`.
        archs: Different architectures, all of which were healed in the rounds before this one.
        number: Number of the round, from 1.
    """
    context = run.context
    # The driver tokenises because the workers may lack the text.
    context.tokens("train")
    context.tokens("selection")

    num_parallel = run.parallel_trainings(GROUP_CPUS)
    # A group that was interrupted has the same networks when it resumes.
    groups = [
        group
        for group in group_networks(context, archs, num_parallel)
        if not all(context.files.healed(arch.id, number).network.exists() for arch in group)
    ]
    trials = [
        {
            "name": _group_name(group, number),
            "archs": [arch.to_json() for arch in group],
            "round": number,
        }
        for group in groups
    ]
    if num_parallel > 1 and len(trials) > 1:
        run.sweep(trials, [task], cpus=GROUP_CPUS)
    else:
        for trial in trials:
            heal_group(run, task, trial)

    not_scored = [arch for arch in archs if not context.files.healed(arch.id, number).outcome.exists()]
    if not_scored:
        supernet = context.supernet().eval()
        with run.bar("healed networks") as bar:
            for count, arch in enumerate(not_scored, start=1):
                _score_healed(run, supernet, arch, number)
                bar(count, len(not_scored), {})

    steps = read_table(context.run_dir, "steps")
    seconds = {str(name): float(rows.sum()) for name, rows in steps.groupby("training")["seconds"]}
    return {arch: _record_evaluation(run, arch, number, seconds) for arch in archs}


def heal_group(run: Run, task: str, trial: Mapping[str, Any]) -> None:
    """Heal the networks of one group."""
    training = f"{task}.{trial['name']}"
    plan = {"training": training, "archs": list(trial["archs"]), "round": trial["round"]}
    if run.context.job.heal.int8_share:
        # The files in INT8 are written by this process.
        plan["reduce_range"] = needs_reduced_range()
    run.train(training, plan)


def group_networks(
    context: RunContext, archs: Sequence[Architecture], num_parallel: int
) -> list[list[Architecture]]:
    """Split networks into groups of similar cost: at least one for each parallel training.

    Args:
        context: The run's context.
        archs: The networks.
        num_parallel: Number of trainings that can run at the same time.
    """
    if not archs:
        return []
    sizes = {arch: float(context.costs.cost("encoder_params", arch)) for arch in archs}
    # Networks with a cut vocabulary read other tokens than those with the full one.
    if len({arch.table.is_cut for arch in archs}) > 1:
        parts = [[arch for arch in archs if arch.table.is_cut == is_cut] for is_cut in (False, True)]
        return [group for part in parts for group in group_networks(context, part, num_parallel)]

    count = max(num_parallel, ceil_div(int(sum(sizes.values())), GROUP_PARAMS))
    groups: list[list[Architecture]] = [[] for _ in range(min(count, len(archs)))]
    # The largest first, each into the group with the least work so far.
    for arch in sorted(archs, key=lambda arch: (-sizes[arch], arch.id)):
        min(groups, key=lambda group: sum(sizes[member] for member in group)).append(arch)
    return groups


def _group_name(group: Sequence[Architecture], number: int) -> str:
    """Return a name that depends on the networks of a group and on the round."""
    name = hashlib.sha256(" ".join(arch.id for arch in group).encode()).hexdigest()[:8]
    return name if number == 1 else f"{name}.{number}"


def _score_healed(run: Run, supernet: ElasticEncoder, arch: Architecture, number: int) -> None:
    """Score a healed network on the selection split after a round, and write its outcome."""
    context = run.context
    files = context.files.healed(arch.id, number)
    network = load_healed(context, supernet, arch, number)

    began = time.perf_counter()
    forward = reading_cut_ids(context, arch.table, lambda batch: network(batch).logits)
    scored = ScoredModel.of_network(context, arch, forward, files.network)
    row = score_model(run, scored, began)
    created_at = datetime.now(UTC).isoformat()
    write_json(files.outcome, {**row, "weights": "healed", "created_at": created_at})


def _record_evaluation(
    run: Run, arch: Architecture, number: int, seconds: Mapping[str, float]
) -> HealedNetwork:
    """Write the row of a healed network after a round, and return the network with the round's cost.

    Args:
        run: The method's handle.
        arch: The network.
        number: The round.
        seconds: Training -> seconds of its steps.
    """
    context = run.context
    files = context.files.healed(arch.id, number)
    row = read_json(files.outcome)
    cost = read_json(files.cost)
    # The row is the same whenever it is written.
    created_at = datetime.fromisoformat(row["created_at"])
    run.record_evaluation(_part_name(context, files.path.name), {**row, "created_at": created_at})
    return HealedNetwork(
        arch=arch,
        value=row["value"],
        loss=row["loss"],
        examples=row["examples"],
        weights_id=row["weights_id"],
        steps=cost["steps"],
        tokens=cost["tokens"],
        seconds=cost["share"] * seconds.get(cost["training"], 0.0),
    )


def _part_name(context: RunContext, folder: str) -> str:
    """Return the file of table `evaluations` with the row of a healed network in a folder of `heal`."""
    return f"{context.method}-healed-{folder}"


def plan_healing(context: RunContext) -> dict[str, Any]:
    """Return how many networks may be healed, the steps of each, and about how many FLOPs this takes.

    A network counts as large as its budget allows. Budgets near the smallest network count with all their
    rounds, others with one, because networks of theirs are usually near their teacher. Budgets that share
    networks need fewer of them.

    Returns:
        `networks`: networks of the first round; `steps` of each in the last round that is counted, with
        the rounds before it; `network_steps`: steps of all networks together; `flops`.
    """
    settings = context.job.heal
    if not settings.steps:
        return {"networks": 0, "steps": 0, "network_steps": 0, "flops": 0.0}

    full, _ = context.flops_per_row()
    row_flops, networks, network_steps, rounds = 0.0, 0, 0, 1
    for budget in context.job.budget:
        if _is_far(context, budget):
            count, rounds = settings.networks_of_round(1), settings.rounds
            # Each round has half the networks and twice the steps of the one before.
            steps_of_budget = count * settings.steps * settings.rounds
        else:
            count = settings.networks
            steps_of_budget = count * settings.steps
        networks += count
        network_steps += steps_of_budget
        row_flops += steps_of_budget * 3 * _used_share(context, budget) * full

    steps = sum(settings.steps_of_round(number) for number in range(1, rounds + 1))
    if settings.distill != "none":
        row_flops += steps * full
    return {
        "networks": networks,
        "steps": steps,
        "network_steps": network_steps,
        "flops": row_flops * settings.batch_size,
    }


def _is_far(context: RunContext, budget: BudgetSettings) -> bool:
    """Return whether a limit is so near the smallest network that several rounds are likely."""
    if not context.budget_costs.is_known(budget):
        return False
    kind = context.cost_key(budget)
    least = smallest_cost(context, kind)
    full = float(context.costs.cost(kind, context.space.largest()))
    return context.limit(budget) < least + FAR_SHARE * (full - least)


def _used_share(context: RunContext, budget: BudgetSettings) -> float:
    """Return a limit as a share of the full network's cost; 1 where a device is not measured yet."""
    if not context.budget_costs.is_known(budget):
        return 1.0
    full = float(context.costs.cost(context.cost_key(budget), context.space.largest()))
    return min(1.0, context.limit(budget) / full)


def summarise_healing(context: RunContext) -> dict[str, Any]:
    """Return the cost of all healing of a method; empty where nothing was healed.

    `steps` and `least_steps` are the largest and the smallest number of steps of a network.
    """
    names = [path.parent.name for path in context.files.healed_outcomes()]
    costs = {name: read_json(context.files.healed(name).cost) for name in names}
    if not costs:
        return {}
    steps = read_table(context.run_dir, "steps")
    trainings = {cost["training"] for cost in costs.values()}
    steps_of_networks: Counter[str] = Counter()
    for name, cost in costs.items():
        # The folder of a later round is named ARCHITECTURE.ROUND.
        steps_of_networks[name.partition(".")[0]] += cost["steps"]
    return {
        "networks": len(steps_of_networks),
        "steps": max(steps_of_networks.values()),
        "least_steps": min(steps_of_networks.values()),
        "tokens": sum(cost["tokens"] for cost in costs.values()),
        "seconds": float(steps[steps["training"].isin(trainings)]["seconds"].sum()),
    }


def find_lost_evaluations(context: RunContext, parts: set[str]) -> list[str]:
    """Return a message for each healed network whose row of `evaluations` is missing.

    The method writes the row again from the network's outcome.

    Args:
        context: The run's context.
        parts: Names of the files of table `evaluations` that exist, without ending.
    """
    return [
        f"The evaluation of healed network {path.parent.name} is missing: it is written again."
        for path in context.files.healed_outcomes()
        if _part_name(context, path.parent.name) not in parts
    ]
