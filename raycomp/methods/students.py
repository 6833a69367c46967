"""What methods share that train one student per budget: a few of the teacher's layers, and an objective.

A subclass of `StudentMethod` names its layers and its objective; `first_n.py` and `pkd.py` show how.
"""

from __future__ import annotations

import functools
import math
import time
from abc import abstractmethod
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from transformers import PreTrainedModel

from raycomp.config.budget import BudgetSettings
from raycomp.config.section import MethodSettings, choices
from raycomp.data.batches import Batch, smallest_batch
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.elastic import ElasticEncoder
from raycomp.encoder.layers import Encoder, EncoderConfig
from raycomp.methods.base import Deployable, Forward, Method, Run
from raycomp.methods.context import RunContext
from raycomp.methods.registry import load_method_class
from raycomp.methods.supernet import frozen_teacher
from raycomp.methods.tasks import TrainingTask
from raycomp.storage.files import file_hash, read_json, write_json
from raycomp.storage.tensors import load_weights, save_tensors
from raycomp.training.finetune_step import FinetuneStep
from raycomp.training.hints import Objective
from raycomp.training.optimizers import AllReduce, LinearDecay, Updater


class StudentSettings(MethodSettings):
    """How a student is trained; the settings of each student method extend these."""

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


class StudentMethod(Method):
    """A method that trains one student per budget, from some of the teacher's layers."""

    settings: ClassVar[type[StudentSettings]]

    @abstractmethod
    def layers(self, context: RunContext, num_layers: int) -> tuple[int, ...]:
        """Return which layers of the full network a student of `num_layers` layers starts with."""

    @abstractmethod
    def objective(self, context: RunContext) -> Objective:
        """Return what a student is trained on."""

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

    def compress(self, run: Run) -> list[Deployable]:
        """Train and score the student of every budget; finished students are not trained again."""
        context = run.context
        context.tokens("train")
        context.tokens("selection")
        deployables = []
        for budget in context.job.budget:
            arch = self.architecture(context, budget)
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
                    save_tensors(files.start, student_start_weights(context, self, arch))
                run.train(f"{self.name}-student.{budget.name}", {"budget": budget.name})
            files.start.unlink(missing_ok=True)
            if not files.outcome.exists():
                _score_student(run, budget.name, arch)
            deployables.append(self._deployable(context, budget.name, arch))
        return deployables

    def _deployable(self, context: RunContext, budget: str, arch: Architecture) -> Deployable:
        settings = next(b for b in context.job.budget if b.name == budget)
        outcome = read_json(context.files.student(budget).outcome)
        layers = ", ".join(str(layer) for layer in self.layers(context, arch.depth))
        return Deployable(
            budget=budget,
            kind=settings.kind,
            limit=context.limit(settings),
            build=functools.partial(_build_student, context, budget, arch),
            arch=arch.to_json(),
            arch_id=arch.id,
            flops=float(context.costs.cost("flops", arch)),
            selection=outcome["value"],
            seconds=outcome["seconds"],
            description=f"{self.settings.title}: a student of {arch.depth} layers, trained by raycomp. "
            f"It started with layers {layers} (counted from 0).",
            certificate={"weights_id": outcome["weights_id"]},
        )

    def restore(self, context: RunContext, row: Mapping[str, Any]) -> Deployable:
        """Return the deployable of a row, from its trained student."""
        return self._deployable(context, str(row["budget"]), Architecture.from_json(str(row["arch"])))

    def forget_lost_results(self, context: RunContext, parts: set[str]) -> list[str]:
        """Delete the outcomes of students without an evaluation. They are then scored again."""
        messages = []
        for budget in context.job.budget:
            outcome = context.files.student(budget.name).outcome
            if outcome.exists() and f"{self.name}-{budget.name}" not in parts:
                messages.append(
                    f"The evaluation of {self.name}'s student {budget.name} is missing: it is scored "
                    "again."
                )
                outcome.unlink()
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
        num_rows = len(context.task.train)
        steps = max(1, round(settings.epochs * math.ceil(num_rows / settings.batch_size)))
        teacher = context.flops_per_row()[0] if self.objective(context).needs_teacher else 0.0

        students: dict[str, Any] = {}
        flops = 0.0
        for budget in context.job.budget:
            arch = self.architecture(context, budget)
            if arch is not None:
                params = int(context.costs.cost("params", arch))
                students[budget.name] = {"layers": arch.depth, "params": params, "steps": steps}
                forward = float(context.costs.cost("flops", arch)) * context.mean_length_share()
                flops += steps * settings.batch_size * (3 * forward + teacher)
        return {"students": students, "flops": flops}


class StudentTask(TrainingTask):
    """Training of one student; the plan has the name of its budget."""

    def __init__(
        self,
        context: RunContext,
        plan: dict[str, Any],
        *,
        device: torch.device,
        reduce: AllReduce | None,
    ) -> None:
        """Build the student from its `start.safetensors`; see `TrainingTask`."""
        super().__init__(context, plan, device=device, reduce=reduce)
        method: StudentMethod = load_method_class(context.method)()
        settings = context.job.settings(method.settings)
        objective = method.objective(context)
        budget = next(b for b in context.job.budget if b.name == plan["budget"])
        arch = method.architecture(context, budget)
        assert arch is not None  # nosec B101 - only feasible budgets are trained

        self.method = context.method
        self._files = context.files.student(plan["budget"])
        self._read_train_split(settings.batch_size)
        self.num_steps = max(1, round(settings.epochs * self.steps_per_epoch))

        self.model: ElasticEncoder = student_network(context, arch)
        load_weights(self.model, self._files.start)
        self.model.to(device)
        self.model.set_dropout(context.job.teacher.dropout)
        self.updater = Updater(
            self.model,
            LinearDecay(settings.learning_rate, settings.warmup, (0, self.num_steps)),
            weight_decay=settings.weight_decay,
            clip=1.0,
            reduce=reduce,
        )
        teacher = None
        if objective.needs_teacher:
            teacher = frozen_teacher(
                context,
                device,
                hidden=objective.needs_hidden,
                attention=objective.needs_attention,
            )
        self.step = FinetuneStep(
            self.model,
            self.updater,
            precision=context.precision(device),
            device=device,
            objective=objective,
            teacher=teacher,
        )

    def finish(self) -> None:
        """Write the student's weights."""
        save_tensors(self._files.network, self.model.state_dict())


def student_network(context: RunContext, arch: Architecture) -> ElasticEncoder:
    """Return a network of its own with the sizes of an architecture, its weights not yet loaded."""
    sizes = {"layer_heads": list(arch.heads), "layer_ffn": list(arch.ffn)}
    return ElasticEncoder(Encoder(EncoderConfig.from_config(context.config.to_dict() | sizes)))


def student_start_weights(
    context: RunContext, method: StudentMethod, arch: Architecture
) -> dict[str, Tensor]:
    """Return a student's weights before training: layers of the teacher or of the given model.

    Args:
        context: The run's context.
        method: The method, which names the layers.
        arch: The student's architecture.
    """
    settings = context.job.settings(method.settings)
    source = context.teacher() if settings.start == "teacher" else context.network()
    weights = source.state_dict()

    student = student_network(context, arch).state_dict()
    layers = method.layers(context, arch.depth)
    for key in student:
        part, _, rest = key.partition(".")
        if part == "layers":
            index, _, name = rest.partition(".")
            student[key] = weights[f"layers.{layers[int(index)]}.{name}"]
        else:
            student[key] = weights[key]
    return student


def load_student(context: RunContext, budget: str, arch: Architecture) -> ElasticEncoder:
    """Return the trained student of a budget, in eval mode."""
    student = student_network(context, arch)
    load_weights(student, context.files.student(budget).network)
    return student.eval()


def _build_student(
    context: RunContext, budget: str, arch: Architecture
) -> tuple[PreTrainedModel, Forward]:
    student = load_student(context, budget, arch)

    def forward(batch: Batch) -> Tensor:
        return student(batch).logits

    return student.extract(student.largest), forward


def _score_student(run: Run, budget: str, arch: Architecture) -> None:
    """Score a student on the selection split; write its row of `evaluations` and its outcome."""
    context = run.context
    began = time.perf_counter()
    files = context.files.student(budget)
    student = load_student(context, budget, arch)
    score = run.score(lambda batch: student(batch).logits, "selection")
    row = {
        "run": context.run_dir.name,
        "weights_id": file_hash(files.network),
        "method": context.method,
        "arch_id": arch.id,
        "arch": arch.to_json(),
        "split": "selection",
        "precision": "fp32",
        "metric": context.primary,
        "value": score.values[context.primary],
        "loss": score.loss,
        "examples": score.examples,
        "params": int(context.costs.cost("params", arch)),
        "flops": float(context.costs.cost("flops", arch)),
        "seconds": time.perf_counter() - began,
    }
    run.record_evaluation(f"{context.method}-{budget}", {**row, "created_at": datetime.now(UTC)})
    # The outcome comes after the row: a student with an outcome is complete.
    write_json(files.outcome, row)
