"""The trials of AdaBERT's sweep: their names, their training, and the score of their children."""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict, dataclass
from typing import Any

from raycomp.config.job import Job
from raycomp.methods.adabert.child_scores import score_child
from raycomp.methods.adabert.distillation_data import DistillationData
from raycomp.methods.adabert.finalists import choose_structure
from raycomp.methods.adabert.recalibration import recalibrate, recalibration_batches
from raycomp.methods.adabert.settings import AdabertSettings
from raycomp.methods.adabert.structure import parse_structure_setting
from raycomp.methods.adabert.student import Child
from raycomp.methods.adabert.training_tasks import read_structure
from raycomp.methods.base import Run
from raycomp.storage.files import file_hash, read_json, write_json
from raycomp.storage.revision import FIRST_REVISION
from raycomp.storage.rows import row_of_json
from raycomp.storage.tensors import load_tensors, load_weights, save_tensors
from raycomp.training.seeding import trial_seed

SEARCH = "adabert-search"
CHILD = "adabert-child"


@dataclass(frozen=True)
class Trial:
    """One point of the sweep.

    Attributes:
        gamma: Weight of distillation (Eq. 1).
        beta: Weight of the efficiency loss (Eq. 1).
        layers: Largest number of cells, K_max.
        seed: Number that is added to run.seed.
    """

    gamma: float
    beta: float
    layers: int
    seed: int

    @property
    def setting(self) -> str:
        """Name of the deployment, which is one for all seeds."""
        return f"beta{self.beta:g}-gamma{self.gamma:g}-k{self.layers}".replace(".", "_")

    @property
    def name(self) -> str:
        """Name of the trial's directory."""
        return f"{self.setting}-s{self.seed}"


def list_trials(job: Job) -> list[Trial]:
    """Return every point of the job's sweep."""
    settings = job.settings(AdabertSettings)

    def as_list(value: Any) -> list[Any]:
        return value if isinstance(value, list) else [value]

    points = itertools.product(
        as_list(settings.gamma), as_list(settings.beta), as_list(settings.layers), settings.seeds
    )
    return [Trial(float(g), float(b), int(k), int(s)) for g, b, k, s in points]


def run_trial(run: Run, data: DistillationData, trial: Trial) -> None:
    """Search, choose, train and score one trial; finished parts are not repeated."""
    search_structure(run, data, trial)
    choose_structure(run, data, training_plan(data, trial))
    _train_child(run, data, trial)
    if not data.layout.trial(trial.name).outcome.exists():
        _score_child(run, data, trial)


def search_structure(run: Run, data: DistillationData, trial: Trial) -> None:
    """Train the parent graph and search, or write the structure that the job names."""
    files = data.layout.trial(trial.name)
    if files.structure.exists():
        return

    settings = data.job.settings(AdabertSettings)
    if settings.structure is not None and not settings.has_search:
        structure = parse_structure_setting(
            settings.structure, trial.layers, settings.nodes, settings.operations
        )
        write_json(files.structure, json.loads(structure.to_json()))
    else:
        run.train(f"{SEARCH}.{trial.name}", training_plan(data, trial))


def _train_child(run: Run, data: DistillationData, trial: Trial) -> None:
    """Train the child, or write it with the parent's weights if the job does not train it."""
    files = data.layout.trial(trial.name)
    if files.child.exists():
        return

    if data.job.settings(AdabertSettings).child_epochs == 0:
        child = Child(data.student_shape, read_structure(files))
        trained = load_tensors(files.parent)
        child.load_state_dict({key: trained[key] for key in child.state_dict()})
        if data.revision != FIRST_REVISION:
            seed = trial_seed(data.job.run.seed, trial.seed)
            recalibrate(child, recalibration_batches(data, seed))
        save_tensors(files.child, child.state_dict())
    else:
        run.train(f"{CHILD}.{trial.name}", training_plan(data, trial))


def training_plan(data: DistillationData, trial: Trial) -> dict[str, Any]:
    """Return the plan of a trial's trainings."""
    seed = trial_seed(data.job.run.seed, trial.seed)
    return {"trial": trial.name, **asdict(trial), "seed": seed}


def load_child(data: DistillationData, trial: Trial) -> Child:
    """Return a trial's trained child, in eval mode."""
    files = data.layout.trial(trial.name)
    child = Child(data.student_shape, read_structure(files))
    load_weights(child, files.child)
    return child.eval()


def _score_child(run: Run, data: DistillationData, trial: Trial) -> None:
    """Score a trial's child on the selection split, and write its row and its outcome."""
    files = data.layout.trial(trial.name)
    row = score_child(data, load_child(data, trial), file_hash(files.child)).to_json()
    run.record_evaluation(f"adabert-{trial.name}", row_of_json(row))

    num_scored = 1
    if files.choice.exists():
        num_scored = read_json(files.choice)["evaluations"]
    # The outcome comes after the row: a trial with an outcome is complete.
    outcome = {**row, **asdict(trial), "setting": trial.setting, "evaluations": num_scored}
    write_json(files.outcome, outcome)


def read_trial_outcome(data: DistillationData, trial: Trial) -> dict[str, Any]:
    """Return the selection score and the size of a trial's child."""
    return read_json(data.layout.trial(trial.name).outcome)
