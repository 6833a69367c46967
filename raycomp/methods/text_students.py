"""What methods share whose student is a small text model of its own size, not a part of the encoder.

The student is a transformers model from the start, and the export is this model. A job's budgets
do not bind it, and its row has its own number of parameters as limit. `bilstm.py` shows how.
"""

from __future__ import annotations

import functools
import math
import time
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor, nn
from transformers import PreTrainedModel

from raycomp.config.section import MethodSettings
from raycomp.data.batches import Batch, mean_batch, smallest_batch
from raycomp.data.tokens import TokenSplit
from raycomp.encoder.interface import ElasticOutput, logits_of
from raycomp.errors import UserError
from raycomp.methods.augmentation import (
    AugmentedData,
    augment_training_text,
    find_augmentation_problems,
)
from raycomp.methods.base import Deployable, Forward, Method, Run
from raycomp.methods.context import RunContext
from raycomp.methods.preparation_costs import record_preparation
from raycomp.methods.registry import load_method_class
from raycomp.methods.selection_scores import ScoredModel, forget_outcome, record_outcome, score_model
from raycomp.methods.student_task import TeacherSource
from raycomp.methods.tasks import TrainingTask
from raycomp.storage.files import read_json
from raycomp.storage.tensors import load_weights, save_tensors
from raycomp.training.finetune_step import FinetuneStep
from raycomp.training.hints import Objective
from raycomp.training.optimizers import Updater
from raycomp.training.phases import PhaseSchedule, TrainingPhase, count_steps


class TextStudentSettings(MethodSettings):
    """How a small text model is trained; the settings of each such method extend these."""

    needs_budget: ClassVar[bool] = False
    shared_sections: ClassVar[tuple[str, ...]] = ("augment",)
    length_keys: ClassVar[tuple[str, ...]] = ("epochs",)

    epochs: float = Field(30.0, gt=0, le=1000, description="Passes over the training split.")
    batch_size: int = Field(50, ge=1, description="Texts of one step, summed over all workers.")
    learning_rate: float = Field(
        1e-3, gt=0, lt=10, description="Largest learning rate. It falls linearly to 0."
    )
    warmup: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Part of the steps in which the learning rate rises from 0, from 0 to 1.",
    )
    weight_decay: float = Field(0.0, ge=0, lt=1, description="Decoupled weight decay.")
    augment: bool = Field(True, description="Whether the training text is augmented as [augment] says.")

    @property
    def largest_rate(self) -> float:
        """The largest learning rate."""
        return self.learning_rate


class TextStudentMethod(Method):
    """A method that trains one small text model."""

    settings: ClassVar[type[TextStudentSettings]]
    encoder_prefix: ClassVar[str]

    @abstractmethod
    def deployment(self, context: RunContext) -> str:
        """Return the name of the deployment, from the sizes of the model."""

    @abstractmethod
    def build_model(self, context: RunContext) -> PreTrainedModel:
        """Return the model, its weights not yet loaded; frozen weights do not require gradients."""

    @abstractmethod
    def start_weights(self, context: RunContext) -> dict[str, Tensor]:
        """Return the weights before training."""

    @abstractmethod
    def objective(self, context: RunContext) -> Objective:
        """Return what the model is trained on."""

    @abstractmethod
    def forward_flops(self, context: RunContext) -> float:
        """Return the FLOPs of one sequence of `search.flops_length` tokens."""

    def optimizer(self, context: RunContext) -> Any:
        """Return the function from parameter groups to an optimizer; None is AdamW."""
        return None

    def training_tokens(self, context: RunContext) -> TokenSplit:
        """Return the training text, with the new sentences where the job augments it."""
        if not context.job.settings(self.settings).augment:
            return context.tokens("train")
        return AugmentedData.of(context).augmented_tokens

    def compress(self, run: Run) -> list[Deployable]:
        """Train and score the model; finished parts are not repeated."""
        context = run.context
        context.tokens("train")
        context.tokens("selection")
        if context.job.settings(self.settings).augment:
            augment_training_text(run, AugmentedData.of(context))

        self.training_tokens(context)

        files = context.files.student(self.deployment(context))
        if not files.network.exists():
            if not files.start.exists():
                self._write_start(run)
            run.train(f"{self.name}-student", {})

        files.start.unlink(missing_ok=True)
        if not files.outcome.exists():
            self._score(run)

        return [self._deployable(context)]

    def _write_start(self, run: Run) -> None:
        """Write the weights before training, and what they cost."""
        context = run.context
        name = self.deployment(context)
        began = time.perf_counter()
        save_tensors(context.files.student(name).start, self.start_weights(context))
        tokens = self.start_tokens(context)
        record_preparation(
            run,
            "start",
            flops=context.token_flops() * tokens,
            seconds=time.perf_counter() - began,
            tokens=tokens,
            budget=name,
        )

    def start_tokens(self, context: RunContext) -> int:
        """Return the tokens that the teacher reads for the weights before training."""
        return 0

    def budget_of(self, context: RunContext, training: str) -> str | None:
        """Return the only deployment."""
        return self.deployment(context)

    def load_model(self, context: RunContext) -> PreTrainedModel:
        """Return the trained model, in eval mode."""
        model = self.build_model(context)
        load_weights(model, context.files.student(self.deployment(context)).network)
        return model.eval()

    def _deployable(self, context: RunContext) -> Deployable:
        outcome = read_json(context.files.student(self.deployment(context)).outcome)
        return Deployable(
            budget=self.deployment(context),
            kind="params",
            limit=float(outcome["params"]),
            build=functools.partial(_build, self, context),
            arch=outcome["arch"],
            arch_id=outcome["arch_id"],
            flops=outcome["flops"],
            selection=outcome["value"],
            seconds=outcome["seconds"],
            encoder_prefix=self.encoder_prefix,
            description=f"{self.settings.title}, trained by raycomp. Budgets do not bind its size.",
            certificate={"weights_id": outcome["weights_id"]},
        )

    def restore(self, context: RunContext, row: Mapping[str, Any]) -> Deployable:
        """Return the deployable of a row.

        Raises:
            UserError: The job has other sizes of the model.
        """
        if row["budget"] != self.deployment(context):
            raise UserError(
                f"The run's job names {self.name}'s model {self.deployment(context)}, not "
                f"{row['budget']}. Export that one."
            )
        return self._deployable(context)

    def _score(self, run: Run) -> None:
        """Score the model on the selection split; write its row of `evaluations` and its outcome."""
        context = run.context
        began = time.perf_counter()
        name = self.deployment(context)
        files = context.files.student(name)
        model = self.load_model(context)
        scored = ScoredModel(
            forward=lambda batch: logits_of(model, batch),
            weights=files.network,
            arch_id=f"{context.method}-{name}",
            arch=f'{{"model":"{context.method}","size":"{name}"}}',
            params=sum(p.numel() for p in model.parameters()),
            flops=self.forward_flops(context),
        )
        row = score_model(run, scored, began)
        record_outcome(run, f"{context.method}-{name}", files.outcome, row)

    def find_problems(self, context: RunContext) -> list[str]:
        """Return what the training would fail on later."""
        problems = []
        if context.facts.pair and context.facts.sep_token_id is None:
            problems.append(
                f"The tokenizer of {context.job.model.name} lacks a separator token, so {self.name} "
                "cannot tell the two texts of a row apart. Choose another model."
            )
        if context.job.settings(self.settings).augment:
            problems += find_augmentation_problems(context)
        return problems

    def smallest_batches(self, context: RunContext) -> list[int]:
        """Return the rows of the smallest batch."""
        batch_size = context.job.settings(self.settings).batch_size
        return [smallest_batch(len(context.task.train), batch_size)]

    def plan(self, context: RunContext) -> dict[str, Any]:
        """Return the steps and the FLOPs of training (three forward passes a step, and the teacher)."""
        settings = context.job.settings(self.settings)
        steps_per_epoch = math.ceil(len(context.task.train) / settings.batch_size)
        steps = count_steps(settings.epochs, steps_per_epoch)
        per_row = 3 * self.forward_flops(context) * context.mean_length_share()
        if self.objective(context).needs_teacher:
            per_row += context.flops_per_row()[0]
        rows = mean_batch(len(context.task.train), settings.batch_size)
        return {"steps": [steps], "flops": steps * rows * per_row}

    def forget_lost_results(self, context: RunContext, parts: set[str]) -> list[str]:
        """Delete the outcome of a model without an evaluation. It is then scored again."""
        name = self.deployment(context)
        outcome = context.files.student(name).outcome
        return forget_outcome(outcome, f"{self.name}-{name}", parts, f"{self.name}'s model {name}")


def _build(method: TextStudentMethod, context: RunContext) -> tuple[PreTrainedModel, Forward]:
    """Return the trained model, and the forward function of another copy of it."""
    # Two copies: the export must not share memory with its reference.
    reference = method.load_model(context)
    return method.load_model(context), lambda batch: logits_of(reference, batch)


class TextStudent(nn.Module):
    """A small text model that is called like an encoder.

    Args:
        model: The model.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch, arch: None = None, **reads: bool) -> ElasticOutput:
        """Run the model; it has neither hidden states nor attention to return."""
        return ElasticOutput(logits_of(self.model, batch))


class TextStudentTask(TrainingTask):
    """Training of a small text model."""

    def build(self) -> None:
        """Build the model from its `start.safetensors`."""
        context = self.context
        method: TextStudentMethod = load_method_class(context.method)()
        settings = context.job.settings(method.settings)
        objective = method.objective(context)
        self.method = context.method
        self._files = context.files.student(method.deployment(context))
        # An epoch is one pass over the given rows, however many rows augmentation adds.
        self._read_train_split(settings.batch_size)
        self.tokens = method.training_tokens(context)

        # Start weights come from the driver: workers may lack the tokenizer.
        model = method.build_model(context)
        load_weights(model, self._files.start)
        self._student = TextStudent(model.to(self.device))
        self.model = self._student
        # One phase: the objective stays the same.
        steps = count_steps(settings.epochs, self.steps_per_epoch)
        phase = TrainingPhase(steps, settings.largest_rate, objective, settings.warmup)
        self.num_steps = steps
        self.updater = Updater(
            self.model,
            PhaseSchedule([phase]),
            weight_decay=settings.weight_decay,
            clip=1.0,
            reduce=self.reduce,
            optimizer=method.optimizer(context),
        )
        # In fp32: cuDNN's LSTM and a table look-up gain nothing from bf16 at these sizes.
        self.step = FinetuneStep(
            self.model,
            self.updater,
            precision="fp32",
            device=self.device,
            objective=objective,
            teacher=TeacherSource(context, self.device)(objective),
            cost=context.step_cost(lambda part: method.forward_flops(context) / context.flops_length),
        )

    def finish(self) -> None:
        """Write the model's weights."""
        save_tensors(self._files.network, self._student.model.state_dict())
