"""What methods with a super-network share: training task, search, and deployable sub-networks."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from raycomp.config.budget import BudgetSettings
from raycomp.data.batches import Batch, mean_batch
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.elastic import ElasticEncoder, ElasticOutput
from raycomp.methods.base import Deployable, Run
from raycomp.methods.context import RunContext
from raycomp.methods.preparation_costs import record_preparation
from raycomp.methods.registry import load_sampler
from raycomp.methods.supernet_start import count_importance_tokens, start_network
from raycomp.methods.tasks import SharedSampler, TrainingTask
from raycomp.search.budget import cheapest_architecture
from raycomp.search.search_loop import infeasible_reason
from raycomp.storage.files import write_json
from raycomp.storage.tensors import save_tensors
from raycomp.training.finetune_step import Teacher
from raycomp.training.hints import load_objective
from raycomp.training.learning_rates import choose_learning_rate, constant_share
from raycomp.training.optimizers import LinearDecay
from raycomp.training.sliced_optimizer import SliceUpdater
from raycomp.training.step_cost import TRAINING_PASSES
from raycomp.training.supernet_step import SupernetStep

PLANNED_STEPS = 500
"""Steps whose architectures are drawn to plan a training."""


class SupernetTask(TrainingTask):
    """Training of a super-network under a sampler.

    The plan has `num_steps`, `phase_starts` (first step of each phase), `distill` (argument of
    `load_objective`) and `sampler` ({"name": argument of `load_sampler`, ...}). Optimizer, batch size and
    dropout are those of [train], except for the settings that the plan has in `train`.
    """

    step_class: ClassVar[type[SupernetStep]] = SupernetStep

    def build(self) -> None:
        """Build the network from the method's `supernet/start.safetensors`."""
        context = self.context
        settings = context.job.train.model_copy(update=self.plan.get("train", {}))
        self.method = context.method
        self._read_train_split(settings.batch_size)
        self.num_steps = self.plan["num_steps"]

        model = context.network(self.start_path()).to(self.device)
        self.model: ElasticEncoder = model
        self.model.set_dropout(settings.dropout)
        self.model.embeddings.word.weight.requires_grad_(not settings.freeze_embeddings)

        decay_from: tuple[int, ...] = (0, self.num_steps)
        if settings.schedule == "phase":
            decay_from = tuple(sorted({*self.plan["phase_starts"], self.num_steps}))
        rate = choose_learning_rate(settings.learning_rate, context.config.hidden_size)
        self.updater: SliceUpdater = SliceUpdater(
            self.model,
            LinearDecay(rate, settings.warmup, decay_from, constant_share(settings.schedule)),
            weight_decay=settings.weight_decay,
            clip=settings.clip,
            reset_at=decay_from if settings.schedule == "phase" else (),
            reduce=self.reduce,
        )
        self._objective = load_objective(self.plan["distill"])
        self._precision = context.precision(self.device)

    def begin(self, rank: int, world: int, sampler: SharedSampler | None) -> None:
        """Take the shared sampler, or build one that is a function of (seed, step); make the step."""
        super().begin(rank, world, sampler)
        if sampler is None:
            build = load_sampler(self.plan["sampler"]["name"])
            sampler = build(self.context.job, self.plan)
        self._sampler: SharedSampler = sampler
        self.step = self.step_class(
            self.model,
            sampler,
            self.updater,
            teacher=self._load_teacher(),
            objective=self._objective,
            precision=self._precision,
            device=self.device,
            average=self.plan.get("average", True),
            cost=self.context.step_cost(),
        )

    def start_path(self) -> Path:
        """Return the file with the weights before the training."""
        return self.context.files.supernet_start

    def teacher_path(self) -> Path:
        """Return the file with the teacher's weights."""
        return self.context.layout.teacher_network

    def _load_teacher(self) -> Teacher | None:
        if not self._objective.needs_teacher:
            return None
        return frozen_teacher(
            self.context,
            self.device,
            hidden=self._objective.needs_hidden,
            attention=self._objective.needs_attention,
            path=self.teacher_path(),
        )

    def checkpoint_state(self, step: int) -> dict[str, Any]:
        """Return the sampler's state at this step."""
        return {"sampler": self._sampler.state(step)}

    def probabilities(self, step: int) -> list[tuple[str, str, float]]:
        """Return the architecture distribution before this step."""
        return self._sampler.probabilities(step)

    def is_phase_start(self, step: int) -> bool:
        """Return whether a phase begins with a step."""
        return step in self.plan["phase_starts"]

    def describe_failed_step(self, step: int) -> str:
        """Name the ranks that did not reach this step; all other ranks where the sampler knows none."""
        ranks = self._sampler.missing(step)
        if not ranks:
            return super().describe_failed_step(step)
        return f"{'rank' if len(ranks) == 1 else 'ranks'} {', '.join(map(str, ranks))} did not respond"

    def finish(self) -> None:
        """Write the trained network and the sampler."""
        files = self.context.files
        save_tensors(files.supernet_network, self.model.state_dict())
        write_json(files.sampler, self._sampler.state(self.num_steps))


def frozen_teacher(
    context: RunContext,
    device: torch.device,
    *,
    hidden: bool,
    attention: bool = False,
    path: Path | None = None,
) -> Teacher:
    """Return the teacher as a function of a batch, in eval mode and without gradients.

    Args:
        context: The run's context.
        device: Device of the teacher.
        hidden: Whether to return hidden states too.
        attention: Whether to return query, key and value too.
        path: File with its weights; None is the fine-tuned teacher of the run.
    """
    network = context.network(path or context.layout.teacher_network).to(device)
    network.eval().requires_grad_(False)

    def forward(batch: Batch) -> ElasticOutput:
        return network(batch, None, hidden=hidden, attention=attention)

    return forward


def train_supernet(run: Run, task: str, plan: dict[str, Any]) -> None:
    """Reorder the start weights, then train the super-network; finished parts are not repeated.

    Args:
        run: The method's handle.
        task: Name of the training task.
        plan: Plan of `SupernetTask`.
    """
    context = run.context
    if context.files.sampler.exists():
        return

    write_start_network(run)
    with run.start_sampler(plan):
        run.train(task, plan)


def write_start_network(run: Run) -> None:
    """Write the weights before a super-network's training, reordered, unless they are there."""
    context = run.context
    if context.files.supernet_start.exists():
        return
    began = time.perf_counter()
    with run.bar("importance"):
        save_tensors(context.files.supernet_start, start_network(context).state_dict())
    tokens = count_importance_tokens(context)
    record_preparation(
        run,
        "importance",
        flops=TRAINING_PASSES * context.token_flops() * tokens,
        seconds=time.perf_counter() - began,
        tokens=tokens,
    )


def plan_supernet_flops(
    context: RunContext,
    draw: Callable[[int], Sequence[Architecture]],
    steps: int,
    batch_size: int,
    distill: str,
) -> float:
    """Return about how many FLOPs the training of a super-network takes.

    Args:
        context: The run's context.
        draw: Function from a step to its architectures.
        steps: Steps of the training.
        batch_size: Texts of a step.
        distill: Argument of `load_objective`.
    """
    # Evenly spaced steps count for all of a long training.
    counted = np.unique(np.linspace(0, steps - 1, min(steps, PLANNED_STEPS)).round().astype(int))
    mean = np.mean([sum(map(context.token_flops, draw(int(step)))) for step in counted])
    per_token = TRAINING_PASSES * float(mean)
    if load_objective(distill).needs_teacher:
        per_token += context.token_flops()
    lengths = context.tokens("train").lengths
    tokens_per_step = mean_batch(len(lengths), batch_size) * float(lengths.mean())
    return steps * tokens_per_step * per_token


def unmet_deployables(context: RunContext) -> list[Deployable]:
    """Return one deployable without a model per budget, where the search space meets none of them.

    Empty where at least one budget can be met: only then is a super-network worth its training.
    """
    deployables = []
    for budget in context.job.budget:
        limit = context.limit(budget)
        if smallest_cost(context, context.cost_key(budget)) <= limit:
            return []
        reason = infeasible_reason(context, budget)
        deployables.append(
            Deployable(budget.name, budget.kind, limit, None, evaluations=0, reason=reason)
        )
    return deployables


def smallest_cost(context: RunContext, kind: str) -> float:
    """Return the cost of the smallest network of the search space."""
    _, cost = cheapest_architecture(context.space, lambda arch: float(context.costs.cost(kind, arch)))
    return cost


def explain_infeasible(context: RunContext, budget: BudgetSettings) -> str:
    """Return why no network of the search space meets a budget, and the nearest feasible limit."""
    return infeasible_reason(context, budget)
