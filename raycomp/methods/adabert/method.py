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
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from raycomp.config.section import MethodSettings
from raycomp.data.batches import Batch, smallest_batch
from raycomp.errors import UserError
from raycomp.methods.adabert.distillation_data import DistillationData
from raycomp.methods.adabert.drawing import draw_structure
from raycomp.methods.adabert.finalists import ROUND, round_sizes
from raycomp.methods.adabert.planning import plan_sweep
from raycomp.methods.adabert.preparation import prepare_distillation
from raycomp.methods.adabert.search_task import AdabertSearchTask
from raycomp.methods.adabert.settings import AdabertSettings
from raycomp.methods.adabert.structure import Structure, parse_structure_setting
from raycomp.methods.adabert.training_tasks import AdabertChildTask, AdabertRoundTask
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
from raycomp.methods.selection_scores import forget_outcome
from raycomp.methods.tasks import TrainingTask

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DESCRIPTION = (
    "A small CNN, searched and trained by raycomp (AdaBERT) under the guidance of the teacher, then "
    "compiled. `structure.svg` draws its cell."
)


class Adabert(Method):
    """AdaBERT. Lists of gamma, beta, layers and seeds make a sweep; the best seed of each is deployed."""

    settings: ClassVar[type[MethodSettings]] = AdabertSettings
    tasks: ClassVar[Mapping[str, type[TrainingTask]]] = {
        SEARCH: AdabertSearchTask,
        ROUND: AdabertRoundTask,
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
        """Return the setting of a trial's search, rounds or training."""
        task, _, name = training.partition(".")
        if task == ROUND:
            name = name.rpartition("-r")[0]
        settings = {trial.name: trial.setting for trial in list_trials(context.job)}
        return settings.get(name)

    def training_epochs(self, context: RunContext) -> float:
        """Return the passes of the search, and of the child's rounds and training."""
        settings = context.job.settings(AdabertSettings)
        search = settings.epochs if settings.has_search else 0.0
        return search + settings.finalist_epochs * len(round_sizes(settings)) + settings.child_epochs

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
        settings = context.job.settings(AdabertSettings)
        size = settings.batch_size
        sizes = [len(context.task.train)]
        if settings.alpha_updates:
            # The weights do not read the rows of P_alpha during the search.
            sizes.append(max(1, math.floor((1 - settings.alpha_share) * sizes[0])))
        if context.job.augment.copies:
            # Equal copies are left out, so the number of rows is not known; the worst case has one row
            # over.
            sizes += [math.ceil(rows / size) * size + 1 for rows in sizes]
        return [smallest_batch(rows, size) for rows in sizes]

    def plan(self, context: RunContext) -> dict[str, Any]:
        """Return trials, steps, rows of text, sizes of the student, and FLOPs of training."""
        return plan_sweep(context)

    def summary(self, run: Run) -> dict[str, Any]:
        """Return the number of trials."""
        return {"trials": len(list_trials(run.context.job))}

    def forget_lost_results(self, context: RunContext, parts: set[str]) -> list[str]:
        """Delete the outcome of each trial whose evaluation is gone; its child is then scored again."""
        messages = []
        for outcome in context.layout.trial_outcomes():
            trial = outcome.parent.name
            messages += forget_outcome(outcome, f"adabert-{trial}", parts, f"AdaBERT's trial {trial}")
            choice = context.layout.trial(trial).choice
            if choice.exists() and f"adabert-{trial}-candidates" not in parts:
                # The scores are in files of the trial: only the rows are written again.
                choice.unlink()
        return messages


def _best_children(data: DistillationData, trials: list[Trial]) -> list[Deployable]:
    """Return the deployable of the best seed of each setting."""
    outcomes = {trial: read_trial_outcome(data, trial) for trial in trials}
    deployables = []
    for setting in dict.fromkeys(trial.setting for trial in trials):
        seeds = [trial for trial in trials if trial.setting == setting]
        best = max(seeds, key=lambda trial: (outcomes[trial]["value"], -outcomes[trial]["loss"]))
        # Runs without candidates scored one structure for each seed.
        num_scored = sum(outcomes[trial].get("evaluations", 1) for trial in seeds)
        deployables.append(_deployable(data, best, outcomes[best], num_scored))
    return deployables


def _deployable(
    data: DistillationData, trial: Trial, outcome: dict[str, Any], num_scored: int
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
        evaluations=num_scored,
        encoder_prefix="cells.",
        description=DESCRIPTION,
        files={"structure.svg": draw_structure(structure)},
    )


def _build_child(data: DistillationData, trial: Trial) -> tuple[PreTrainedModel, Forward]:
    """Return the compiled child, and the forward function of the child as it was trained."""
    # Imported here, like transformers: training workers compile no child.
    from raycomp.methods.adabert.compiler import compile_child

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
    if settings.child_epochs == 0 and settings.child == "scratch":
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
