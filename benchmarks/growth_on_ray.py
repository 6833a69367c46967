"""The parts of `benchmarks.growth` that need Ray: how cost grows with budgets and workers."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.evaluation_row import make_evaluation_row
from benchmarks.measure import NotMeasurableError, Options, measure_in_turns, timed
from benchmarks.workload import (
    demo_context,
    make_supernet_step,
    open_last_phase,
    training_batches,
    whole_space_sampler,
)
from raycomp.config.loader import parse_job
from raycomp.encoder.architecture import Architecture, enclosing_architecture
from raycomp.encoder.elastic import ElasticEncoder
from raycomp.encoder.slicing import WORD_EMBEDDING
from raycomp.methods.context import RunContext
from raycomp.methods.yoco.plan import train_plan
from raycomp.report.growth import GrowthPoint
from raycomp.search.setup import SearchSetup
from raycomp.storage.files import write_json
from raycomp.storage.layout import RunLayout

CPU = torch.device("cpu")
SLEEP_SECONDS = 0.05
NUM_BATCHES = 4
SENTENCES_PER_WORKER = 32
BYTES_PER_VALUE = 4.0

# The first search, of 0 budgets, warms Ray Tune up.
NUM_BUDGETS = (0, 1, 2, 4, 8, 16)
NUM_CALLERS = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Network:
    """Network between the nodes of the simulation.

    Attributes:
        gbits: Bandwidth of each link in Gbit/s, in both directions at the same time.
        latency_us: Latency of one message in microseconds.
    """

    gbits: float
    latency_us: float

    def all_reduce_seconds(self, size: float, workers: int) -> float:
        """Return the seconds of a ring all-reduce of `size` bytes.

        Each worker sends 2 (n - 1) messages of size / n bytes.
        """
        if workers == 1:
            return 0.0
        num_messages = 2 * (workers - 1)
        sent_bits = num_messages / workers * size * 8
        return sent_bits / (self.gbits * 1e9) + num_messages * self.latency_us * 1e-6


def grow_budgets(options: Options, network: Network) -> list[GrowthPoint]:
    """Return evaluations and wall time of a search, by the number of budgets."""
    from benchmarks.ranks import local_ray

    context = demo_context(f"search.evaluations={8 if options.quick else 64}")
    points = []
    with local_ray(), tempfile.TemporaryDirectory() as folder:
        for count in NUM_BUDGETS[: 3 if options.quick else None]:
            run_dir = Path(folder) / str(count)
            run_dir.mkdir()
            num_evaluations, seconds = search_sleeping(context, run_dir, count)
            if count == 0:
                continue
            points.append(
                GrowthPoint("budgets", "evaluations of a search", count, num_evaluations, "evaluations")
            )
            points.append(GrowthPoint("budgets", "wall time of a search", count, seconds, "s"))
    return points


def search_sleeping(context: RunContext, run_dir: Path, num_budgets: int) -> tuple[int, float]:
    """Search with evaluators that sleep; return the number of evaluations, and seconds."""
    import ray

    from raycomp.runtime.scoring.deployment_search import search_budgets
    from raycomp.runtime.scoring.ledger import Ledger

    job = context.job.model_dump(mode="json")
    shares = np.linspace(0.8, 0.35, max(1, num_budgets)).round(3)
    job["budget"] = [
        {"name": f"b{number}", "encoder_params": f"{share}x"} for number, share in enumerate(shares)
    ]
    setup = SearchSetup(parse_job(job), run_dir, context.shape)
    sampler_state = whole_space_sampler(context).state_dict()
    write_json(RunLayout(run_dir).method("yoco").sampler, sampler_state)

    evaluator_type = ray.remote(SleepingEvaluator).options(num_cpus=0)
    evaluators = [evaluator_type.remote() for _ in range(2)]
    ledger_type: Any = ray.remote(Ledger).options(num_cpus=0, max_concurrency=10_000)
    ledger = ledger_type.remote(str(run_dir), "growth", context.primary, evaluators)
    ray.get(ledger.list_scores.remote())

    started = time.perf_counter()
    search_budgets(setup, ledger, "fp32", lambda done, total, best: None)
    seconds = time.perf_counter() - started
    num_evaluations = len(ray.get(ledger.list_scores.remote()))
    for actor in (ledger, *evaluators):
        ray.kill(actor)
    return num_evaluations, seconds


class SleepingEvaluator:
    """An evaluator that sleeps, and gives larger architectures higher scores."""

    def evaluate(self, archs: list[str], split: str, precision: str) -> list[dict[str, Any]]:
        """Return rows of table `evaluations` after one sleep for each architecture."""
        time.sleep(SLEEP_SECONDS * len(archs))
        return [self._make_row(arch, split, precision) for arch in archs]

    def _make_row(self, arch_json: str, split: str, precision: str) -> dict[str, Any]:
        arch = Architecture.from_json(arch_json)
        size = float(sum(arch.ffn) + 128 * sum(arch.heads))
        return make_evaluation_row(arch, split, precision, value=size / 2e4, seconds=SLEEP_SECONDS)


def grow_workers(options: Options, network: Network) -> list[GrowthPoint]:
    """Return seconds of a step with 32 sentences per worker: 1 and 2 measured, up to 64 simulated."""
    one_worker, gradient_bytes = measure_one_worker(options)
    measured = {1: one_worker}
    try:
        measured[2] = measure_two_workers(options)
    except NotMeasurableError as reason:
        print(f"workers: 2 not measured: {reason}")

    name = "step of 32 sentences a worker"
    points = [GrowthPoint("workers", name, count, seconds, "s") for count, seconds in measured.items()]
    for count, actor_seconds in measure_sampler_actor(options).items():
        all_reduce_seconds = network.all_reduce_seconds(gradient_bytes, count)
        simulated = one_worker + actor_seconds + all_reduce_seconds
        points.append(GrowthPoint("workers", f"{name}, simulated", count, simulated, "s", True))
        points.append(
            GrowthPoint(
                "workers", "the sampler actor's part of a step", count, 1000 * actor_seconds, "ms"
            )
        )
    return points


def measure_one_worker(options: Options) -> tuple[float, float]:
    """Return the seconds of a step on one CPU, and the bytes of its gradients."""
    context = demo_context()
    num_batches = 1 if options.quick else NUM_BATCHES
    batches = training_batches(context, SENTENCES_PER_WORKER, num_batches, CPU)
    model = context.network()
    step = make_supernet_step(model, whole_space_sampler(context), "fp32", CPU)
    next_step = 0

    def train() -> None:
        nonlocal next_step
        for batch in batches:
            step(next_step, batch)
            next_step += 1

    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    (seconds,) = measure_in_turns([timed(train)], options.runs)
    torch.set_num_threads(num_threads)

    # Of the word embeddings, a step has gradients only of the tokens in its batch.
    num_tokens = float(np.mean([len(batch.input_ids.unique()) for batch in batches]))
    num_values = count_sliced_gradients(context, model) + num_tokens * embedding_width(model)
    return float(np.median(seconds)) / num_batches, BYTES_PER_VALUE * num_values


def count_sliced_gradients(context: RunContext, model: ElasticEncoder) -> int:
    """Return the number of gradient values of a step without those of the word embeddings."""
    parameters = dict(model.named_parameters())
    archs = whole_space_sampler(context).ask(0)
    active = model.active_parameters(enclosing_architecture(archs))
    return sum(parameters[name][part].numel() for name, part in active if name != WORD_EMBEDDING)


def embedding_width(model: ElasticEncoder) -> int:
    """Return the width of the word embeddings."""
    return dict(model.named_parameters())[WORD_EMBEDDING].shape[1]


def measure_sampler_actor(options: Options) -> dict[int, float]:
    """Return the seconds that the actor adds to a step, by the number of workers that call it."""
    import ray

    from benchmarks.ranks import local_ray
    from raycomp.runtime.training.sampler_client import start_sampler

    context = demo_context()
    job = context.job.model_dump(mode="json")
    plan = train_plan(context.job, context.space, context.shape, 10_000)
    attempt = "growth"

    seconds = {}
    with local_ray(), tempfile.TemporaryDirectory() as folder:
        for world in NUM_CALLERS[: 2 if options.quick else None]:
            snapshot = Path(folder) / f"{world}.json"
            actor: Any = start_sampler(f"growth-{world}", job, open_last_phase(plan, 100_000), snapshot)
            ray.get(actor.begin.remote(attempt, world, 0, None, 60.0))
            seconds[world] = time_blocks(actor, attempt, world, 4 * options.runs)
            ray.kill(actor)
    return seconds


def time_blocks(actor: Any, attempt: str, world: int, num_blocks: int) -> float:
    """Return the median seconds of a step, over blocks in which all workers tell their losses."""
    import ray

    seconds = []
    first_step, samples = ray.get(actor.ask.remote(attempt, 0))
    for _ in range(num_blocks):
        num_steps = len(samples)
        losses = [[1.0] * len(archs) for archs, _ in samples]
        started = time.perf_counter()
        calls = [actor.tell.remote(attempt, rank, first_step, losses) for rank in range(world)]
        first_step, samples = ray.get(calls)[0]
        seconds.append((time.perf_counter() - started) / num_steps)
    return float(np.median(seconds))


def measure_two_workers(options: Options) -> float:
    """Return the seconds of a step of two ranks with 32 sentences each, joined by gloo.

    Raises:
        NotMeasurableError: This process may use only one CPU.
    """
    import ray

    from benchmarks.ranks import WORLD, start_two_ranks

    num_batches = 1 if options.quick else NUM_BATCHES
    with start_two_ranks() as ranks:
        ray.get([rank.prepare.remote(SENTENCES_PER_WORKER * WORLD, num_batches) for rank in ranks])
        ray.get([rank.train.remote(WORLD) for rank in ranks])  # warms up
        seconds = [
            max(ray.get([rank.train.remote(WORLD) for rank in ranks])) for _ in range(options.runs)
        ]
    return float(np.median(seconds)) / num_batches
