"""Evaluator actors, which hold the super-network once each, and the ledger in front of them."""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import Any

import torch

from raycomp.config.loader import parse_job
from raycomp.encoder.architecture import Architecture
from raycomp.errors import UserError
from raycomp.methods.context import RunContext
from raycomp.runtime.cluster.capacity import count_worker_slots, share_cpus, total_gpus
from raycomp.runtime.cluster.connect import ray
from raycomp.runtime.cluster.placement import on_driver_node
from raycomp.runtime.cluster.replica import open_run_dir
from raycomp.runtime.scoring.ledger import Ledger
from raycomp.training.evaluation import predict_logits, score_logits


class Evaluator:
    """Holds the super-network and the splits, and scores several architectures in one pass."""

    def __init__(self, job: dict[str, Any], run_dir: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self._context = RunContext(parse_job(job), open_run_dir(Path(run_dir)).folder)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model = self._context.supernet().to(self._device).eval()

    def evaluate(self, archs: list[str], split: str, precision: str) -> list[dict[str, Any]]:
        """Return a row of table `evaluations` per architecture (JSON), without the run's columns.

        Its seconds are an equal share of the pass.
        """
        began, context = time.perf_counter(), self._context
        values = [Architecture.from_json(a) for a in archs]
        tokens = context.tokens(split)
        logits = predict_logits(
            lambda batch: self._model.forward_many(batch, values),
            tokens,
            pad_id=context.pad_id,
            max_tokens=context.job.search.max_tokens,
            precision=precision,
            device=self._device,
        )
        results = [score_logits(context.metrics, tokens, each) for each in logits]
        seconds = (time.perf_counter() - began) / len(archs)
        return [
            {
                "arch_id": value.id,
                "arch": arch,
                "split": split,
                "precision": precision,
                "metric": context.primary,
                "value": result.values[context.primary],
                "loss": result.loss,
                "examples": result.examples,
                "params": int(context.costs.cost("params", value)),
                "flops": float(context.costs.cost("flops", value)),
                "seconds": seconds,
            }
            for arch, value, result in zip(archs, values, results, strict=True)
        ]


def start_scoring(
    job: dict[str, Any], run_dir: Path, weights_id: str, metric: str
) -> tuple[Any, list[Any]]:
    """Start evaluators over the cluster's free CPUs or GPUs, and the ledger in front of them.

    Raises:
        UserError: no node has the GPUs that an evaluator asks for.
    """
    settings = parse_job(job).search
    gpus = settings.gpus or (1.0 if total_gpus() else 0.0)
    slots = count_worker_slots(1, gpus)
    if settings.gpus and not slots:
        raise UserError(
            f"search.gpus={settings.gpus:g} was given; no node of the cluster has so many: start Ray "
            "with GPUs, or leave the setting out"
        )
    count = settings.evaluators or max(1, slots)
    cpus = share_cpus(count, gpus)
    names = [f"evaluator-{run_dir.name}-{uuid.uuid4().hex[:8]}" for _ in range(count)]
    evaluators = [
        ray.remote(Evaluator)
        .options(
            name=name,
            # A tenth stays free: trials ask for a sliver each, and would wait for ever without it.
            num_cpus=0.9 * cpus * min(1.0, slots / count),
            num_gpus=gpus,
            max_restarts=3,
            max_task_retries=3,
        )
        .remote(job, str(run_dir), cpus)
        for name in names
    ]
    ledger = (
        ray.remote(Ledger)
        # One that dies reads its rows back, finds the evaluators by name, and who asked asks again.
        .options(
            num_cpus=0,
            max_concurrency=10_000,
            max_restarts=3,
            max_task_retries=3,
            scheduling_strategy=on_driver_node(),
        )
        .remote(str(run_dir), weights_id, metric, names)
    )
    return ledger, evaluators
