"""What methods share that train one student per budget: a few of the teacher's layers, and an objective.

A subclass of `StudentMethod` names its layers and its objective; `first_n.py` and `pkd.py` show how. A
method whose training has several phases, or trains another network than the student, overrides `phases`,
`trained_network` and `student_weights`; `layerdrop.py` shows how.
"""

from __future__ import annotations

import functools
import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from raycomp.config.budget import BudgetSettings
from raycomp.config.section import MethodSettings, choices
from raycomp.data.batches import mean_batch, smallest_batch
from raycomp.data.tokens import TokenSplit
from raycomp.encoder.architecture import Architecture
from raycomp.methods.base import Deployable, Method, Run
from raycomp.methods.context import RunContext
from raycomp.methods.selection_scores import forget_outcome
from raycomp.methods.student_models import (
    build_student,
    load_source,
    score_student,
    select_layers,
    student_network,
)
from raycomp.storage.files import read_json
from raycomp.storage.tensors import save_tensors
from raycomp.training.hints import Objective
from raycomp.training.phases import TrainingPhase, count_steps

FULL_USE = 0.98
"""Share of a budget from which a model counts as using all of it."""


class StudentSettings(MethodSettings):
    """How a student is trained; the settings of each student method extend these."""

    length_keys: ClassVar[tuple[str, ...]] = ("epochs",)

    start: Literal["teacher", "pretrained"] = Field(
        "teacher",
        description=choices(
            "Weights before the training.",
            {
                "teacher": "layers of the fine-tuned teacher",
                "pretrained": "layers of the model that the job names, with a new classifier if the "
                "model lacks one",
            },
        ),
    )
    epochs: float = Field(3.0, gt=0, le=1000, description="Passes over the training split.")
    batch_size: int = Field(32, ge=1, description="Texts of one step, summed over all workers.")
    learning_rate: float = Field(
        5e-5, gt=0, lt=1, description="Largest learning rate. It falls linearly to 0."
    )
    warmup: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Part of the steps in which the learning rate rises from 0, from 0 to 1.",
    )
    weight_decay: float = Field(0.01, ge=0, lt=1, description="Decoupled weight decay of AdamW.")

    def to_phase(self, steps: int, objective: Objective) -> TrainingPhase:
        """Return a phase with these settings' learning rate and warm-up."""
        return TrainingPhase(steps, self.learning_rate, objective, self.warmup)


class StudentMethod(Method):
    """A method that trains one student per budget, from some of the teacher's layers."""

    settings: ClassVar[type[StudentSettings]]

    @abstractmethod
    def layers(self, context: RunContext, num_layers: int) -> tuple[int, ...]:
        """Return which layers of the full network a student of `num_layers` layers starts with."""

    def objective(self, context: RunContext) -> Objective:
        """Return what a student is trained on, where its training has one phase."""
        raise NotImplementedError(f"method {self.name} defines neither objective nor phases")

    def phases(
        self,
        context: RunContext,
        arch: Architecture,
        steps_per_epoch: int,
        model: nn.Module | None = None,
    ) -> tuple[TrainingPhase, ...]:
        """Return the phases of a student's training: by default one, on `objective`.

        Args:
            context: The run's context.
            arch: The student's architecture.
            steps_per_epoch: Steps of one pass over the given training rows.
            model: Network that is trained; None where only the lengths of the phases are read.
        """
        settings = context.job.settings(self.settings)
        steps = count_steps(settings.epochs, steps_per_epoch)
        return (settings.to_phase(steps, self.objective(context)),)

    def trained_network(self, context: RunContext, arch: Architecture) -> nn.Module:
        """Return the network that is trained, its weights not yet loaded: by default the student."""
        return student_network(context, arch)

    def start_weights(self, context: RunContext, arch: Architecture) -> dict[str, Tensor]:
        """Return the weights of `trained_network` before training."""
        settings = context.job.settings(self.settings)
        source = load_source(context, settings.start)
        return select_layers(context, source, self.layers(context, arch.depth), arch)

    def student_weights(
        self, context: RunContext, model: nn.Module, arch: Architecture
    ) -> dict[str, Tensor]:
        """Return the student's weights, out of the trained network."""
        return model.state_dict()

    def training_tokens(self, context: RunContext) -> TokenSplit:
        """Return the training text, tokenised."""
        return context.tokens("train")

    def prepare(self, run: Run) -> None:
        """Prepare the data on the driver, because the workers may lack the text."""
        self.training_tokens(run.context)
        run.context.tokens("selection")

    def forward_flops(self, context: RunContext, arch: Architecture) -> float:
        """Return the mean FLOPs of a forward pass of `trained_network` on one sequence."""
        return float(context.costs.cost("flops", arch))

    def architecture(self, context: RunContext, budget: BudgetSettings) -> Architecture | None:
        """Return the largest student within a budget: whole layers only; None where not one layer fits.

        A student is never widened to use up a budget.
        """
        heads, ffn = context.shape.layer_heads, context.shape.layer_ffn
        for num_layers in range(len(heads), 0, -1):
            layers = self.layers(context, num_layers)
            arch = Architecture(
                num_layers, tuple(heads[i] for i in layers), tuple(ffn[i] for i in layers)
            )
            if context.costs.cost(budget.kind, arch) <= context.limit(budget):
                return arch
        return None

    def choose_architecture(self, run: Run, budget: BudgetSettings) -> Architecture | None:
        """Return the student of a budget; a method that prunes trains for it first."""
        return self.architecture(run.context, budget)

    def compress(self, run: Run) -> list[Deployable]:
        """Train and score the student of every budget; finished students are not trained again."""
        context = run.context
        self.prepare(run)
        deployables = []

        for budget in context.job.budget:
            arch = self.choose_architecture(run, budget)
            if arch is None:
                reason = self.explain_infeasible(context, budget)
                limit = context.limit(budget)
                deployables.append(
                    Deployable(budget.name, budget.kind, limit, None, evaluations=0, reason=reason)
                )
                continue

            files = context.files.student(budget.name)
            if not files.network.exists():
                if not files.start.exists():
                    save_tensors(files.start, self.start_weights(context, arch))
                run.train(f"{self.name}-student.{budget.name}", {"budget": budget.name})
            files.start.unlink(missing_ok=True)
            if not files.outcome.exists():
                score_student(run, budget.name, arch)
            deployables.append(self._deployable(context, budget.name, arch))

        return deployables

    def _deployable(self, context: RunContext, budget: str, arch: Architecture) -> Deployable:
        settings = next(b for b in context.job.budget if b.name == budget)
        outcome = read_json(context.files.student(budget).outcome)
        return Deployable(
            budget=budget,
            kind=settings.kind,
            limit=context.limit(settings),
            build=functools.partial(build_student, context, budget, arch),
            arch=arch.to_json(),
            arch_id=arch.id,
            flops=float(context.costs.cost("flops", arch)),
            selection=outcome["value"],
            seconds=outcome["seconds"],
            description=self._describe(context, settings, arch),
            certificate={"weights_id": outcome["weights_id"]},
        )

    def _describe(self, context: RunContext, budget: BudgetSettings, arch: Architecture) -> str:
        """Return the sentences of the model card, with the share of the budget that whole layers use."""
        text = (
            f"{self.settings.title}: a student of {arch.depth} layers, trained by raycomp. "
            f"{self.describe_start(context, arch)}"
        )
        share = float(context.costs.cost(budget.kind, arch)) / context.limit(budget)
        if share < FULL_USE:
            text += f" It uses {share:.0%} of its budget, because it has whole layers."
        return text

    def describe_start(self, context: RunContext, arch: Architecture) -> str:
        """Return a sentence on the weights that a student started with."""
        layers = ", ".join(str(layer) for layer in self.layers(context, arch.depth))
        return f"It started with layers {layers} (counted from 0)."

    def restore(self, context: RunContext, row: Mapping[str, Any]) -> Deployable:
        """Return the deployable of a row, from its trained student."""
        return self._deployable(context, str(row["budget"]), Architecture.from_json(str(row["arch"])))

    def forget_lost_results(self, context: RunContext, parts: set[str]) -> list[str]:
        """Delete the outcomes of students without an evaluation. They are then scored again."""
        messages = []
        for budget in context.job.budget:
            outcome = context.files.student(budget.name).outcome
            part = f"{self.name}-{budget.name}"
            messages += forget_outcome(outcome, part, parts, f"{self.name}'s student {budget.name}")
        return messages

    def least_cost(self, context: RunContext, kind: str) -> float:
        """Return the cost of a student of one layer."""
        first = self.layers(context, 1)[0]
        heads, ffn = context.shape.layer_heads[first], context.shape.layer_ffn[first]
        return float(context.costs.cost(kind, Architecture(1, (heads,), (ffn,))))

    def explain_infeasible(self, context: RunContext, budget: BudgetSettings) -> str:
        """Return why not even one layer meets a budget."""
        least = self.least_cost(context, budget.kind)
        return (
            f"Budget {budget.name}: {budget.kind} <= {context.limit(budget):,.0f} cannot be met by "
            f"{self.name}, because one layer of full width has {least:,.0f}. Nearest feasible limit: "
            f"{least:,.0f}. Raise the budget, or use a method that narrows layers (yoco)."
        )

    def smallest_batches(self, context: RunContext) -> list[int]:
        """Return the rows of the smallest batch."""
        batch_size = context.job.settings(self.settings).batch_size
        return [smallest_batch(len(context.task.train), batch_size)]

    def plan(self, context: RunContext) -> dict[str, Any]:
        """Return the students' layers, parameters and steps, and FLOPs (three forward passes a step)."""
        settings = context.job.settings(self.settings)
        steps_per_epoch = math.ceil(len(context.task.train) / settings.batch_size)
        rows = mean_batch(len(context.task.train), settings.batch_size)
        # One forward pass of the teacher for each text of a phase that reads it.
        teacher = context.flops_per_row()[0]

        students: dict[str, Any] = {}
        flops = 0.0

        for budget in context.job.budget:
            arch = self.architecture(context, budget)
            if arch is None:
                continue
            phases = self.phases(context, arch, steps_per_epoch)
            steps = sum(phase.steps for phase in phases)
            params = int(context.costs.cost("params", arch))
            students[budget.name] = {"layers": arch.depth, "params": params, "steps": steps}

            forward = self.forward_flops(context, arch) * context.mean_length_share()
            taught = sum(phase.steps for phase in phases if phase.objective.needs_teacher)
            flops += rows * (steps * 3 * forward + taught * teacher)

        return {"students": students, "flops": flops}
