"""BERT-of-Theseus: layers of the teacher are replaced by those of the student, one group at a time.

The L layers of the teacher and the n layers of the student are divided into gcd(L, n) modules. In each
step every module is replaced with probability

    p_t = min(1, k t + b)

by one draw for the whole batch. The loss is that of the labels. Only the student's layers are trained;
embeddings, pooler and classifier are the teacher's, and gradients pass through its frozen layers. At
p = 1 only the student's layers run. For 9 of 12 layers, which the paper lacks, three modules of four
layers are replaced by three layers each ("extended map").

refs: C. Xu, W. Zhou, T. Ge, F. Wei, M. Zhou. BERT-of-Theseus: Compressing BERT by Progressive Module
Replacing. EMNLP 2020. https://arxiv.org/abs/2002.02925
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import numpy as np
from pydantic import Field
from torch import Tensor, nn

from raycomp.arithmetic import ceil_div
from raycomp.config.section import choices
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.elastic import ElasticEncoder
from raycomp.encoder.layers import Encoder, EncoderConfig
from raycomp.methods.context import RunContext
from raycomp.methods.student_models import load_source
from raycomp.methods.student_task import StudentTask
from raycomp.methods.students import StudentMethod, StudentSettings
from raycomp.methods.tasks import TrainingTask
from raycomp.training.hints import LABELS_ONLY
from raycomp.training.phases import TrainingPhase, count_steps


class TheseusSettings(StudentSettings):
    """BERT-of-Theseus; one student per budget."""

    method: ClassVar[str] = "theseus"
    title: ClassVar[str] = "BERT-of-Theseus"

    start: Literal["teacher", "pretrained"] = Field(
        "pretrained",
        description=choices(
            "Weights of the student's layers before the training.",
            {
                "pretrained": "the first layers of the model that the job names (the paper's form)",
                "teacher": "the first layers of the fine-tuned teacher (the released code's form)",
            },
        ),
    )
    epochs: float = Field(10.0, gt=0, le=1000, description="Passes over the training split.")
    learning_rate: float = Field(
        2e-5,
        gt=0,
        lt=1,
        description="Largest learning rate. It falls linearly to 0. The paper uses 1e-5 and 2e-5.",
    )
    base_rate: float = Field(
        0.3,
        ge=0,
        le=1,
        description="Probability of replacing a module in the first step (b). The paper: 0.1 and 0.3.",
    )
    replace_steps: int | None = Field(
        None,
        ge=1,
        description="Steps until every module is always replaced. The paper uses 1,000 to 30,000. Not "
        "set: half of the training.",
    )
    schedule: Literal["linear", "constant"] = Field(
        "linear",
        description=choices(
            "Probability of replacing a module in these steps. It is 1 after them.",
            {
                "linear": "it rises from `base_rate` to 1 (the paper's curriculum)",
                "constant": "`base_rate`; the paper uses 0.5, 0.7 and 0.9",
            },
        ),
    )


@dataclass(frozen=True)
class ReplacementSchedule:
    """Probability of replacing a module, p_t = min(1, k t + b) with k = (1 - b) / S.

    Attributes:
        base_rate: b.
        steps: S, the steps until the probability is 1.
        is_constant: Whether it is b until then.
    """

    base_rate: float
    steps: float
    is_constant: bool = False

    def rate(self, step: int) -> float:
        """Return the probability in a step, from 0."""
        # From here on, only the student's layers are tuned.
        if step >= self.steps:
            return 1.0
        if self.is_constant:
            return self.base_rate
        return min(1.0, self.base_rate + (1 - self.base_rate) * step / self.steps)


@dataclass(frozen=True)
class ModulePlan:
    """The modules of a network that has the layers of both models, module by module.

    In each module, the teacher's layers come first, then the student's.

    Attributes:
        teacher_layers: Number of the teacher's layers, L.
        student_layers: Number of the student's layers, n.
    """

    teacher_layers: int
    student_layers: int

    @property
    def num_modules(self) -> int:
        """Number of modules."""
        return math.gcd(self.teacher_layers, self.student_layers)

    def order(self) -> list[tuple[bool, int]]:
        """Return for each layer of the joint network whether it is the student's, and its index there."""
        teacher, student = self._sizes()
        layers = []
        for module in range(self.num_modules):
            layers += [(False, module * teacher + i) for i in range(teacher)]
            layers += [(True, module * student + i) for i in range(student)]
        return layers

    def path(self, replaced: Sequence[bool]) -> tuple[int, ...]:
        """Return the layers of the joint network that run.

        Args:
            replaced: For each module, whether the student's layers run (r in the paper).
        """
        teacher, student = self._sizes()
        layers: list[int] = []
        for module, is_replaced in enumerate(replaced):
            first = module * (teacher + student)
            if is_replaced:
                layers += range(first + teacher, first + teacher + student)
            else:
                layers += range(first, first + teacher)
        return tuple(layers)

    def _sizes(self) -> tuple[int, int]:
        """Return the layers of a module: the teacher's and the student's."""
        return self.teacher_layers // self.num_modules, self.student_layers // self.num_modules


class Theseus(StudentMethod):
    """BERT-of-Theseus."""

    settings: ClassVar[type[StudentSettings]] = TheseusSettings
    tasks: ClassVar[Mapping[str, type[TrainingTask]]] = {"theseus-student": StudentTask}

    def layers(self, context: RunContext, num_layers: int) -> tuple[int, ...]:
        """Return the first layers, counted from the input."""
        return tuple(range(num_layers))

    def trained_network(self, context: RunContext, arch: Architecture) -> nn.Module:
        """Return a network with the layers of teacher and student; only the student's are trained."""
        plan = _plan_modules(context, arch)
        shape = context.shape
        heads = []
        ffn = []

        for is_student, layer in plan.order():
            heads.append(arch.heads[layer] if is_student else shape.layer_heads[layer])
            ffn.append(arch.ffn[layer] if is_student else shape.layer_ffn[layer])

        sizes = {"layer_heads": heads, "layer_ffn": ffn}
        model = ElasticEncoder(Encoder(EncoderConfig.from_config(context.config.to_dict() | sizes)))

        # Gradients still pass through the frozen layers to the student's layers before them.
        model.requires_grad_(False)

        for (is_student, _), layer_module in zip(plan.order(), model.layers, strict=True):
            layer_module.requires_grad_(is_student)

        return model

    def start_weights(self, context: RunContext, arch: Architecture) -> dict[str, Tensor]:
        """Return the teacher's weights, and those of the student's layers."""
        settings = context.job.settings(TheseusSettings)
        teacher = context.teacher().state_dict()
        source = load_source(context, settings.start).state_dict()
        # Embeddings, pooler and classifier are the teacher's, and stay so.
        weights = {key: value for key, value in teacher.items() if not key.startswith("layers.")}

        for position, (is_student, layer) in enumerate(_plan_modules(context, arch).order()):
            prefix = f"layers.{layer}."
            for key, value in (source if is_student else teacher).items():
                if key.startswith(prefix):
                    weights[f"layers.{position}.{key.removeprefix(prefix)}"] = value.clone()
        return weights

    def student_weights(
        self, context: RunContext, model: nn.Module, arch: Architecture
    ) -> dict[str, Tensor]:
        """Return the weights of the network in which every module is replaced."""
        plan = _plan_modules(context, arch)
        joint = cast(ElasticEncoder, model)
        successor = _slice_of(joint.config, plan.path([True] * plan.num_modules))
        return joint.extract(successor).state_dict()

    def phases(
        self,
        context: RunContext,
        arch: Architecture,
        steps_per_epoch: int,
        model: nn.Module | None = None,
    ) -> tuple[TrainingPhase, ...]:
        """Return one phase, in which a random path through both models is trained on the labels."""
        settings = context.job.settings(TheseusSettings)
        # The objective lacks a teacher: the teacher's layers are in the network itself.
        steps = count_steps(settings.epochs, steps_per_epoch)
        plan = _plan_modules(context, arch)
        schedule = _schedule_of(settings, steps)
        seed = context.job.run.seed

        def arch_at(step: int) -> Architecture:
            # One draw for each module, the same on every worker.
            draws = np.random.default_rng((seed, step)).random(plan.num_modules)
            config = cast(ElasticEncoder, model).config
            return _slice_of(config, plan.path([bool(u < schedule.rate(step)) for u in draws]))

        return (
            TrainingPhase(steps, settings.learning_rate, LABELS_ONLY, settings.warmup, arch_at=arch_at),
        )

    def forward_flops(self, context: RunContext, arch: Architecture) -> float:
        """Return the FLOPs of a path of mean length: between the teacher and the student."""
        settings = context.job.settings(TheseusSettings)
        steps_per_epoch = ceil_div(len(context.task.train), settings.batch_size)
        steps = count_steps(settings.epochs, steps_per_epoch)
        schedule = _schedule_of(settings, steps)
        replaced = float(np.mean([schedule.rate(step) for step in range(steps)]))
        full = float(context.costs.cost("flops", context.space.largest()))
        return (1 - replaced) * full + replaced * float(context.costs.cost("flops", arch))


def _schedule_of(settings: TheseusSettings, steps: int) -> ReplacementSchedule:
    return ReplacementSchedule(
        settings.base_rate, settings.replace_steps or steps / 2, settings.schedule == "constant"
    )


def _plan_modules(context: RunContext, arch: Architecture) -> ModulePlan:
    return ModulePlan(len(context.shape.layer_heads), arch.depth)


def _slice_of(config: EncoderConfig, layers: tuple[int, ...]) -> Architecture:
    """Return the architecture of some layers of a network, each at its full width."""
    heads = tuple(config.layer_heads[layer] for layer in layers)
    ffn = tuple(config.layer_ffn[layer] for layer in layers)
    return Architecture(len(layers), heads, ffn, layers)
