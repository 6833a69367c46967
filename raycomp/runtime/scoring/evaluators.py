"""Evaluator actors, each with a copy of the super-network, and the ledger in front of them."""

from __future__ import annotations

import functools
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raycomp.config.loader import parse_job
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.elastic import ElasticEncoder
from raycomp.errors import UserError
from raycomp.methods.context import RunContext
from raycomp.methods.task_vocabulary import tokens_of
from raycomp.runtime.cluster.capacity import count_worker_slots, total_gpus
from raycomp.runtime.cluster.connect import ray
from raycomp.runtime.cluster.devices import check_granted_gpus
from raycomp.runtime.cluster.placement import on_driver_node
from raycomp.runtime.cluster.replica import open_run_dir
from raycomp.runtime.scoring.evaluation_queue import EvaluatorNeeds
from raycomp.runtime.scoring.evaluator_slots import (
    EvaluatorPlan,
    evaluator_bytes,
    plan_evaluators,
    read_nodes,
)
from raycomp.runtime.scoring.ledger import Ledger
from raycomp.storage.rows import EvaluationRow
from raycomp.training.evaluation import Score, predict_logits, score_logits

CPU_SHARE = 0.9
"""Share of the CPUs for evaluators. Trials need a little too, and would wait forever without it."""


MAX_RESTARTS = 3
"""How often Ray starts an evaluator again whose process died."""


class Evaluator:
    """Scores architectures with the super-network; `start_scoring` starts it as an actor."""

    def __init__(self, job: dict[str, Any], run_dir: str, threads: int, method: str = "yoco") -> None:
        """Create an evaluator; `load` does what takes time.

        Args:
            job: The job, as JSON-like values.
            run_dir: The run directory, as the driver node names it.
            threads: CPU threads of this process.
            method: Name of the method whose super-network it is.
        """
        torch.set_num_threads(threads)
        check_granted_gpus()
        self._job = job
        self._run_dir = run_dir
        self._method = method
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @functools.cached_property
    def _context(self) -> RunContext:
        folder = open_run_dir(Path(self._run_dir)).folder
        return RunContext(parse_job(self._job), folder, method=self._method)

    @functools.cached_property
    def _model(self) -> ElasticEncoder:
        return self._context.supernet().to(self._device).eval()

    def load(self) -> None:
        """Load the super-network; a second call changes nothing.

        The pool calls it as soon as the process runs. A limit of its time does not end an evaluator that
        waits for resources.
        """
        _ = self._model

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
        # Ray may have started this process again.
        self.load()
        start = time.perf_counter()
        context = self._context
        architectures = [Architecture.from_json(text) for text in archs]
        scores: dict[Architecture, Score] = {}
        # Networks with the same vocabulary read the same tokens.
        for is_cut in {arch.table.is_cut for arch in architectures}:
            members = [arch for arch in architectures if arch.table.is_cut == is_cut]
            scores |= dict(zip(members, self._score(members, split, precision), strict=True))
        seconds = (time.perf_counter() - start) / len(archs)

        rows = []
        for arch in architectures:
            score = scores[arch]
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
                weights="inherited",
            )
            rows.append(row.to_row())
        return rows

    def _score(self, archs: list[Architecture], split: str, precision: str) -> list[Score]:
        """Score architectures with one vocabulary in one pass over a split."""
        context = self._context
        tokens = tokens_of(context, split, archs[0].table)
        logits = predict_logits(
            lambda batch: self._model.forward_many(batch, archs),
            tokens,
            pad_id=context.pad_id,
            max_tokens=context.job.search.max_tokens,
            precision=precision,
            device=self._device,
        )
        return [
            score_logits(context.metrics, tokens, arch_logits, context.facts.positive)
            for arch_logits in logits
        ]


def start_scoring(
    job: dict[str, Any],
    run_dir: Path,
    weights_id: str,
    metric: str,
    method: str = "yoco",
    say: Callable[[str], None] = lambda _: None,
) -> tuple[Any, list[Any]]:
    """Start evaluators on all CPUs or GPUs of the cluster, and the ledger in front of them.

    A node gets at most as many as its CPU limits and its free memory allow.

    Args:
        job: The job, as JSON-like values.
        run_dir: The run directory.
        weights_id: Hash of the super-network's weights.
        metric: Name of the metric.
        method: Name of the method that searches.
        say: Receiver of a notice about limits of the nodes.

    Returns:
        The actor of the ledger, and the actors of the evaluators.

    Raises:
        UserError: No node has the GPUs that an evaluator asks for.
    """
    parsed_job = parse_job(job)
    settings = parsed_job.search
    # Evaluators use GPUs if there are any, also if the job does not say so.
    gpus = settings.gpus or float(total_gpus() > 0)

    slots = count_worker_slots(1, gpus)
    if settings.gpus and not slots:
        raise UserError(
            f"search.gpus = {settings.gpus:g} is more than any node of the cluster has. Start Ray on "
            "nodes with GPUs, or remove this setting."
        )

    memory = evaluator_bytes(RunContext(parsed_job, run_dir, method=method))
    plan = plan_evaluators(
        read_nodes(), requested=settings.evaluators, gpus=gpus, memory=memory, ray_slots=slots
    )
    if plan.is_limited:
        say(_limited_message(len(plan.nodes), slots, memory, gpus))

    evaluators = _start_evaluators(plan, job, run_dir, method, gpus)
    needs = EvaluatorNeeds(CPU_SHARE * plan.cpus, gpus, parsed_job.train.barrier_seconds)
    ledger = _start_ledger(str(run_dir), weights_id, metric, list(evaluators), method, needs)
    return ledger, list(evaluators.values())


def _start_evaluators(
    plan: EvaluatorPlan, job: dict[str, Any], run_dir: Path, method: str, gpus: float
) -> dict[str, Any]:
    """Start evaluators on their nodes, and return them by name."""
    evaluators = {}
    for node in plan.nodes:
        name = f"evaluator-{run_dir.name}-{uuid.uuid4().hex[:8]}"
        actor = ray.remote(Evaluator).options(
            name=name,
            num_cpus=CPU_SHARE * plan.cpus,
            num_gpus=gpus,
            max_restarts=MAX_RESTARTS,
            # Without retries by Ray: the ledger gives the work of a dead evaluator to another one.
            max_task_retries=0,
            # Soft: an evaluator of a lost node starts again on another one.
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=True),
        )
        evaluators[name] = actor.remote(job, str(run_dir), plan.threads, method)
    return evaluators


def _limited_message(number: int, slots: int, memory: int, gpus: float) -> str:
    """Return the notice that limits of the nodes allow fewer evaluators than Ray's resources."""
    resource = "GPUs" if gpus else "CPUs"
    return (
        f"The search starts {number} evaluators, although Ray's {resource} have room for {slots}: each "
        f"needs about {memory / 2**30:.1f} GiB, and the nodes have no more free memory or CPUs for their "
        "processes. Set search.evaluators to start another number."
    )


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
