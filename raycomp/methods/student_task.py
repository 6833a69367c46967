"""The training task of a method that trains one student per budget."""

from __future__ import annotations

import torch
from torch import nn

from raycomp.data.batches import Batch
from raycomp.encoder.elastic import ElasticEncoder, ElasticOutput
from raycomp.methods.context import RunContext
from raycomp.methods.registry import load_method_class
from raycomp.methods.students import StudentMethod
from raycomp.methods.tasks import TrainingTask
from raycomp.storage.tensors import load_weights, save_tensors
from raycomp.training.finetune_step import Teacher
from raycomp.training.hints import Objective
from raycomp.training.optimizers import Updater
from raycomp.training.phases import PhasedStep, PhaseSchedule


class StudentTask(TrainingTask):
    """Training of one student; the plan has the name of its budget."""

    def build(self) -> None:
        """Build the network from its `start.safetensors`."""
        context = self.context
        self._student: StudentMethod = load_method_class(context.method)()
        settings = context.job.settings(self._student.settings)
        budget = next(b for b in context.job.budget if b.name == self.plan["budget"])
        arch = self._student.architecture(context, budget)
        assert arch is not None  # nosec B101 - only feasible budgets are trained

        self.method = context.method
        self._arch = arch
        self._files = context.files.student(self.plan["budget"])
        # An epoch is one pass over the given rows, however many rows augmentation adds.
        self._read_train_split(settings.batch_size)
        self.tokens = self._student.training_tokens(context)

        self.model = self._student.trained_network(context, arch)
        load_weights(self.model, self._files.start)
        self.model.to(self.device)
        _set_dropout(self.model, context.job.teacher.dropout)

        # Moments of one objective would mislead the next: each phase starts with a new optimizer.
        phases = self._student.phases(context, arch, self.steps_per_epoch, self.model)
        schedule = PhaseSchedule(phases)
        self.num_steps = schedule.starts[-1]
        self.updater = Updater(
            self.model,
            schedule,
            weight_decay=settings.weight_decay,
            clip=1.0,
            reset_at=schedule.starts[1:-1],
            reduce=self.reduce,
        )
        self.step = PhasedStep(
            phases,
            self.model,
            self.updater,
            teacher_for=TeacherSource(context, self.device),
            precision=context.precision(self.device),
            device=self.device,
            cost=context.step_cost(lambda part: context.token_flops(part or arch)),
        )

    def finish(self) -> None:
        """Write the student's weights."""
        weights = self._student.student_weights(self.context, self.model, self._arch)
        save_tensors(self._files.network, weights)


def _set_dropout(model: nn.Module, rate: float | None) -> None:
    """Set every dropout rate of the encoders in a module; None leaves their own."""
    for module in model.modules():
        if isinstance(module, ElasticEncoder):
            module.set_dropout(rate)


class TeacherSource:
    """The teacher as a function of a batch, in eval mode and without gradients; it is loaded when needed.

    Args:
        context: The run's context.
        device: Device of the teacher.
    """

    def __init__(self, context: RunContext, device: torch.device) -> None:
        self._context = context
        self._device = device
        self._network: ElasticEncoder | None = None

    def __call__(self, objective: Objective) -> Teacher | None:
        """Return the teacher with the outputs that an objective reads; None where it reads none."""
        if not objective.needs_teacher:
            return None
        # The phases share one copy of the teacher.
        if self._network is None:
            self._network = self._context.teacher().to(self._device).eval().requires_grad_(False)
        network = self._network

        def forward(batch: Batch) -> ElasticOutput:
            return network(
                batch, None, hidden=objective.needs_hidden, attention=objective.needs_attention
            )

        return forward
