"""Evaluator actors, each with a copy of the super-network, and the ledger in front of them."""

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
from raycomp.runtime.cluster.devices import check_granted_gpus
from raycomp.runtime.cluster.placement import on_driver_node
from raycomp.runtime.cluster.replica import open_run_dir
from raycomp.runtime.scoring.evaluation_queue import EvaluatorNeeds
from raycomp.runtime.scoring.ledger import Ledger
from raycomp.storage.rows import EvaluationRow
from raycomp.training.evaluation import predict_logits, score_logits

CPU_SHARE = 0.9
"""Share of the CPUs for evaluators. Trials need a little too, and would wait forever without it."""


MAX_RESTARTS = 3
"""How often Ray starts an evaluator again whose process died."""


class Evaluator:
    """Scores architectures with the super-network; `start_scoring` starts it as an actor."""

    def __init__(self, job: dict[str, Any], run_dir: str, threads: int, method: str = "yoco") -> None:
        """Load the super-network.

        Args:
            job: The job, as JSON-like values.
            run_dir: The run directory, as the driver node names it.
            threads: CPU threads of this process.
            method: Name of the method whose super-network it is.
        """
        torch.set_num_threads(threads)
        check_granted_gpus()
        folder = open_run_dir(Path(run_dir)).folder
        self._context = RunContext(parse_job(job), folder, method=method)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model = self._context.supernet().to(self._device).eval()

    def evaluate(self, archs: list[str], split: str, precision: str) -> list[dict[str, Any]]:
        """Score several architectures in one pass over a split.

        Args:
            archs: Architectures as JSON.
            split: Name of the split.
            precision: Precision of the computation, such as "fp32".

        Returns:
            A row of the table `evaluations` for each architecture, without the columns of the run. Its
            seconds are an equal share of the pass.
        """
        start = time.perf_counter()
        context = self._context
        architectures = [Architecture.from_json(text) for text in archs]
        tokens = context.tokens(split)

        logits = predict_logits(
            lambda batch: self._model.forward_many(batch, architectures),
            tokens,
            pad_id=context.pad_id,
            max_tokens=context.job.search.max_tokens,
            precision=precision,
            device=self._device,
        )
        scores = [
            score_logits(context.metrics, tokens, arch_logits, context.facts.positive)
            for arch_logits in logits
        ]
        seconds = (time.perf_counter() - start) / len(archs)

        rows = []
        for arch, score in zip(architectures, scores, strict=True):
            row = EvaluationRow(
                arch_id=arch.id,
                arch=arch.to_json(),
                split=split,
                precision=precision,
                metric=context.primary,
                value=score.values[context.primary],
                loss=score.loss,
                examples=score.examples,
                params=int(context.costs.cost("params", arch)),
                flops=float(context.costs.cost("flops", arch)),
                seconds=seconds,
            )
            rows.append(row.to_row())
        return rows


def start_scoring(
    job: dict[str, Any], run_dir: Path, weights_id: str, metric: str, method: str = "yoco"
) -> tuple[Any, list[Any]]:
    """Start evaluators on all free CPUs or GPUs of the cluster, and the ledger in front of them.

    Args:
        job: The job, as JSON-like values.
        run_dir: The run directory.
        weights_id: Hash of the super-network's weights.
        metric: Name of the metric.
        method: Name of the method that searches.

    Returns:
        The actor of the ledger, and the actors of the evaluators.

    Raises:
        UserError: No node has the GPUs that an evaluator asks for.
    """
    parsed_job = parse_job(job)
    settings = parsed_job.search
    # Evaluators use GPUs if there are any, also if the job does not say so.
    gpus = settings.gpus
    if not gpus and total_gpus():
        gpus = 1.0

    slots = count_worker_slots(1, gpus)
    if settings.gpus and not slots:
        raise UserError(
            f"search.gpus = {settings.gpus:g} is more than any node of the cluster has. Start Ray on "
            "nodes with GPUs, or remove this setting."
        )

    # If more evaluators are requested than fit, they share the CPUs.
    num_evaluators = settings.evaluators or max(1, slots)
    cpus = share_cpus(num_evaluators, gpus)
    cpu_share = CPU_SHARE * cpus * min(1.0, slots / num_evaluators)

    evaluators = {}
    for _ in range(num_evaluators):
        name = f"evaluator-{run_dir.name}-{uuid.uuid4().hex[:8]}"
        options = {"name": name, "num_cpus": cpu_share, "num_gpus": gpus}
        # Without retries by Ray: the ledger gives the work of a dead evaluator to another one at once.
        actor = ray.remote(Evaluator).options(**options, max_restarts=MAX_RESTARTS, max_task_retries=0)
        evaluators[name] = actor.remote(job, str(run_dir), cpus, method)

    needs = EvaluatorNeeds(cpu_share, gpus, parsed_job.train.barrier_seconds)
    ledger = _start_ledger(str(run_dir), weights_id, metric, list(evaluators), method, needs)
    return ledger, list(evaluators.values())


def _start_ledger(*args: Any) -> Any:
    """Start the ledger on the driver node, because it writes to the run directory itself.

    Args:
        args: Arguments of `Ledger`.
    """
    return (
        ray.remote(Ledger)
        .options(
            num_cpus=0,
            max_concurrency=10_000,
            # A restarted ledger reads its rows from the table, and finds the evaluators by their names.
            max_restarts=3,
            max_task_retries=3,
            scheduling_strategy=on_driver_node(),
        )
        .remote(*args)
    )
