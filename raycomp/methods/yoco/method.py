"""YOCO-BERT: a super-network trained progressively under EE-SNG, then a search that inherits its weights.

refs: S. Zhang, X. Zheng, C. Yang, Y. Li, Y. Wang, F. Chao, M. Wang, S. Li, J. Yang, R. Ji. You Only
Compress Once: Towards Effective and Elastic BERT Compression via Exploit-Explore Stochastic Nature
Gradient. 2021. https://arxiv.org/abs/2106.02435
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from raycomp.arithmetic import ceil_div
from raycomp.config.job import Job
from raycomp.config.search import SearchSettings
from raycomp.config.section import MethodSettings
from raycomp.encoder.architecture import Architecture
from raycomp.methods.base import Run
from raycomp.methods.context import RunContext
from raycomp.methods.elastic_method import Draw, ElasticMethod
from raycomp.methods.heal_task import HealTask
from raycomp.methods.supernet import SupernetTask
from raycomp.methods.tasks import TrainingTask
from raycomp.methods.yoco.finetune import find_excess_networks, finetune_networks
from raycomp.methods.yoco.plan import build_sampler, plan_schedule, train_plan
from raycomp.methods.yoco.settings import YocoSettings


class Yoco(ElasticMethod):
    """YOCO-BERT (Sections 3.2 to 3.4, Algorithm 1)."""

    settings: ClassVar[type[MethodSettings]] = YocoSettings
    tasks: ClassVar[Mapping[str, type[TrainingTask]]] = {"supernet": SupernetTask, "heal": HealTask}
    description: ClassVar[str] = (
        "Extracted by raycomp (YOCO-BERT) from a super-network; every layer has its own number of heads "
        "and FFN neurons."
    )

    def task_name(self, kind: str) -> str:
        """Return the kind: the tasks have had these names since YOCO-BERT was the only method."""
        return kind

    def training_plan(self, context: RunContext, num_rows: int) -> dict[str, Any]:
        """Return the plan of the super-network's training: space, phases, objective and sampler."""
        job = context.job
        plan = train_plan(job, context.space, context.shape, num_rows)
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

    def phase_steps(self, plan: dict[str, Any]) -> list[int]:
        """Return the steps of each phase."""
        return list(plan["steps"])

    def plan_draws(self, context: RunContext, plan: dict[str, Any]) -> Draw:
        """Return uniform draws from the open choices of each phase: what EE-SNG learns is not known."""
        schedule = plan_schedule(plan)
        spaces = [context.space.narrowed(*phase.dimensions) for phase in schedule.phases]
        train = context.job.train

        def draw(step: int) -> list[Architecture]:
            rng = np.random.default_rng((context.job.run.seed, step))
            space = spaces[schedule.index_at(step)]
            return [space.sample_uniform(rng) for _ in range(train.samples)]

        return draw

    def search_settings(self, context: RunContext) -> SearchSettings:
        """Return [search] as it is."""
        return context.job.search

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

    def after_deployment(self, run: Run) -> None:
        """Fine-tune networks on their own, to compare with, where the job asks for it."""
        finetune_networks(run)
