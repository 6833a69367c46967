"""Time and cost of a job on a cluster, from steps that a run has measured or from FLOPs.

A step on w workers takes the time of its largest share of rows, and one all-reduce that nothing runs
beside: raycomp sums all gradients at once, after the backward pass, as 4 bytes a parameter.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from raycomp.config.job import Job
from raycomp.errors import UserError
from raycomp.storage.tables import read_table

WARM_STEPS = 2  # the first ones of a training are slower
LATENCY = 50e-6  # seconds of one message of an all-reduce


@dataclass(frozen=True)
class Machines:
    """What a job would run on.

    Attributes:
        nodes: machines.
        gpus: GPUs of each; 0: one worker a machine, on its processors.
        price: of one machine for an hour, in any currency; None when it is not known.
        gigabits: a second, over the slowest link between two workers.
    """

    nodes: int = 1
    gpus: int = 0
    price: float | None = None
    gigabits: float = 25.0

    @property
    def workers(self) -> int:
        """Workers of training, and evaluators of the search."""
        return self.nodes * max(1, self.gpus)


@dataclass(frozen=True)
class Rates:
    """What work costs one worker.

    Attributes:
        teacher, supernet: seconds a token of the training text; None: not known.
        evaluation: seconds of one evaluation, a row of the selection split; None: not known.
        source: where the figures are from, for people.
    """

    teacher: float | None
    supernet: float | None
    evaluation: float | None
    source: str


def measured(runs: Path, job: Job, gpu: bool) -> Rates | None:
    """Return the rates of the run with most measured steps of this network; None when there is none.

    A run counts when model, length, teacher and number of architectures a step are those of the job,
    and when it trained on the same kind of processor.
    """
    found: list[tuple[int, Rates]] = []
    for path in sorted(runs.glob("*/job.json")):
        try:
            given = json.loads(path.read_text(encoding="utf-8"))
            if not _alike(given, job, gpu):
                continue
            steps, scored = (read_table(path.parent, name) for name in ("steps", "evaluations"))
        except (OSError, ValueError, KeyError, TypeError, UserError):
            continue  # another's run, or one that is not whole: it measures nothing for us
        supernet, scored = (frame[frame["method"] == "yoco"] for frame in (steps, scored))
        # Of one sub-network a step while only the largest is open, of `samples` afterwards.
        networks = np.where(supernet["entropy"] > 0, given["train"]["samples"], 1)
        rate = _per_token(supernet.assign(tokens=supernet["tokens"] / networks))
        teacher = _per_token(steps[steps["method"] == "teacher"])
        rows = float(scored["examples"].sum())
        seconds = float(scored["seconds"].sum()) / rows if rows else None
        if rate is not None:
            source = f"{len(steps):,} steps and {len(scored):,} evaluations measured in {path.parent}"
            found.append((len(steps), Rates(teacher, rate, seconds, source)))
    return max(found, key=lambda pair: pair[0])[1] if found else None


def _alike(given: dict[str, Any], job: Job, gpu: bool) -> bool:
    ours = job.model_dump(mode="json")
    same = (("model", "name"), ("task", "max_length"), ("train", "distill"), ("train", "samples"))
    alike = all(given[section][key] == ours[section][key] for section, key in same)
    return alike and (given["train"]["gpus"] > 0) == gpu


def _per_token(rows: pd.DataFrame) -> float | None:
    """Return seconds that one worker needs for a token of its share of a batch."""
    rows = rows.sort_values("step").iloc[WARM_STEPS:]
    tokens = float(rows["tokens"].sum())
    return float(rows["seconds"].sum()) / tokens if tokens else None


def allreduce_seconds(params: int, workers: int, gigabits: float) -> float:
    """Return what a ring takes for the gradients of `params` parameters in fp32.

    Each of the w workers sends 2 (w - 1) / w of the gradients, in 2 (w - 1) messages one after another.
    """
    if workers < 2:
        return 0.0
    sent = 2 * (workers - 1) / workers * 4 * params
    return sent * 8 / (gigabits * 1e9) + 2 * (workers - 1) * LATENCY


@dataclass(frozen=True)
class Work:
    """What a job asks for.

    Attributes:
        teacher: steps, rows a step.
        supernet: steps, rows a step.
        evaluations: of the search, at most.
        selection: rows of the split that each is scored on.
        tokens: mean tokens of a row.
        params: of the full network.
    """

    teacher: tuple[int, int]
    supernet: tuple[int, int]
    evaluations: int
    selection: int
    tokens: float
    params: int


def forecast(work: Work, rates: Rates, machines: Machines) -> dict[str, Any]:
    """Return seconds of each part, hours and cost; without the start of processes and the export."""
    parts: dict[str, float | None] = {}
    waits = 0.0
    for name, (steps, rows), rate in (
        ("teacher", work.teacher, rates.teacher or rates.supernet),
        ("supernet", work.supernet, rates.supernet),
    ):
        workers = min(machines.workers, rows)
        wait = allreduce_seconds(work.params, workers, machines.gigabits)
        largest = math.ceil(rows / workers)
        parts[name] = None if rate is None else steps * (largest * work.tokens * rate + wait)
        waits += steps * wait
    rounds = math.ceil(work.evaluations / machines.workers)
    parts["search"] = None if rates.evaluation is None else rounds * work.selection * rates.evaluation
    seconds = _total(parts.values())
    hours = seconds / 3600
    return {
        "workers": machines.workers,
        "nodes": machines.nodes,
        "gpus": machines.gpus,
        "seconds": parts,
        "allreduce_ms": 1e3 * allreduce_seconds(work.params, machines.workers, machines.gigabits),
        "allreduce_share": waits / seconds if seconds else 0.0,
        "gigabits": machines.gigabits,
        "hours": hours,
        "cost": None if machines.price is None else hours * machines.nodes * machines.price,
        "source": rates.source,
    }


def _total(parts: Iterable[float | None]) -> float:
    return sum(p for p in parts if p is not None)
