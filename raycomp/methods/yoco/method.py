"""YOCO-BERT: a super-network trained progressively under EE-SNG, then a search that inherits its weights.

refs: S. Zhang, X. Zheng, C. Yang, Y. Li, Y. Wang, F. Chao, M. Wang, S. Li, J. Yang, R. Ji. You Only
    Compress
Once: Towards Effective and Elastic BERT Compression via Exploit-Explore Stochastic Nature Gradient. 2021.
https://arxiv.org/abs/2106.02435
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from raycomp.arithmetic import ceil_div
from raycomp.config.budget import BudgetSettings
from raycomp.config.job import Job
from raycomp.config.section import MethodSettings
from raycomp.data.batches import smallest_batch
from raycomp.encoder.architecture import Architecture
from raycomp.methods.base import Deployable, Method, Run
from raycomp.methods.context import RunContext
from raycomp.methods.heal_task import HealTask
from raycomp.methods.healing import find_lost_evaluations, heal_group, plan_healing
from raycomp.methods.subnetworks import (
    compress_budgets,
    release_supernet,
    restore_subnetwork,
    summarise_search,
)
from raycomp.methods.supernet import (
    SupernetTask,
    explain_infeasible,
    plan_supernet_flops,
    smallest_cost,
    train_supernet,
    unmet_deployables,
)
from raycomp.methods.tasks import TrainingTask
from raycomp.methods.yoco.finetune import find_excess_networks, finetune_networks
from raycomp.methods.yoco.plan import build_sampler, plan_schedule, train_plan
from raycomp.methods.yoco.settings import YocoSettings
from raycomp.search.space import SearchSpace

DESCRIPTION = (
    "Extracted by raycomp (YOCO-BERT) from a super-network; every layer has its own number of heads and "
    "FFN neurons."
)
HEAL = "heal"


class Yoco(Method):
    """YOCO-BERT (Sections 3.2 to 3.4, Algorithm 1)."""

    settings: ClassVar[type[MethodSettings]] = YocoSettings
    tasks: ClassVar[Mapping[str, type[TrainingTask]]] = {"supernet": SupernetTask, HEAL: HealTask}
    takes_all_limits: ClassVar[bool] = True

    def compress(self, run: Run) -> list[Deployable]:
        """Train the super-network, search every budget, and heal the best networks."""
        context = run.context
        if unmet := unmet_deployables(context):
            return unmet
        train_supernet(run, "supernet", training_plan(context))
        return compress_budgets(run, context.job.search, DESCRIPTION, HEAL)

    def run_trial(self, run: Run, trial: dict[str, Any]) -> None:
        """Heal one group of networks, in a process of its own."""
        heal_group(run, HEAL, trial)

    def restore(self, context: RunContext, row: Mapping[str, Any]) -> Deployable:
        """Return the deployable of a row, from the trained super-network."""
        return restore_subnetwork(context, row, DESCRIPTION)

    def length_keys(self, job: Job) -> tuple[str, ...]:
        """Return the steps or the epochs of the phases."""
        return ("train.epochs",) if job.train.steps is None else ("train.steps",)

    def training_epochs(self, context: RunContext) -> float:
        """Return the passes of all phases."""
        rows = len(context.task.train)
        steps = train_plan(context.job, context.space, context.shape, rows)["steps"]
        return float(sum(steps)) / ceil_div(rows, context.job.train.batch_size)

    def find_problems(self, context: RunContext) -> list[str]:
        """Check the schedule and the number of networks to fine-tune.

        Raises:
            UserError: `train.epochs` or `train.steps` do not fit the number of phases.
        """
        train_plan(context.job, context.space, context.shape, len(context.task.train))
        return find_excess_networks(context)

    def least_cost(self, context: RunContext, kind: str) -> float:
        """Return the cost of the smallest network of the search space."""
        return smallest_cost(context, kind)

    def explain_infeasible(self, context: RunContext, budget: BudgetSettings) -> str:
        """Return why no network of the search space meets a budget."""
        return explain_infeasible(context, budget)

    def smallest_batches(self, context: RunContext) -> list[int]:
        """Return the rows of the smallest batch of the super-network's training and of healing."""
        sizes = [context.job.train.batch_size]
        if context.job.heal.steps:
            sizes.append(context.job.heal.batch_size)
        return [smallest_batch(len(context.task.train), size) for size in sizes]

    def plan(self, context: RunContext) -> dict[str, Any]:
        """Return the steps of each phase and the FLOPs of training (three forward passes a step)."""
        job = context.job
        schedule = plan_schedule(train_plan(job, context.space, context.shape, len(context.task.train)))
        # In each phase, uniform draws from its open choices count for all.
        spaces = [SearchSpace(context.space.num_layers, *phase.dimensions) for phase in schedule.phases]

        def draw(step: int) -> list[Architecture]:
            rng = np.random.default_rng((job.run.seed, step))
            space = spaces[schedule.index_at(step)]
            return [space.sample_uniform(rng) for _ in range(job.train.samples)]

        flops = plan_supernet_flops(
            context, draw, schedule.total, job.train.batch_size, job.train.distill
        )
        steps = list(schedule.steps)
        healing = plan_healing(context)
        flops += healing.pop("flops")
        return {"steps": steps, "heal": healing, "flops": flops}

    def forget_lost_results(self, context: RunContext, parts: set[str]) -> list[str]:
        """Name the healed networks without an evaluation. It is written again."""
        return find_lost_evaluations(context, parts)

    def release(self) -> None:
        """Release the super-network."""
        release_supernet()

    def summary(self, run: Run) -> dict[str, Any]:
        """Return how many evaluations the search took, and what healing cost."""
        return summarise_search(run)

    def after_deployment(self, run: Run) -> None:
        """Fine-tune networks on their own, to compare with, where the job asks for it."""
        finetune_networks(run)


def training_plan(context: RunContext) -> dict[str, Any]:
    """Return the plan of the super-network's training: space, phases, objective and sampler."""
    job = context.job
    plan = train_plan(job, context.space, context.shape, len(context.tokens("train")))
    schedule = plan_schedule(plan)
    return {
        **plan,
        "num_steps": schedule.total,
        "phase_starts": [schedule.first_step(i) for i in range(len(schedule.phases))],
        "distill": job.train.distill,
        "sampler": {
            **plan["sampler"],
            "state": build_sampler(job, plan).state_dict(),
            # EE-SNG learns from the losses of all ranks, so one actor serves it to them.
            "actor": f"eesng-{context.run_dir.name}",
        },
    }
