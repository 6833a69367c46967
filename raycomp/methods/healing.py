"""Healing: networks that inherited their weights are distilled from the teacher for a short time.

Inherited weights fit all sub-networks at once, so the smallest ones are far from their best. Healing
trains the networks that the search chose on their own, and restores most of that loss. The networks of a
group are trained in one process: the teacher, which costs as much as several small networks, runs once
for all of them.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from raycomp.arithmetic import ceil_div
from raycomp.config.budget import BudgetSettings
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.elastic import ElasticEncoder
from raycomp.methods.base import Run
from raycomp.methods.context import RunContext
from raycomp.methods.heal_task import load_healed
from raycomp.methods.selection_scores import ScoredModel, score_model
from raycomp.methods.task_vocabulary import reading_cut_ids
from raycomp.storage.files import read_json, write_json
from raycomp.storage.tables import read_table

GROUP_PARAMS = 250_000_000
"""Largest number of trained parameters of a group: weights, gradients and AdamW take 16 bytes of each."""

GROUP_CPUS = 4
"""CPUs of a group. With more of them a step of small networks is hardly faster."""


@dataclass(frozen=True)
class HealedNetwork:
    """A healed network, and what its healing cost.

    Attributes:
        arch: Its architecture.
        value: Score on the selection split.
        loss: Loss on the selection split.
        examples: Rows of the selection split.
        weights_id: Hash of its weights.
        steps: Training steps.
        tokens: Tokens of its training text.
        seconds: Its share of the training time of its group, in proportion to the FLOPs of a step.
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
    run: Run, task: str, archs: Sequence[Architecture]
) -> dict[Architecture, HealedNetwork]:
    """Heal and score networks; finished ones are not healed again.

    Args:
        run: The method's handle, after its search.
        task: Name of the training task `HealTask` in `Method.tasks`.
        archs: Different architectures.
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
        if not all(context.files.healed(arch.id).network.exists() for arch in group)
    ]
    trials = [{"name": _group_name(group), "archs": [a.to_json() for a in group]} for group in groups]
    if num_parallel > 1 and len(trials) > 1:
        run.sweep(trials, [task], cpus=GROUP_CPUS)
    else:
        for trial in trials:
            heal_group(run, task, trial)

    not_scored = [arch for arch in archs if not context.files.healed(arch.id).outcome.exists()]
    if not_scored:
        supernet = context.supernet().eval()
        with run.bar("healed networks") as bar:
            for count, arch in enumerate(not_scored, start=1):
                _score_healed(run, supernet, arch)
                bar(count, len(not_scored), {})

    steps = read_table(context.run_dir, "steps")
    seconds = {str(name): float(rows.sum()) for name, rows in steps.groupby("training")["seconds"]}
    return {arch: _record_evaluation(run, arch, seconds) for arch in archs}


def heal_group(run: Run, task: str, trial: Mapping[str, Any]) -> None:
    """Heal the networks of one group."""
    training = f"{task}.{trial['name']}"
    run.train(training, {"training": training, "archs": list(trial["archs"])})


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


def _group_name(group: Sequence[Architecture]) -> str:
    """Return a name that depends on the networks of a group."""
    return hashlib.sha256(" ".join(arch.id for arch in group).encode()).hexdigest()[:8]


def _score_healed(run: Run, supernet: ElasticEncoder, arch: Architecture) -> None:
    """Score a healed network on the selection split, and write its outcome."""
    context = run.context
    files = context.files.healed(arch.id)
    network = load_healed(context, supernet, arch)

    began = time.perf_counter()
    forward = reading_cut_ids(context, arch.table, lambda batch: network(batch).logits)
    scored = ScoredModel.of_network(context, arch, forward, files.network)
    row = score_model(run, scored, began)
    created_at = datetime.now(UTC).isoformat()
    write_json(files.outcome, {**row, "weights": "healed", "created_at": created_at})


def _record_evaluation(run: Run, arch: Architecture, seconds: Mapping[str, float]) -> HealedNetwork:
    """Write the row of a healed network, and return the network with its cost.

    Args:
        run: The method's handle.
        arch: The network.
        seconds: Training -> seconds of its steps.
    """
    context = run.context
    files = context.files.healed(arch.id)
    row = read_json(files.outcome)
    cost = read_json(files.cost)
    # The row is the same whenever it is written.
    created_at = datetime.fromisoformat(row["created_at"])
    run.record_evaluation(_part_name(context, arch.id), {**row, "created_at": created_at})
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


def _part_name(context: RunContext, arch_id: str) -> str:
    """Return the file of table `evaluations` with the row of a healed network."""
    return f"{context.method}-healed-{arch_id}"


def plan_healing(context: RunContext) -> dict[str, Any]:
    """Return how many networks may be healed, the steps of each, and about how many FLOPs this takes.

    A network counts as large as its budget allows. Budgets that share networks need fewer of them.
    """
    settings = context.job.heal
    if not settings.steps:
        return {"networks": 0, "steps": 0, "flops": 0.0}

    rows = settings.steps * settings.batch_size
    full, _ = context.flops_per_row()
    flops = 0.0
    for budget in context.job.budget:
        flops += settings.networks * rows * 3 * _used_share(context, budget) * full
    if settings.distill != "none":
        flops += rows * full
    networks = settings.networks * len(context.job.budget)
    return {"networks": networks, "steps": settings.steps, "flops": flops}


def _used_share(context: RunContext, budget: BudgetSettings) -> float:
    """Return a limit as a share of the full network's cost; 1 where a device is not measured yet."""
    if not context.budget_costs.is_known(budget):
        return 1.0
    full = float(context.costs.cost(context.cost_key(budget), context.space.largest()))
    return min(1.0, context.limit(budget) / full)


def summarise_healing(context: RunContext) -> dict[str, Any]:
    """Return the cost of all healing of a method; empty where nothing was healed."""
    names = [path.parent.name for path in context.files.healed_outcomes()]
    costs = [read_json(context.files.healed(name).cost) for name in names]
    if not costs:
        return {}
    steps = read_table(context.run_dir, "steps")
    trainings = {cost["training"] for cost in costs}
    return {
        "networks": len(costs),
        "steps": costs[0]["steps"],
        "tokens": sum(cost["tokens"] for cost in costs),
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
