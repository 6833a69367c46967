"""Sub-networks of a trained super-network: search, healing, and the models that are deployed."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from raycomp.config.search import SearchSettings
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.elastic import ElasticEncoder
from raycomp.methods.base import Deployable, Forward, Healing, Run
from raycomp.methods.context import RunContext
from raycomp.methods.heal_task import extract_healed, load_healed
from raycomp.methods.healing import summarise_healing
from raycomp.methods.healing_rounds import HealedBudget, heal_in_rounds, select_candidates
from raycomp.methods.task_vocabulary import prepare_tables, reading_cut_ids
from raycomp.search.choice import ChooseBy
from raycomp.search.outcome import Outcome
from raycomp.storage.files import file_hash, read_json
from raycomp.storage.tables import read_table

if TYPE_CHECKING:
    # Workers of a training need no class of transformers, whose import takes seconds.
    from transformers import PreTrainedModel

NOT_HEALED = "No fine-tuning followed the extraction."


def compress_budgets(
    run: Run, settings: SearchSettings, description: str, heal_task: str
) -> list[Deployable]:
    """Search every budget and heal the best networks; return the best deployable of each budget.

    Args:
        run: The method's handle.
        settings: Searchers, seeds and number of evaluations.
        description: Sentence of the model card.
        heal_task: Name of the training task that heals.
    """
    context = run.context
    prepare_tables(context)
    outcomes = run.search(settings)
    trials = {
        budget.name: [outcome for outcome in outcomes if outcome.budget == budget.name]
        for budget in context.job.budget
    }
    winners = {
        name: _best_in_fp32(run, best_outcome(searched, settings.smoothing, settings.choose_by))
        for name, searched in trials.items()
    }

    candidates: dict[str, list[Architecture]] = {}
    if context.job.heal.steps:
        candidates = {
            budget.name: select_candidates(context, budget, trials[budget.name])
            for budget in context.job.budget
        }
    healed = heal_in_rounds(run, heal_task, candidates) if candidates else {}

    weights_id = file_hash(context.files.supernet_network)
    deployables = []
    for name, winner in winners.items():
        deployable = _inherited_deployable(context, winner, trials[name], weights_id, description)
        if name in healed:
            deployable = choose_healed(run, deployable, healed[name], description)
        deployables.append(deployable)
    return deployables


def best_outcome(outcomes: Sequence[Outcome], smoothing: float, choose_by: ChooseBy = "score") -> Outcome:
    """Return the best outcome of several searches of one budget.

    The highest score of several is the luckiest one, so where the searches choose by a loss, the lowest
    loss decides between them: it has less noise than a score, which counts rows.

    Args:
        outcomes: One outcome of each search.
        smoothing: `search.smoothing`; above 0 the loss decides.
        choose_by: `search.choose_by`, which decides where smoothing is 0.
    """
    by_loss = smoothing > 0 or choose_by == "loss"

    def rank(outcome: Outcome) -> tuple[bool, float, float]:
        order = (-outcome.loss, outcome.value) if by_loss else (outcome.value, -outcome.loss)
        return (outcome.arch is not None, *order)

    return max(outcomes, key=rank)


def _best_in_fp32(run: Run, best: Outcome) -> Outcome:
    """Return the best outcome of a budget with its scores in fp32.

    Validation scores are in fp32 too. The difference of selection and validation would otherwise contain
    the error of a search in bf16.
    """
    context = run.context
    if best.arch is None or context.chosen_precision() == "fp32":
        return best
    arch = Architecture.from_json(best.arch)
    _, forward = _supernet_slice(context, arch)
    score = run.score(forward, "selection", is_cut=arch.table.is_cut)
    return replace(best, value=score.values[context.primary], loss=score.loss)


def _inherited_deployable(
    context: RunContext, winner: Outcome, trials: list[Outcome], weights_id: str, description: str
) -> Deployable:
    """Return the deployable of the best network of a search, with the weights that it inherited."""
    if winner.arch is None:
        return Deployable(
            winner.budget, winner.kind, winner.limit, None, searcher=winner.searcher, seed=winner.seed,
            evaluations=sum(t.evaluations for t in trials), seconds=sum(t.seconds for t in trials),
            reason=winner.reason,
        )  # fmt: skip

    arch = Architecture.from_json(winner.arch)
    return Deployable(
        budget=winner.budget,
        kind=winner.kind,
        limit=winner.limit,
        build=functools.partial(build_subnetwork, context, arch),
        arch=winner.arch,
        arch_id=arch.id,
        flops=float(context.costs.cost("flops", arch)),
        selection=winner.value,
        searcher=winner.searcher,
        seed=winner.seed,
        evaluations=sum(t.evaluations for t in trials),
        seconds=sum(t.seconds for t in trials),
        description=f"{description} {NOT_HEALED}",
        certificate={"weights_id": weights_id},
        is_cut=arch.table.is_cut,
    )


def choose_healed(run: Run, inherited: Deployable, healed: HealedBudget, description: str) -> Deployable:
    """Return the deployable of the best healed network of a budget's last round.

    The network with inherited weights remains only if its score is higher by more than chance explains.

    Args:
        run: The method's handle.
        inherited: Deployable of the best network with inherited weights.
        healed: Healed networks of the budget.
        description: Sentence of the model card.
    """
    context = run.context
    best = max(healed.finalists, key=lambda network: (network.value, -network.loss))
    healing = Healing(
        inherited=inherited.selection,
        healed=best.value,
        networks=len(healed.networks),
        steps=best.steps,
        tokens=sum(network.tokens for network in healed.networks),
        seconds=sum(network.seconds for network in healed.networks),
    )
    # Twice the largest standard error of an accuracy. The score of the search is the best of many and
    # therefore too high, so a smaller difference does not count.
    if inherited.selection > best.value + 1 / math.sqrt(best.examples):
        run.say(
            f"Budget {inherited.budget}: healing lowered the selection score from "
            f"{inherited.selection:.3f} to {best.value:.3f}, so the network is deployed as it was. Lower "
            "heal.learning_rate."
        )
        return replace(inherited, healing=healing)

    return replace(
        inherited,
        build=functools.partial(build_healed, context, best.arch),
        arch=best.arch.to_json(),
        arch_id=best.arch.id,
        flops=float(context.costs.cost("flops", best.arch)),
        selection=best.value,
        description=describe_healed(description, best.steps),
        certificate={"weights_id": best.weights_id},
        healing=healing,
        is_cut=best.arch.table.is_cut,
    )


def describe_healed(description: str, steps: int) -> str:
    """Return the sentences of the model card on a healed network."""
    return f"{description} It was then healed: distilled from its teacher for {steps:,} steps."


def restore_subnetwork(context: RunContext, row: Mapping[str, Any], description: str) -> Deployable:
    """Return the deployable of a row of table `deployments`, from the trained super-network."""
    arch = Architecture.from_json(str(row["arch"]))
    build = functools.partial(build_subnetwork, context, arch)
    text = f"{description} {NOT_HEALED}"
    healing = _restore_healing(row)

    # Where healing lowered the score, the selection score is that of the inherited weights.
    if healing is not None and healing.healed == row["selection"]:
        build = functools.partial(build_healed, context, arch)
        text = describe_healed(description, healing.steps)

    return Deployable(
        budget=str(row["budget"]),
        kind=str(row["kind"]),
        limit=float(row["limit"]),
        build=build,
        arch=arch.to_json(),
        arch_id=arch.id,
        flops=float(context.costs.cost("flops", arch)),
        selection=float(row["selection"]),
        description=text,
        healing=healing,
        is_cut=arch.table.is_cut,
    )


def _restore_healing(row: Mapping[str, Any]) -> Healing | None:
    """Return what a row of table `deployments` says on healing; None where the network was not healed."""
    # pandas has NaN in place of a missing value.
    if row.get("healed") is None or math.isnan(row["healed"]):
        return None
    return Healing(
        inherited=float(row["inherited"]),
        healed=float(row["healed"]),
        networks=int(row["heal_networks"]),
        steps=int(row["heal_steps"]),
        tokens=int(row["heal_tokens"]),
        seconds=float(row["heal_seconds"]),
    )


def build_subnetwork(context: RunContext, arch: Architecture) -> tuple[PreTrainedModel, Forward]:
    """Return the extracted sub-network, and the forward function of its slice of the super-network."""
    supernet, forward = _supernet_slice(context, arch)
    return supernet.extract(arch), forward


def build_healed(context: RunContext, arch: Architecture) -> tuple[PreTrainedModel, Forward]:
    """Return a healed network as a static model, and its forward function."""
    network = load_healed(context, _load_supernet(context), arch)
    forward = reading_cut_ids(context, arch.table, lambda batch: network(batch).logits)
    return extract_healed(network, arch), forward


def release_supernet() -> None:
    """Release the super-network that `build_subnetwork` keeps in memory."""
    _load_supernet.cache_clear()


def _supernet_slice(context: RunContext, arch: Architecture) -> tuple[ElasticEncoder, Forward]:
    """Return the super-network, and the forward function of a slice for the ids that its export reads."""
    supernet = _load_supernet(context)
    return supernet, reading_cut_ids(context, arch.table, lambda batch: supernet(batch, arch).logits)


@functools.lru_cache(maxsize=1)
def _load_supernet(context: RunContext) -> ElasticEncoder:
    """Return the trained super-network; the one of the last context is kept in memory."""
    return context.supernet().eval()


def summarise_search(run: Run) -> dict[str, Any]:
    """Return how much the search of a super-network and the healing of its networks cost.

    Args:
        run: The method's handle, after its search.

    Returns:
        `evaluations` in all, those of the `most_expensive` trial, and the number of `trials`; with
        healing, `heal` has `networks`, `steps` of each, `tokens` and `seconds`.
    """
    context = run.context
    if not context.files.supernet_network.exists():
        return {"evaluations": 0, "most_expensive": 0, "trials": 0}
    evaluations = read_table(context.run_dir, "evaluations")
    weights_id = file_hash(context.files.supernet_network)
    outcomes = [read_json(path) for path in context.files.search_outcomes()]
    summary = {
        "evaluations": int((evaluations["weights_id"] == weights_id).sum()),
        "most_expensive": max(outcome["evaluations"] for outcome in outcomes),
        "trials": len(outcomes),
    }
    healing = summarise_healing(context)
    return {**summary, "heal": healing} if healing else summary
