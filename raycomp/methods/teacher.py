"""Fine-tuning of the teacher: the full network, on the labels."""

from __future__ import annotations

from raycomp.methods.tasks import TrainingTask
from raycomp.methods.teacher_length import count_teacher_steps, find_classifier_factor
from raycomp.storage.tensors import save_tensors
from raycomp.training.finetune_step import FinetuneStep
from raycomp.training.optimizers import LinearDecay, Updater


class TeacherTask(TrainingTask):
    """Fine-tuning of the full network."""

    def build(self) -> None:
        """Build the network from `teacher/start.safetensors`."""
        context = self.context
        settings = context.job.teacher
        self.method = "teacher"
        self._read_train_split(settings.batch_size)
        self.num_steps = count_teacher_steps(settings, len(self.tokens), context.config.num_labels)

        self.model = context.network(context.layout.teacher_start).to(self.device)
        self.model.set_dropout(settings.dropout)
        self.updater = Updater(
            self.model,
            LinearDecay(settings.learning_rate, settings.warmup, (0, self.num_steps)),
            weight_decay=settings.weight_decay,
            clip=1.0,
            reduce=self.reduce,
            rate_factors={"classifier": find_classifier_factor(settings, context.config.num_labels)},
        )
        precision = context.precision(self.device)
        self.step = FinetuneStep(
            self.model, self.updater, precision=precision, device=self.device, cost=context.step_cost()
        )

    def finish(self) -> None:
        """Write the teacher's weights."""
        save_tensors(self.context.layout.teacher_network, self.model.state_dict())
