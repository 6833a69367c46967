"""Time and cost of a job on a cluster, from the steps that an earlier run measured or from FLOPs.

A step on w workers takes the time of the largest share of its rows, and one all-reduce. Nothing
overlaps with the all-reduce: raycomp sums all gradients at once after the backward pass, 4 bytes for
each parameter.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from raycomp.config.job import Job
from raycomp.errors import UserError
from raycomp.storage.layout import RunLayout
from raycomp.storage.study_layout import find_runs
from raycomp.storage.tables import read_table

# The first steps of a training are slower, and do not count.
WARM_STEPS = 2

# Seconds of one message of an all-reduce.
MESSAGE_SECONDS = 50e-6
BYTES_PER_GRADIENT = 4

# Settings that the time of a step depends on.
RATE_SETTINGS = (
    ("model", "name"),
    ("task", "max_length"),
    ("train", "distill"),
    ("train", "samples"),
)


@dataclass(frozen=True)
class Machines:
    """A cluster of equal machines.

    Attributes:
        nodes: Number of machines.
        gpus: GPUs of each machine; 0: one worker for each machine, on its CPUs.
        price: Price of one machine for an hour, in any currency; None if it is unknown.
        gigabits: Gbit/s of the slowest link between two workers.
    """

    nodes: int = 1
    gpus: int = 0
    price: float | None = None
    gigabits: float = 25.0

    @property
    def workers(self) -> int:
        """Number of training workers, and of evaluators of the search."""
        return self.nodes * max(1, self.gpus)


@dataclass(frozen=True)
class Rates:
    """Seconds of the work of one worker; None if they are unknown.

    Attributes:
        teacher: Seconds of a token of the teacher's training text.
        supernet: Seconds of a token of the super-network's training text.
        evaluation: Seconds of a row of the selection split in one evaluation.
        source: Source of the figures, in words.
    """

    teacher: float | None
    supernet: float | None
    evaluation: float | None
    source: str


@dataclass(frozen=True)
class Work:
    """The work of a job.

    Attributes:
        teacher: Steps of the teacher's training, and rows of a step.
        supernet: Steps of the super-network's training, and rows of a step.
        evaluations: Maximum number of evaluations of the search.
        selection: Rows of the selection split.
        tokens: Mean number of tokens of a row.
        params: Parameters of the full network.
        healing: Steps of all healed networks together, and rows of a step.
        samples: Networks of a super-network step.
    """

    teacher: tuple[int, int]
    supernet: tuple[int, int]
    evaluations: int
    selection: int
    tokens: float
    params: int
    healing: tuple[int, int] = (0, 1)
    samples: int = 1


def find_measured_rates(runs: Path, job: Job, gpu: bool) -> Rates | None:
    """Return the rates of the run with the most measured steps of this job's network.

    A run counts if the settings in RATE_SETTINGS are equal, and if it trained on the same kind of device.

    Args:
        runs: Directory of run directories.
        job: Job to plan.
        gpu: Whether the job would train on GPUs.

    Returns:
        The rates, or None if no run counts.
    """
    best: Rates | None = None
    most_steps = 0
    for run_dir in find_runs(runs):
        try:
            settings = json.loads(RunLayout(run_dir).job.read_text(encoding="utf-8"))
            if not _has_equal_rates(settings, job, gpu):
                continue
            steps = read_table(run_dir, "steps")
            evaluations = read_table(run_dir, "evaluations")
        except (OSError, ValueError, KeyError, TypeError, UserError):
            # A run of another version, or an incomplete one. It measures nothing for this job.
            continue

        rates = _measure_rates(steps, evaluations, settings["train"]["samples"], run_dir)
        if rates.supernet is not None and len(steps) > most_steps:
            best = rates
            most_steps = len(steps)
    return best


def _has_equal_rates(settings: dict[str, Any], job: Job, gpu: bool) -> bool:
    """Return whether a step of a run takes as long as a step of the job on the same worker."""
    job_settings = job.model_dump(mode="json")
    are_equal = all(
        settings[section][key] == job_settings[section][key] for section, key in RATE_SETTINGS
    )
    used_gpu = settings["train"]["gpus"] > 0
    return are_equal and used_gpu == gpu


def _measure_rates(steps: pd.DataFrame, evaluations: pd.DataFrame, samples: int, run_dir: Path) -> Rates:
    """Return the rates that the tables of a run show.

    Args:
        steps: Table `steps` of the run.
        evaluations: Table `evaluations` of the run.
        samples: Number of architectures of a super-network step.
        run_dir: Run directory that `Rates.source` names.
    """
    # Steps of healing have the same method, and another number of networks.
    is_healing = steps["training"].astype("string").str.startswith("heal.").fillna(False)
    supernet_steps = steps[(steps["method"] == "yoco") & ~is_healing.astype(bool)]
    # While only the largest architecture is open, a step trains one sub-network, and `samples` later.
    num_networks = np.where(supernet_steps["entropy"] > 0, samples, 1)
    tokens_per_network: pd.Series[float] = supernet_steps["tokens"] / num_networks

    is_search = (evaluations["method"] == "yoco") & (evaluations["weights"] != "healed")
    evaluations = evaluations[is_search]
    num_rows = float(evaluations["examples"].sum())
    evaluation = float(evaluations["seconds"].sum()) / num_rows if num_rows else None
    return Rates(
        teacher=_seconds_per_token(steps[steps["method"] == "teacher"]),
        supernet=_seconds_per_token(supernet_steps.assign(tokens=tokens_per_network)),
        evaluation=evaluation,
        source=(f"{len(steps):,} steps and {len(evaluations):,} evaluations measured in {run_dir}"),
    )


def _seconds_per_token(steps: pd.DataFrame) -> float | None:
    """Return the seconds of one worker for a token of its share of a batch; None without steps."""
    steps = steps.sort_values("step").iloc[WARM_STEPS:]
    num_tokens = float(steps["tokens"].sum())
    if not num_tokens:
        return None
    return float(steps["seconds"].sum()) / num_tokens


def all_reduce_seconds(params: int, workers: int, gigabits: float) -> float:
    """Return the seconds of a ring all-reduce over the gradients of `params` parameters in fp32.

    Each of the w workers sends 2 (w - 1) / w of the gradients, in 2 (w - 1) successive messages.
    """
    if workers < 2:
        return 0.0
    num_messages = 2 * (workers - 1)
    sent_bytes = num_messages / workers * BYTES_PER_GRADIENT * params
    return sent_bytes * 8 / (gigabits * 1e9) + num_messages * MESSAGE_SECONDS


def make_forecast(work: Work, rates: Rates, machines: Machines) -> dict[str, Any]:
    """Return seconds of each part, hours and cost, without the start of processes and the export.

    Args:
        work: Work of the job.
        rates: Seconds of the work of one worker.
        machines: Cluster.
    """
    teacher, teacher_wait = _training_seconds(
        work.teacher, rates.teacher or rates.supernet, work, machines
    )
    supernet, supernet_wait = _training_seconds(work.supernet, rates.supernet, work, machines)
    # About as long as the share of one network of a step of the super-network.
    heal_rate = None if rates.supernet is None else rates.supernet / work.samples
    healing, heal_wait = _training_seconds(work.healing, heal_rate, work, machines)
    parts = {
        "teacher": teacher,
        "supernet": supernet,
        "search": _search_seconds(work, rates, machines),
        "healing": healing,
    }

    seconds = sum(part for part in parts.values() if part is not None)
    hours = seconds / 3600
    wait = teacher_wait + supernet_wait + heal_wait
    cost = None if machines.price is None else hours * machines.nodes * machines.price
    return {
        "workers": machines.workers,
        "nodes": machines.nodes,
        "gpus": machines.gpus,
        "seconds": parts,
        "allreduce_ms": 1e3 * all_reduce_seconds(work.params, machines.workers, machines.gigabits),
        "allreduce_share": wait / seconds if seconds else 0.0,
        "gigabits": machines.gigabits,
        "hours": hours,
        "cost": cost,
        "source": rates.source,
    }


def _training_seconds(
    steps_and_rows: tuple[int, int], rate: float | None, work: Work, machines: Machines
) -> tuple[float | None, float]:
    """Return the seconds of a training (None without a rate), and those of all its all-reduces."""
    steps, rows = steps_and_rows
    workers = min(machines.workers, rows)
    wait = all_reduce_seconds(work.params, workers, machines.gigabits)
    if rate is None:
        return None, steps * wait
    largest_share = math.ceil(rows / workers)
    return steps * (largest_share * work.tokens * rate + wait), steps * wait


def _search_seconds(work: Work, rates: Rates, machines: Machines) -> float | None:
    """Return the seconds of the search, in which every evaluator scores one architecture at a time."""
    if rates.evaluation is None:
        return None
    num_rounds = math.ceil(work.evaluations / machines.workers)
    return num_rounds * work.selection * rates.evaluation
