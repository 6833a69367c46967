"""AdaBERT: a differentiable search of a small, task-adaptive CNN under the guidance of the teacher.

refs: D. Chen, Y. Li, M. Qiu, Z. Wang, B. Li, B. Ding, H. Deng, J. Huang, W. Lin, J. Zhou. AdaBERT:
Task-Adaptive BERT Compression with Differentiable Neural Architecture Search. IJCAI 2020.
https://arxiv.org/abs/2001.04246
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from raycomp.config.section import MethodSettings
from raycomp.data.batches import Batch, smallest_batch
from raycomp.errors import UserError
from raycomp.methods.adabert.cnn_model import RaycompCnnForSequenceClassification
from raycomp.methods.adabert.compiler import compile_child, compiled_config
from raycomp.methods.adabert.distillation_data import DistillationData
from raycomp.methods.adabert.drawing import draw_structure
from raycomp.methods.adabert.efficiency import operation_macs, operation_params
from raycomp.methods.adabert.preparation import prepare_distillation
from raycomp.methods.adabert.settings import AdabertSettings
from raycomp.methods.adabert.structure import Structure, cell_edges, parse_structure_setting
from raycomp.methods.adabert.training_tasks import AdabertChildTask, AdabertSearchTask
from raycomp.methods.adabert.trials import (
    CHILD,
    SEARCH,
    Trial,
    list_trials,
    load_child,
    read_trial_outcome,
    run_trial,
)
from raycomp.methods.augmentation import find_augmentation_problems
from raycomp.methods.base import Deployable, Forward, Method, Run
from raycomp.methods.context import RunContext
from raycomp.methods.tasks import TrainingTask

DESCRIPTION = (
    "A small CNN, searched and trained by raycomp (AdaBERT) under the guidance of the teacher, then "
    "compiled. `structure.svg` draws its cell."
)


class Adabert(Method):
    """AdaBERT. Lists of gamma, beta, layers and seeds make a sweep; the best seed of each is deployed."""

    settings: ClassVar[type[MethodSettings]] = AdabertSettings
    tasks: ClassVar[Mapping[str, type[TrainingTask]]] = {
        SEARCH: AdabertSearchTask,
        CHILD: AdabertChildTask,
    }

    def compress(self, run: Run) -> list[Deployable]:
        """Prepare the distillation data, then run every trial of the sweep."""
        data = DistillationData.of(run.context)
        prepare_distillation(run, data)
        # The driver tokenises because the workers may lack the text.
        data.tokens("train")
        _ = data.augmented_tokens

        trials = list_trials(data.job)
        missing = [t for t in trials if not data.layout.trial(t.name).outcome.exists()]
        if len(trials) == 1:
            for trial in missing:
                run_trial(run, data, trial)
        elif missing:
            run.sweep([asdict(trial) | {"name": trial.name} for trial in missing], [SEARCH, CHILD])
        return _best_children(data, trials)

    def run_trial(self, run: Run, trial: dict[str, Any]) -> None:
        """Run one trial of a sweep, in a process of its own."""
        point = {key: value for key, value in trial.items() if key != "name"}
        run_trial(run, DistillationData.of(run.context), Trial(**point))

    def restore(self, context: RunContext, row: Mapping[str, Any]) -> Deployable:
        """Return the deployable of a row, from its trial.

        Raises:
            UserError: The job does not name this trial.
        """
        data = DistillationData.of(context)
        for trial in list_trials(context.job):
            if (trial.setting, trial.seed) == (row["budget"], row["seed"]):
                return _deployable(data, trial, read_trial_outcome(data, trial), 1)
        raise UserError(
            f"Run {context.run_dir.name} cannot build trial {row['budget']!r} with seed {row['seed']}: "
            "its job.json names other trials."
        )

    def budget_of(self, context: RunContext, training: str) -> str | None:
        """Return the setting of a trial's search or training."""
        name = training.partition(".")[2]
        settings = {trial.name: trial.setting for trial in list_trials(context.job)}
        return settings.get(name)

    def training_epochs(self, context: RunContext) -> float:
        """Return the passes of the search and of the child's training."""
        settings = context.job.settings(AdabertSettings)
        search = settings.epochs if settings.structure is None else 0.0
        return search + settings.child_epochs

    def find_problems(self, context: RunContext) -> list[str]:
        """Return what AdaBERT would fail on later."""
        data = DistillationData.of(context)
        settings = context.job.settings(AdabertSettings)
        return [
            *_shape_problems(data),
            *_structure_problems(settings),
            *_text_problems(context),
            *_model_problems(context),
        ]

    def smallest_batches(self, context: RunContext) -> list[int]:
        """Return the rows of the smallest batch, with and without augmentation."""
        num_rows = len(context.task.train)
        size = context.job.settings(AdabertSettings).batch_size
        batches = [smallest_batch(num_rows, size)]
        if context.job.augment.copies:
            # Equal copies are left out, so the number of rows is not known; the worst case has one row
            # over.
            batches.append(smallest_batch(math.ceil(num_rows / size) * size + 1, size))
        return batches

    def plan(self, context: RunContext) -> dict[str, Any]:
        """Return trials, steps, rows of text, sizes of the student, and FLOPs of training."""
        return _plan_sweep(context)

    def summary(self, run: Run) -> dict[str, Any]:
        """Return the number of trials."""
        return {"trials": len(list_trials(run.context.job))}

    def forget_lost_results(self, context: RunContext, parts: set[str]) -> list[str]:
        """Delete the outcome of each trial whose evaluation is gone; its child is then scored again."""
        messages = []
        for outcome in context.layout.trial_outcomes():
            trial = outcome.parent.name
            if f"adabert-{trial}" not in parts:
                messages.append(
                    f"The evaluation of AdaBERT's trial {trial} is missing: it is scored again."
                )
                outcome.unlink()
        return messages


def _best_children(data: DistillationData, trials: list[Trial]) -> list[Deployable]:
    """Return the deployable of the best seed of each setting."""
    outcomes = {trial: read_trial_outcome(data, trial) for trial in trials}
    deployables = []
    for setting in dict.fromkeys(trial.setting for trial in trials):
        seeds = [trial for trial in trials if trial.setting == setting]
        best = max(seeds, key=lambda trial: (outcomes[trial]["value"], -outcomes[trial]["loss"]))
        deployables.append(_deployable(data, best, outcomes[best], len(seeds)))
    return deployables


def _deployable(
    data: DistillationData, trial: Trial, outcome: dict[str, Any], num_seeds: int
) -> Deployable:
    is_searched = data.job.settings(AdabertSettings).structure is None
    structure = Structure.from_json(outcome["arch"])
    return Deployable(
        budget=trial.setting,
        kind="beta",
        limit=trial.beta,
        build=functools.partial(_build_child, data, trial),
        arch=outcome["arch"],
        arch_id=outcome["arch_id"],
        flops=outcome["flops"],
        selection=outcome["value"],
        searcher="gumbel" if is_searched else "given",
        seed=trial.seed,
        evaluations=num_seeds,
        encoder_prefix="cells.",
        description=DESCRIPTION,
        files={"structure.svg": draw_structure(structure)},
    )


def _build_child(data: DistillationData, trial: Trial) -> tuple[PreTrainedModel, Forward]:
    """Return the compiled child, and the forward function of the child as it was trained."""
    child = load_child(data, trial)

    def forward(batch: Batch) -> Tensor:
        return child(batch.input_ids, batch.attention_mask)[0]

    return compile_child(child), forward


def _shape_problems(data: DistillationData) -> list[str]:
    try:
        _ = data.student_shape
    except UserError as error:
        return [str(error)]
    return []


def _structure_problems(settings: AdabertSettings) -> list[str]:
    if settings.structure is None:
        return []

    problems = []
    if settings.child_epochs == 0:
        problems.append(
            "adabert.structure is set and adabert.child_epochs is 0, so nothing would be trained. Raise "
            "child_epochs."
        )
    try:
        parse_structure_setting(settings.structure, 1, settings.nodes, settings.operations)
    except UserError as error:
        problems.append(str(error))
    return problems


def _text_problems(context: RunContext) -> list[str]:
    """Return a message for the first empty text of each column: a CNN has nothing to read there."""
    task = context.task
    problems = []
    for split in (task.train, task.selection, *task.validation):
        for texts in (split.text_a, split.text_b or []):
            empty = next((i for i, text in enumerate(texts) if not text.strip()), None)
            if empty is not None:
                problems.append(
                    f"Split {split.name}, row {empty}: the text is empty, and AdaBERT's CNN has nothing "
                    "to read. Fill or drop the row."
                )
    return problems


def _model_problems(context: RunContext) -> list[str]:
    job = context.job
    problems = []
    if not context.config.layer_heads:
        problems.append(
            f"{job.model.name} lacks hidden layers, so AdaBERT cannot probe it. Choose a teacher with "
            "at least one."
        )
    return problems + find_augmentation_problems(context)


def _plan_sweep(context: RunContext) -> dict[str, Any]:
    job = context.job
    settings = job.settings(AdabertSettings)
    trials = list_trials(job)
    num_rows = len(context.task.train)
    steps_per_epoch = math.ceil(num_rows / settings.batch_size)
    is_searched = settings.structure is None
    max_layers = max(trial.layers for trial in trials)
    candidates = len(settings.operations) ** len(cell_edges(settings.nodes))
    return {
        "structures": candidates * max_layers,
        "params": _student_sizes(context, settings, max_layers),
        "trials": len(trials),
        "search_steps": round(settings.epochs * steps_per_epoch) if is_searched else 0,
        "child_steps": round(settings.child_epochs * steps_per_epoch),
        "rows": num_rows * (1 + job.augment.copies),
        "flops": _training_flops(context, settings, trials),
    }


def _student_sizes(context: RunContext, settings: AdabertSettings, max_layers: int) -> list[int]:
    """Return the number of parameters of the smallest and of the largest student."""
    shape = DistillationData.of(context).student_shape
    sizes = []
    for layers, choose in ((1, min), (max_layers, max)):
        operation = choose(settings.operations, key=lambda o: operation_params(o, settings.width))
        edges = cell_edges(settings.nodes)
        structure = Structure(layers, (operation,) * len(edges), settings.nodes)
        # Shapes are enough, so no memory is taken.
        with torch.device("meta"):
            model = RaycompCnnForSequenceClassification(compiled_config(shape, structure))
        sizes.append(sum(p.numel() for p in model.parameters()))
    return sizes


def _training_flops(context: RunContext, settings: AdabertSettings, trials: list[Trial]) -> float:
    """Return about how many FLOPs the teacher's outputs, search and children take.

    A step takes three times its forward pass. A sampled structure and the child count as the mean over
    operations and depths.
    """
    full, _ = context.flops_per_row()
    length = context.flops_length
    macs = [operation_macs(operation, settings.width, length) for operation in settings.operations]
    cell = 2 * sum(macs) / len(macs) * len(cell_edges(settings.nodes)) * context.mean_length_share()

    extra = {"sampled": 0.0, "contrast": 1.0, "full": len(settings.operations) - 1.0}
    per_epoch = 3 + extra[settings.estimator] * (1 - settings.alpha_warmup)
    search = settings.epochs * per_epoch if settings.structure is None else 0.0

    num_rows = len(context.task.train)
    total = full * num_rows * (1 + context.job.augment.copies)
    for trial in trials:
        total += num_rows * cell * (trial.layers + 1) / 2 * (search + 3 * settings.child_epochs)
    return total
